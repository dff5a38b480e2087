"""Shards to batches: both paths, against PyAV and against each other."""

import shutil
import threading
from functools import partial
from io import BytesIO

import av
import numpy as np
import pytest
import torch

from xdc_fast.clips.dali import DaliFeed, Line
from xdc_fast.clips.feed import open_feed
from xdc_fast.clips.host import HostFeed
from xdc_fast.clips.plan import EpochPlan
from xdc_fast.clips.windows import ClipShape, fixed_windows, random_windows
from xdc_fast.errors import UserError
from xdc_fast.recipe import load_recipe
from xdc_fast.shards.dataset import ShardSet

SHAPE = ClipShape(frames=8, rate=7.5, crop=32, samples=16096, audio_rate=16000)
GPU = pytest.param("cuda", marks=pytest.mark.gpu)
random = partial(random_windows, shape=SHAPE, seed=1, epoch=2, flip=True)


def decode_all(file: bytes) -> np.ndarray:
    """Every frame of a packed video by PyAV, RGB."""
    with av.open(BytesIO(file)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def collect(feed, plan, sampling=random, start=0):
    return list(feed.batches(plan, sampling, start))


@pytest.mark.parametrize("codec", ["toy_shards", "toy_h264"])
def test_clips_are_the_windows_that_pyav_decodes(codec, request):
    shards = request.getfixturevalue(codec)
    plan = EpochPlan(shards.shard_sizes, 12, seed=1, epoch=2)
    batches = collect(HostFeed(shards, SHAPE), plan)
    assert len(batches) == 4
    index = torch.cat([batch.index for batch in batches])
    assert sorted(index.tolist()) == list(range(48))
    for batch in batches[:2]:
        rows = np.array([shards.row(int(i))[1] for i in batch.index])
        windows = random(rows)
        assert batch.frames.shape == (12, 8, 32, 32, 3) and batch.frames.dtype == torch.uint8
        assert batch.waveform.shape == (12, 16096) and batch.waveform.dtype == torch.int16
        for slot, i in enumerate(batch.index.tolist()):
            top, left = windows.top[slot], windows.left[slot]
            frames = decode_all(shards.video_file(i))[windows.frames[slot]]
            frames = frames[:, top : top + 32, left : left + 32]
            if windows.flip[slot]:
                frames = frames[:, :, ::-1]
            difference = batch.frames[slot].numpy().astype(int) - frames
            # JPEG: libjpeg-turbo interpolates the colour planes, PyAV's converter repeats them
            assert np.abs(difference).mean() < (5 if codec == "toy_shards" else 1e-9)
            wav = np.frombuffer(shards.audio_file(i)[44:], "<i2")
            first = windows.start[slot]
            assert np.array_equal(batch.waveform[slot].numpy(), wav[first : first + 16096])


def test_starting_late_skips_without_changing_what_follows(toy_shards):
    plan = EpochPlan(toy_shards.shard_sizes, 12, seed=1, epoch=2)
    whole = collect(HostFeed(toy_shards, SHAPE, threads=3), plan)
    rest = collect(HostFeed(toy_shards, SHAPE, threads=1), plan, start=2)
    for a, b in zip(whole[2:], rest, strict=True):
        assert torch.equal(a.frames, b.frames) and torch.equal(a.waveform, b.waveform)
        assert torch.equal(a.index, b.index)


def test_leaving_an_epoch_early_leaves_no_threads(toy_shards):
    import threading

    feed = HostFeed(toy_shards, SHAPE)
    batches = feed.batches(EpochPlan(toy_shards.shard_sizes, 4, seed=0), random)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("clips")]


def test_memory_is_used_again_but_never_while_somebody_looks(toy_shards):
    plan = EpochPlan(toy_shards.shard_sizes, 2, seed=1)  # 24 steps
    feed = HostFeed(toy_shards, SHAPE, threads=1)
    kept, copies, places = [], [], set()
    for step, batch in enumerate(feed.batches(plan, random)):
        places.add(batch.frames.data_ptr())
        if step % 6 == 0:
            parts = batch.frames[1, 3].permute(2, 0, 1).numpy(), batch.waveform.numpy()[1, 5:]
            kept += parts
            copies += [part.copy() for part in parts]
        del batch
    assert len(places) < 12
    for part, copy in zip(kept, copies, strict=True):
        assert np.array_equal(part, copy)


