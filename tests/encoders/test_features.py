"""The one feature pass: against plain forward passes, resumed, and with damaged samples."""

from functools import partial

import numpy as np
import pytest
import torch

from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.reader import SampleReader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.subset import equal_clips
from xdc_fast.clips.windows import fixed_windows
from xdc_fast.encoders.build import build_encoders
from xdc_fast.encoders.encoder import Encoder
from xdc_fast.encoders.features import compute_features, iterate_features
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.evaluation.extract import extract_features
from xdc_fast.evaluation.retrieve import retrieve
from xdc_fast.evaluation.svm import svm
from xdc_fast.models.load import load
from xdc_fast.recipe import Audio, Recipe, load_recipe, override
from xdc_fast.shards.sample import sample_error

RECIPE = load_recipe(None, ("video.encoder=r2plus1d_tiny", "video.crop=32",
                            "audio.encoder=audio_tiny", "audio.frames=60"))  # fmt: skip
INPUTS = ClipTransform(RECIPE)


class Stopped(Exception):
    """What `stop` raises."""


@pytest.fixture(scope="module")
def encoders():
    return build_encoders(RECIPE)


@pytest.fixture
def loader(toy_shards):
    return HostLoader(toy_shards, INPUTS.shape)


def plain_features(encoders, shards, position):
    """Every sample's clip at a position, in one batch, each encoder called by hand."""
    sampler = EpochSampler(np.array([len(shards)]), len(shards), shuffle=False)
    windows = partial(fixed_windows, shape=INPUTS.shape, position=position)
    (batch,) = HostLoader(shards, INPUTS.shape).batches(sampler, windows)
    with torch.no_grad():
        return {name: e.eval()(INPUTS.of(name, batch)).numpy() for name, e in encoders.items()}


