"""Index files, tables and a manifest for existing tar shards."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from xdc_fast import progress
from xdc_fast.errors import UserError
from xdc_fast.shards.format import (
    FORMAT,
    MANIFEST,
    REFUSED,
    REFUSED_COLUMNS,
    SAMPLE_COLUMNS,
    SAMPLES,
    TRACKS,
)
from xdc_fast.shards.scan import Scan, ScanError, probe, scan
from xdc_fast.shards.tables import (
    PAIRED,
    check_labels,
    complete,
    modalities_of,
    read_csv,
    read_manifest,
    write_csv,
    write_manifest,
)
from xdc_fast.shards.tar import checksum


def index(out: Path) -> dict:
    """Rebuild the sidecars, samples.csv and the manifest of a WebDataset of video and sound.

    out: a folder of .tar files. A sample has a video file (mp4, mov, mkv, webm, avi), its sound in
    a separate file (wav, flac, ogg, mp3, m4a) or in the video file, and json metadata, or a cls or
    txt label. Both tracks must begin together, and the video must have a constant rate.
    If the first sample has one track only, all must have that one only.
    Settings and refusals, which the tars do not hold, are kept from an existing manifest.
    Returns the manifest. Raises UserError, which names the shard and the sample, or a manifest of
    another program.
    """
    paths = sorted(out.glob("*.tar")) if out.is_dir() else []
    if not paths:
        raise UserError(f"{out}: no .tar files there")
    old = read_manifest(out) if (out / MANIFEST).exists() else None
    scans, shards = _scan_all(paths, old)
    _check_keys(out, scans)
    names = sorted(set().union(*(found.label_names for found in scans)))
    check_labels(names)
    rows = [
        row
        for path, found in zip(paths, scans, strict=True)
        for row in found.rows(path.name, names)
    ]
    write_csv(out / SAMPLES, (*SAMPLE_COLUMNS, *names), rows)
    if not (out / REFUSED).is_file():
        write_csv(out / REFUSED, REFUSED_COLUMNS, [])
    reasons = [row["reason"] for row in read_csv(out / REFUSED)]
    head = _head(old, scans, len(rows) + len(reasons))
    cut, unpaired = (old or {}).get("cut", 0), (old or {}).get("unpaired", PAIRED)
    manifest = complete(head, rows, names, cut, unpaired, reasons, shards)
    write_manifest(out, manifest)
    return manifest


def _scan_all(paths: list[Path], old: dict | None) -> tuple[list[Scan], list[dict]]:
    """Scan every shard and write its sidecars; returns the manifest's `shards` too."""
    scans: list[Scan] = []
    shards: list[dict] = []
    first, path = 0, paths[0]
    try:
        if old:
            modalities, rate = modalities_of(old), old["settings"]["audio_rate"]
        else:
            modalities, rate = probe(path)
        for path in progress.bar(paths, unit="shard", desc="indexing"):
            found = scan(path, first, rate, modalities)
            found.write(path.with_suffix(""))
            scans.append(found)
            shard = {"name": path.name, "samples": len(found.keys), "first": first}
            shards.append({**shard, "bytes": path.stat().st_size, "sha256": checksum(path)})
            first += len(found.keys)
    except ScanError as error:
        raise UserError(f"{path}: {error}; repair or remove it") from None
    return scans, shards


def _head(old: dict | None, scans: list[Scan], inputs: int) -> dict:
    """How the set was made: from the old manifest, or what the first sample shows."""
    if old:
        return {key: old[key] for key in ("format", "settings", "inputs", "packer")}
    row = scans[0].samples[0]
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


def _check_keys(out: Path, scans: list[Scan]) -> None:
    counts = Counter(key for found in scans for key in found.keys)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise UserError(
            f"{out}: the key {repeated[0]} appears more than once ({len(repeated)} such keys); "
            "keys must be unique and the files of a sample adjacent"
        )