def test_a_picture_larger_than_its_row_says_is_refused(toy_shards, tmp_path):
    """Whatever the others of its batch measure."""
    shutil.copytree(toy_shards.root, tmp_path / "set")
    path = tmp_path / "set" / toy_shards.shards[0].replace(".tar", ".samples.npy")
    rows = np.load(path)
    rows["width"][1] = 36
    np.save(path, rows)
    shards = ShardSet(tmp_path / "set")
    feed = HostFeed(shards, SHAPE)
    plan = EpochPlan(shards.shard_sizes, 4, shuffle=False)
    batch = next(feed.batches(plan, random))
    assert 1 not in batch.index.tolist() and feed.failures == {"undecodable": 1}


def test_waveform_beyond_the_track_is_silence(toy_shards):
    long = ClipShape(frames=8, rate=7.5, crop=32, samples=80_000, audio_rate=16000)
    plan = EpochPlan(toy_shards.shard_sizes, 4, shuffle=False)
    batch = next(HostFeed(toy_shards, long).batches(plan, partial(fixed_windows, shape=long)))
    wav = np.frombuffer(toy_shards.audio_file(0)[44:], "<i2")
    begin = (80_000 - len(wav)) // 2
    got = batch.waveform[0].numpy()
    assert not got[: begin - 1].any() and not got[begin + len(wav) + 1 :].any()
    assert np.abs(got).max() == np.abs(wav).max()


@pytest.fixture
def damaged(toy_shards, tmp_path):
    """A copy of the set in which the packets of two samples are overwritten."""
    shutil.copytree(toy_shards.root, tmp_path / "set")
    shards = ShardSet(tmp_path / "set")
    for index in (5, 30):
        name, row = shards.row(index)
        with (shards.root / name).open("r+b") as file:
            file.seek(int(row["video"]))
            file.write(b"\0" * int(row["video_bytes"]))
    return ShardSet(shards.root)


@pytest.mark.parametrize("device", ["cpu", GPU])
@pytest.mark.parametrize("kind", [HostFeed, DaliFeed])
def test_bad_samples_are_replaced_in_their_batch_and_counted(damaged, kind, device):
    feed = kind(damaged, SHAPE, device=device)
    plan = EpochPlan(damaged.shard_sizes, 12, seed=1, epoch=2)
    batches = collect(feed, plan)
    index = torch.cat([batch.index for batch in batches])
    assert len(index) == 48
    assert not {5, 30} & set(index.tolist())
    assert feed.failures == {"undecodable": 2}
    (message,) = feed.examples.values()
    assert "shard-" in message and "video" in message
    assert "sample 000000005" in message or "sample 000000030" in message
    sound = HostFeed(damaged, SHAPE)
    for batch, clean in zip(batches, collect(sound, plan), strict=True):
        assert torch.equal(batch.index, clean.index)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_picture_that_only_decoding_shows_damaged_is_replaced_too(toy_shards, tmp_path, device):
    """Headers are sound, so DALI meets it: the batch comes from the host path, or as it is."""
    shards = damage_within(toy_shards, tmp_path / "set")
    plan = EpochPlan(shards.shard_sizes, 12, seed=1, epoch=2)
    feed = HostFeed(shards, SHAPE)
    assert len(collect(feed, plan)) == 4
    assert feed.failures == {"undecodable": 1}
    whole = collect(HostFeed(toy_shards, SHAPE), plan)
    batches = collect(DaliFeed(shards, SHAPE, device=device), plan)
    for batch, clean in zip(batches, whole, strict=True):
        sound = (clean.index != 5).nonzero()[:, 0]
        assert torch.equal(batch.index[sound], clean.index[sound])
        off = (batch.frames[sound].cpu().int() - clean.frames[sound].int()).abs()
        assert off.float().mean(dim=(1, 2, 3, 4)).max() < 5  # nvJPEG repeats the colour planes