def test_one_clip_is_a_plain_forward_pass(encoders, loader):
    expected = plain_features(encoders, loader.shards, 0.5)
    found = compute_features(encoders, loader, INPUTS, len(loader.shards))
    assert found.valid.all() and found.n_unreadable == 0
    for name in ("video", "audio"):
        assert found.arrays[name].dtype == np.float32
        assert np.array_equal(found.arrays[name], expected[name])  # the same batch
    for batch in (7, 1000):
        again = compute_features(encoders, loader, INPUTS, batch)
        for name in ("video", "audio"):
            np.testing.assert_allclose(again.arrays[name], expected[name], rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_a_gpu_gives_the_features_of_the_cpu_in_either_precision(loader):
    expected = compute_features(build_encoders(RECIPE), loader, INPUTS, 7)
    on_gpu = HostLoader(loader.shards, INPUTS.shape, device="cuda")
    encoders = build_encoders(RECIPE, "cuda")
    half = ClipTransform(override(RECIPE, ("train.precision=bfloat16",)))
    for inputs, tolerance in ((INPUTS, 1e-3), (half, 0.05)):
        found = compute_features(encoders, on_gpu, inputs, 7)
        for name, rows in expected.arrays.items():
            error = np.linalg.norm(found.arrays[name] - rows) / np.linalg.norm(rows)
            assert error < tolerance


def test_three_clips_are_the_mean_of_three_passes(encoders, loader):
    passes = [plain_features(encoders, loader.shards, position) for position in (0, 0.5, 1)]
    chosen = np.array([0, 3, 4, 20, 47])
    mean = compute_features(encoders, loader, INPUTS, 4, clips=3)
    some = compute_features(encoders, loader, INPUTS, 4, samples=chosen, clips=3)
    each = compute_features(encoders, loader, INPUTS, 4, samples=chosen, clips=3, average=False)
    for name in ("video", "audio"):
        stacked = np.stack([features[name] for features in passes], axis=1)
        assert stacked.std(axis=1).max() > 1e-3  # clips differ
        close = partial(np.testing.assert_allclose, rtol=1e-4, atol=1e-5)
        close(mean.arrays[name], stacked.mean(axis=1))
        close(some.arrays[name], stacked[chosen].mean(axis=1))
        close(each.arrays[name], stacked[chosen].reshape(len(chosen) * 3, -1))


def test_an_interrupted_pass_goes_on_to_the_same_bits(encoders, loader, tmp_path):
    whole = compute_features(encoders, loader, INPUTS, 5)
    calls, read = [], []

    def stop():
        calls.append(1)
        if len(calls) == 6:
            raise Stopped

    with pytest.raises(Stopped):
        compute_features(encoders, loader, INPUTS, 5, folder=tmp_path / "kept", stop=stop)
    kept = sorted(path.name for path in (tmp_path / "kept").iterdir())
    assert 0 < len(kept) < 10
    again = compute_features(
        encoders, loader, INPUTS, 5, folder=tmp_path / "kept", stop=lambda: read.append(1)
    )
    assert len(read) < 10  # batches of 5, all of them
    assert np.array_equal(again.valid, whole.valid)
    for name, array in whole.arrays.items():
        assert np.array_equal(again.arrays[name], array)
    (tmp_path / "kept" / kept[0]).write_bytes(b"PK torn")
    torn = compute_features(encoders, loader, INPUTS, 5, folder=tmp_path / "kept")
    assert np.array_equal(torn.arrays["video"], whole.arrays["video"])


def test_features_of_other_weights_or_clips_are_not_taken_from_the_folder(loader, tmp_path):
    encoders = build_encoders(RECIPE)
    first = compute_features(encoders, loader, INPUTS, 12, folder=tmp_path)
    three = compute_features(encoders, loader, INPUTS, 12, clips=3, folder=tmp_path)
    assert not np.allclose(first.arrays["audio"], three.arrays["audio"])
    with torch.no_grad():
        next(encoders["audio"].parameters()).mul_(2)
    other = compute_features(encoders, loader, INPUTS, 12, clips=3, folder=tmp_path)
    assert not np.allclose(other.arrays["audio"], three.arrays["audio"])
    assert np.array_equal(other.arrays["video"], three.arrays["video"])


def test_parts_come_one_by_one_the_same_without_the_others(encoders, loader):
    clips = equal_clips(loader.shards, np.arange(48), 2)
    edges = np.array([0, 3, 3, 40, 41, 43, 96])
    spans = np.stack([edges[:-1], edges[1:]], axis=1)
    parts = dict(iterate_features(encoders, loader, INPUTS, 5, clips, spans))
    assert {number: len(part.valid) for number, part in parts.items()} == {
        0: 3, 2: 37, 3: 1, 4: 2, 5: 53,
    }  # fmt: skip
    whole = dict(iterate_features(encoders, loader, INPUTS, 5, clips, np.array([[0, 96]])))[0]
    for number, part in parts.items():
        assert np.array_equal(part.arrays["audio"], whole.arrays["audio"][slice(*spans[number])])
    rest = dict(iterate_features(encoders, loader, INPUTS, 5, clips, spans[3:]))
    for number, part in rest.items():
        assert np.array_equal(part.arrays["audio"], parts[3 + number].arrays["audio"])
    assert not dict(iterate_features(encoders, loader, INPUTS, 5, clips, spans[1:2]))


class Loudness(Encoder):
    """Of a spectrogram, its mean."""

    features = 1

    def forward(self, x):
        return x.mean(dim=(1, 2, 3))[:, None]


@pytest.fixture
def damage(monkeypatch):
    """Makes the sound of some samples unreadable."""
    read = SampleReader.read_waveform

    def spoil(*samples):
        def damaged(self, name, row, start, out):
            if self.shards.index_of(name, row) in samples:
                raise sample_error(ValueError("damaged"), name, "key", "audio")
            return read(self, name, row, start, out)

        monkeypatch.setattr(SampleReader, "read_waveform", damaged)

    return spoil


@pytest.mark.parametrize("bad", [(8,), (3,), (3, 4, 20), (20,)])
@pytest.mark.parametrize("batch", [4, 6])
def test_a_damaged_sample_costs_nothing_but_itself(bad, batch, damage, toy_shards):
    chosen = np.array([3, 4, 8, 20])
    loader = HostLoader(toy_shards, INPUTS.shape.only("audio"))
    ask = partial(compute_features, {"audio": Loudness()}, loader, INPUTS, batch, samples=chosen,
                  clips=4)  # fmt: skip
    whole = ask(average=False)
    assert whole.valid.all() and not loader.failures
    damage(*bad)
    found = ask(average=False)
    good = np.repeat(~np.isin(chosen, bad), 4)
    assert np.array_equal(found.valid, good) and found.n_unreadable == 4 * len(bad)
    np.testing.assert_array_equal(found.arrays["audio"], whole.arrays["audio"] * good[:, None])
    again = loader.failures["undecodable"]
    assert again >= 4 * len(bad) and "damaged" in loader.examples["undecodable"]
    assert np.array_equal(ask().valid, ~np.isin(chosen, bad))


def test_of_damaged_samples_alone_there_are_no_features(damage, toy_shards):
    damage(3)
    loader = HostLoader(toy_shards, INPUTS.shape.only("audio"))
    with pytest.raises(UserError, match=r"no clip can be read: .*damaged.*; run `xdc-shard verify"):
        compute_features({"audio": Loudness()}, loader, INPUTS, 2, samples=np.array([3]), clips=4)
    assert loader.failures == {"undecodable": 4}


def test_a_set_of_which_nothing_can_be_read_is_refused(damage, toy_shards, tmp_path):
    damage(*range(48))
    model = load("random", recipe=Recipe(audio=Audio(encoder="audio_tiny", frames=60)))
    del model.encoders["video"]
    model.name = "a run"  # random encoders need readable clips for BatchNorm
    with pytest.raises(UserError, match=r"no clip can be read: .*; run `xdc-shard verify"):
        svm(model, toy_shards, "class", clips=2)
    with pytest.raises(UserError, match=r"no clip can be read: .*; run `xdc-shard verify"):
        retrieve(model, toy_shards, clips=2)
    # of the shards that cannot be read come empty files, and the others are made
    damage(*range(toy_shards.shard_sizes[0]))
    result = extract_features(model, toy_shards, tmp_path / "out", stride=0.5)
    first = np.load(tmp_path / "out" / "part-000000-00000.npz")
    assert first["audio"].shape == (0, model.encoders["audio"].features)
    assert first["n_unreadable"] == result["n_unreadable"] > 0 and result["clips"] > 0
