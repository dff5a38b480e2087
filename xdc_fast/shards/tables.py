"""The tables beside the shards: samples.csv, refused.csv and the manifest."""

from __future__ import annotations

import csv
import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from types import SimpleNamespace

from xdc_fast.errors import UserError
from xdc_fast.files import damaged, misfit, read_json, replacing, write_json
from xdc_fast.shards.format import (
    CODECS,
    FORMAT,
    MANIFEST,
    MISSING,
    REFUSED,
    SAMPLE_COLUMNS,
    SAMPLES,
    TRACKS,
)
from xdc_fast.shards.remote import RemoteFiles
from xdc_fast.shards.tar import checksum

PAIRED = {"samples": 0, "seconds": 0.0}  # of a set in which no track goes on alone
SIDECARS = (".idx", ".samples.npy", ".packets.npy")
SUM = "sha256"
BEFORE = ".samples.csv"  # while samples.csv and the manifest are changed
RELABELED = "relabeled"  # label columns that samples.csv has of its own, and the tars have not
OLD_SHARD = {"name": str, "samples": int, "first": int, "bytes": int, SUM: str}
SHARD_FORM = {**OLD_SHARD, "sidecars": dict.fromkeys(SIDECARS, str)}
OLD_FORM = {
    "format": int,
    "settings": {"codec": str, "fps": float, "short_side": int, "audio_rate": int},
    "inputs": {"count": int},
    "packer": {str: str},
    "samples": int,
    "frames": int,
    "seconds": float,
    "bytes": int,
    "labels": [str],
    "cut": int,
    "unpaired?": {"samples": int, "seconds": float},
    "refused": {str: int},
    "shards": [OLD_SHARD],
}  # of format 1
FORM = {
    **OLD_FORM,
    "shards": [SHARD_FORM],
    f"{RELABELED}?": [str],
    "tables": {SAMPLES: str, REFUSED: str, f"{MISSING}?": str},
    SUM: str,
}


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


def check_labels(names: list[str], where: Path) -> None:
    """Raises UserError for a label whose name samples.csv uses itself; where: it comes from."""
    for name in names:
        if name in SAMPLE_COLUMNS:
            raise UserError(
                f"{where}: label column '{name}' has a name that samples.csv uses; rename it"
            )


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


def write_manifest(out: Path, manifest: dict) -> dict:
    """The last file of a set: where it lies, the set is complete. Returns its content.

    Adds the checksums of the tables beside it, and one over all that it holds.
    """
    names = [name for name in (SAMPLES, REFUSED, MISSING) if (out / name).is_file()]
    tables = {name: checksum(out / name) for name in names}
    last = (RELABELED, "tables", SUM)
    content = {key: value for key, value in manifest.items() if key not in last}
    content |= {key: manifest[key] for key in (RELABELED,) if key in manifest}
    content["tables"] = tables
    content[SUM] = _sum_of(content)
    write_json(out / MANIFEST, content, indent=1)
    return content


def settle(out: Path) -> None:
    """Put back samples.csv as BEFORE has it, where a call has ended between it and the manifest."""
    before, table = out / BEFORE, out / SAMPLES
    if not before.is_file():
        return
    wanted = read_manifest(out)["tables"][SAMPLES]
    if table.is_file() and checksum(table) == wanted:
        before.unlink()
    else:
        os.replace(before, table)


def _sum_of(manifest: dict) -> str:
    """The checksum over a manifest: SHA-256 of its JSON without the checksum, keys sorted."""
    held = {key: value for key, value in manifest.items() if key != SUM}
    text = json.dumps(held, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(out: Path | RemoteFiles, to_upgrade: bool = False) -> dict:
    """The manifest of a set; raises UserError where there is none or it is damaged.

    to_upgrade: also one of format 1.
    """
    path = out / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{out}: no {MANIFEST} there, so no complete shard set; "
            "make one with `xdc-shard pack` (or `xdc-shard index` for existing tar shards)"
        )
    hint = f"move it away and run `xdc-shard index {out}`"
    manifest = read_json(path, {}, hint)
    found = manifest.get("format")
    if type(found) is not int:
        raise UserError(f"{path}: not the manifest of a shard set; {hint}")
    old = found == 1
    if found != FORMAT and not (old and to_upgrade):
        hint = f"upgrade it with `xdc-shard index {out}`" if old else hint
        raise UserError(f"{path}: format {found}, this version reads {FORMAT}; {hint}")
    if fault := misfit(manifest, OLD_FORM if old else FORM) or _fault(manifest):
        raise damaged(path, fault, hint)
    return manifest


def modalities_of(manifest: dict) -> tuple[str, ...]:
    """The tracks of a set's samples; both where its settings name none."""
    return TRACKS[manifest["settings"].get("tracks", "both")]


def _fault(manifest: dict) -> str:
    """What of a manifest no program of ours writes; "" where all is well."""
    settings, shards = manifest["settings"], manifest["shards"]
    names = [shard["name"] for shard in shards]
    ends = list(accumulate((shard["samples"] for shard in shards), initial=0))
    if wrong := [name for name in names if not is_shard_name(name)]:
        return f"{wrong[0]!r} is not the name of a tar beside it"
    if len(set(names)) < len(names):
        return "two shards have one name"
    if [shard["first"] for shard in shards] != ends[:-1] or manifest["samples"] != ends[-1]:
        return "its shards do not have its samples one after the other"
    if min([*(shard["samples"] for shard in shards), *(shard["bytes"] for shard in shards), 0]) < 0:
        return "a number below zero"
    if settings["codec"] not in CODECS or settings.get("tracks", "both") not in tuple(TRACKS):
        return "settings of another program"
    if manifest["format"] == FORMAT and manifest[SUM] != _sum_of(manifest):
        return "its checksum is another one"
    return ""


def is_shard_name(name: str) -> bool:
    """Whether a name is that of a tar in the set's own folder."""
    return name.endswith(".tar") and name[0] != "." and not set(name) & {"/", "\\", "\0"}
