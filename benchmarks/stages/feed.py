"""Clips for training: frames cropped and mirrored, log-mel normalised, in shuffled batches.

All contestants draw the same windows and have equally many cores and decoding threads or
processes. A call is one pass or several, so that no work is done before the clock starts or after
it stops.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from benchmarks.harness import Case
from benchmarks.media import describe_shards, find_videos, pack_videos
from benchmarks.plain import READERS, draw_cuts, open_plain, write_tars
from benchmarks.stages.decode import SHAPE, decode_packets
from xdc_fast.clips.batch import Batch
from xdc_fast.clips.buffers import Buffers
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.loader import Loader
from xdc_fast.clips.sampler import EpochSampler, Sampler
from xdc_fast.clips.windows import random_windows
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.recipe import Recipe
from xdc_fast.shards.dataset import ShardSet

THREADS = (1, 2)
BATCH = 16
ENDLESS = 10**9  # passes
PIPELINES = (2, 4, 7)  # side by side on one GPU; an H100 has seven video decoders
INPUTS = ClipTransform(Recipe())
KEPT = Buffers()
WINDOWS = partial(random_windows, shape=SHAPE, seed=0, epoch=0, flip=True)

Parts = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # index, frames, log-mel of a batch


class Passes:
    """Epochs one after the other, as one sampler."""

    def __init__(self, shards: ShardSet, batch: int, passes: int):
        self.batch, self.passes = batch, passes
        self._epoch = lru_cache(2)(
            lambda epoch: EpochSampler(shards.shard_sizes, batch, epoch=epoch)
        )
        self.steps = passes * self._epoch(0).steps
        self.clips = self.steps * batch

    def indices(self, step: int) -> np.ndarray:
        epoch, step = divmod(step, self._epoch(0).steps)
        return self._epoch(epoch).indices(step)


class Turn:
    """The steps of a sampler from number `turn` on, every `turns`-th, as a sampler."""

    def __init__(self, sampler: Sampler, turn: int, turns: int):
        self.batch, self.steps = sampler.batch, sampler.steps // turns
        self._sampler, self._turn, self._turns = sampler, turn, turns

    def indices(self, step: int) -> np.ndarray:
        return self._sampler.indices(self._turn + step * self._turns)


def cases(quick: bool, threads: int) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        batch = 4 if quick else BATCH
        what, videos = find_videos(Path(folder), batch if quick else 8 * batch)
        shards = pack_videos(videos, Path(folder) / "set")
        loader = HostLoader(shards, SHAPE, threads=threads, spec=INPUTS.spec)
        for files, passes, tolerance in (
            (original_files(shards, videos), 1, {"pictures": 8, "sound": 0.2}),
            (packed_files(shards), 1 if quick else 4, {"pictures": 4, "sound": 1e-3}),
        ):
            sampler = Passes(shards, batch, passes)
            name, samples = files
            tars = write_tars(samples, Path(folder) / name, 2 * threads)
            yield Case(
                f"{describe_shards(what, shards)}, peers read {name}",
                "clips per second",
                sampler.clips,
                partial(deliver, loader, sampler),
                {
                    reader: partial(make_plain, reader, shards, tars, sampler, threads)
                    for reader in READERS
                },
                partial(assert_same, **tolerance),
                decoding_alone(shards, sampler, pool),
            )


def cuda_cases(quick: bool, threads: int, device: str = "cuda") -> Iterator[Case]:
    """What training takes against the other ways: DALI for JPEG packets, host threads for H.264.

    H.264 through DALI also in several pipelines side by side, which may keep more of the card's
    video decoders at work. A DALI pipeline takes longer to build than a call lasts, so its stream
    goes on from call to call: two of a call's batches may be ready when it begins.
    """
    batch, passes = (BATCH, 1) if quick else (32, 4)
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        what, videos = find_videos(Path(folder), batch * (1 if quick else 4))
        for codec in ("jpeg", "h264"):
            shards = pack_videos(videos, Path(folder) / codec, workers=threads, codec=codec)
            sampler = Passes(shards, batch, passes if codec == "jpeg" else 1)
            dali = partial(through_dali, shards, sampler, threads, device)
            host = partial(
                deliver, HostLoader(shards, SHAPE, device=device, threads=threads), sampler
            )
            if codec == "jpeg":
                ours, peers = dali(1), {"host threads": partial(partial, host)}
            else:
                ours = host
                peers = {f"DALI, {n} at a time": partial(dali, n) for n in (1, *PIPELINES)}
            for name, samples in (original_files(shards, videos), packed_files(shards)):
                tars = write_tars(samples, Path(folder) / f"{codec}, {name}", threads)
                peers[f"torchcodec, {name}"] = partial(
                    make_plain, "torchcodec", shards, tars, sampler, threads, device
                )
            yield Case(
                f"{describe_shards(what, shards)}, {codec}, batches of {batch}",
                "clips per second",
                sampler.clips,
                ours,
                peers,
                partial(assert_same, pictures=8, sound=0.2),
                decoding_alone(shards, sampler, pool) if codec == "jpeg" else None,
            )


def through_dali(
    shards: ShardSet, sampler: Passes, threads: int, device: str, pipelines: int
) -> Callable[[], list[Parts]]:
    """A call that takes as many batches as the sampler has, from pipelines side by side."""
    from xdc_fast.clips.dali import DaliLoader

    endless = Passes(shards, sampler.batch, ENDLESS)
    streams = [
        DaliLoader(shards, SHAPE, device=device, threads=max(1, threads // pipelines)).batches(
            Turn(endless, turn, pipelines), WINDOWS
        )
        for turn in range(pipelines)
    ]
    counts = [len(range(turn, sampler.steps, pipelines)) for turn in range(pipelines)]
    pool = ThreadPoolExecutor(pipelines)

    def run() -> list[Parts]:
        taken = pool.map(lambda stream, count: thin(islice(stream, count)), streams, counts)
        return [part for parts in taken for part in parts]

    return run


def original_files(shards: ShardSet, videos: list[Path]) -> tuple[str, Iterator[dict]]:
    """The videos that the samples were made of."""
    found = {video.name: video for video in videos}
    return "the videos themselves", (
        {"mp4": found[Path(source).name].read_bytes()} for source in shards.sources
    )


def packed_files(shards: ShardSet) -> tuple[str, Iterator[dict]]:
    """Our samples' files, in tars of equal size instead of our shards."""
    return "our samples", (
        {"mp4": shards.video_file(index), "wav": shards.audio_file(index)}
        for index in range(len(shards))
    )


