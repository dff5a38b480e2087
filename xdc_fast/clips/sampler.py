"""The order of an epoch, as arithmetic: known on every rank before the first byte is read."""

from __future__ import annotations

from functools import lru_cache
from typing import Protocol

import numpy as np

from xdc_fast.errors import UserError

LANE = 32  # shards of a lane at least: twice the window, so that reading it twice costs little
MOST_LANES = 64


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
    """Which samples each step of one epoch reads, all processes of a run together.

    The order is a pure function of (seed, epoch, batch). Shards are permuted and laid out in a
    line, which is cut into lanes of equal length. A batch takes as many samples of each lane, lane
    after lane, so that it comes from many shards. Within a lane the samples of each run of `window`
    shards are permuted, so that a process that reads some lanes reads their shards one after the
    other, and hardly any other shard. A small set has one lane.

    shard_sizes: samples per shard, int (shards,). batch: samples per step.
    samples: int64 (M,), in rising order: those that shard_sizes counts, where it is not all.
    shuffle=False is evaluation: the stored order, every sample at least once; the last step wraps
    around to the first samples.
    Raises UserError when a shuffled epoch would have no step.
    """

    def __init__(
        self,
        shard_sizes: np.ndarray,
        batch: int,
        *,
        seed: int = 0,
        epoch: int = 0,
        shuffle: bool = True,
        window: int = 16,
        samples: np.ndarray | None = None,
    ):
        self.batch = batch
        self._chosen = samples
        sizes = np.asarray(shard_sizes, dtype=np.int64)
        self.samples = int(sizes.sum())
        self.lanes = count_lanes(len(sizes), batch) if shuffle else 1
        self._length = self.samples // self.lanes  # of a lane
        whole, rest = divmod(self._length, batch // self.lanes)
        self.steps = whole if shuffle else whole + (rest > 0)
        if self.steps == 0:
            raise UserError(
                f"{self.samples} samples do not fill one step of {batch}; "
                f"set train.batch to {max(self.samples, 1)} or less"
            )
        first = np.cumsum(sizes) - sizes
        shards = np.arange(len(sizes))
        if shuffle:
            shards = np.random.default_rng([seed, epoch]).permutation(shards)
        line = np.concatenate([[0], np.cumsum(sizes[shards])])  # where each begins
        begins = np.arange(self.lanes) * self._length
        cuts = [begins, np.array([self.lanes * self._length])]
        for begin, shard in zip(begins, np.searchsorted(line, begins, side="right"), strict=True):
            inner = line[shard - 1 + window :: window]
            cuts.append(inner[inner < begin + self._length])
        self._cuts = np.unique(np.concatenate(cuts))  # of the line, into runs that are permuted

        @lru_cache(maxsize=2 * self.lanes + 2)  # neighbouring steps share runs
        def order(run: int) -> np.ndarray:
            begin, end = self._cuts[run : run + 2]
            low, high = np.searchsorted(line, [begin, end - 1], side="right") - 1
            indices = np.concatenate(
                [
                    first[shards[s]]
                    + np.arange(max(begin, line[s]), min(end, line[s + 1]))
                    - line[s]
                    for s in range(low, high + 1)
                ]
            )
            if not shuffle:
                return indices
            return np.random.default_rng([seed, epoch, run]).permutation(indices)

        self._order = order

    def indices(self, step: int, begin: int = 0, end: int | None = None) -> np.ndarray:
        """The sample indices of one step, int64 (batch,), or those from place `begin` to `end`."""
        if not 0 <= step < self.steps:
            raise IndexError(f"step {step} of {self.steps}")
        each = self.batch // self.lanes
        lane, place = np.divmod(np.arange(begin, self.batch if end is None else end), each)
        position = (lane * self._length + step * each + place) % self.samples
        run = np.searchsorted(self._cuts, position, side="right") - 1
        out = np.empty(len(position), dtype=np.int64)
        for number in np.unique(run):
            here = run == number
            out[here] = self._order(int(number))[position[here] - self._cuts[number]]
        return out if self._chosen is None else self._chosen[out]

    def take(self, steps: np.ndarray) -> Steps:
        """The sampler of these steps alone, int64 (steps,), in their order."""
        return Steps(self, steps)


class Groups:
    """The groups of clips that one process of a run reads, as a sampler: its share of step 0, then
    of step 1, and so on.

    size: clips of a group. rank: of this process among `world`, which divides batch / size.
    each: groups per step.
    """

    def __init__(self, sampler: EpochSampler, size: int, rank: int = 0, world: int = 1):
        self._sampler, self._rank, self.batch = sampler, rank, size
        self.each = sampler.batch // size // world
        self.steps = sampler.steps * self.each

    def indices(self, step: int) -> np.ndarray:
        step, place = divmod(step, self.each)
        begin = (self._rank * self.each + place) * self.batch
        return self._sampler.indices(step, begin, begin + self.batch)


def count_lanes(shards: int, batch: int) -> int:
    """Lanes of a set: a power of two that divides the batch, at most MOST_LANES, of LANE shards."""
    lanes = 1
    while 2 * lanes <= min(MOST_LANES, shards // LANE) and batch % (2 * lanes) == 0:
        lanes *= 2
    return lanes


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
