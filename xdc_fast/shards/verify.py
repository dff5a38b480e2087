"""Check a packed set against its manifest, and that it decodes."""

from __future__ import annotations

import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import numpy as np

from xdc_fast import progress
from xdc_fast.errors import UserError
from xdc_fast.shards.cache import default_folder
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.format import MANIFEST, REFUSED, SAMPLES
from xdc_fast.shards.proof import decoding_faults
from xdc_fast.shards.scan import ScanError, scan
from xdc_fast.shards.sidecars import open_sidecars
from xdc_fast.shards.tables import RELABELED, read_csv
from xdc_fast.shards.tar import checksum
from xdc_fast.storage import Place, files_below

Damage = dict[str, str]  # shard (or the name of a file), sample (its key, or empty), what
Checked = tuple[list[tuple[str, str]], dict[str, float]]
T = TypeVar("T")
R = TypeVar("R")


def verify(out: Place, decode: bool = False) -> dict:
    """Compare every file of a set with the manifest, and every tar with its tables.

    out: its folder, or its URL: then what is there is fetched, a few shards at a time.
    decode: also decode every frame and all sound, and windows at random.
    Returns {"shards": int, "samples": int, "unknown": int, "damaged": [{"shard", "sample", "what"},
    ...]}; unknown: how many tars have no checksum to be compared with.
    Raises UserError where there is no manifest, or it or shards.npy is damaged itself.
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
    refused = [row["source"] for row in read_csv(out / REFUSED)] if whole[REFUSED] else []
    for path in sorted(_tars(shards.root) - {*shards.shards}):
        note(path, "", "the manifest does not name it")
    totals: Counter[str] = Counter()
    left_out = {*refused}

    def check(name: str) -> Checked:
        return _check_shard(shards, name, whole[SAMPLES], left_out, decode)

    threads = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(threads) as pool:
        checked = in_order(pool, check, shards.shards, 4 * threads)
        bar = progress.bar(checked, total=len(shards.shards), unit="shard", desc="verifying")
        for name, (faults, sums) in zip(shards.shards, bar, strict=True):
            totals.update(sums)
            for sample, what in faults:
                note(name, sample, what)
    if all(whole.values()):
        for what in _check_counts(shards.manifest, totals, len(refused)):
            note(MANIFEST, "", what)
    unknown = sum(not shards.record(name)["sha256"] for name in shards.shards)
    counts = {"shards": len(shards.shards), "samples": len(shards), "unknown": unknown}
    return {**counts, "damaged": damaged}


def in_order(
    pool: Executor, function: Callable[[T], R], items: Iterable[T], ahead: int
) -> Iterator[R]:
    """What a function answers for each item, in their order; `ahead` are at work or done."""
    waiting: deque[Future[R]] = deque()
    for item in items:
        waiting.append(pool.submit(function, item))
        if len(waiting) > ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _tars(root: Place) -> set[str]:
    """The tars in the folder of a set; none over http, which has no listing."""
    if isinstance(root, Path):
        return {path.name for path in root.glob("*.tar")}
    names = () if root.scheme.startswith("http") else (file.name for file in files_below(root))
    return {name for name in names if name.endswith(".tar") and "/" not in name}


def _is_whole(path: Path, total: str) -> bool:
    return path.is_file() and checksum(path) == total


def _how(path: Path) -> str:
    return "the checksum differs from the manifest's" if path.is_file() else "missing"


def _check_counts(manifest: dict, totals: Mapping[str, float], refused: int) -> Iterator[str]:
    """Yield the sums of the manifest that are not those of its tables."""
    sums = {
        "samples": int(totals["samples"]),
        "frames": int(totals["frames"]),
        "seconds": round(totals["seconds"], 3),
        "bytes": int(totals["bytes"]),
    }
    for name, value in sums.items():
        if manifest[name] != value:
            yield f"its {name} is {manifest[name]}, the tables give {value}"
    if sum(manifest["refused"].values()) != refused:
        yield f"its refused are {sum(manifest['refused'].values())}, {REFUSED} has {refused}"
    if manifest["inputs"]["count"] != sums["samples"] + refused:
        yield f"its inputs are {manifest['inputs']['count']}, not those packed and refused"


def _check_shard(
    shards: ShardSet, name: str, listed: bool, refused: set[str], decode: bool
) -> Checked:
    """What is wrong with a shard: (sample key, what); and the sums of its rows of samples.csv.

    listed: samples.csv is whole. refused: sources of refused.csv.
    """
    record = shards.record(name)
    rows: list[dict[str, str]] = []
    sums: dict[str, float] = {"bytes": record["bytes"]}
    faults: list[tuple[str, str]] = []
    if listed:
        try:
            rows = [shards.line(record["first"] + place) for place in range(record["samples"])]
            for column, kind in (("frames", int), ("seconds", float)):
                sums[column] = sum(kind(row[column]) for row in rows)
            sums["samples"] = len(rows)
        except (UserError, ValueError) as error:
            faults.append(("", str(error)))
    faults += _faults(shards, record, rows, refused, decode)
    return faults, sums


def _faults(
    shards: ShardSet, record: dict, rows: list[dict[str, str]], refused: set[str], decode: bool
) -> Iterator[tuple[str, str]]:
    """Yield (sample key, what is wrong) for one shard.

    record: of shards.npy. rows: of samples.csv, all or none.
    """
    path = shards.files / record["name"]
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
        yield "", f"{size} bytes, {record['bytes']} were written"
    elif record["sha256"] and not _is_whole(path, record["sha256"]):
        yield "", _how(path)
    try:
        found = scan(path, shards.sample_rate, shards.modalities)
    except ScanError as error:
        yield "", error.what
        return
    for key, reason, detail in found.refused:
        if f"{record['name']}/{key}" not in refused:
            yield key, f"{reason}: {detail}"
    if len(found.keys) != record["samples"]:
        yield "", f"{len(found.keys)} samples, {record['samples']} were written"
    own = shards.manifest.get(RELABELED, ())
    expected = found.rows(path.name, shards.label_names)
    for place, (row, key, values) in enumerate(zip(rows, found.keys, expected, strict=False)):
        whole = [record["first"] + place, *values]
        for name, value in zip(shards.columns, whole, strict=True):
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
        for index, key in enumerate(found.keys, record["first"]):
            for what in decoding_faults(shards, index):
                yield key, what
