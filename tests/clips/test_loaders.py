"""Shards to batches: both paths, against PyAV and against each other."""

import shutil
import threading
from functools import partial
from io import BytesIO

import av
import numpy as np
import pytest
import torch
from nvidia.dali import fn

from tests.common.media import make_media
from tests.common.one_track import pack_folder
from tests.common.seal import reseal
from xdc_fast.clips.dali import DaliLoader, PipelineQueue
from xdc_fast.clips.failures import NothingRead
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.loader import open_loader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import ClipShape, fixed_windows, random_windows
from xdc_fast.errors import UserError
from xdc_fast.kernels import MelSpec, log_mel
from xdc_fast.packing.settings import PackSettings
from xdc_fast.shards.dataset import ShardSet

SHAPE = ClipShape(frames=8, fps=7.5, crop=32, samples=16096, sample_rate=16000)
GPU = pytest.param("cuda", marks=pytest.mark.gpu)
random = partial(random_windows, shape=SHAPE, seed=1, epoch=2, flip=True)


def decode_all(file: bytes) -> np.ndarray:
    """Every frame of a packed video by PyAV, RGB."""
    with av.open(BytesIO(file)) as container:
        return np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])


def collect(loader, sampler, windows=random, start=0):
    return list(loader.batches(sampler, windows, start))


@pytest.mark.parametrize("codec", ["toy_shards", "toy_h264"])
def test_clips_are_the_windows_that_pyav_decodes(codec, request):
    shards = request.getfixturevalue(codec)
    sampler = EpochSampler(shards.shard_sizes, 12, seed=1, epoch=2)
    batches = collect(HostLoader(shards, SHAPE), sampler)
    assert len(batches) == 4
    index = torch.cat([batch.index for batch in batches])
    assert sorted(index.tolist()) == list(range(48))
    for batch in batches[:2]:
        rows = np.array([shards.row(int(i))[1] for i in batch.index])
        windows = random(batch.index.numpy(), rows)
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
    sampler = EpochSampler(toy_shards.shard_sizes, 12, seed=1, epoch=2)
    whole = collect(HostLoader(toy_shards, SHAPE, threads=3), sampler)
    rest = collect(HostLoader(toy_shards, SHAPE, threads=1), sampler, start=2)
    for a, b in zip(whole[2:], rest, strict=True):
        assert torch.equal(a.frames, b.frames) and torch.equal(a.waveform, b.waveform)
        assert torch.equal(a.index, b.index)


def is_new_reader(thread, before):
    """Whether a thread of a loader has begun since; other tests may have left passes open."""
    return thread.name.startswith("clips") and thread not in before


def test_leaving_an_epoch_early_leaves_no_threads(toy_shards):
    before = threading.enumerate()
    loader = HostLoader(toy_shards, SHAPE)
    batches = loader.batches(EpochSampler(toy_shards.shard_sizes, 4, seed=0), random)
    next(batches)
    batches.close()
    assert not [t for t in threading.enumerate() if is_new_reader(t, before)]


def test_memory_is_used_again_but_never_while_somebody_looks(toy_shards):
    sampler = EpochSampler(toy_shards.shard_sizes, 2, seed=1)  # 24 steps
    loader = HostLoader(toy_shards, SHAPE, threads=1)
    kept, copies, places = [], [], set()
    for step, batch in enumerate(loader.batches(sampler, random)):
        places.add(batch.frames.data_ptr())
        if step % 6 == 0:
            parts = batch.frames[1, 3].permute(2, 0, 1).numpy(), batch.waveform.numpy()[1, 5:]
            kept += parts
            copies += [part.copy() for part in parts]
        del batch
    assert len(places) < 12
    for part, copy in zip(kept, copies, strict=True):
        assert np.array_equal(part, copy)


