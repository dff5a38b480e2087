"""Other labels for a packed set, without touching its tars."""

from __future__ import annotations

from pathlib import Path

from xdc_fast.errors import UserError
from xdc_fast.files import locked, write
from xdc_fast.packing.labels import LabelTable
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.format import LOCK, SAMPLE_COLUMNS, SAMPLES
from xdc_fast.shards.tables import (
    BEFORE,
    RELABELED,
    check_labels,
    read_manifest,
    settle,
    write_csv,
    write_manifest,
)


def relabel(out: Path, labels: Path) -> dict:
    """Give the samples of a set the labels of a table, in samples.csv alone.

    labels: a CSV as `pack --labels` takes it; a line names a sample by its source, or the source
    and where in it a segment starts, or by its key. Its
    columns are added, or take the place of those of the same name. A sample that no line names
    keeps what it has. The manifest names these columns as `relabeled`: `index` keeps them.
    Returns {samples, labeled, unused_lines, columns}. Raises UserError where no line names a
    sample, and for tables that cannot be read.
    """
    read_manifest(out)
    with locked(out / LOCK, f"{out}: another process writes its tables; wait for it"):
        settle(out)
        shards, table = ShardSet(out), LabelTable(labels)
        if not table.columns:
            raise UserError(f"{labels}: no column beside the one of files; add one with labels")
        check_labels(table.columns, labels)
        rows, labeled = shards.table(), 0
        for row in rows:
            found = table.labels_of(row["source"], start=float(row["start"])) or table.labels_of(
                row["key"]
            )
            labeled += bool(found)
            row.update(found)
        table.check_used(row["source"] for row in rows)
        names = sorted({*shards.label_names, *table.columns})
        columns = (*SAMPLE_COLUMNS, *names)
        relabeled = sorted({*shards.manifest.get(RELABELED, ()), *table.columns})
        write(out / BEFORE, (out / SAMPLES).read_bytes())
        try:
            write_csv(out / SAMPLES, columns, ([row.get(c, "") for c in columns] for row in rows))
            write_manifest(out, {**shards.manifest, "labels": names, RELABELED: relabeled})
        finally:
            settle(out)
    return {
        "samples": len(rows),
        "labeled": labeled,
        "unused_lines": table.unused,
        "columns": table.columns,
    }
