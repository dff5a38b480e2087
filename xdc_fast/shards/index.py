"""Index files, tables and a manifest for existing tar shards."""

from __future__ import annotations

import csv
import logging
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from xdc_fast import progress
from xdc_fast.errors import UserError
from xdc_fast.files import locked, misfit, write
from xdc_fast.shards.cache import Cache
from xdc_fast.shards.format import (
    FORMAT,
    LOCK,
    MANIFEST,
    MISSING,
    REFUSED,
    REFUSED_COLUMNS,
    SAMPLE_COLUMNS,
    SAMPLES,
    TRACKS,
)
from xdc_fast.shards.remote import RemoteFiles
from xdc_fast.shards.scan import Scan, ScanError, scan, survey
from xdc_fast.shards.shard_table import is_shard_name, record_of
from xdc_fast.shards.tables import (
    LABELS,
    PAIRED,
    RELABELED,
    SetWriter,
    check_labels,
    modalities_of,
    open_shards,
    read_csv,
    read_manifest,
    settle,
)
from xdc_fast.shards.tar import checksum
from xdc_fast.shards.verify import in_order
from xdc_fast.storage import Place, check_writable, delete, files_below, written_here

AT_ONCE = 8  # tars on storage
Tars = dict[str, tuple[int, float]]  # by name: bytes, and when it was written
OLD_SHARDS = {"shards": [{"name": str, "bytes": int, "sha256": str}]}  # of formats 1 and 2
log = logging.getLogger(__name__)
KEY, SHARD = (SAMPLE_COLUMNS.index(name) - 1 for name in ("key", "shard"))


def index(out: Place) -> dict:
    """Rebuild the sidecars, the tables and the manifest of a WebDataset.

    out: a folder of .tar files, here or on storage. A sample has a video file, its sound in a file
    of its own or in the video file, and json metadata, or a cls or txt label. The set has the
    tracks that most of the first samples have, and the rate of most of their sounds. A sample that
    lacks one of these tracks, or that cannot be read, is left out of all tables and listed in
    refused.csv. What the tars do not tell (settings, what `pack` refused) is kept from an existing
    manifest. On storage, no more is fetched than the tables need: the checksum of a tar is known
    only if the manifest had it for one of this name and size.
    Returns the manifest. Raises UserError for a tar that cannot be read, tars without one usable
    sample, or a manifest of another program; StorageError.
    """
    check_writable(out)
    found = _tars(out)
    if not found:
        raise UserError(f"{out}: no .tar files there")
    if isinstance(out, Path):
        with locked(out / LOCK, f"{out}: another process writes its tables; wait for it"):
            return _index(out, out, out, found)
    with TemporaryDirectory(prefix="xdc-") as copies, written_here(out, MANIFEST) as tables:
        files = RemoteFiles(out, Cache(Path(copies), sys.maxsize))
        manifest = _index(out, files, tables, found)
        if _tars(out) != found:
            raise UserError(f"{out}: its tars were changed meanwhile; run the same command again")
    kept = {MANIFEST, *manifest["tables"]}
    for file in [*files_below(out)]:
        if file.name.startswith("label-") and "/" not in file.name and file.name not in kept:
            delete(out / file.name)
    return manifest


def _tars(out: Place) -> Tars:
    """The tars in a folder, their sizes and when they were written."""
    if isinstance(out, Path):
        states = {path.name: path.stat() for path in out.glob("*.tar")}
        found = {name: (state.st_size, state.st_mtime) for name, state in states.items()}
    else:
        found = {file.name: (file.size, file.time) for file in files_below(out)}
    tars = (name for name in found if is_shard_name(name))
    return {name: found[name] for name in sorted(tars, key=os.fsencode)}


def _index(out: Place, files: Path | RemoteFiles, into: Path, tars: Tars) -> dict:
    """files: of the set, as they are now. into: the folder that takes the new tables."""
    old = read_manifest(files, to_upgrade=True) if (files / MANIFEST).is_file() else None
    if old and old["format"] == FORMAT and isinstance(out, Path):
        settle(out)
    if files != into and (files / MISSING).is_file():
        write(into / MISSING, (files / MISSING).read_bytes())
    own = _own_labels(files, old)
    refused = _refused_by_pack(files, tars)
    known = {} if isinstance(out, Path) else _known_sums(files, old)
    scans, shards = _scan_all(out, tars, old, known)
    names = sorted({*own}.union(*(found.label_names for found in scans)))
    check_labels(names, out)
    for name, found in zip(tars, scans, strict=True):
        refused += found.refusals(name)
    if not any(found.keys for found in scans):
        source, reason, detail, *_ = refused[0]
        raise UserError(f"{out}: no sample can be used: {source}: {reason}: {detail}")
    with SetWriter(into, names) as tables:
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


def _known_sums(files: Path | RemoteFiles, old: dict | None) -> dict[tuple[str, int], str | None]:
    """The checksums of tars that a manifest knows, by name and size."""
    if old is None:
        return {}
    if old["format"] == FORMAT:
        try:
            records = [record_of(row) for row in open_shards(files, old)]
        except UserError as error:
            log.warning("%s; the checksums of its tars are lost", error)
            return {}
    else:
        records = [] if misfit(old, OLD_SHARDS) else old["shards"]
    return {(record["name"], record["bytes"]): record["sha256"] for record in records}


def _own_labels(out: Path | RemoteFiles, old: dict | None) -> dict[str, dict[tuple[str, str], str]]:
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


def _refused_by_pack(out: Path | RemoteFiles, tars: Tars) -> list[tuple[str, ...]]:
    """The rows of refused.csv that are not samples of the tars."""
    if not (out / REFUSED).is_file():
        return []
    table = read_csv(out / REFUSED)
    rows = [tuple(row.get(name) or "" for name in REFUSED_COLUMNS) for row in table]
    return [row for row in rows if row[0].partition("/")[0] not in tars]


def _scan_all(
    out: Place, tars: Tars, old: dict | None, known: dict[tuple[str, int], str | None]
) -> tuple[list[Scan], list[dict]]:
    """Scan every shard and write its sidecars; returns the records of the shards too.

    known: checksums of tars on storage, by name and size.
    """

    def one(name: str) -> tuple[Scan, dict]:
        path, size = out / name, tars[name][0]
        found = scan(path, rate, modalities)
        shard = {"name": name, "samples": len(found.keys), "bytes": size}
        total = checksum(path) if isinstance(path, Path) else known.get((name, size))
        return found, {**shard, "sha256": total, "sidecars": found.write(out, name)}

    threads = 1 if isinstance(out, Path) else AT_ONCE
    with ThreadPoolExecutor(threads) as pool:
        try:
            if old:
                modalities, rate = modalities_of(old), old["settings"]["audio_rate"]
            else:
                modalities, rate = survey([out / name for name in tars])
            scanned = in_order(pool, one, tars, 2 * threads)
            bar = progress.bar(scanned, total=len(tars), unit="shard", desc="indexing")
            scans, shards = zip(*bar, strict=True)
        except ScanError as error:
            raise UserError(str(error)) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
    return [*scans], [*shards]


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
