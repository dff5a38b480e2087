"""Some samples of a shard set, whole or clip by clip, as a set that a feed can read."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch

from xdc_fast import progress
from xdc_fast.clips.batch import Batch
from xdc_fast.clips.host import NothingRead, Sampling
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import ClipShape, Windows, fixed_windows
from xdc_fast.shards.dataset import ShardSet


class ClipSubset:
    """A part of a shard set, item by item; an item is a sample, or one clip of it.

    samples: int64 (M,), the sample of each item, in rising order; with shares, one may come often.
    modalities: the tracks to read; windows are laid as if the samples had no other.
    shares: float64 (M,), where a clip lies, from 0, the sample's beginning, to 1, its end.
    Feeds and plans take it for a ShardSet of M samples: a batch's index counts items.
    """

    def __init__(
        self,
        shards: ShardSet,
        samples: np.ndarray,
        modalities: tuple[str, ...],
        shares: np.ndarray | None = None,
    ):
        self.shards, self.samples, self.modalities = shards, samples, modalities
        self.shares = shares
        ends = np.cumsum(shards.shard_sizes)
        shard = np.searchsorted(ends, samples, side="right")
        self.shard_sizes = np.bincount(shard, minlength=len(ends))

    def __len__(self) -> int:
        return len(self.samples)

    def __getattr__(self, name: str):
        return getattr(self.shards, name)

    def row(self, item: int) -> tuple[str, np.void]:
        """The tar's file name and the SAMPLE row of an item; its `meta` holds the item."""
        name, row = self.shards.row(int(self.samples[item]))
        row = row.copy()
        for modality in {*self.shards.modalities} - {*self.modalities}:
            row[modality] = -1
        row["meta"] = item  # a feed has no use for the metadata, but windows() for the item
        return name, row

    def windows(self, rows: np.ndarray, shape: ClipShape) -> Windows:
        """The windows of items that have shares, centre crop."""
        # of two clips, number 0 lies at the beginning and 1 at the end: number 0.3 between them
        return fixed_windows(rows, shape, clip=self.shares[rows["meta"]], clips=2)


def equal_clips(
    shards: ShardSet, samples: np.ndarray, modalities: tuple[str, ...], clips: int
) -> ClipSubset:
    """`clips` equally spaced clips of each sample, one after the other; a single one is central."""
    shares = np.linspace(0, 1, clips) if clips > 1 else np.array([0.5])
    return ClipSubset(shards, np.repeat(samples, clips), modalities, np.tile(shares, len(samples)))


@torch.no_grad()
def predict(
    networks: dict[str, Callable[[Batch], torch.Tensor]],
    widths: dict[str, int],
    feed,
    batch: int,
    title: str,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What networks say of every item of a feed's ClipSubset.

    networks: {name: from a batch (B, ...) to (B, D)}. widths: {name: D}.
    Returns {name: float32 (M, D)}, and bool (M,): False for what could not be read.
    """
    part = feed.shards
    found = {name: np.zeros((len(part), width), np.float32) for name, width in widths.items()}
    seen = np.zeros(len(part), dtype=bool)
    plan = EpochSampler(part.shard_sizes, min(batch, len(part)), shuffle=False)
    batches = skip_unreadable(feed, plan, lambda rows: part.windows(rows, feed.shape))
    for clips in progress.bar(batches, total=plan.steps, desc=title, unit="batch"):
        index = clips.index.numpy()
        for name, network in networks.items():
            found[name][index] = network(clips).float().cpu().numpy()
        seen[index] = True
    return found, seen


def skip_unreadable(feed, plan: EpochSampler, sampling: Sampling) -> Iterator[Batch]:
    """The batches of a plan but those, as of the clips of one sample, where nothing can be read."""
    step = 0
    while step < plan.steps:
        try:
            for batch in feed.batches(plan, sampling, start=step):
                yield batch
                step += 1
        except NothingRead:
            step += 1