def damage_within(toy_shards, root):
    """A copy of the set in which the pictures of sample 5 end half-way."""
    shutil.copytree(toy_shards.root, root)
    shards = ShardSet(root)
    name, row = shards.row(5)
    packets = shards.packets(name, row, np.arange(row["frames"]))
    sizes = [len(packet) for packet in packets]
    with (shards.root / name).open("r+b") as file:
        for k, size in enumerate(sizes):
            offset = packets_offset(shards, name, row, k)
            file.seek(offset + size // 2)
            file.write(b"\xff\xd9" * (size // 4))
    return ShardSet(root)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_batch_that_dali_fails_on_comes_from_the_host_path(
    toy_shards, tmp_path, monkeypatch, device
):
    shards = damage_within(toy_shards, tmp_path / "set")
    pop, failed = Line.pop, []

    def failing(self):
        if 5 in self.under_way[0].index.tolist():
            failed.append(len(self.under_way))
            raise RuntimeError("a bad picture")
        return pop(self)

    monkeypatch.setattr(Line, "pop", failing)
    feed = DaliFeed(shards, SHAPE, device=device)
    for _ in range(2):
        plan = EpochPlan(shards.shard_sizes, 4, seed=1, epoch=2)
        host = collect(HostFeed(shards, SHAPE), plan)
        for a, b in zip(host, collect(feed, plan), strict=True):
            assert torch.equal(a.index, b.index) and torch.equal(a.waveform, b.waveform.cpu())
            assert (a.frames.int() - b.frames.cpu().int()).abs().float().mean() < 5
    assert len(failed) == 2 and feed.failures == {"undecodable": 2}


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_one_pipeline_serves_every_pass(toy_shards, monkeypatch, device):
    built, build = [], DaliFeed._build
    monkeypatch.setattr(DaliFeed, "_build", lambda *given: built.append(given) or build(*given))
    feed = DaliFeed(toy_shards, SHAPE, device=device)
    for epoch in range(3):
        plan = EpochPlan(toy_shards.shard_sizes, 12, seed=1, epoch=epoch)
        left = feed.batches(plan, random)
        next(left)
        left.close()
        host = collect(HostFeed(toy_shards, SHAPE), plan)
        for a, b in zip(host, collect(feed, plan), strict=True):
            assert torch.equal(a.index, b.index) and torch.equal(a.waveform, b.waveform.cpu())
            assert (a.frames.int() - b.frames.cpu().int()).abs().float().mean() < 5
    assert len(built) == 1
    assert not [t for t in threading.enumerate() if t.name.startswith("clips")]
    two = [feed.batches(plan, random) for _ in range(2)]
    for a, b in zip(*two, strict=True):
        assert torch.equal(a.frames, b.frames)
    assert len(built) == 2


def packets_offset(shards, name, row, frame):
    table = np.load(shards.root / name.replace(".tar", ".packets.npy"))
    return int(table["offset"][row["packet"] + frame])


def test_a_missing_tar_is_named(toy_shards, tmp_path):
    shutil.copytree(toy_shards.root, tmp_path / "set")
    (tmp_path / "set" / toy_shards.shards[0]).unlink()
    shards = ShardSet(tmp_path / "set")
    plan = EpochPlan(shards.shard_sizes, 1, shuffle=False)
    with pytest.raises(UserError, match=r"shard-000000.tar: sample 000000000: video"):
        collect(HostFeed(shards, SHAPE), plan, partial(fixed_windows, shape=SHAPE))


def test_a_batch_without_any_readable_sample_ends_the_run(damaged):
    plan = EpochPlan(damaged.shard_sizes, 1, shuffle=False)
    with pytest.raises(UserError, match=r"xdc-shard verify"):
        collect(HostFeed(damaged, SHAPE), plan, partial(fixed_windows, shape=SHAPE))


def test_dali_gives_the_same_windows_and_nearly_the_same_pixels(toy_shards):
    plan = EpochPlan(toy_shards.shard_sizes, 12, seed=1, epoch=2)
    host = collect(HostFeed(toy_shards, SHAPE), plan)
    dali = collect(DaliFeed(toy_shards, SHAPE, device="cpu"), plan)
    assert len(host) == len(dali)
    for a, b in zip(host, dali, strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.waveform, b.waveform)
        difference = a.frames.int() - b.frames.int()
        assert a.frames.shape == b.frames.shape
        assert difference.abs().float().mean() < 1 and difference.abs().max() <= 40


def test_dali_by_file_gives_the_same_frames(toy_shards):
    """The way of codecs that have no packets, tried with the codec that DALI decodes on a CPU."""
    feed = DaliFeed(toy_shards, SHAPE, device="cpu")
    feed.by_packet = False
    plan = EpochPlan(toy_shards.shard_sizes, 12, seed=1, epoch=2)
    for a, b in zip(collect(HostFeed(toy_shards, SHAPE), plan), collect(feed, plan), strict=True):
        assert (a.frames.int() - b.frames.int()).abs().float().mean() < 3


def test_dali_refuses_what_it_cannot_decode_here(toy_h264):
    with pytest.raises(UserError, match=r"JPEG packets only, not h264; set loader=host"):
        DaliFeed(toy_h264, SHAPE, device="cpu")


@pytest.mark.gpu
def test_frames_from_dali_may_be_kept(toy_shards):
    """None is written over by a later batch, on whatever stream its reader is."""
    plan = EpochPlan(toy_shards.shard_sizes, 4, seed=1, epoch=2)
    kept = []
    with torch.cuda.stream(torch.cuda.Stream()):
        for batch in DaliFeed(toy_shards, SHAPE, device="cuda").batches(plan, random):
            torch.cuda._sleep(10_000_000)  # the step is slower than the loader
            kept.append((batch.frames, batch.frames.sum(dim=(1, 2, 3, 4))))
        for frames, total in kept:
            assert torch.equal(frames.sum(dim=(1, 2, 3, 4)), total)
    for (frames, _), clean in zip(kept, collect(HostFeed(toy_shards, SHAPE), plan), strict=True):
        assert (clean.frames.int() - frames.cpu().int()).abs().float().mean() < 3


@pytest.mark.gpu
@pytest.mark.parametrize("codec", ["toy_shards", "toy_h264"])
def test_dali_on_the_gpu_gives_the_same_frames(codec, request):
    shards = request.getfixturevalue(codec)
    plan = EpochPlan(shards.shard_sizes, 12, seed=1, epoch=2)
    host = collect(HostFeed(shards, SHAPE), plan)
    for a, b in zip(host, collect(DaliFeed(shards, SHAPE, device="cuda"), plan), strict=True):
        assert b.frames.is_cuda and b.waveform.is_cuda and not b.index.is_cuda
        assert torch.equal(a.index, b.index) and torch.equal(a.waveform, b.waveform.cpu())
        assert (a.frames.int() - b.frames.cpu().int()).abs().float().mean() < 3


def test_on_a_gpu_only_jpeg_packets_go_to_dali_unasked(toy_shards, toy_h264):
    for shards, loader, kind in (
        (toy_shards, "auto", DaliFeed),
        (toy_h264, "auto", HostFeed),
        (toy_h264, "dali", DaliFeed),
    ):
        chosen = load_recipe(None, (f"loader={loader}",))
        assert type(open_feed(chosen, shards, SHAPE, torch.device("cuda"))) is kind


def test_settings_that_do_not_fit_the_shards_are_refused(toy_shards):
    with pytest.raises(UserError, match=r"at most 15 pictures a second.*video.rate=15 .*--fps 30"):
        HostFeed(toy_shards, ClipShape(8, 30, 32, 16096, 16000))
    with pytest.raises(UserError, match=r"sound at 16000 Hz.*audio.rate=16000"):
        HostFeed(toy_shards, ClipShape(8, 7.5, 32, 16000, 22050))
    large = ClipShape(8, 7.5, 64, 16096, 16000)
    feed = HostFeed(toy_shards, large)
    plan = EpochPlan(toy_shards.shard_sizes, 4, shuffle=False)
    with pytest.raises(UserError, match=r"40x40 pixels, the recipe crops 64; set video.crop=40"):
        collect(feed, plan, partial(fixed_windows, shape=large))


def test_reading_begins_before_the_first_batch_is_asked_for(toy_shards, monkeypatch):
    begun = threading.Event()
    read = HostFeed.read
    monkeypatch.setattr(HostFeed, "read", lambda *given: begun.set() or read(*given))
    feed = HostFeed(toy_shards, SHAPE)
    plan = EpochPlan(toy_shards.shard_sizes, 12)
    batches = feed.batches(plan, partial(fixed_windows, shape=SHAPE))
    assert begun.wait(10)
    assert len(list(batches)) == plan.steps
