"""Chosen clips of a shard set."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xdc_fast.clips.windows import ClipShape, Windows, equal_positions, fixed_windows
from xdc_fast.shards.dataset import ShardSet


@dataclass(frozen=True)
class ClipSubset:
    """M clips of some samples of a set, counted from 0 to M-1.

    samples: int64 (M,), the sample of each clip, in rising order; one may come often.
    positions: float64 (M,), where each lies, from 0, the sample's beginning, to 1, its end.
    """

    shards: ShardSet
    samples: np.ndarray
    positions: np.ndarray

    def __len__(self) -> int:
        return len(self.samples)

    @property
    def shard_sizes(self) -> np.ndarray:
        """How many of the clips lie in each shard, int64 (shards,)."""
        return count_by_shard(self.shards, self.samples)

    def windows(self, indices: np.ndarray, rows: np.ndarray, shape: ClipShape) -> Windows:
        """The windows of clips number `indices`, centre crop; a WindowFunction once given shape."""
        return fixed_windows(indices, rows, shape, self.positions[indices])


def equal_clips(shards: ShardSet, samples: np.ndarray, clips: int) -> ClipSubset:
    """`clips` equally spaced clips of each sample, one after the other; a single one is central."""
    positions = np.tile(equal_positions(clips), len(samples))
    return ClipSubset(shards, np.repeat(samples, clips), positions)


def count_by_shard(shards: ShardSet, samples: np.ndarray) -> np.ndarray:
    """How many of `samples`, int64 (M,), lie in each shard, int64 (shards,)."""
    ends = np.cumsum(shards.shard_sizes)
    return np.bincount(np.searchsorted(ends, samples, side="right"), minlength=len(ends))
