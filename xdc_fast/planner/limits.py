"""What is there once, and what a plan needs of it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from xdc_fast.clusters.points import MOST
from xdc_fast.planner.job import packed_side
from xdc_fast.planner.sheet import Sheet


@dataclass(frozen=True)
class Limit:
    """need and capacity: in `unit`, as of Figure. of: what of. change: what to do when it is
    passed. rates: those that the capacity rests on. grows: whether the need grows in
    proportion to the videos or to the GPUs; empty: to neither.
    """

    name: str
    need: float
    capacity: float
    unit: str
    of: str
    change: str
    rates: tuple[str, ...] = ()
    grows: str = ""

    @property
    def ratio(self) -> float:
        """Above 1, it breaks."""
        return self.need / self.capacity


def find_limits(sheet: Sheet) -> tuple[Limit, ...]:
    """The limits of a sheet that has all its parts, the tightest first."""
    recipe, job, rate = sheet.recipe, sheet.job, sheet.rate
    batch, group, gpus = recipe.train.batch, sheet.group, job.gpus
    groups, least = batch // group, packed_side(recipe.video.crop)
    whole = groups % gpus == 0
    asked, alone = sheet["feed requests, all GPUs"], group * sheet.rank_groups * sheet.clip_seconds
    prefixes = rate["prefixes"]
    limits = [
        Limit(
            "groups", gpus * (1 if whole else sheet.rank_groups), groups, "groups",
            "a batch, as many for each GPU",
            f"train.batch={group * gpus * math.ceil(groups / gpus)} or a smaller train.group; "
            "xdc pretrain refuses this one", grows="gpus",
        ),
        Limit("GPU memory", sheet["memory GPU, at the least"], rate["device_memory"], "bytes",
              "a GPU", f"train.group={max(1, group // 2)}", ("device_memory",)),
        Limit("host memory", sheet["memory host, first node"], rate["host_memory"], "bytes",
              "the first node",
              "cluster.precision=float16" if recipe.cluster.precision == "float32"
              else f"--nodes {2 * job.nodes} for as many GPUs", ("host_memory",),
              "videos"),
        Limit("feed", sheet["feed clips a GPU takes"], sheet["feed clips a GPU gets"],
              "clips per second", "a GPU",
              f"pack with --short-side {least}" if job.short_side > least
              else "more cores and threads for each GPU", ("feed",)),
        Limit("storage", sheet["feed bytes, all GPUs"] / job.nodes, rate["storage"],
              "bytes per second", "a node", "shards on local disks, or the GPUs in more nodes",
              ("storage",)),
        Limit("requests", asked, rate["requests"] * prefixes, "GET per second",
              f"{prefixes:g} prefix{'es' * (prefixes > 1)}",
              f"read=shards, or the shards under {sheet['feed prefixes']:.0f} prefixes",
              ("requests", "prefixes"), "gpus"),
        Limit("disk", sheet["disk at the most"], rate["disk"], "bytes", "the run folder",
              "out=FOLDER on a larger disk", ("disk",), "videos"),
        Limit("network", sheet["time step"] - alone, alone, "seconds",
              "a step: its sums, its encoders",
              f"train.batch={2 * batch}, so that a GPU has more groups", ("network",)),
        Limit("exact sums", job.videos, MOST, "samples", "k-means, added up without rounding",
              "none; clusters then depend on the number of processes", grows="videos"),
    ]  # fmt: skip
    return tuple(sorted(limits, key=lambda limit: -limit.ratio))
