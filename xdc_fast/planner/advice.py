"""What limits a run, by its measured rates, and what to change."""

from __future__ import annotations

import os
from collections.abc import Mapping

import torch

from xdc_fast.recipe import Recipe
from xdc_fast.shards.dataset import ShardSet

WAIT = 0.05  # share of waiting above which the loader is too slow


def advise(
    recipe: Recipe,
    shards: ShardSet,
    device: torch.device,
    rates: Mapping[str, float],
    wait: float,
    iteration: Mapping[str, float],
) -> tuple[str, list[str]]:
    """The bottleneck in one sentence, and what to change.

    rates, wait, iteration: as measure_speed returns them.
    """
    largest = max(iteration, key=iteration.__getitem__)
    if largest == "clustering":
        share = iteration[largest] / sum(iteration.values())
        most = max(100_000, 256 * recipe.k)
        return (
            f"k-means takes {share:.0%} of an iteration",
            [f"cluster.max_samples={most} lets it see a random part of the set"],
        )
    if wait > WAIT or rates["clips"] < rates["step"]:
        return (
            f"the loader: alone it delivers {rates['clips']:.0f} clips/s, the training step alone "
            f"takes {rates['step']:.0f}; training waits {wait:.0%} of its time",
            _loader_advice(recipe, shards, device),
        )
    spare = rates["clips"] / rates["step"]
    return (
        f"the encoders: a training step alone takes {rates['step']:.0f} clips/s, the loader alone "
        f"delivers {spare:.1f} times that; training waits {wait:.0%} of its time",
        _encoder_advice(recipe, device),
    )


def _encoder_advice(recipe: Recipe, device: torch.device) -> list[str]:
    advice = []
    if device.type == "cpu":
        smaller = "r2plus1d_small" if recipe.video.encoder == "r2plus1d_18" else "r2plus1d_tiny"
        if recipe.video.encoder != smaller:
            advice.append(f"a smaller encoder: video.encoder={smaller}")
        return [*advice, "smaller clips: video.crop, video.frames, audio.frames", "a GPU"]
    if recipe.train.precision != "bfloat16":
        advice.append("train.precision=bfloat16")
    if not recipe.train.compile:
        advice.append("train.compile=true")
    return [*advice, "a larger train.batch, as far as memory allows"]


def _loader_advice(recipe: Recipe, shards: ShardSet, device: torch.device) -> list[str]:
    advice = []
    cores, codec = len(os.sched_getaffinity(0)), shards.settings["codec"]
    if recipe.threads < cores:
        advice.append(f"threads={cores}, as many as there are cores")
    if device.type == "cuda" and recipe.loader == "host" and codec == "jpeg":
        advice.append("loader=dali, which decodes on the GPU")
    if device.type == "cuda" and recipe.loader != "host" and codec == "jpeg":
        advice.append("another decoder_load; 0.65, 0.8 and 1.0 are worth a try")
    if codec != "jpeg":
        advice.append("pack the videos with --codec jpeg: its windows decode far faster")
    row = shards.row(0)[1]
    side, fits = min(int(row["height"]), int(row["width"])), round(recipe.video.crop * 8 / 7)
    if side > 1.25 * fits:
        advice.append(
            f"pack with --short-side {fits}: pictures of {side} are decoded for crops of "
            f"{recipe.video.crop}"
        )
    return [*advice, "shards on a local disk, where they come over a network or from a slow one"]