@pytest.mark.parametrize("width", [36, 44])
def test_a_picture_of_another_size_than_its_row_says_is_refused(toy_shards, tmp_path, width):
    """Whatever the others of its batch measure."""
    shutil.copytree(toy_shards.root, tmp_path / "set")
    path = tmp_path / "set" / toy_shards.shards[0].replace(".tar", ".samples.npy")
    rows = np.load(path)
    rows["width"][1] = width
    np.save(path, rows)
    reseal(tmp_path / "set")
    shards = ShardSet(tmp_path / "set")
    loader = HostLoader(shards, SHAPE)
    sampler = EpochSampler(shards.shard_sizes, 4, shuffle=False)
    batch = next(loader.batches(sampler, random))
    assert 1 not in batch.index.tolist() and loader.failures == {"undecodable": 1}


def test_waveform_beyond_the_track_is_silence(toy_shards):
    long = ClipShape(frames=8, fps=7.5, crop=32, samples=80_000, sample_rate=16000)
    sampler = EpochSampler(toy_shards.shard_sizes, 4, shuffle=False)
    batch = next(HostLoader(toy_shards, long).batches(sampler, partial(fixed_windows, shape=long)))
    wav = np.frombuffer(toy_shards.audio_file(0)[44:], "<i2")
    begin = (80_000 - len(wav)) // 2
    got = batch.waveform[0].numpy()
    assert not got[: begin - 1].any() and not got[begin + len(wav) + 1 :].any()
    assert np.abs(got).max() == np.abs(wav).max()


