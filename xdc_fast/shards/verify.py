"""Check a packed set against its manifest, and that it decodes."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from xdc_fast import progress
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.format import REFUSED, SAMPLE_COLUMNS, SAMPLES
from xdc_fast.shards.proof import decoding_faults
from xdc_fast.shards.scan import Scan, ScanError, scan
from xdc_fast.shards.tables import read_csv
from xdc_fast.shards.tar import checksum

Damage = dict[str, str]  # shard, sample (its key, or empty), what


def verify(out: Path, decode: bool = False) -> dict:
    """Compare every shard with the manifest, the sidecars and samples.csv.

    decode: also decode every frame and all sound, and windows at random.
    Returns {"shards": int, "samples": int, "damaged": [{"shard", "sample", "what"}, ...]}.
    Raises UserError where there is no manifest.
    """
    shards = ShardSet(out)
    damaged: list[Damage] = []
    refused = {row["source"] for row in read_csv(out / REFUSED)}
    rows = _rows(shards, damaged)
    for record in progress.bar(shards.manifest["shards"], unit="shard", desc="verifying"):
        for sample, what in _check_shard(shards, record, rows, refused, decode):
            damaged.append({"shard": record["name"], "sample": sample, "what": what})
    return {"shards": len(shards.shards), "samples": len(shards), "damaged": damaged}


def _rows(shards: ShardSet, damaged: list[Damage]) -> list[dict[str, str]]:
    """The rows of samples.csv; an empty list where their number or their columns are wrong."""
    columns = [*SAMPLE_COLUMNS, *shards.label_names]
    try:
        rows = shards.table()
        if len(rows) != len(shards):
            what = f"{len(rows)} rows, the manifest says {len(shards)}"
        elif rows and list(rows[0]) != columns:
            what = f"its columns are not {', '.join(columns)}"
        else:
            return rows
    except FileNotFoundError:
        what = "missing"
    except (ValueError, csv.Error) as error:
        what = f"cannot be read ({error})"
    damaged.append({"shard": SAMPLES, "sample": "", "what": what})
    return []


def _check_shard(
    shards: ShardSet, record: dict, rows: list[dict[str, str]], refused: set[str], decode: bool
) -> Iterator[tuple[str, str]]:
    """Yield (sample key, what is wrong) for one shard.

    record: of the manifest. rows: of samples.csv, all or none. refused: sources of refused.csv.
    """
    path, first = shards.root / record["name"], record["first"]
    if not path.is_file():
        yield "", "missing"
        return
    size = path.stat().st_size
    if size != record["bytes"]:
        yield "", f"{size} bytes, the manifest says {record['bytes']}"
    elif checksum(path) != record["sha256"]:
        yield "", "the checksum differs from the manifest's"
    try:
        found = scan(path, first, shards.sample_rate, shards.modalities)
    except ScanError as error:
        yield "", error.what
        return
    for key, reason, detail in found.refused:
        if f"{record['name']}/{key}" not in refused:
            yield key, f"{reason}: {detail}"
    if len(found.keys) != record["samples"]:
        yield "", f"{len(found.keys)} samples, the manifest says {record['samples']}"
    expected = found.rows(path.name, shards.label_names)
    written = rows[first : first + record["samples"]]
    for row, key, values in zip(written, found.keys, expected, strict=False):
        for name, value in zip(row, values, strict=False):
            if str(value) != row[name]:
                yield key, f"its {name} is {value}, {SAMPLES} says {row[name]}"
    wrong = list(_check_sidecars(path.with_suffix(""), found))
    yield from wrong
    if decode and not wrong:
        for index, key in enumerate(found.keys, first):
            for what in decoding_faults(shards, index):
                yield key, what


def _check_sidecars(stem: Path, found: Scan) -> Iterator[tuple[str, str]]:
    for suffix, expected in ((".samples.npy", found.samples), (".packets.npy", found.packets)):
        path = Path(f"{stem}{suffix}")
        try:
            if not np.array_equal(np.load(path), expected):
                yield "", f"{path.name} does not match the tar"
        except FileNotFoundError:
            yield "", f"{path.name} is missing"
        except (ValueError, EOFError, OSError) as error:
            yield "", f"{path.name} cannot be read ({error})"
    path = Path(f"{stem}.idx")
    if not path.is_file():
        yield "", f"{path.name} is missing"
    elif path.read_text("utf-8", "replace") != found.idx:
        yield "", f"{path.name} does not match the tar"
