"""Toy videos, packed."""

from __future__ import annotations

from pathlib import Path

from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.shards.dataset import ShardSet


def pack_toy(videos: Path, out: Path, **settings) -> ShardSet:
    """The videos that `make_toy` wrote, in shards of 2 MB."""
    inputs = collect([videos], videos / "labels.csv", out)
    pack(inputs, out, PackSettings(short_side=40, **settings), shard_mb=2)
    return ShardSet(out)
