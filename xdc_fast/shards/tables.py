"""The tables beside the shards: samples.csv, refused.csv and the manifest."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path

from xdc_fast.shards.format import MANIFEST


def write_csv(path: Path, columns: tuple[str, ...], rows: list[list]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)


def write_manifest(out: Path, manifest: dict) -> None:
    """Atomically: a manifest is whole or not there."""
    part = out / f".{MANIFEST}.part"
    part.write_text(json.dumps(manifest, indent=1) + "\n")
    os.replace(part, out / MANIFEST)
