"""Sets that were changed on purpose, their checksums right again."""

import hashlib
import json
from pathlib import Path

from xdc_fast.shards.format import SAMPLES
from xdc_fast.shards.shard_table import SIDECARS, ShardTable, read_shards, record_of
from xdc_fast.shards.tables import write_manifest
from xdc_fast.shards.tar import checksum


def reseal(out: Path, **changes) -> None:
    """Writes shards.npy and the manifest anew, with changes and the checksums as they are."""
    manifest = json.loads((out / "manifest.json").read_text()) | changes
    lines = (out / SAMPLES).read_bytes().splitlines(keepends=True)
    at, records = len(lines[0]), []
    for record in _records(out):
        stem = out / record["name"].removesuffix(".tar")
        sums = {suffix: checksum(Path(f"{stem}{suffix}")) for suffix in SIDECARS}
        rows = b"".join(lines[1 + record["first"] :][: record["samples"]])
        where = {"rows": at, "rows_bytes": len(rows)}
        where["rows_sha256"] = hashlib.sha256(rows).hexdigest()
        records.append({**record, "sidecars": sums, **where})
        at += len(rows)
    _write(out, records, manifest)


def rename_shard(out: Path, name: str) -> None:
    """Lets shards.npy give the first tar another name."""
    manifest = json.loads((out / "manifest.json").read_text())
    first, *others = _records(out)
    _write(out, [{**first, "name": name}, *others], manifest)


def _records(out: Path) -> list[dict]:
    return [record_of(row) for row in read_shards(out / "shards.npy", "").copy()]


def _write(out: Path, records: list[dict], manifest: dict) -> None:
    table = ShardTable()
    for record in records:
        table.add(record)
    table.write(out)
    write_manifest(out, manifest)
