"""The public loader in a training loop of somebody else's."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from xdc_fast.clips.clip_loader import ClipLoader
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import ClipShape, random_windows
from xdc_fast.errors import UserError

SHAPE = ClipShape(frames=8, fps=7.5, crop=32, samples=16096, sample_rate=16000)
TRACKS = "frames", "waveform", "index"


def equal(ours, other):
    return all(torch.equal(getattr(ours, x), getattr(other, x)) for x in TRACKS)


def test_an_epoch_is_that_of_pretraining(toy_shards):
    loader = ClipLoader(toy_shards.root, SHAPE, batch_size=10, seed=3, device="cpu")
    sampler = EpochSampler(toy_shards.shard_sizes, 10, seed=3, epoch=2)
    windows = partial(random_windows, shape=SHAPE, seed=3, epoch=2, flip=True)
    expected = list(HostLoader(toy_shards, SHAPE).batches(sampler, windows))
    found = list(loader.epoch(2))
    assert len(loader) == len(found) == 4 and loader.device.type == "cpu"
    assert all(map(equal, found, expected))
    assert all(map(equal, loader.epoch(2, start=2), expected[2:]))
    assert not torch.equal(next(loader.epoch(3)).index, expected[0].index)


def test_a_plain_loop_learns(toy_shards):
    """How loud a sample is, from how loud a clip of it is."""
    loader = ClipLoader(toy_shards, SHAPE.only("audio"), batch_size=16, device="cpu")
    tracks = [np.frombuffer(toy_shards.audio_file(i)[44:], "<i2") for i in range(len(toy_shards))]
    loudness = np.array([np.abs(track / 32768).mean() for track in tracks], np.float32)
    mean, deviation = loudness.mean(), loudness.std()
    targets = torch.from_numpy((loudness - mean) / deviation)
    torch.manual_seed(0)
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(20):
        for batch in loader.epoch(epoch):
            assert batch.frames is None and batch.waveform.shape == (16, 16096)
            x = (batch.waveform / 32768).abs().mean(dim=1, keepdim=True)
            loss = (model((x - mean) / deviation)[:, 0] - targets[batch.index]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    assert loss < 0.5 and not loader.failures  # 1 is the variance of the targets


def test_without_flip_nothing_is_mirrored(toy_shards):
    plain, flipped = (
        np.concatenate([b.frames.numpy() for b in loader.epoch(0)])
        for loader in (
            ClipLoader(toy_shards, SHAPE, batch_size=24, device="cpu", flip=flip)
            for flip in (False, True)
        )
    )
    mirrored = [not np.array_equal(a, b) for a, b in zip(plain, flipped, strict=True)]
    assert 10 < sum(mirrored) < 38
    first = mirrored.index(True)
    assert np.array_equal(plain[first], flipped[first][:, :, ::-1])


def test_dali_gives_the_same_clips(toy_shards):
    host, dali = (
        list(ClipLoader(toy_shards, SHAPE, batch_size=12, device="cpu", loader=name).epoch(0))
        for name in ("host", "dali")
    )
    for ours, other in zip(host, dali, strict=True):
        assert torch.equal(ours.index, other.index)
        assert (ours.frames.int() - other.frames.int()).abs().float().mean() < 1


def test_what_does_not_fit_is_said(toy_shards, tmp_path):
    ask = partial(ClipLoader, toy_shards, SHAPE)
    with pytest.raises(UserError, match="48 samples do not make batches of 49; set batch_size be"):
        ask(batch_size=49)
    with pytest.raises(UserError, match="loader=dail: must be one of auto, host, dali"):
        ask(batch_size=4, loader="dail")
    with pytest.raises(UserError, match="device=gpu: must be one of auto, cpu, cuda"):
        ask(batch_size=4, device="gpu")
    with pytest.raises(UserError, match="holds video and audio only, and a clip of nothing"):
        ClipLoader(toy_shards, SHAPE.only(), batch_size=4)
    with pytest.raises(UserError, match=str(tmp_path)):
        ClipLoader(tmp_path, SHAPE, batch_size=4)
