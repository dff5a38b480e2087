"""What a packing run has finished, one line of JSON per shard: a later run continues from it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from xdc_fast.files import damaged, misfit, naming, read_lines, write
from xdc_fast.shards.format import SAMPLE_COLUMNS
from xdc_fast.shards.tables import SHARD_FORM

HEAD = {"format": int, "settings": dict, "inputs": {"count": int}, "packer": dict}
ROW = {
    "index": int, "key": str, "shard": str, "source": str, "start": float, "seconds": float,
    "frames": int,
}  # fmt: skip
RECORD = {
    "next_input": int, "told": int, "rows": [list], "refused": [[str]], "cut": int,
    "shard": (SHARD_FORM, None),
}  # fmt: skip


class Journal:
    """The records of finished shards; `head` says what run they belong to.

    A line that a crash cut short is dropped, and its shard is packed again.
    """

    def __init__(self, path: Path, head: dict):
        self.path = path
        self.records: list[dict] = []
        hint = f"remove {path.parents[1]} and pack anew"
        lines = read_lines(path, {}, hint) if path.exists() else []
        if lines:
            head, *self.records = lines
            if fault := self._fault(head):
                raise damaged(path, fault, hint)
        self.head = head
        write(path, "".join(json.dumps(record) + "\n" for record in [head, *self.records]))

    def append(self, record: dict) -> None:
        """Write a record; it is on the disk when this returns."""
        with naming(self.path), self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)

    def _fault(self, head: dict) -> str:
        """What of the lines no packing run writes; empty when all is well."""
        if fault := misfit(head, HEAD) or misfit(self.records, [RECORD]):
            return fault
        rows = [row for record in self.records for row in record["rows"]]
        named = [dict(zip(SAMPLE_COLUMNS, row, strict=False)) for row in rows]
        if fault := misfit(named, [ROW]):
            return fault
        ends = [(record["next_input"], record["told"]) for record in self.records]
        ends = [(0, 0), *ends, (head["inputs"]["count"], 0)]
        return "" if ends == sorted(ends) else "inputs out of order"

    @property
    def reached(self) -> tuple[int, int]:
        """The first input whose file is not finished, and the outcomes of this file so far."""
        last = self.records[-1] if self.records else {"next_input": 0, "told": 0}
        return last["next_input"], last["told"]

    @property
    def next_index(self) -> int:
        """The index of the next sample."""
        return sum(len(record["rows"]) for record in self.records)

    @property
    def shards(self) -> int:
        """How many shards are finished."""
        return sum(1 for record in self.records if record["shard"])
