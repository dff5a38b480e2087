"""The plain way delivers our clips, or the benchmark notices."""

import tarfile

import numpy as np
import pytest
import torch

from benchmarks import plain
from benchmarks.stages.feed import WINDOWS, Passes, assert_same
from xdc_fast.shards.format import SAMPLE


def test_cuts_are_the_windows_of_the_loader():
    rows = np.zeros(50, SAMPLE)
    rows["frames"], rows["samples"] = 45, 48000
    rows["width"], rows["height"], rows["fps"] = 160, 128, 15
    windows, cuts = WINDOWS(np.arange(50), rows), plain.draw_cuts(rows, WINDOWS)
    for slot, cut in enumerate(cuts):
        shown = np.floor(np.array(cut.seconds) * 15)
        assert np.array_equal(shown, windows.frames[slot])
        place = (windows.start[slot], 128, 160, windows.top[slot], windows.left[slot])
        assert (cut.start, cut.height, cut.width, cut.top, cut.left) == place
        assert cut.flip == windows.flip[slot]


def test_tars_hold_equally_many_samples(tmp_path):
    samples = ({"mp4": bytes([n]), "wav": b"sound"} for n in range(12))
    tars = plain.write_tars(samples, tmp_path / "tars", 4)
    held = []
    for path in tars:
        with tarfile.open(path) as tar:
            held.append({member.name: tar.extractfile(member).read() for member in tar})
    assert [len(files) for files in held] == [6] * 4
    expected = {f"{n:09d}.mp4": bytes([n]) for n in range(12)}
    expected |= {f"{n:09d}.wav": b"sound" for n in range(12)}
    assert {name: data for files in held for name, data in files.items()} == expected


def test_passes_are_epochs_in_different_order():
    class Shards:
        shard_sizes = np.array([5, 7])

    sampler = Passes(Shards, batch=4, passes=3)
    drawn = np.concatenate([sampler.indices(step) for step in range(sampler.steps)]).reshape(3, 12)
    assert sampler.clips == 36
    assert (np.sort(drawn) == np.arange(12)).all()
    assert len(np.unique(drawn, axis=0)) == 3


@pytest.fixture
def batches():
    """Two batches of moving pictures and their sound."""
    rng = np.random.default_rng(0)
    frames = torch.from_numpy(rng.integers(0, 256, (6, 8, 2, 4, 3), np.uint8))
    mel = torch.from_numpy(rng.normal(size=(6, 1, 40, 100)).astype(np.float32))
    index = torch.arange(6)
    return [(index[i : i + 3], frames[i : i + 3], mel[i : i + 3]) for i in (0, 3)]


def same(ours, other):
    assert_same(ours, other, pictures=4, sound=1e-3)


def test_order_does_not_matter(batches):
    index, frames, mel = (torch.cat(parts) for parts in zip(*batches, strict=True))
    order = torch.tensor([4, 2, 0, 5, 1, 3])
    same(batches, [(index[order], frames[order] // 2 * 2, mel[order] + 1e-5)])


def test_other_clips_are_noticed(batches):
    with pytest.raises(AssertionError, match="3 clips, ours 6"):
        same(batches, batches[:1])
    with pytest.raises(AssertionError, match="or other ones"):
        same(batches, [batches[0], batches[0]])
    turned = [(index, frames, mel.flip(0)) for index, frames, mel in batches]
    with pytest.raises(AssertionError, match="log-mel differs"):
        same(batches, turned)
    turned = [(index, frames.flip(3), mel) for index, frames, mel in batches]
    with pytest.raises(AssertionError, match="pixels differ"):
        same(batches, turned)


def test_frames_of_another_time_are_noticed(batches):
    still = [(index, frames[:, :1].repeat(1, 8, 1, 1, 1), mel) for index, frames, mel in batches]
    step = torch.arange(8, dtype=torch.uint8)[:, None, None, None]
    ours, late = (
        [(index, frames // 2 + steps, mel) for index, frames, mel in still]
        for steps in (step, torch.clamp(step, 1) - 1)
    )
    same(ours, ours)
    with pytest.raises(AssertionError, match="frames of another time"):
        same(ours, late)
