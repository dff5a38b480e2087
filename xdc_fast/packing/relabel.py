"""Other labels for a packed set, without touching its tars."""

from __future__ import annotations

from pathlib import Path

from xdc_fast.errors import UserError
from xdc_fast.files import locked
from xdc_fast.packing.labels import LabelTable
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.format import LOCK, REFUSED, SAMPLE_COLUMNS
from xdc_fast.shards.tables import (
    RELABELED,
    SetWriter,
    changing,
    check_labels,
    read_csv,
    read_manifest,
    settle,
)


def relabel(out: Path, labels: Path) -> dict:
    """Give the samples of a set the labels of a table, in its tables alone.

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
        names = sorted({*shards.label_names, *table.columns})
        columns, labeled = (*SAMPLE_COLUMNS[1:], *names), 0
        with changing(out):
            with SetWriter(out, names) as tables:
                for name, rows in shards.lines():
                    for row in rows:
                        found = table.labels_of(row["source"], start=float(row["start"]))
                        found = found or table.labels_of(row["key"])
                        labeled += bool(found)
                        row.update(found)
                    cells = [[row.get(column, "") for column in columns] for row in rows]
                    tables.add(shards.record(name), cells)
                table.check_used([shards.line(0)["source"]])
                tables.refuse([[*row.values()] for row in read_csv(out / REFUSED)])
            old = shards.manifest
            relabeled = sorted({*old.get(RELABELED, ()), *table.columns})
            tables.finish({**old, RELABELED: relabeled}, old["cut"], old["unpaired"])
    return {
        "samples": len(shards),
        "labeled": labeled,
        "unused_lines": table.unused,
        "columns": table.columns,
    }
