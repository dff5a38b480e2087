"""The order of an epoch of 65 million samples, on 64 ranks of 8 nodes."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from benchmarks.harness import Case, Figure
from xdc_fast.clips.sampler import EpochSampler, Groups

THREADS = (1,)
SHARDS, SAMPLES, BATCH, RANKS, NODES = 65_000, 1_000, 4_096, 64, 8
STEPS = 200
RANK = 3  # any


def cases(quick: bool, threads: int) -> Iterator[Case | Figure]:
    draw = np.random.default_rng(0)
    shards = SHARDS // 50 if quick else SHARDS
    sizes = draw.integers(SAMPLES * 9 // 10, SAMPLES * 11 // 10, shards)
    what = f"{shards:,} shards, batches of {BATCH:,}, {RANKS} ranks"
    sampler = EpochSampler(sizes, BATCH)
    yield Case(
        f"indices of a step on one rank, {what}",
        "steps per second",
        STEPS,
        partial(take, Groups(sampler, BATCH // RANKS, RANK, RANKS)),
        {"every rank orders the whole batch": partial(make_whole, sizes)},
        assert_same,
    )
    peers, ends = (
        {"torch.randperm, as in DistributedSampler": [clock(randperm, sizes)]},
        sizes.cumsum(),
    )
    yield Figure(
        f"order of an epoch, {what}", "seconds, lower is better",
        [clock(EpochSampler, sizes, BATCH) for _ in range(3)], peers,
    )  # fmt: skip
    yield Figure(
        f"memory of it, {what}", "MB, lower is better",
        [memory(lambda: take(Groups(EpochSampler(sizes, BATCH), BATCH // RANKS, RANK, RANKS)))],
        {"int64 for each sample": [sizes.sum() * 8 / 1e6]},
    )  # fmt: skip
    read = [shards_of(sampler, ends, node) for node in range(NODES)]
    yield Figure(
        f"shards that {NODES} nodes read in an epoch, {what}", "of the set, 1 is best",
        [sum(map(len, read)) / shards],
        {"clips in any order": [float(NODES)]},
    )  # fmt: skip
    here = np.bincount(np.searchsorted(ends, sampler.indices(sampler.steps // 2), side="right"))
    share = here / here.sum()
    yield Figure(
        f"shards that a batch comes from, {what}", "effective number, higher is better",
        [1 / np.square(share).sum()],
        {"clips in any order": [1 / (1 / shards + 1 / BATCH)]},
    )  # fmt: skip


def take(groups: Groups) -> np.ndarray:
    return np.concatenate([groups.indices(step) for step in range(STEPS)])


def make_whole(sizes: np.ndarray) -> Callable[[], np.ndarray]:
    sampler, own = EpochSampler(sizes, BATCH), BATCH // RANKS
    place = slice(RANK * own, (RANK + 1) * own)
    return lambda: np.concatenate([sampler.indices(step)[place] for step in range(STEPS)])


def assert_same(ours: np.ndarray, other: np.ndarray) -> None:
    assert np.array_equal(ours, other)


def randperm(sizes: np.ndarray) -> torch.Tensor:
    return torch.randperm(int(sizes.sum()))


def shards_of(sampler: EpochSampler, ends: np.ndarray, node: int) -> np.ndarray:
    """The shards that one node reads: those of its lanes."""
    begin = node * BATCH // NODES
    # in a lane, 64 clips a step, the clips of 16 shards are mixed over 250 steps
    found = [
        np.searchsorted(ends, sampler.indices(step, begin, begin + BATCH // NODES), "right")
        for step in range(0, sampler.steps, 16)
    ]
    return np.unique(np.concatenate(found))


def clock(function: Callable, *arguments: object) -> float:
    begun = time.perf_counter()
    function(*arguments)
    return time.perf_counter() - begun


def memory(function: Callable) -> float:
    """MB at the peak."""
    tracemalloc.start()
    function()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak / 1e6