@pytest.mark.parametrize("kind", [HostLoader, DaliLoader])
def test_a_loader_computes_spectrograms_where_it_is_asked_to(damaged, kind):
    """Those of the clips that stand in for unreadable ones, too."""
    sampler, spec = EpochSampler(damaged.shard_sizes, 12, seed=1, epoch=2), MelSpec()
    for batch in collect(kind(damaged, SHAPE, device="cpu", spec=spec), sampler):
        assert np.array_equal(batch.spectrogram.numpy(), log_mel(batch.waveform.numpy(), spec))
    silent = SHAPE.only("video")
    plain, quiet = (
        kind(damaged, SHAPE, device="cpu"),
        kind(damaged, silent, device="cpu", spec=spec),
    )
    assert next(plain.batches(sampler, random)).spectrogram is None
    assert next(quiet.batches(sampler, random)).spectrogram is None


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
@pytest.mark.parametrize("kind", [HostLoader, DaliLoader])
def test_bad_samples_are_replaced_in_their_batch_and_counted(damaged, kind, device):
    loader = kind(damaged, SHAPE, device=device)
    sampler = EpochSampler(damaged.shard_sizes, 12, seed=1, epoch=2)
    batches = collect(loader, sampler)
    index = torch.cat([batch.index for batch in batches])
    assert len(index) == 48
    assert not {5, 30} & set(index.tolist())
    assert loader.failures == {"undecodable": 2}
    (message,) = loader.examples.values()
    assert "part-" in message and "video" in message
    assert "sample 000000005" in message or "sample 000000030" in message
    sound = HostLoader(damaged, SHAPE)
    for batch, clean in zip(batches, collect(sound, sampler), strict=True):
        assert torch.equal(batch.index, clean.index)


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_a_picture_that_only_decoding_shows_damaged_is_replaced_too(toy_shards, tmp_path, device):
    """Headers are sound, so DALI meets it: the batch comes from the host loader, or as it is."""
    shards = damage_within(toy_shards, tmp_path / "set")
    sampler = EpochSampler(shards.shard_sizes, 12, seed=1, epoch=2)
    loader = HostLoader(shards, SHAPE)
    assert len(collect(loader, sampler)) == 4
    assert loader.failures == {"undecodable": 1}
    whole = collect(HostLoader(toy_shards, SHAPE), sampler)
    batches = collect(DaliLoader(shards, SHAPE, device=device), sampler)
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
def test_a_batch_that_dali_fails_on_comes_from_the_host_loader(
    toy_shards, tmp_path, monkeypatch, device
):
    shards = damage_within(toy_shards, tmp_path / "set")
    pop, failed = PipelineQueue.pop, []

    def failing(self):
        if 5 in self.pending[0].rest.index.tolist():
            failed.append(len(self.pending))
            raise RuntimeError("a bad picture")
        return pop(self)

    monkeypatch.setattr(PipelineQueue, "pop", failing)
    loader = DaliLoader(shards, SHAPE, device=device)
    for _ in range(2):
        sampler = EpochSampler(shards.shard_sizes, 4, seed=1, epoch=2)
        host = collect(HostLoader(shards, SHAPE), sampler)
        for a, b in zip(host, collect(loader, sampler), strict=True):
            assert torch.equal(a.index, b.index) and torch.equal(a.waveform, b.waveform.cpu())
            assert (a.frames.int() - b.frames.cpu().int()).abs().float().mean() < 5
    assert len(failed) == 2 and loader.failures == {"undecodable": 2}


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_one_pipeline_serves_every_pass(toy_shards, monkeypatch, device):
    before = threading.enumerate()
    built, build = [], DaliLoader._build
    monkeypatch.setattr(DaliLoader, "_build", lambda *given: built.append(given) or build(*given))
    loader = DaliLoader(toy_shards, SHAPE, device=device)
    for epoch in range(3):
        sampler = EpochSampler(toy_shards.shard_sizes, 12, seed=1, epoch=epoch)
        left = loader.batches(sampler, random)
        next(left)
        left.close()
        host = collect(HostLoader(toy_shards, SHAPE), sampler)
        for a, b in zip(host, collect(loader, sampler), strict=True):
            assert torch.equal(a.index, b.index) and torch.equal(a.waveform, b.waveform.cpu())
            assert (a.frames.int() - b.frames.cpu().int()).abs().float().mean() < 5
    assert len(built) == 1
    assert not [t for t in threading.enumerate() if is_new_reader(t, before)]
    two = [loader.batches(sampler, random) for _ in range(2)]
    for a, b in zip(*two, strict=True):
        assert torch.equal(a.frames, b.frames)
    assert len(built) == 2


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_the_settings_of_the_decoder_reach_dali(toy_shards, monkeypatch, device):
    given, decode = [], fn.decoders.image
    monkeypatch.setattr(
        fn.decoders, "image", lambda *data, **how: given.append(how) or decode(*data, **how)
    )
    loader = open_loader(
        toy_shards, SHAPE, device=torch.device(device), loader="dali", decoder_load=0.8
    )
    collect(loader, EpochSampler(toy_shards.shard_sizes, 12))
    (how,) = given
    row = toy_shards.row(0)[1]
    hints = how["preallocate_width_hint"], how["preallocate_height_hint"]
    assert how["hw_decoder_load"] == 0.8 and hints == (row["width"], row["height"])


def packets_offset(shards, name, row, frame):
    table = np.load(shards.root / name.replace(".tar", ".packets.npy"))
    return int(row["video"] + table[row["packet"] + frame])


def test_a_missing_tar_is_named(toy_shards, tmp_path):
    shutil.copytree(toy_shards.root, tmp_path / "set")
    (tmp_path / "set" / toy_shards.shards[0]).unlink()
    shards = ShardSet(tmp_path / "set")
    sampler = EpochSampler(shards.shard_sizes, 1, shuffle=False)
    with pytest.raises(UserError, match=r"part-000000-00000.tar: sample 000000000: video"):
        collect(HostLoader(shards, SHAPE), sampler, partial(fixed_windows, shape=SHAPE))


def test_a_batch_without_any_readable_sample_ends_the_run(damaged):
    sampler = EpochSampler(damaged.shard_sizes, 1, shuffle=False)
    with pytest.raises(UserError, match=r"xdc-shard verify"):
        collect(HostLoader(damaged, SHAPE), sampler, partial(fixed_windows, shape=SHAPE))


