"""BatchNorm of encoders that were never trained."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import numpy as np
import torch
from torch import nn

from xdc_fast.clips.loader import Loader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.subset import count_by_shard
from xdc_fast.clips.windows import fixed_windows
from xdc_fast.encoders.build import modality_of
from xdc_fast.encoders.encoder import Encoder
from xdc_fast.encoders.features import Stop, check_modalities, each_step
from xdc_fast.encoders.transform import ClipTransform

SAMPLES = 1024  # clips that BatchNorm is calibrated on


@torch.no_grad()
def calibrate(
    encoders: Mapping[str, Encoder],
    loader: Loader,
    inputs: ClipTransform,
    batch: int,
    stop: Stop | None = None,
    samples: np.ndarray | None = None,
) -> None:
    """Sets BatchNorm's running statistics to the mean over one pass of up to SAMPLES clips.

    A freshly built encoder has mean 0 and variance 1 there; clustering its features in eval mode
    would see them badly scaled. The encoders are left in training mode.
    stop: called between batches, to raise when the pass is to end early. samples: int64 (M,), in
    rising order, those that the pass reads; by default the whole set.
    Raises UserError for an encoder of a modality that the loader does not read.
    """
    check_modalities(encoders, loader)
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
    if samples is None:
        samples = np.arange(len(loader.shards))
    sizes = count_by_shard(loader.shards, samples)
    sampler = EpochSampler(sizes, min(batch, len(samples)), shuffle=False, samples=samples)
    steps = min(sampler.steps, -(-SAMPLES // sampler.batch))
    # spread over the set, which may be sorted by class
    chosen = np.linspace(0, sampler.steps - 1, steps).astype(int)
    windows = partial(fixed_windows, shape=loader.shape)
    for part in each_step(loader, sampler.take(chosen), windows):
        if part is None:
            continue
        for name, encoder in encoders.items():
            encoder(inputs.of(modality_of(name), part))
        if stop is not None:
            stop()
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value
