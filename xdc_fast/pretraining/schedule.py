"""The steps of an iteration: how many, at which learning rate, on which batches."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from functools import partial

import numpy as np

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.loader import Loader
from xdc_fast.clips.sampler import EpochSampler, Groups
from xdc_fast.clips.subset import count_by_shard
from xdc_fast.clips.windows import random_windows
from xdc_fast.ranks import ALONE, Ranks
from xdc_fast.recipe import Train


def steps_per_iteration(settings: Train, steps_per_epoch: int) -> int:
    """The steps of one iteration."""
    return settings.steps or settings.epochs * steps_per_epoch


def learning_rate(settings: Train, step: int, steps: int) -> float:
    """The learning rate of a step of 0 to steps - 1: linear warm-up, then a cosine to zero."""
    warmup = min(settings.warmup, steps - 1)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))


def training_batches(
    loader: Loader,
    samples: np.ndarray,
    settings: Train,
    *,
    seed: int,
    flip: bool,
    iteration: int,
    step: int,
    ranks: Ranks = ALONE,
) -> Iterator[tuple[int, list[Batch], float]]:
    """(epoch, this rank's groups of clips, seconds waited for them) of an iteration's steps from
    `step` on.

    samples: int64 (M,), in rising order; an epoch passes over them.
    Epochs count through the whole run; the last one of an iteration may be cut short. The first
    batches of an epoch are read while the last step of the one before trains.
    """

    sizes = count_by_shard(loader.shards, samples)

    def open_epoch(epoch: int, start: int = 0) -> Iterator[Batch]:
        sampler = EpochSampler(sizes, settings.batch, seed=seed, epoch=epoch, samples=samples)
        groups = Groups(sampler, settings.group_size, ranks.rank, ranks.world)
        windows = partial(random_windows, shape=loader.shape, seed=seed, epoch=epoch, flip=flip)
        return loader.batches(groups, windows, start=start * groups.each)

    each = settings.batch // settings.group_size // ranks.world
    per_epoch = EpochSampler(sizes, settings.batch).steps
    steps = steps_per_iteration(settings, per_epoch)
    first = iteration * math.ceil(steps / per_epoch)
    batches = open_epoch(first + step // per_epoch, step % per_epoch) if step < steps else iter(())
    for number in range(step, steps):
        epoch, place = first + number // per_epoch, number % per_epoch
        last = place == per_epoch - 1 and number + 1 < steps
        following = open_epoch(epoch + 1) if last else batches
        asked = time.perf_counter()
        groups = [next(batches) for _ in range(each)]
        waited = time.perf_counter() - asked
        batches = following
        yield epoch, groups, waited