@pytest.mark.parametrize("kind", [HostLoader, DaliLoader])
@pytest.mark.parametrize("batch", [1, 2])
def test_reading_goes_on_after_a_batch_without_any_readable_sample(damaged, kind, batch):
    loader, chosen = kind(damaged, SHAPE, device="cpu"), np.array([4, 5, 30, 30, 31, 32])
    sampler = EpochSampler(np.array([6]), batch, shuffle=False)
    windows, read, step = partial(fixed_windows, shape=SHAPE), [], 0
    while step < sampler.steps:
        try:
            for clips in loader.batches(sampler, windows, start=step, samples=chosen):
                read.append((step, clips.index.tolist()))
                step += 1
        except NothingRead as error:
            assert len(error.errors) == batch and "sample 0000000" in str(error)
            step += 1
    if batch == 1:
        assert read == [(0, [0]), (4, [4]), (5, [5])]
    else:
        assert read == [(0, [0, 0]), (2, [4, 5])]
    assert loader.failures == {"undecodable": 3}


def test_dali_gives_the_same_windows_and_nearly_the_same_pixels(toy_shards):
    sampler = EpochSampler(toy_shards.shard_sizes, 12, seed=1, epoch=2)
    host = collect(HostLoader(toy_shards, SHAPE), sampler)
    dali = collect(DaliLoader(toy_shards, SHAPE, device="cpu"), sampler)
    assert len(host) == len(dali)
    for a, b in zip(host, dali, strict=True):
        assert torch.equal(a.index, b.index) and torch.equal(a.waveform, b.waveform)
        difference = a.frames.int() - b.frames.int()
        assert a.frames.shape == b.frames.shape
        assert difference.abs().float().mean() < 1 and difference.abs().max() <= 40


def test_dali_by_file_gives_the_same_frames(toy_shards):
    """The way of codecs that have no packets, tried with the codec that DALI decodes on a CPU."""
    loader = DaliLoader(toy_shards, SHAPE, device="cpu")
    loader.by_packet = False
    sampler = EpochSampler(toy_shards.shard_sizes, 12, seed=1, epoch=2)
    for a, b in zip(
        collect(HostLoader(toy_shards, SHAPE), sampler), collect(loader, sampler), strict=True
    ):
        assert (a.frames.int() - b.frames.int()).abs().float().mean() < 3


def test_dali_refuses_what_it_cannot_decode_here(toy_h264):
    with pytest.raises(UserError, match=r"JPEG packets only, not h264; set loader=host"):
        DaliLoader(toy_h264, SHAPE, device="cpu")


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """Pictures of 170 x 128, as of the paper's data, of which crops of 112 are taken."""
    folder = tmp_path_factory.mktemp("wide")
    (folder / "media").mkdir()
    for k in range(6):
        make_media(folder / "media" / f"{k}.mp4", size=(170, 128), fps=15)
    return pack_folder(folder / "media", folder / "set", PackSettings(fps=15, short_side=128))


@pytest.mark.parametrize("device", ["cpu", GPU])
def test_pictures_of_the_papers_size_over_two_epochs_beside_damage(wide, tmp_path, device):
    """The batch of the damaged sample has another in its place, on a stream of the caller's."""
    shape = ClipShape(frames=8, fps=7.5, crop=112, samples=8000, sample_rate=16000)
    shards = damage_within(wide, tmp_path / "set")
    loader = DaliLoader(shards, shape, device=device)
    for epoch in range(2):
        windows = partial(random_windows, shape=shape, seed=1, epoch=epoch, flip=True)
        sampler = EpochSampler(shards.shard_sizes, 2, seed=1, epoch=epoch)
        whole = collect(HostLoader(wide, shape), sampler, windows)
        with torch.cuda.stream(None if device == "cpu" else torch.cuda.Stream()):
            batches = [(b, b.frames.cpu()) for b in loader.batches(sampler, windows)]
        assert len(batches) == 3
        for (batch, frames), clean in zip(batches, whole, strict=True):
            sound = (clean.index != 5).nonzero()[:, 0]
            assert torch.equal(batch.index[sound], clean.index[sound])
            assert torch.equal(batch.waveform[sound].cpu(), clean.waveform[sound])
            assert frames.shape == (2, 8, 112, 112, 3)
            assert (frames[sound].int() - clean.frames[sound].int()).abs().float().mean() < 5


