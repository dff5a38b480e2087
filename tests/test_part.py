"""Clips of chosen samples: a damaged one costs nothing but itself."""

import numpy as np
import pytest

from xdc_fast.clips.host import HostFeed
from xdc_fast.clips.windows import ClipShape
from xdc_fast.errors import UserError
from xdc_fast.evaluate.part import equal_clips, outputs

SHAPE = ClipShape(frames=8, rate=7.5, crop=32, samples=16096, audio_rate=16000)
MEAN = {"loudness": lambda clips: clips.waveform.float().abs().mean(dim=1, keepdim=True)}


@pytest.fixture
def damage(monkeypatch):
    """Makes the sound of some samples unreadable."""
    read = HostFeed._read_sound

    def spoil(*samples):
        def damaged(self, name, row, start):
            if row["index"] in samples:
                raise self._unreadable(ValueError("damaged"), name, row, "audio")
            return read(self, name, row, start)

        monkeypatch.setattr(HostFeed, "_read_sound", damaged)

    return spoil


@pytest.mark.parametrize("bad", [(8,), (3,), (3, 4, 20), (20,)])
def test_batches_of_a_damaged_sample_alone_are_left_out(bad, damage, toy_shards):
    chosen = np.array([3, 4, 8, 20])
    feed = HostFeed(equal_clips(toy_shards, chosen, ("audio",), 4), SHAPE)
    whole, seen = outputs(MEAN, feed, 4, "all")
    assert seen.all() and (whole["loudness"] > 0).all()
    damage(*bad)
    found, seen = outputs(MEAN, feed, 4, "some")  # a batch is the clips of one sample
    good = np.repeat(~np.isin(chosen, bad), 4)
    assert np.array_equal(seen, good)
    assert np.array_equal(found["loudness"], whole["loudness"] * good[:, None])


def test_nothing_but_damaged_samples_is_an_error(damage, toy_shards):
    damage(3)
    feed = HostFeed(equal_clips(toy_shards, np.array([3]), ("audio",), 4), SHAPE)
    with pytest.raises(UserError, match=f"{toy_shards.root}: no clip can be read"):
        outputs(MEAN, feed, 2, "none")
