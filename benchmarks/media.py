"""Videos to measure with, and shards of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.packing.toy import make_toy
from xdc_fast.shards.dataset import ShardSet

GRID = Path(__file__).parents[2] / "shared/data/grid_s1"


def find_videos(folder: Path, count: int) -> tuple[str, list[Path]]:
    """The name of the source and `count` videos.

    They are GRID's where it lies beside the repository, else toy videos, made in `folder`.
    """
    if GRID.is_dir():
        every = sorted(GRID.glob("*.mp4"))
        return "GRID", every[:: max(1, len(every) // count)][:count]
    make_toy(folder / "toy", videos=count, classes=4, seed=0, workers=1)
    return "toy world", sorted((folder / "toy").glob("*.mp4"))


def pack_videos(
    videos: list[Path], out: Path, workers: int = 1, shard_mb: int = 16, **settings: Any
) -> ShardSet:
    """The videos packed with these settings, in shards of that size."""
    sources, chosen = collect(videos, None, out), PackSettings(**settings)
    pack(sources, out, chosen, shard_mb=shard_mb, workers=workers)
    return ShardSet(out)


def describe_shards(what: str, shards: ShardSet) -> str:
    """Codec, source and picture size, for the name of a case."""
    row = shards.row(0)[1]
    size = f"{row['width']}x{row['height']}"
    return f"{what}, {size} at {shards.settings['fps']:g} fps"
