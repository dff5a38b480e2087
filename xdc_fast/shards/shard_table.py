"""shards.npy: one row for each tar of a set, however many there are."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np

from xdc_fast.files import damaged, write
from xdc_fast.shards.format import SHARDS
from xdc_fast.shards.sidecars import map_array

SIDECARS = (".idx", ".samples.npy", ".packets.npy")
SUM = "sha256"
UNKNOWN = bytes(32).hex()  # the checksum of a tar that was never read whole
SUMS = (SUM, *(f"{suffix[1:].replace('.', '_')}_{SUM}" for suffix in SIDECARS), f"rows_{SUM}")
NUMBERS = ("first", "samples", "bytes", "rows", "rows_bytes")
FIELDS = [
    *((name, "<i8") for name in NUMBERS),
    *((name, "u1", (32,)) for name in SUMS),
]


def row_type(width: int) -> np.dtype:
    """The type of a row; width: bytes of the longest name.

    first: the index of its first sample. samples: their number. bytes: of the tar. rows,
    rows_bytes: where its rows lie in samples.csv. Then SHA-256 of the tar (zeros where it is not
    known), of its sidecars and of these rows. name: of the tar, in UTF-8.
    """
    return np.dtype([*FIELDS, ("name", f"S{width}")])


class ShardTable:
    """shards.npy in the making."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self._rows = bytearray()

    def add(self, record: dict) -> None:
        """The next tar, as of `record_of`; they come in the order of their names in UTF-8."""
        sums = (record[SUM] or UNKNOWN, *map(record["sidecars"].get, SIDECARS), record[SUMS[-1]])
        numbers = tuple(record[field] for field in NUMBERS)
        values = tuple(np.frombuffer(bytes.fromhex(text), np.uint8) for text in sums)
        self._rows += np.array((*numbers, *values), FIELDS).tobytes()
        self.names.append(record["name"])

    def write(self, out: Path) -> None:
        names = [name.encode() for name in self.names]
        rows = np.frombuffer(bytes(self._rows), FIELDS)
        table = np.zeros(len(names), row_type(max(map(len, names), default=1)))
        table["name"] = names
        for field in rows.dtype.names or ():
            table[field] = rows[field]
        content = io.BytesIO()
        np.save(content, table)
        write(out / SHARDS, content.getbuffer())


def record_of(row: np.void) -> dict:
    """A row as {name, first, samples, bytes, sha256, sidecars, rows, rows_bytes, rows_sha256};
    sha256 is None where it is not known."""
    sums = {field: row[field].tobytes().hex() for field in SUMS}
    own = dict(zip(SIDECARS, (sums[field] for field in SUMS[1:-1]), strict=True))
    numbers = {field: int(row[field]) for field in NUMBERS}
    total = None if sums[SUM] == UNKNOWN else sums[SUM]
    about = {"name": row["name"].decode(), **numbers, SUM: total, "sidecars": own}
    return about | {SUMS[-1]: sums[SUMS[-1]]}


def read_shards(path: Path, hint: str) -> np.ndarray:
    """The rows of shards.npy, mapped; raises UserError, which ends with `hint`."""
    with path.open("rb") as file:
        head = file.read(4096)
    width = re.search(rb"'name', '\|S(\d{1,5})'", head)
    if width is None or not int(width[1]):
        raise damaged(path, "not a table of this format", hint)
    return map_array(path, row_type(int(width[1])), hint)


def fault_of(table: np.ndarray, samples: int) -> str:
    """What of the rows no program of ours writes; "" where all is well.

    samples: of the set.
    """
    ends = np.cumsum(table["samples"])
    if len(table) and min(int(table[name].min()) for name in NUMBERS) < 0:
        return "a number below zero"
    if (table["first"] != ends - table["samples"]).any() or samples != (
        ends[-1] if len(ends) else 0
    ):
        return "its shards do not have its samples one after the other"
    names = table["name"]
    if wrong := [name for name in _unusual(names) if not is_shard_name(name)]:
        return f"{wrong[0]!r} is not the name of a tar beside it"
    return (
        "" if (names[1:] > names[:-1]).all() else "its shards are not in the order of their names"
    )


def _unusual(names: np.ndarray) -> list[str]:
    """Names that may not be those of tars in the folder of the table."""
    text = np.ascontiguousarray(names).view(np.uint8).reshape(len(names), -1)
    unusual = (np.isin(text, np.frombuffer(b"/\\", np.uint8)) | (text >= 128)).any(axis=1)
    unusual |= ((text[:, :-1] == 0) & (text[:, 1:] != 0)).any(axis=1)
    unusual |= (text[:, 0] == ord(".")) | ~np.strings.endswith(names, b".tar")
    return [name.decode(errors="backslashreplace") for name in names[unusual].tolist()]


def is_shard_name(name: str) -> bool:
    """Whether a name is that of a tar in the set's own folder."""
    return name.endswith(".tar") and name[0] != "." and not set(name) & {"/", "\\", "\0"}
