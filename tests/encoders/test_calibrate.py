"""BatchNorm's statistics: the mean over batches of what each layer sees."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.reader import SampleReader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import fixed_windows
from xdc_fast.encoders.build import build_encoders
from xdc_fast.encoders.calibrate import calibrate
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.recipe import load_recipe
from xdc_fast.shards.sample import sample_error

RECIPE = load_recipe(None, ("audio.encoder=audio_tiny", "audio.frames=60"))
INPUTS = ClipTransform(RECIPE)


def first_norm(encoder):
    return next(m for m in encoder.modules() if isinstance(m, nn.BatchNorm2d))


def test_statistics_are_the_mean_over_the_batches(toy_shards):
    encoders = build_encoders(RECIPE, names=("audio",))
    loader = HostLoader(toy_shards, INPUTS.shape.only("audio"))
    calibrate(encoders, loader, INPUTS, 12)
    norm, convolution = first_norm(encoders["audio"]), encoders["audio"].stem[0]
    sampler = EpochSampler(toy_shards.shard_sizes, 12, shuffle=False)
    windows = partial(fixed_windows, shape=loader.shape)
    with torch.no_grad():
        seen = [convolution(INPUTS.of("audio", b)) for b in loader.batches(sampler, windows)]
    assert len(seen) == 4
    for found, name in ((norm.running_mean, "mean"), (norm.running_var, "var")):
        expected = torch.stack([getattr(x, name)(dim=(0, 2, 3)) for x in seen]).mean(dim=0)
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
    assert norm.momentum == 0.1  # as before


def test_a_batch_that_cannot_be_read_is_left_out(toy_shards, monkeypatch):
    read = SampleReader.read_waveform

    def damaged(self, name, row, start, out):
        if self.shards.index_of(name, row) < 12:
            raise sample_error(ValueError("damaged"), name, "key", "audio")
        return read(self, name, row, start, out)

    monkeypatch.setattr(SampleReader, "read_waveform", damaged)
    encoders = build_encoders(RECIPE, names=("audio",))
    loader, calls = HostLoader(toy_shards, INPUTS.shape.only("audio")), []
    calibrate(encoders, loader, INPUTS, 12, stop=lambda: calls.append(1))
    assert len(calls) == 3 and loader.failures == {"undecodable": 12}
    assert np.isfinite(first_norm(encoders["audio"]).running_mean.numpy()).all()


@pytest.mark.parametrize("samples", [None, np.arange(0, 48, 3)])
def test_a_batch_above_the_set_reads_each_sample_once(toy_shards, samples):
    chosen = np.arange(48) if samples is None else samples
    loader = HostLoader(toy_shards, INPUTS.shape.only("audio"))
    read, found, batches = [], [], loader.batches

    def counted(*arguments, **options):
        for part in batches(*arguments, **options):
            read.append(part.index.tolist())
            yield part

    loader.batches = counted
    for batch in (len(chosen), 1000):
        encoders = build_encoders(RECIPE, names=("audio",))
        calibrate(encoders, loader, INPUTS, batch, samples=samples)
        found.append(first_norm(encoders["audio"]).running_mean)
    assert read == [chosen.tolist()] * 2
    assert torch.equal(*found)
