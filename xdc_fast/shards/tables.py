"""The tables beside the shards: samples.csv, refused.csv and the manifest."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

from xdc_fast.errors import UserError
from xdc_fast.files import replacing
from xdc_fast.shards.format import FORMAT, MANIFEST, SAMPLE_COLUMNS, TRACKS

KEYS = {
    *("format", "settings", "inputs", "packer", "samples", "frames", "seconds", "bytes"),
    *("labels", "cut", "refused", "shards"),
}
SHARD_KEYS = {"name", "samples", "first", "bytes", "sha256"}


def write_csv(path: Path, columns: tuple[str, ...], rows: list[list]) -> None:
    with replacing(path, newline="", encoding="utf-8") as file:
        # told "\r\n", the writer also quotes a lone "\r"; before Python 3.13 it would not
        lines = SimpleNamespace(write=lambda line: file.write(line[:-2] + "\n"))
        writer = csv.writer(lines, lineterminator="\r\n")
        writer.writerow(columns)
        writer.writerows(rows)


def check_labels(names: list[str]) -> None:
    """Raises UserError for a label whose name samples.csv uses itself."""
    for name in names:
        if name in SAMPLE_COLUMNS:
            raise UserError(f"label column '{name}' has a name that samples.csv uses; rename it")


def complete(
    head: dict,
    rows: list[list],
    labels: list[str],
    cut: int,
    reasons: list[str],
    shards: list[dict],
) -> dict:
    """The manifest of a set: how it was made, then what its tables come to.

    head: format, settings, inputs, packer. rows: of samples.csv. reasons: of refused.csv.
    """
    frames, seconds = SAMPLE_COLUMNS.index("frames"), SAMPLE_COLUMNS.index("seconds")
    return {
        **head,
        "samples": len(rows),
        "frames": sum(row[frames] for row in rows),
        "seconds": round(sum(row[seconds] for row in rows), 3),
        "bytes": sum(shard["bytes"] for shard in shards),
        "labels": labels,
        "cut": cut,
        "refused": dict(sorted(Counter(reasons).items())),
        "shards": shards,
    }


def write_manifest(out: Path, manifest: dict) -> None:
    """Atomically: a manifest is whole or not there."""
    with replacing(out / MANIFEST, encoding="utf-8") as file:
        file.write(json.dumps(manifest, indent=1) + "\n")


def read_manifest(out: Path) -> dict:
    """The manifest of a set, all its keys there; raises UserError."""
    path = out / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{out}: no {MANIFEST} there, so no complete shard set; "
            "make one with `xdc-shard pack` (or `xdc-shard index` for existing tar shards)"
        )
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        wrong = f"not valid JSON ({error})"
    else:
        wrong = _fault(manifest)
    if wrong:
        raise UserError(f"{path}: {wrong}; move it away and run `xdc-shard index {out}`")
    return manifest


def modalities_of(manifest: dict) -> tuple[str, ...]:
    """The tracks of a set's samples: video, audio or, where its settings do not tell, both."""
    return TRACKS[manifest["settings"].get("tracks", "both")]


def _fault(manifest: object) -> str:
    """Why it is no manifest that this version reads; empty if it is one."""
    if not isinstance(manifest, dict) or "format" not in manifest:
        return "not the manifest of a shard set"
    if manifest["format"] != FORMAT:
        return f"format {manifest['format']}, this version reads {FORMAT}"
    if missing := sorted(KEYS - manifest.keys()):
        return f"damaged, it has no {missing[0]}"
    sound = (
        isinstance(manifest["settings"], dict)
        and isinstance(manifest["settings"].get("audio_rate"), int)
        and manifest["settings"].get("tracks", "both") in tuple(TRACKS)
        and all(isinstance(manifest[key], list) for key in ("labels", "shards"))
        and all(isinstance(manifest[key], dict) for key in ("inputs", "packer", "refused"))
        and all(isinstance(s, dict) and s.keys() >= SHARD_KEYS for s in manifest["shards"])
    )
    return "" if sound else "damaged, its settings, labels or shards are not as they must be"