def deliver(loader: Loader, sampler: Passes) -> list[Parts]:
    return thin(loader.batches(sampler, WINDOWS))


def make_plain(
    reader: str,
    shards: ShardSet,
    tars: list[Path],
    sampler: Passes,
    workers: int,
    device: str = "cpu",
) -> Callable[[], list[Parts]]:
    loader = open_plain(
        tars * sampler.passes,
        draw_cuts(shards.rows(), WINDOWS),
        READERS[reader](),
        INPUTS,
        batch=sampler.batch,
        workers=workers,
        pin=device != "cpu",
    )

    def run() -> list[Parts]:
        return [
            (
                index,
                keep_few(frames.to(device, non_blocking=True)),
                keep(mel.to(device, non_blocking=True)),
            )
            for index, frames, mel in loader
        ]

    return run


def thin(batches: Iterable[Batch]) -> list[Parts]:
    """Batches with the log-mel of training."""
    return [
        (batch.index, keep_few(batch.frames), keep(INPUTS.of("audio", batch, epoch=0)))
        for batch in batches
    ]


def keep_few(frames: torch.Tensor) -> torch.Tensor:
    """A copy of some rows, to compare."""
    return keep(frames[:, :, ::8])


def keep(part: torch.Tensor) -> torch.Tensor:
    """A copy. Training keeps no batches, so it must cost little: no memory that is new to the
    process, and one thread, as idle ones of torch would spin where the next batch is decoded."""
    if part.is_cuda:
        return part.clone()
    copy = KEPT.empty(part.dtype, *part.shape)
    np.copyto(copy.numpy(), part.numpy())
    return copy


def decoding_alone(
    shards: ShardSet, sampler: Passes, pool: ThreadPoolExecutor
) -> tuple[str, Callable[[], list]]:
    """The limit: all packets of a sampler decoded on the pool's threads."""
    packets, rows = [], []
    for step in range(sampler.steps):
        indices = sampler.indices(step)
        places = [shards.row(int(i)) for i in indices]
        rows.append(np.array([row for _, row in places]))
        frames = WINDOWS(indices, rows[-1]).frames
        packets.append(
            [shards.packets(*place, numbers) for place, numbers in zip(places, frames, strict=True)]
        )
    return "simplejpeg on the packets", lambda: list(pool.map(decode_packets, packets, rows))


def assert_same(ours: list[Parts], other: list[Parts], pictures: float, sound: float) -> None:
    """The same clips as often, whatever their order; pictures (of 0 to 255) and log-mel (nats)
    differ by less than this on average over a clip."""
    order, frames, mel = _sorted(ours)
    others, pixels, heard = _sorted(other)
    assert torch.equal(order, others), f"{len(others)} clips, ours {len(order)}, or other ones"
    assert frames.shape == pixels.shape, f"frames {pixels.shape}, ours {frames.shape}"
    off = (frames - pixels).abs().mean(dim=(1, 2, 3, 4))
    assert off.max() < pictures, f"pixels differ by {off.max():.1f} on average"
    late = (frames[:, :-1] - pixels[:, 1:]).abs().mean(dim=(1, 2, 3, 4))
    early = (frames[:, 1:] - pixels[:, :-1]).abs().mean(dim=(1, 2, 3, 4))
    assert (off <= torch.minimum(late, early)).all(), "frames of another time"
    assert mel.shape == heard.shape, f"log-mel {heard.shape}, ours {mel.shape}"
    wrong = INPUTS.audio.std * (mel - heard).abs().mean(dim=(1, 2, 3))
    assert wrong.max() < sound, f"log-mel differs by {wrong.max():.2g} nats on average"


def _sorted(batches: list[Parts]) -> Parts:
    """All clips by index, on the host, as numbers to subtract."""
    index, frames, mel = (torch.cat([part.cpu() for part in p]) for p in zip(*batches, strict=True))
    order = index.argsort(stable=True)
    return index[order], frames[order].float(), mel[order]
