"""What the host does for DALI: it gathers the packets and the sound of each batch.

DALI itself decodes on the CPU here, as a stand-in for a GPU.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg

from benchmarks.harness import Case, Figure
from benchmarks.media import describe_shards, find_videos, pack_videos
from benchmarks.stages.decode import SHAPE
from xdc_fast.clips.dali import DaliLoader
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.loader import Loader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import random_windows
from xdc_fast.shards.dataset import ShardSet

THREADS = (1,)
BATCH = 64
EPOCHS = 8

Parts = tuple[np.ndarray, np.ndarray]  # packets uint8 (B x T, longest), sound int16 (B, S)


def cases(quick: bool, threads: int) -> Iterator[Case | Figure]:
    batch = 4 if quick else BATCH
    with tempfile.TemporaryDirectory() as folder:
        what, videos = find_videos(Path(folder), 2 * batch)
        shards = pack_videos(videos, Path(folder) / "set")
        loader = DaliLoader(shards, SHAPE, device="cpu", threads=threads)
        indices = EpochSampler(shards.shard_sizes, batch).indices(0)
        ours = partial(gather, loader, indices)
        packets, sound = ours()
        yield Case(
            f"batches of {batch} clips of {SHAPE.frames} packets, {describe_shards(what, shards)}",
            "clips per second",
            batch,
            ours,
            {"NumPy, headers by simplejpeg": lambda: partial(gather_plainly, shards, indices)},
            assert_same,
            ("copy of as many bytes", lambda: (packets.copy(), sound.copy())),
        )
        yield Figure(
            f"CPU time of the thread that asks for a batch of {batch} clips",
            "ms, less is better",
            thread_times(loader, batch),
            {"host threads": thread_times(HostLoader(shards, SHAPE, threads=threads), batch)},
        )


def gather(loader: DaliLoader, indices: np.ndarray) -> Parts:
    found = loader._gather(indices, windows(0), None)
    assert found.rest.waveform is not None
    return np.asarray(found.inputs["data"]), found.rest.waveform.numpy()


def gather_plainly(shards: ShardSet, indices: np.ndarray) -> Parts:
    places = [shards.row(int(index)) for index in indices]
    laid = windows(0)(indices, np.array([row for _, row in places]))
    packets, sound = [], np.zeros((len(indices), SHAPE.samples), np.int16)
    for slot, (name, row) in enumerate(places):
        for packet in shards.packets(name, row, laid.frames[slot]):
            assert simplejpeg.decode_jpeg_header(packet)[:2] == (row["height"], row["width"])
            packets.append(packet)
        sound[slot] = shards.waveform(name, row, int(laid.start[slot]), SHAPE.samples)
    padded = np.zeros((len(packets), max(map(len, packets))), np.uint8)
    for out, packet in zip(padded, packets, strict=True):
        out[: len(packet)] = packet
    return padded, sound


def windows(epoch: int) -> partial:
    return partial(random_windows, shape=SHAPE, seed=0, epoch=epoch, flip=True)


def assert_same(ours: Parts, theirs: Parts) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert np.array_equal(a, b)


def thread_times(loader: Loader, batch: int) -> list[float]:
    """Milliseconds of this thread's CPU for each batch, of EPOCHS epochs after a first one."""
    times: list[float] = []
    for epoch in range(EPOCHS + 1):
        sampler = EpochSampler(loader.shards.shard_sizes, batch, epoch=epoch)
        batches, spent = loader.batches(sampler, windows(epoch)), []
        while True:
            begun = time.thread_time()
            found = next(batches, None)
            spent.append(1000 * (time.thread_time() - begun))
            if found is None:
                break
        if epoch:
            times.append(sum(spent) / sampler.steps)
    return times
