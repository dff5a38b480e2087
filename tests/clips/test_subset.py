"""Clips of chosen samples: a damaged one costs nothing but itself."""

import numpy as np
import pytest

from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.subset import equal_clips, predict
from xdc_fast.clips.windows import ClipShape
from xdc_fast.errors import UserError
from xdc_fast.evaluation.extract import extract_features
from xdc_fast.evaluation.retrieve import retrieve
from xdc_fast.evaluation.svm import svm
from xdc_fast.models.load import load
from xdc_fast.recipe import Audio, Recipe

SHAPE = ClipShape(frames=8, fps=7.5, crop=32, samples=16096, sample_rate=16000)
MEAN = {"loudness": lambda clips: clips.waveform.float().abs().mean(dim=1, keepdim=True)}
WIDTH = {"loudness": 1}


@pytest.fixture
def damage(monkeypatch):
    """Makes the sound of some samples unreadable."""
    read = HostLoader._read_sound

    def spoil(*samples):
        def damaged(self, name, row, start):
            if row["index"] in samples:
                raise self._unreadable(ValueError("damaged"), name, row, "audio")
            return read(self, name, row, start)

        monkeypatch.setattr(HostLoader, "_read_sound", damaged)

    return spoil


@pytest.mark.parametrize("bad", [(8,), (3,), (3, 4, 20), (20,)])
def test_batches_of_a_damaged_sample_alone_are_left_out(bad, damage, toy_shards):
    chosen = np.array([3, 4, 8, 20])
    feed = HostLoader(equal_clips(toy_shards, chosen, ("audio",), 4), SHAPE)
    whole, seen = predict(MEAN, WIDTH, feed, 4, "all")
    assert seen.all() and (whole["loudness"] > 0).all()
    damage(*bad)
    found, seen = predict(MEAN, WIDTH, feed, 4, "some")  # a batch is the clips of one sample
    good = np.repeat(~np.isin(chosen, bad), 4)
    assert np.array_equal(seen, good)
    assert np.array_equal(found["loudness"], whole["loudness"] * good[:, None])


def test_of_damaged_samples_alone_nothing_is_seen(damage, toy_shards):
    damage(3)
    feed = HostLoader(equal_clips(toy_shards, np.array([3]), ("audio",), 4), SHAPE)
    found, seen = predict(MEAN, WIDTH, feed, 2, "none")
    assert not seen.any() and np.array_equal(found["loudness"], np.zeros((4, 1)))


def test_a_set_of_which_nothing_can_be_read_is_refused(damage, toy_shards, tmp_path):
    damage(*range(48))
    model = load("random", recipe=Recipe(audio=Audio(encoder="audio_tiny", frames=60)))
    del model.encoders["video"]
    model.name = "a run"  # random encoders need skip_unreadable clips for BatchNorm
    with pytest.raises(UserError, match="no training video can be read; run `xdc-shard verify`"):
        svm(model, toy_shards, "class", windows=2)
    with pytest.raises(UserError, match="no clip can be read; run `xdc-shard verify`"):
        retrieve(model, toy_shards, clips=2)
    # of the shards that cannot be read come empty files, and the others are made
    damage(*range(toy_shards.shard_sizes[0]))
    result = extract_features(model, toy_shards, tmp_path / "out", stride=0.5)
    first = np.load(tmp_path / "out" / "shard-000000.npz")
    assert first["audio"].shape == (0, model.encoders["audio"].features)
    assert first["unread"] == result["unread"] > 0 and result["clips"] > 0
