"""Index files, tables and a manifest for tar shards that lie there already."""

from __future__ import annotations

import csv
import tarfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from xdc_fast import progress
from xdc_fast.errors import UserError
from xdc_fast.shards.format import (
    FORMAT,
    MANIFEST,
    REFUSED,
    REFUSED_COLUMNS,
    SAMPLE_COLUMNS,
    SAMPLES,
)
from xdc_fast.shards.scan import Scan, ScanError, probe, scan
from xdc_fast.shards.tables import (
    check_labels,
    complete,
    modalities_of,
    read_manifest,
    write_csv,
    write_manifest,
)
from xdc_fast.shards.tar import checksum


def index(out: Path) -> dict:
    """Rebuild the sidecars, samples.csv and the manifest of a WebDataset of video and sound.

    out: a folder of .tar files; a sample has a video file (mp4, mov, mkv, webm, avi), its sound in
    a file of its own (wav, flac, ogg, mp3, m4a) or in the video's, and json metadata, or a cls or
    txt label. Both tracks are taken to begin together, and the video to have a constant rate.
    Where the first sample has one track only, so must all.
    What the tars cannot tell (settings, what was refused) is kept from a manifest that is there.
    Returns the manifest. Raises UserError, which names the shard and the sample, or the manifest
    that is not one of ours.
    """
    paths = sorted(out.glob("*.tar")) if out.is_dir() else []
    if not paths:
        raise UserError(f"{out}: no .tar files there")
    old = read_manifest(out) if (out / MANIFEST).exists() else None
    with _readable(paths[0]):
        if old:
            rate, modalities = old["settings"]["audio_rate"], modalities_of(old)
        else:
            modalities, rate = probe(paths[0])
    scans, shards, first = [], [], 0
    for path in progress.bar(paths, unit="shard", desc="indexing"):
        with _readable(path):
            found = scan(path, first, rate, modalities)
        found.write(out / path.stem)
        scans.append(found)
        shard = {"name": path.name, "samples": len(found.keys), "first": first}
        shards.append({**shard, "bytes": path.stat().st_size, "sha256": checksum(path)})
        first += len(found.keys)
    _refuse_repeats(out, scans)
    names = sorted({name for found in scans for facts in found.facts for name in _labels(facts)})
    check_labels(names)
    rows = [
        row
        for path, found in zip(paths, scans, strict=True)
        for row in table_rows(path, found, names)
    ]
    write_csv(out / SAMPLES, (*SAMPLE_COLUMNS, *names), rows)
    refused = _refused(out / REFUSED)
    head = _head(old, scans, modalities, first + len(refused))
    reasons = [row["reason"] for row in refused]
    manifest = complete(head, rows, names, old["cut"] if old else 0, reasons, shards)
    write_manifest(out, manifest)
    return manifest


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """A shard that a scan cannot read is the user's to mend."""
    try:
        yield
    except ScanError as error:
        raise UserError(f"{path}: sample {error.key}: {error.what}; mend or remove it") from None
    except (tarfile.TarError, EOFError) as error:
        raise UserError(f"{path}: not a sound tar ({error}); mend or remove it") from None


def _head(old: dict | None, scans: list[Scan], modalities: tuple[str, ...], inputs: int) -> dict:
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
    if len(modalities) == 1:
        settings["tracks"] = modalities[0]
    counts = {"count": inputs, "sha256": None}
    return {"format": FORMAT, "settings": settings, "inputs": counts, "packer": {}}


def _labels(facts: dict) -> dict[str, str]:
    labels = facts.get("labels")
    return {k: str(v) for k, v in labels.items()} if isinstance(labels, dict) else {}


def table_rows(path: Path, found: Scan, names: list[str]) -> list[list]:
    """The rows of samples.csv for one shard, `names` being the labels."""
    rows = []
    for row, key, facts in zip(found.samples, found.keys, found.facts, strict=True):
        frames, labels = int(row["frames"]), _labels(facts)
        source, seconds = str(facts.get("source") or key), facts.get("seconds")
        if not isinstance(seconds, int | float):
            seconds = frames / (float(row["fps"]) or np.inf)
            if row["video"] < 0:
                seconds = int(row["samples"]) / found.rate
        told = [int(row["index"]), key, path.name, source, seconds, frames]
        rows.append(told + [labels.get(name, "") for name in names])
    return rows


def _refuse_repeats(out: Path, scans: list[Scan]) -> None:
    counts = Counter(key for found in scans for key in found.keys)
    repeated = [key for key, count in counts.items() if count > 1]
    if repeated:
        raise UserError(
            f"{out}: the key {repeated[0]} appears more than once ({len(repeated)} such keys); "
            "keys must be unique and the files of a sample adjacent"
        )


def _refused(path: Path) -> list[dict[str, str]]:
    """The rows of refused.csv, which is made where there is none."""
    if not path.is_file():
        write_csv(path, REFUSED_COLUMNS, [])
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
