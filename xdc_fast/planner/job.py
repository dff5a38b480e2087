"""The size of what is planned."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from xdc_fast.errors import UserError
from xdc_fast.recipe import Recipe

VIDEOS, SECONDS = 65e6, 15.0  # as of IG-Kinetics; the seconds are ours
GPUS, NODE, CORES = 64, 8, 64  # GPUs at most; GPUs and cores of a node


@dataclass(frozen=True)
class Job:
    """The size of what is planned.

    videos, seconds: how many, and how long each. gpus: of all nodes, a process each. cores: that
    pack, of all nodes. fps, short_side: of the packed pictures. chosen: the names of those that
    the user left open.
    """

    videos: float
    seconds: float
    gpus: int
    nodes: int
    cores: float
    fps: float
    short_side: int
    chosen: tuple[str, ...] = ()


def choose_job(recipe: Recipe, **sizes: float | None) -> Job:
    """The job of a recipe, of these sizes; what is left out or None follows from the recipe.

    videos, seconds: VIDEOS of SECONDS. gpus: a group of a batch for each, GPUS at most. nodes: NODE
    GPUs each. cores: CORES of a node. fps: of the recipe's clips. short_side: packed_side.
    Raises UserError for sizes that no run can have.
    """
    given = {name: size for name, size in sizes.items() if size is not None}
    groups = recipe.train.batch // recipe.train.group_size
    gpus = int(given.get("gpus", min(GPUS, max(1, groups))))
    nodes = int(given.get("nodes", math.ceil(gpus / NODE)))
    job = Job(
        videos=given.get("videos", VIDEOS),
        seconds=given.get("seconds", SECONDS),
        gpus=gpus,
        nodes=nodes,
        cores=given.get("cores", CORES * nodes),
        fps=given.get("fps", recipe.video.fps),
        short_side=int(given.get("short_side", packed_side(recipe.video.crop))),
        chosen=tuple(f.name for f in fields(Job) if f.name not in given and f.name != "chosen"),
    )
    if nodes > gpus:
        raise UserError(f"--nodes {nodes}: more than --gpus {gpus}; a node has one at the least")
    if job.videos < max(recipe.k, recipe.train.batch):
        raise UserError(
            f"--videos {job.videos:,.0f}: fewer than k={recipe.k} or train.batch="
            f"{recipe.train.batch}; plan more videos, or lower these"
        )
    if job.short_side < recipe.video.crop:
        raise UserError(
            f"--short-side {job.short_side}: smaller than video.crop={recipe.video.crop}; give "
            "that or more"
        )
    return job


def packed_side(crop: int) -> int:
    """The shorter side of packed pictures that leaves a crop room to move: 8/7 of it, even."""
    return 2 * round(crop * 4 / 7)
