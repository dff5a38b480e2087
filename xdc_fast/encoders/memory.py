"""What a step needs of memory at the least, from shapes alone: nothing is allocated."""

from __future__ import annotations

import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch
from torch import nn

from xdc_fast.encoders.build import known_encoder, modality_of
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.recipe import Recipe

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_memory(
    recipe: Recipe,
    names: Iterable[str],
    device: torch.device,
    batch: int | None = None,
    *,
    training: bool,
) -> None:
    """Raises UserError where a batch cannot fit into the memory of the device.

    names: the encoders that read it. batch: clips, otherwise those of the recipe.
    """
    batch = batch or recipe.train.group_size
    needed, there = batch_bytes(recipe, names, batch, training), memory_of(device)
    if needed > there:
        raise UserError(
            f"{batch} clips at a time need {needed / 1e9:,.1f} GB of memory at the least, and "
            f"{device} has {there / 1e9:,.1f}; lower the batch, video.frames, video.crop or "
            "audio.frames"
        )


def batch_bytes(recipe: Recipe, names: Iterable[str], batch: int, training: bool) -> int:
    """The bytes that a batch takes at the least, as loaded and in the encoders.

    training: what every convolution returns is kept for the backward pass. Otherwise the largest
    alone counts.
    """
    half = recipe.train.precision == "bfloat16"
    inputs = ClipTransform(recipe)
    shapes = {
        "video": (3, recipe.video.frames, recipe.video.crop, recipe.video.crop),
        "audio": (1, recipe.audio.n_mels, recipe.audio.frames),
    }
    loaded = {
        "video": batch * inputs.shape.frames * inputs.shape.crop**2 * 3,
        "audio": batch * inputs.shape.samples * 2,
    }
    kept: list[int] = []

    def note(_module: nn.Module, _inputs: tuple, output: torch.Tensor) -> None:
        kept.append(output.numel() * (2 if half else 4))

    total = 0
    for name in names:
        modality = modality_of(name)
        total += loaded.pop(modality, 0)  # a twin reads the same
        with torch.device("meta"), torch.no_grad():
            encoder = known_encoder(recipe, modality)().eval()
            for module in encoder.modules():
                if isinstance(module, (nn.Conv2d, nn.Conv3d)):
                    module.register_forward_hook(note)
            encoder(torch.empty(batch, *shapes[modality]))
    return total + (sum(kept) if training else max(kept))


def memory_of(device: torch.device) -> int:
    """The bytes that the device has; of the CPU, what this process may use."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    for path in LIMITS:
        with suppress(OSError, ValueError):  # not there, or "max"
            limits.append(int(Path(path).read_text()))
    return min(limits)
