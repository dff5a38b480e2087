"""The tables beside the shards: samples.csv, refused.csv and the manifest."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace

from xdc_fast.errors import UserError
from xdc_fast.files import replacing, write_json
from xdc_fast.shards.format import FORMAT, MANIFEST, SAMPLE_COLUMNS, TRACKS

KEYS = {
    *("format", "settings", "inputs", "packer", "samples", "frames", "seconds", "bytes"),
    *("labels", "cut", "refused", "shards"),
}
PAIRED = {"samples": 0, "seconds": 0.0}  # of a set in which no track goes on alone
SHARD_KEYS = {"name", "samples", "first", "bytes", "sha256"}


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table with a header line, UTF-8 text with LF line ends."""
    with replacing(path, newline="", encoding="utf-8") as file:
        # before Python 3.13, only a writer with lineterminator "\r\n" quotes a lone "\r"
        lines = SimpleNamespace(write=lambda line: file.write(line[:-2] + "\n"))
        writer = csv.writer(lines, lineterminator="\r\n")
        writer.writerow(columns)
        writer.writerows(rows)


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table that `write_csv` wrote; raises OSError, ValueError or csv.Error."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


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
    unpaired: dict,
    reasons: list[str],
    shards: list[dict],
) -> dict:
    """The manifest of a set: `head`, then the sums over its tables.

    head: format, settings, inputs, packer. rows: of samples.csv. cut: how many samples were cut to
    the longest allowed. unpaired: {"samples", "seconds"} of sources in which one track goes on
    alone. reasons: of refused.csv.
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
        "unpaired": unpaired,
        "refused": dict(sorted(Counter(reasons).items())),
        "shards": shards,
    }


def write_manifest(out: Path, manifest: dict) -> None:
    """The last file of a set: where it lies, the set is complete."""
    write_json(out / MANIFEST, manifest, indent=1)


def read_manifest(out: Path) -> dict:
    """The manifest of a set; raises UserError where there is none or it lacks something."""
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
    """The tracks of a set's samples; both where its settings name none."""
    return TRACKS[manifest["settings"].get("tracks", "both")]


def _fault(manifest: object) -> str:
    """Why this version cannot read it as a manifest; empty if it can."""
    if not isinstance(manifest, dict) or "format" not in manifest:
        return "not the manifest of a shard set"
    if manifest["format"] != FORMAT:
        return f"format {manifest['format']}, this version reads {FORMAT}"
    if missing := sorted(KEYS - manifest.keys()):
        return f"damaged, it has no {missing[0]}"
    valid = (
        isinstance(manifest["settings"], dict)
        and isinstance(manifest["settings"].get("audio_rate"), int)
        and manifest["settings"].get("tracks", "both") in tuple(TRACKS)
        and all(isinstance(manifest[key], list) for key in ("labels", "shards"))
        and all(isinstance(manifest[key], dict) for key in ("inputs", "packer", "refused"))
        and all(isinstance(s, dict) and s.keys() >= SHARD_KEYS for s in manifest["shards"])
    )
    return "" if valid else "damaged, its settings, labels or shards are malformed"
