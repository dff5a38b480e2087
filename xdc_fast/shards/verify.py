"""Check a packed set against its manifest, and that it decodes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from xdc_fast import progress
from xdc_fast.errors import UserError
from xdc_fast.shards.cache import default_folder
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.format import MANIFEST, REFUSED, SAMPLE_COLUMNS, SAMPLES
from xdc_fast.shards.proof import decoding_faults
from xdc_fast.shards.scan import ScanError, scan
from xdc_fast.shards.sidecars import open_sidecars
from xdc_fast.shards.tables import RELABELED, read_csv
from xdc_fast.shards.tar import checksum
from xdc_fast.storage import Place, files_below

Damage = dict[str, str]  # shard (or the name of a file), sample (its key, or empty), what


def verify(out: Place, decode: bool = False) -> dict:
    """Compare every file of a set with the manifest, and every tar with its tables.

    out: its folder, or its URL: then what is there is fetched, one shard after the other.
    decode: also decode every frame and all sound, and windows at random.
    Returns {"shards": int, "samples": int, "damaged": [{"shard", "sample", "what"}, ...]}.
    Raises UserError where there is no manifest, or it is damaged itself.
    """
    if isinstance(out, Path):
        return _verify(ShardSet(out), decode)
    folder = default_folder()
    folder.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix="verify-", dir=folder) as copies:
        return _verify(ShardSet(out, copies), decode)


def _verify(shards: ShardSet, decode: bool) -> dict:
    out, damaged = shards.files, list[Damage]()

    def note(place: str, sample: str, what: str) -> None:
        damaged.append({"shard": place, "sample": sample, "what": what})

    tables = shards.manifest["tables"]
    whole = {name: _is_whole(out / name, total) for name, total in tables.items()}
    for name, right in whole.items():
        if not right:
            note(name, "", _how(out / name))
    rows = shards.table() if whole[SAMPLES] else []
    refused = [row["source"] for row in read_csv(out / REFUSED)] if whole[REFUSED] else []
    if all(whole.values()):
        for what in _check_counts(shards.manifest, rows, len(refused)):
            note(MANIFEST, "", what)
    for path in sorted(_tars(shards.root) - {*shards.shards}):
        note(path, "", "the manifest does not name it")
    for record in progress.bar(shards.manifest["shards"], unit="shard", desc="verifying"):
        for sample, what in _check_shard(shards, record, rows, {*refused}, decode):
            note(record["name"], sample, what)
    return {"shards": len(shards.shards), "samples": len(shards), "damaged": damaged}


def _tars(root: Place) -> set[str]:
    """The tars in the folder of a set; none over http, which has no listing."""
    if isinstance(root, Path):
        return {path.name for path in root.glob("*.tar")}
    names = () if root.scheme.startswith("http") else files_below(root)
    return {name for name, _ in names if name.endswith(".tar") and "/" not in name}


def _is_whole(path: Path, total: str) -> bool:
    return path.is_file() and checksum(path) == total


def _how(path: Path) -> str:
    return "the checksum differs from the manifest's" if path.is_file() else "missing"


def _check_counts(manifest: dict, rows: list[dict[str, str]], refused: int) -> Iterator[str]:
    """Yield the sums of the manifest that are not those of its tables."""
    sums = {
        "samples": len(rows),
        "frames": sum(int(row["frames"]) for row in rows),
        "seconds": round(sum(float(row["seconds"]) for row in rows), 3),
        "bytes": sum(shard["bytes"] for shard in manifest["shards"]),
    }
    for name, value in sums.items():
        if manifest[name] != value:
            yield f"its {name} is {manifest[name]}, the tables give {value}"
    if sum(manifest["refused"].values()) != refused:
        yield f"its refused are {sum(manifest['refused'].values())}, {REFUSED} has {refused}"
    if manifest["inputs"]["count"] != len(rows) + refused:
        yield f"its inputs are {manifest['inputs']['count']}, not those packed and refused"


def _check_shard(
    shards: ShardSet, record: dict, rows: list[dict[str, str]], refused: set[str], decode: bool
) -> Iterator[tuple[str, str]]:
    """Yield (sample key, what is wrong) for one shard.

    record: of the manifest. rows: of samples.csv, all or none. refused: sources of refused.csv.
    """
    path, first = shards.files / record["name"], record["first"]
    beside = [
        f"{sidecar.name}: {_how(sidecar)}"
        for suffix, total in record["sidecars"].items()
        if not _is_whole(sidecar := shards.files / f"{path.stem}{suffix}", total)
    ]
    yield from (("", what) for what in beside)
    if not path.is_file():
        yield "", "missing"
        return
    if (size := path.stat().st_size) != record["bytes"]:
        yield "", f"{size} bytes, the manifest says {record['bytes']}"
    elif not _is_whole(path, record["sha256"]):
        yield "", _how(path)
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
    columns = [*SAMPLE_COLUMNS, *shards.label_names]
    own = shards.manifest.get(RELABELED, ())
    expected = found.rows(path.name, shards.label_names)
    written = rows[first : first + record["samples"]]
    for row, key, values in zip(written, found.keys, expected, strict=False):
        for name, value in zip(columns, values, strict=True):
            if name not in own and str(value) != row[name]:
                yield key, f"its {name} is {value}, {SAMPLES} says {row[name]}"
    if beside or size != record["bytes"]:
        return
    try:
        tables = open_sidecars(shards.files, record, shards.modalities)
    except UserError as error:
        yield "", str(error)
        return
    for table, right in zip(tables, (found.samples, found.packets), strict=True):
        if not np.array_equal(table, right):
            yield "", f"its tables do not match it; run `xdc-shard index {shards.root}`"
            return
    if decode:
        for index, key in enumerate(found.keys, first):
            for what in decoding_faults(shards, index):
                yield key, what