@pytest.mark.gpu
def test_frames_from_dali_may_be_kept(toy_shards):
    """None is written over by a later batch, on whatever stream its reader is."""
    sampler = EpochSampler(toy_shards.shard_sizes, 4, seed=1, epoch=2)
    kept = []
    with torch.cuda.stream(torch.cuda.Stream()):
        for batch in DaliLoader(toy_shards, SHAPE, device="cuda").batches(sampler, random):
            torch.cuda._sleep(10_000_000)  # the step is slower than the loader
            kept.append((batch.frames, batch.frames.sum(dim=(1, 2, 3, 4))))
        for frames, total in kept:
            assert torch.equal(frames.sum(dim=(1, 2, 3, 4)), total)
    host = collect(HostLoader(toy_shards, SHAPE), sampler)
    for (frames, _), clean in zip(kept, host, strict=True):
        assert (clean.frames.int() - frames.cpu().int()).abs().float().mean() < 3


@pytest.mark.gpu
@pytest.mark.parametrize("codec", ["toy_shards", "toy_h264"])
def test_dali_on_the_gpu_gives_the_same_frames(codec, request):
    shards = request.getfixturevalue(codec)
    sampler = EpochSampler(shards.shard_sizes, 12, seed=1, epoch=2)
    host = collect(HostLoader(shards, SHAPE), sampler)
    for a, b in zip(host, collect(DaliLoader(shards, SHAPE, device="cuda"), sampler), strict=True):
        assert b.frames.is_cuda and b.waveform.is_cuda and not b.index.is_cuda
        assert torch.equal(a.index, b.index) and torch.equal(a.waveform, b.waveform.cpu())
        assert (a.frames.int() - b.frames.cpu().int()).abs().float().mean() < 3


def test_on_a_gpu_only_jpeg_packets_go_to_dali_unasked(toy_shards, toy_h264):
    for shards, name, kind in (
        (toy_shards, "auto", DaliLoader),
        (toy_h264, "auto", HostLoader),
        (toy_h264, "dali", DaliLoader),
    ):
        loader = open_loader(shards, SHAPE, device=torch.device("cuda"), loader=name)
        assert type(loader) is kind


def test_settings_that_do_not_fit_the_shards_are_refused(toy_shards):
    with pytest.raises(UserError, match=r"at most 15 pictures a second.*video.fps=15 .*--fps 30"):
        HostLoader(toy_shards, ClipShape(8, 30, 32, 16096, 16000))
    with pytest.raises(UserError, match=r"sound at 16000 Hz.*audio.sample_rate=16000"):
        HostLoader(toy_shards, ClipShape(8, 7.5, 32, 16000, 22050))
    large = ClipShape(8, 7.5, 64, 16096, 16000)
    loader = HostLoader(toy_shards, large)
    sampler = EpochSampler(toy_shards.shard_sizes, 4, shuffle=False)
    with pytest.raises(UserError, match=r"40x40 pixels, the recipe crops 64; set video.crop=40"):
        collect(loader, sampler, partial(fixed_windows, shape=large))


def test_reading_begins_before_the_first_batch_is_asked_for(toy_shards, monkeypatch):
    begun = threading.Event()
    read = HostLoader.read
    monkeypatch.setattr(HostLoader, "read", lambda *given: begun.set() or read(*given))
    loader = HostLoader(toy_shards, SHAPE)
    sampler = EpochSampler(toy_shards.shard_sizes, 12)
    batches = loader.batches(sampler, partial(fixed_windows, shape=SHAPE))
    assert begun.wait(10)
    assert len(list(batches)) == sampler.steps
