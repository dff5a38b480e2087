"""Sets of one track, read in windows."""

import shutil
from functools import partial

import numpy as np
import pytest
import torch

from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.loader import open_loader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import ClipShape, fixed_windows, random_windows
from xdc_fast.errors import UserError
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.decode import decode_frames

SHAPE = ClipShape(frames=4, fps=5.0, crop=32, samples=8000, sample_rate=16000)


def test_windows_of_sound_alone_span_the_sound_alone(sounds):
    """Pictures of the clip shape, which last longer, have no say."""
    shape = ClipShape(frames=16, fps=10.0, crop=500, samples=8000, sample_rate=16000)
    loader = HostLoader(sounds, shape)
    sampler = EpochSampler(sounds.shard_sizes, 4, shuffle=False)
    tracks = [np.frombuffer(sounds.audio_file(i)[44:], "<i2") for i in range(4)]
    for clip in range(3):
        (batch,) = loader.batches(sampler, partial(fixed_windows, shape=shape, position=clip / 2))
        assert batch.frames is None and len(batch) == 4
        assert batch.device == batch.waveform.device
        for track, waveform in zip(tracks, batch.waveform.numpy(), strict=True):
            start = round((len(track) - 8000) * clip / 2)
            assert np.array_equal(waveform, track[start : start + 8000])
    rows = np.repeat(sounds.rows()[:1], 2000)
    starts = random_windows(np.arange(2000), rows, shape, seed=1, epoch=0, flip=True).start
    assert 0 <= starts.min() < 100 and 0 <= (24000 - starts.max()) < 100


def test_windows_of_pictures_alone_span_the_pictures_alone(pictures):
    shape = ClipShape(frames=4, fps=5.0, crop=32, samples=48000, sample_rate=44100)
    loader = HostLoader(pictures, shape)  # at whatever rate the sound would be wanted
    sampler = EpochSampler(pictures.shard_sizes, 3, shuffle=False)
    for clip, place in enumerate((0, 0.5, 1)):
        (batch,) = loader.batches(sampler, partial(fixed_windows, shape=shape, position=clip / 2))
        assert batch.waveform is None and batch.device == batch.frames.device
        for index, frames in enumerate(batch.frames.numpy()):
            count = pictures.row(index)[1]["frames"]
            numbers = int(place * (count - 8) + 1e-6) + np.arange(0, 8, 2)
            whole = decode_frames(pictures.video_file(index), numbers)[:, :, 8:40]
            assert np.abs(frames.astype(int) - whole).mean() < 5


def test_bad_samples_of_one_track_are_replaced(pictures, tmp_path):
    shutil.copytree(pictures.root, tmp_path / "set")
    shards = ShardSet(tmp_path / "set")
    name, row = shards.row(1)
    with (shards.root / name).open("r+b") as file:
        file.seek(int(row["video"]))
        file.write(bytes(int(row["video_bytes"])))
    loader = HostLoader(ShardSet(shards.root), SHAPE)
    sampler = EpochSampler(shards.shard_sizes, 3, shuffle=False)
    (batch,) = loader.batches(sampler, partial(fixed_windows, shape=SHAPE))
    assert batch.index.tolist() == [0, 2, 2] and loader.failures == {"undecodable": 1}
    assert torch.equal(batch.frames[1], batch.frames[2])


def test_dali_reads_pictures_alone_and_leaves_sound_alone_to_the_host(sounds, pictures):
    from xdc_fast.clips.dali import DaliLoader

    sampler = EpochSampler(pictures.shard_sizes, 3, shuffle=False)
    windows = partial(fixed_windows, shape=SHAPE)
    (host,) = HostLoader(pictures, SHAPE).batches(sampler, windows)
    (dali,) = DaliLoader(pictures, SHAPE, device="cpu").batches(sampler, windows)
    assert dali.waveform is None and torch.equal(host.index, dali.index)
    assert (host.frames.int() - dali.frames.int()).abs().float().mean() < 1
    with pytest.raises(UserError, match=r"no video for DALI to decode; set loader=host"):
        DaliLoader(sounds, SHAPE, device="cpu")
    for name in ("auto", "host"):
        loader = open_loader(sounds, SHAPE, device=torch.device("cuda"), loader=name)
        assert type(loader) is HostLoader
