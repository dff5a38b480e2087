"""What a packing run has finished, one line of JSON per shard: a later run continues from it."""

from __future__ import annotations

import json
import os
from pathlib import Path

from xdc_fast.files import write


class Journal:
    """The records of finished shards; `head` says what run they belong to.

    A line that a crash cut short is dropped, and its shard is packed again.
    """

    def __init__(self, path: Path, head: dict):
        self.path = path
        self.records: list[dict] = []
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        if lines:
            head, *self.records = map(json.loads, lines)
        self.head = head
        write(path, "".join(json.dumps(record) + "\n" for record in [head, *self.records]))

    def append(self, record: dict) -> None:
        """Write a record; it is on the disk when this returns."""
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
            file.flush()
            os.fsync(file.fileno())
        self.records.append(record)

    @property
    def next_input(self) -> int:
        """The first input that no finished shard has dealt with."""
        return self.records[-1]["next_input"] if self.records else 0

    @property
    def next_index(self) -> int:
        """The index of the next sample."""
        return sum(len(record["rows"]) for record in self.records)

    @property
    def shards(self) -> int:
        """How many shards are finished."""
        return sum(1 for record in self.records if record["shard"])
