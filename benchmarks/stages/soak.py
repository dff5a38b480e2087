"""What the feed keeps: memory of this process while it reads epoch after epoch."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from benchmarks.harness import Figure
from benchmarks.media import find_videos, pack_videos
from benchmarks.stages.decode import SHAPE
from benchmarks.stages.feed import INPUTS
from xdc_fast.clips.host import HostFeed
from xdc_fast.clips.plan import EpochPlan
from xdc_fast.clips.windows import random_windows

THREADS = (2,)
BATCH = 8
BATCHES = (100, 1000)


def cases(quick: bool, threads: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        yield from measure_growth(HostFeed, "jpeg", Path(folder), quick, threads, "cpu")


def cuda_cases(quick: bool, threads: int) -> Iterator[Figure]:
    from xdc_fast.clips.dali import DaliFeed

    with tempfile.TemporaryDirectory() as folder:
        for kind in (DaliFeed, HostFeed):
            yield from measure_growth(kind, "jpeg", Path(folder), quick, threads, "cuda")


def measure_growth(
    kind: type[HostFeed], codec: str, folder: Path, quick: bool, threads: int, device: str
) -> Iterator[Figure]:
    """Memory after all batches, beside that after the first tenth.

    A small set, so that its mapped files are in memory by then; an epoch is 8 batches, so that
    feeds also begin and end.
    """
    first, last = (n // 20 for n in BATCHES) if quick else BATCHES
    _, videos = find_videos(folder, 2 * BATCH if quick else 8 * BATCH)
    shards = pack_videos(videos, folder / f"{kind.__name__}, {codec}", codec=codec)
    gauges = {"resident memory": resident}
    if device == "cuda":
        gauges["GPU memory in use"] = partial(used_on_gpu, device)
    seen = {name: [] for name in gauges}
    feed = kind(shards, SHAPE, device=device, threads=threads)
    for count, batch in enumerate(endless(feed), start=1):
        INPUTS.of("audio", batch, epoch=0)
        if count in (first, last):
            for name, read in gauges.items():
                seen[name].append(read() / 2**20)
        if count == last:
            break
    for name, (before, after) in seen.items():
        yield Figure(
            f"{kind.__name__}, {codec}, {last} batches of {BATCH} clips",
            f"MiB of {name}",
            [after],
            {f"after {first} batches": [before]},
        )


def endless(feed: HostFeed) -> Iterator:
    """The batches of all epochs, as training draws them."""
    epoch = 0
    while True:
        plan = EpochPlan(feed.shards.shard_sizes, BATCH, epoch=epoch)
        sampling = partial(random_windows, shape=SHAPE, seed=0, epoch=epoch, flip=True)
        yield from feed.batches(plan, sampling)
        epoch += 1


def resident() -> int:
    """Bytes of this process in memory, mapped files included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def used_on_gpu(device: str) -> int:
    """Bytes in use on the device, by whomever: DALI allocates beside torch."""
    free, total = torch.cuda.mem_get_info(device)
    return total - free
