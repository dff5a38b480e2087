"""Passes over a shard set without training: BatchNorm calibration and feature extraction."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import nn

from xdc_fast import progress
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import fixed_windows
from xdc_fast.encoders.build import modality_of
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.shards.dataset import ShardSet

SAMPLES = 1024  # clips that BatchNorm is calibrated on


@torch.no_grad()
def calibrate(
    encoders: dict[str, nn.Module], feed, inputs: ClipTransform, batch: int, stop=None
) -> None:
    """Sets BatchNorm's running statistics to the mean over one pass of up to SAMPLES clips.

    stop: called between batches, to raise when the pass is to end early.
    Raises UserError for an encoder of a modality that the set lacks.
    A freshly built encoder has mean 0 and variance 1 there; clustering its features in eval mode
    would see them badly scaled.
    """
    _check(encoders, feed.shards)
    norms = [
        module
        for encoder in encoders.values()
        for module in encoder.modules()
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d))
    ]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a cumulative mean
    for encoder in encoders.values():
        encoder.train()
    plan = EpochSampler(feed.shards.shard_sizes, batch, shuffle=False)
    steps = min(plan.steps, -(-SAMPLES // batch))
    # spread over the set, which may be sorted by class
    chosen = np.linspace(0, plan.steps - 1, steps).astype(int)
    for part in feed.batches(Subset(plan, chosen), partial(fixed_windows, shape=inputs.shape)):
        for name, encoder in encoders.items():
            encoder(inputs.of(modality_of(name), part))
        if stop is not None:
            stop()
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value


def _check(encoders: dict[str, nn.Module], shards: ShardSet) -> None:
    """UserError for an encoder of a modality that the set lacks."""
    for modality in map(modality_of, encoders):
        if modality not in shards.modalities:
            held = " and ".join(shards.modalities)
            raise UserError(
                f"{shards.root}: holds {held} only, and the {modality} is asked for; take a set "
                f"with {modality}, or pack this one with --tracks both"
            )


class Subset:
    """Some steps of a plan, as a plan."""

    def __init__(self, plan: EpochSampler, chosen: np.ndarray):
        self.plan, self.chosen = plan, chosen
        self.batch, self.steps = plan.batch, len(chosen)

    def indices(self, step: int) -> np.ndarray:
        return self.plan.indices(int(self.chosen[step]))


@torch.no_grad()
def extract(
    encoders: dict[str, nn.Module],
    feed,
    inputs: ClipTransform,
    batch: int,
    *,
    clips: int = 1,
    stop=None,
    title: str = "features",
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Features of every sample in float32, averaged over `clips` equally spaced clips.

    Returns {encoder: float32 (N, D)} and seen, bool (N,): False where no clip could be read.
    stop: called between batches, to raise when the pass is to end early.
    Raises UserError for an encoder of a modality that the set lacks.
    """
    _check(encoders, feed.shards)
    count = len(feed.shards)
    sums = {
        name: np.zeros((count, encoder.features), dtype=np.float32)
        for name, encoder in encoders.items()
    }
    times = np.zeros(count, dtype=np.int64)
    for encoder in encoders.values():
        encoder.eval()
    plan = EpochSampler(feed.shards.shard_sizes, batch, shuffle=False)
    with progress.bar(total=plan.steps * clips, desc=title, unit="batch") as bar:
        for clip in range(clips):
            sampling = partial(fixed_windows, shape=inputs.shape, clip=clip, clips=clips)
            done = np.zeros(count, dtype=bool)  # wrapped and replaced samples come twice
            for part in feed.batches(plan, sampling):
                index, first = np.unique(part.index.numpy(), return_index=True)
                new = ~done[index]
                index, first = index[new], first[new]
                for name, encoder in encoders.items():
                    output = encoder(inputs.of(modality_of(name), part)).float().cpu().numpy()
                    sums[name][index] += output[first]
                done[index] = True
                bar.update()
                if stop is not None:
                    stop()
            times += done
    seen = times > 0
    for total in sums.values():
        total /= np.maximum(times, 1, dtype=np.float32)[:, None]
    return sums, seen
