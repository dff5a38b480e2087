"""Index files, tables and a manifest for existing tar shards."""

from __future__ import annotations

import csv
import logging
import os
from pathlib import Path

import numpy as np

from xdc_fast import progress
from xdc_fast.errors import UserError
from xdc_fast.files import locked
from xdc_fast.shards.format import (
    FORMAT,
    LOCK,
    MANIFEST,
    REFUSED,
    REFUSED_COLUMNS,
    SAMPLE_COLUMNS,
    SAMPLES,
    TRACKS,
)
from xdc_fast.shards.scan import Scan, ScanError, scan, survey
from xdc_fast.shards.tables import (
    LABELS,
    PAIRED,
    RELABELED,
    SetWriter,
    check_labels,
    modalities_of,
    read_csv,
    read_manifest,
    settle,
)
from xdc_fast.shards.tar import checksum

log = logging.getLogger(__name__)
KEY, SHARD = (SAMPLE_COLUMNS.index(name) - 1 for name in ("key", "shard"))


def index(out: Path) -> dict:
    """Rebuild the sidecars, the tables and the manifest of a WebDataset.

    out: a folder of .tar files. A sample has a video file, its sound in a file of its own or in the
    video file, and json metadata, or a cls or txt label. The set has the tracks that most of the
    first samples have, and the rate of most of their sounds. A sample that lacks one of these
    tracks, or that cannot be read, is left out of all tables and listed in refused.csv.
    What the tars do not tell (settings, what `pack` refused) is kept from an existing manifest.
    Returns the manifest. Raises UserError for a tar that cannot be read, tars without one usable
    sample, or a manifest of another program.
    """
    found = out.glob("*.tar") if out.is_dir() else []
    paths = sorted(found, key=lambda path: os.fsencode(path.name))
    if not paths:
        raise UserError(f"{out}: no .tar files there")
    with locked(out / LOCK, f"{out}: another process writes its tables; wait for it"):
        return _index(out, paths)


def _index(out: Path, paths: list[Path]) -> dict:
    old = read_manifest(out, to_upgrade=True) if (out / MANIFEST).exists() else None
    if old and old["format"] == FORMAT:
        settle(out)
    own = _own_labels(out, old)
    refused = _refused_by_pack(out, paths)
    scans, shards = _scan_all(paths, old)
    names = sorted({*own}.union(*(found.label_names for found in scans)))
    check_labels(names, out)
    for path, found in zip(paths, scans, strict=True):
        refused += found.refusals(path.name)
    if not any(found.keys for found in scans):
        source, reason, detail, *_ = refused[0]
        raise UserError(f"{out}: no sample can be used: {source}: {reason}: {detail}")
    with SetWriter(out, names) as tables:
        for found, shard in zip(scans, shards, strict=True):
            rows = found.rows(shard["name"], names)
            for name, labels in own.items():
                for row in rows:
                    row[LABELS + names.index(name)] = labels.get((row[SHARD], row[KEY]), "")
            tables.add(shard, rows)
        tables.refuse(refused)
    head = _head(old, scans, tables.samples + len(refused), [*own])
    old = old or {}
    return tables.finish(head, old.get("cut", 0), old.get("unpaired", PAIRED))


def _own_labels(out: Path, old: dict | None) -> dict[str, dict[tuple[str, str], str]]:
    """{column: {(shard, key): label}} of the columns that `label` has written."""
    path = out / SAMPLES
    if not old or not (names := old.get(RELABELED, [])):
        return {}
    try:
        if checksum(path) != old["tables"][SAMPLES]:
            raise ValueError("damaged: its checksum is not the manifest's")
        table = read_csv(path)
        return {name: {(row["shard"], row["key"]): row[name] for row in table} for name in names}
    except (OSError, ValueError, KeyError, csv.Error) as error:
        lost = ", ".join(names)
        log.warning("%s: %s; the labels %s are lost, give them again", path, error, lost)
        return {}


def _refused_by_pack(out: Path, paths: list[Path]) -> list[tuple[str, ...]]:
    """The rows of refused.csv that are not samples of the tars."""
    if not (out / REFUSED).is_file():
        return []
    tars = {path.name for path in paths}
    table = read_csv(out / REFUSED)
    rows = [tuple(row.get(name) or "" for name in REFUSED_COLUMNS) for row in table]
    return [row for row in rows if row[0].partition("/")[0] not in tars]


def _scan_all(paths: list[Path], old: dict | None) -> tuple[list[Scan], list[dict]]:
    """Scan every shard and write its sidecars; returns the records of the shards too."""
    scans: list[Scan] = []
    shards: list[dict] = []
    try:
        if old:
            modalities, rate = modalities_of(old), old["settings"]["audio_rate"]
        else:
            modalities, rate = survey(paths)
        for path in progress.bar(paths, unit="shard", desc="indexing"):
            found = scan(path, rate, modalities)
            scans.append(found)
            shard = {"name": path.name, "samples": len(found.keys)}
            shard |= {"bytes": path.stat().st_size, "sha256": checksum(path)}
            shards.append({**shard, "sidecars": found.write(path.parent, path.name)})
    except ScanError as error:
        raise UserError(str(error)) from None
    return scans, shards


def _head(old: dict | None, scans: list[Scan], inputs: int, own: list[str]) -> dict:
    """How the set was made: from the old manifest, or what its first sample shows."""
    if old:
        kept = {key: old[key] for key in ("settings", "inputs", "packer")}
        kept |= {RELABELED: own} if own else {}
        return {"format": FORMAT, **kept, "inputs": {**old["inputs"], "count": inputs}}
    row = np.concatenate([found.samples for found in scans])[0]
    settings = {
        "codec": "jpeg" if all((s.samples["packet"] >= 0).all() for s in scans) else "copy",
        "fps": float(row["fps"]),
        "short_side": int(min(row["width"], row["height"])),
        "audio_rate": scans[0].rate,
    }
    tracks = [track for track in TRACKS["both"] if row[track] >= 0]
    if len(tracks) == 1:
        settings["tracks"] = tracks[0]
    counts = {"count": inputs, "sha256": None}
    return {"format": FORMAT, "settings": settings, "inputs": counts, "packer": {}}
