"""The order of an epoch, as arithmetic: known on every rank before the first byte is read."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np

from xdc_fast.errors import UserError


class Sampler(Protocol):
    """Which clips each step reads: `steps` times `batch` indices."""

    @property
    def steps(self) -> int: ...
    @property
    def batch(self) -> int: ...

    def indices(self, step: int) -> np.ndarray:
        """The indices of one step's clips, int64 (batch,). May be called by several threads."""
        ...


class Steps:
    """Some steps of a sampler, as a sampler."""

    def __init__(self, sampler: Sampler, chosen: np.ndarray):
        self._sampler, self._chosen = sampler, chosen
        self.batch, self.steps = sampler.batch, len(chosen)

    def indices(self, step: int) -> np.ndarray:
        return self._sampler.indices(int(self._chosen[step]))


class EpochSampler:
    """Which samples each step of one epoch reads, on one rank.

    The order is a pure function of (seed, epoch): shards are permuted, then the samples within
    each run of `window` shards, so that reading stays near-sequential. Every rank takes its slice
    of the same order, so ranks are disjoint and take equally many steps.

    shard_sizes: samples per shard, int (shards,). batch: samples per step and rank.
    samples: int64 (M,), in rising order: those that shard_sizes counts, where it is not all.
    shuffle=False is evaluation: the stored order, every sample at least once; the last step wraps
    around to the first samples so that all ranks take equal steps.
    Raises UserError when a shuffled epoch would have no step.
    """

    def __init__(
        self,
        shard_sizes: np.ndarray,
        batch: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        rank: int = 0,
        world: int = 1,
        shuffle: bool = True,
        window: int = 16,
        samples: np.ndarray | None = None,
    ):
        self.batch, self.rank, self.world, self.shuffle = batch, rank, world, shuffle
        self._chosen = samples
        sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.samples = int(sizes.sum())
        whole, rest = divmod(self.samples, batch * world)
        self.steps = whole if shuffle else whole + (rest > 0)
        if self.steps == 0:
            raise UserError(
                f"{self.samples} samples do not fill one step of {batch} on {world} rank(s); "
                f"set train.batch to {max(self.samples // world, 1)} or less"
            )
        first = np.concatenate([[0], np.cumsum(sizes)])
        shards = np.arange(len(sizes))
        if shuffle:
            shards = np.random.default_rng([seed, epoch]).permutation(shards)
        groups = [shards[i : i + window] for i in range(0, len(shards), window)]
        self._start = np.concatenate([[0], np.cumsum([sizes[group].sum() for group in groups])])

        @lru_cache(maxsize=4)  # neighbouring steps share a group
        def order(number: int) -> np.ndarray:
            indices = np.concatenate([np.arange(first[s], first[s + 1]) for s in groups[number]])
            if not shuffle:
                return indices
            return np.random.default_rng([seed, epoch, number]).permutation(indices)

        self._order = order

    def indices(self, step: int) -> np.ndarray:
        """The sample indices of one step, int64 (batch,)."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        begin = (step * self.world + self.rank) * self.batch
        position = np.arange(begin, begin + self.batch) % self.samples
        group = np.searchsorted(self._start, position, side="right") - 1
        out = np.empty(self.batch, dtype=np.int64)
        for number in np.unique(group):
            here = group == number
            out[here] = self._order(int(number))[position[here] - self._start[number]]
        return out if self._chosen is None else self._chosen[out]

    def take(self, steps: np.ndarray) -> Steps:
        """The sampler of these steps alone, int64 (steps,), in their order."""
        return Steps(self, steps)


def uniform(seed: int, epoch: int, index: np.ndarray, stream: int) -> np.ndarray:
    """Random numbers in [0, 1) that depend on nothing but their arguments, float64 (B,).

    A draw per sample, the same whatever the batch, the rank or the order; `stream` tells the
    uses apart (time, crop, flip, ...). SplitMix64 of the mixed arguments (Steele, Lea and Flood,
    OOPSLA 2014).
    """
    with np.errstate(over="ignore"):
        state: np.ndarray | np.uint64 = np.uint64(0)
        for word in (seed, epoch, stream):
            state = _mix(state + np.uint64(word & 0xFFFFFFFFFFFFFFFF))
        bits = _mix(state + np.asarray(index, dtype=np.uint64))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mix(z: np.ndarray | np.uint64) -> np.ndarray:
    z = z + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))
