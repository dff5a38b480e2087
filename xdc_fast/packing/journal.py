"""What a packing run has finished: one line of JSON per shard, so that it can go on."""

from __future__ import annotations

import json
import os
from pathlib import Path


class Journal:
    """The records of finished shards; `head` says what run they belong to.

    A line that was cut short by a crash is dropped: its shard is packed again.
    """

    def __init__(self, path: Path, head: dict):
        self.path, self.records = path, []
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        if lines:
            head, *self.records = map(json.loads, lines)
        self.head = head
        self._write([head, *self.records])

    def _write(self, records: list[dict]) -> None:
        part = self.path.with_suffix(".part")
        part.write_text("".join(json.dumps(record) + "\n" for record in records))
        os.replace(part, self.path)

    def append(self, record: dict) -> None:
        """Keep a record for good before returning."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)

    @property
    def next_input(self) -> int:
        return self.records[-1]["next_input"] if self.records else 0

    @property
    def next_index(self) -> int:
        return sum(len(record["rows"]) for record in self.records)

    @property
    def shards(self) -> int:
        return sum(1 for record in self.records if record["shard"])
