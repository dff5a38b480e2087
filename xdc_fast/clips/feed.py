"""Which way the clips take to the device."""

from __future__ import annotations

import torch

from xdc_fast.clips.host import HostFeed
from xdc_fast.clips.windows import ClipShape
from xdc_fast.errors import UserError
from xdc_fast.recipe import Recipe
from xdc_fast.shards.dataset import ShardSet


def choose_device(recipe: Recipe) -> torch.device:
    """The recipe's device; UserError for one that is not there."""
    if recipe.device == "cuda" and not torch.cuda.is_available():
        raise UserError("device=cuda: no CUDA device is usable here; `xdc doctor` says why")
    if recipe.device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(recipe.device)


def open_feed(recipe: Recipe, shards: ShardSet, shape: ClipShape, device: torch.device):
    """The feed a recipe asks for; by itself DALI for JPEG packets on a CUDA device, else the host.

    H.264 through DALI builds a decoder per clip: 12 clips of 8 x 40 x 40 a second on an H200,
    where host threads gave 700.
    """
    ours = "video" in shards.modalities and shards.settings["codec"] == "jpeg"
    fits = device.type == "cuda" and ours
    if recipe.loader == "dali" or (recipe.loader == "auto" and fits):
        from xdc_fast.clips.dali import DaliFeed  # seconds to import, and not needed on a CPU

        return DaliFeed(shards, shape, device=device, threads=recipe.threads)
    return HostFeed(shards, shape, device=device, threads=recipe.threads)
