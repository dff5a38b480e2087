"""Damage to a packed set: every flipped bit is found, and no foreign path is followed."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.common.seal import rename_shard, reseal
from tests.faults.trials import Trial, call, fault
from tests.faults.world import LABEL, World
from xdc_fast.shards.tables import write_manifest

FOREIGN = (
    *(
        "../set/part-000000-00000.tar",
        "/etc/passwd",
        "/tmp/x.tar",
        "a/b.tar",
        "..",
        ".",
        "",
        ".tar",
    ),
    *("part-000000-00000.npy", "a\0.tar", "a\\b.tar", "x.tar/../part-000000-00000.tar"),
)
VALUES = (None, "text", [], {}, -1, 1e300, 2**70, True, [[1]], float("nan"))


def flips(world: World, draw: np.random.Generator, count: int) -> Iterator[Trial]:
    """One bit of one file at a time: `verify` must find it."""
    for options in ((), ("--codec", "h264"), ("--tracks", "audio")):
        out = world.shards
        if options:
            out = world.scratch() / "set"
            done = call("xdc-shard", "pack", world.videos, out, "--workers", 2, *options)
            assert done.status == 0, done
        reason = fault(call("xdc-shard", "verify", "--decode", out), 0)
        yield Trial(f"a sound set {' '.join(options)}", reason)
    copy = world.copy(world.shards)
    for path in sorted(copy.iterdir()):
        content = path.read_bytes()
        for place in draw.integers(8 * len(content), size=count):
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << (place % 8)
            path.write_bytes(flipped)
            yield Trial(f"{path.name}, bit {place}", _missed(copy))
        path.write_bytes(content)
    yield Trial("all put back", fault(call("xdc-shard", "verify", copy), 0))


def _missed(out: Path) -> str:
    return fault(call("xdc-shard", "verify", out), 1, 2)


def manifests(world: World, draw: np.random.Generator, count: int) -> Iterator[Trial]:
    """Foreign paths, and values of another type, under a checksum that is right."""
    copy, run = world.copy(world.shards), world.made / "run"
    whole = json.loads((copy / "manifest.json").read_text())
    readers = {
        "verify": ("xdc-shard", "verify", copy),
        "ls": ("xdc-shard", "ls", copy),
        "index": ("xdc-shard", "index", copy),
        "label": ("xdc-shard", "label", copy, "--labels", world.videos / "labels.csv"),
        "pack": ("xdc-shard", "pack", world.videos, copy),
        "extract": ("xdc", "extract", run, world.root / "f", "--data", copy, "--stride", 2),
        "probe": ("xdc", "probe", run, "--data", copy, *LABEL),
        "report": ("xdc", "report", run, "--data", copy),
    }
    table = (copy / "shards.npy").read_bytes()
    for name in FOREIGN[: count + 3]:
        rename_shard(copy, name)
        for reader, command in readers.items():
            if reader not in ("index", "pack"):  # which do not read the names
                reason = fault(call(*command), 2, named="shards.npy")
                yield Trial(f"shard name {name!r}: {reader}", reason)
    (copy / "shards.npy").write_bytes(table)
    write_manifest(copy, whole)
    for key in whole:
        for value in [value for value in VALUES[:count] if value != whole[key]]:
            write_manifest(copy, whole)
            changed = {**json.loads((copy / "manifest.json").read_text()), key: value}
            (copy / "manifest.json").write_text(json.dumps(changed))
            yield Trial(f"{key}: {value!r}", fault(call(*readers["ls"]), 2, named="manifest.json"))


def sidecars(world: World, draw: np.random.Generator, count: int) -> Iterator[Trial]:
    """Values drawn at random in the tables of a tar, under a checksum that is right."""
    copy = world.copy(world.shards)
    for kind in ("samples", "packets"):
        path = copy / f"part-000000-00000.{kind}.npy"
        rows = np.load(path)
        for column in rows.dtype.names or (...,):
            for _ in range(count):
                changed, row = rows.copy(), int(draw.integers(len(rows)))
                info = np.iinfo(np.int32)
                values = [0, 1, 7, 10**6, info.max]
                values += [info.min, -5, -1] if rows.dtype.names else []
                changed[column][row] = draw.choice(values)
                if (changed == rows).all():
                    continue
                np.save(path, changed)
                reseal(copy)
                reason = fault(call("xdc-shard", "verify", copy), 1)
                yield Trial(f"{column} of row {row} is {changed[column][row]}", reason)
        np.save(path, rows)
        reseal(copy)
    yield Trial("all put back", fault(call("xdc-shard", "verify", copy), 0))
