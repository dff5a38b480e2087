"""Damage to the files of a run, its features and its export."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from tests.common.damage import damages
from tests.faults.trials import Trial, call, fault
from tests.faults.world import World, commands

READERS = {
    "run/recipe.yaml": "report",
    "run/summary.json": "report",
    "run/shards.json": "report",
    "run/metrics.jsonl": "report",
    "run/checkpoint.pt": "pretrain",
    "run/encoders.pt": "probe",
    "run/heads.pt": "export",
    "run/iterations/*.npz": "report",
    "run/iterations/*/*.npz": "report",
    "run/iterations/*/*.npy": "report",
    "run/probes/*.json": "report",
    "run/finetune/*.json": "finetune",
    "features/extract.json": "extract",
    "features/*.npz": "extract",
    "export/config.yaml": "again",
    "export/*.safetensors": "again",
}


def files(world: World, draw: np.random.Generator, count: int) -> Iterator[Trial]:
    """Every kind of damage: a line that names a file, or a result where nothing was needed."""
    copy = world.copy(world.made)
    readers = commands(copy, world.shards)
    for pattern, name in READERS.items():
        path = next(iter(sorted(copy.glob(pattern))), None)
        if path is None:
            continue
        content = path.read_bytes()
        changes = dict(list(damages(content).items())[: 4 * count])
        for _ in range(count):
            cut, place = draw.integers(len(content), size=2).tolist()
            flipped = bytearray(content)
            flipped[place] ^= 1 << int(draw.integers(8))
            changes[f"cut at {cut}"] = content[:cut]
            changes[f"byte {place} flipped"] = bytes(flipped)
        for what, changed in changes.items():
            path.write_bytes(changed)
            reason = fault(call(*readers[name]), 0, 2)
            yield Trial(f"{path.relative_to(copy)}, {what}: {name}", reason)
            path.write_bytes(content)
