"""A user's tables: CSV files that name media files, with a label in each other column."""

from __future__ import annotations

import codecs
import csv
import io
import math
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from xdc_fast.errors import UserError
from xdc_fast.storage import Place

NAME_COLUMNS = ("file", "path", "filename", "name")
EDGES = ("start", "end")  # columns that say which segment of a file a line means, in seconds
LONGEST = 1e9  # seconds
SEPARATORS = (",", ";", "\t")
HEAD = 4096  # characters, among which a hint is looked for
PIECE = 1 << 20  # bytes
HINT = re.compile(r"\s*sep=(.)[^\S\r\n]*(?:\r?\n|\Z)")  # a first line that spreadsheets write
SECONDS = re.compile(r"\+?(?:\d+\.?\d*|\.\d+)(?:e[+-]?\d+)?", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Line:
    """A line of a table: its number in the file, what it names, and its other cells.

    start, end: of the segment, seconds; None where the table has no such column or the cell is
    empty.
    """

    number: int
    name: str
    cells: dict[str, str]
    start: float | None = None
    end: float | None = None


def read_table(path: Place, columns: tuple[str, ...]) -> tuple[Iterator[Line], list[str]]:
    """The lines of a CSV, one by one, and the names of its columns of labels.

    columns: the names that the one with file names may have; the first that the table has is taken.
    The separator is a comma, a semicolon or a tab; a line `sep=;` before the table may name it.
    Blanks around cells, lines without any cell, and empty cells beyond the named columns do not
    count. Raises UserError, which names the line.
    """
    records = _records(path, columns)
    separator, header = next(records)
    named = [name for name in header if name]
    if twice := [name for name in named if named.count(name) > 1]:
        raise UserError(f"{path}: two columns of the same name, '{twice[0]}'; rename one")
    lower = {name.lower(): name for name in reversed(named)}
    key = next((lower[name] for name in columns if name in lower), None)
    if key is None:
        raise UserError(f"{path}: no column {' or '.join(columns)}; it has: {', '.join(named)}")
    edges = [lower[edge] for edge in EDGES if edge in lower]
    if len(edges) == 1:
        raise UserError(
            f"{path}: a column '{edges[0]}' alone; give 'start' and 'end' of segments in seconds, "
            "empty where a file is meant from its beginning or to its end; or rename it"
        )

    def lines() -> Iterator[Line]:
        for number, cells in records:
            while len(cells) > len(header) and not cells[-1]:
                cells.pop()
            if len(cells) != len(header):
                raise UserError(
                    f"{path}: line {number} ({cells[0]}) has {len(cells)} cells, and the first "
                    f"line names {len(header)} columns; quote a cell that holds a '{separator}'"
                )
            row = {name: cell for name, cell in zip(header, cells, strict=True) if name}
            name = row.pop(key)
            if not edges:
                yield Line(number, name, row)
                continue
            where = f"{path}: line {number} ({name})"
            start, end = (_seconds(row.pop(edge), edge, where) for edge in edges)
            if (start or 0.0) >= (math.inf if end is None else end):
                raise UserError(
                    f"{where}: it ends at {end:g} s, and starts at {start or 0:g} s; mend it"
                )
            yield Line(number, name, row, start, end)

    return lines(), [name for name in named if name not in (key, *edges)]


def _records(path: Place, columns: tuple[str, ...]) -> Iterator[tuple[Any, list[str]]]:
    """The separator of a CSV and its header, then the number and the cells of each line."""
    try:
        encoding = _encoding(path)
        with io.TextIOWrapper(path.open("rb"), encoding, newline="") as file:
            hint = HINT.match(file.read(HEAD))
            file.seek(0)
            skipped = file.read(hint.end()).count("\n") if hint else 0
            begin = file.tell()
            header = next((line for line in iter(file.readline, "") if line.strip(",;\t \r\n")), "")
            file.seek(begin)

            def likeness(one: str) -> tuple[bool, int]:
                names = [name.strip().lower() for name in next(csv.reader([header], delimiter=one))]
                return any(name in columns for name in names), len(names)

            separator = hint[1] if hint else max(SEPARATORS, key=likeness)
            reader = csv.reader(file, delimiter=separator, strict=True)
            first = True
            for record in reader:
                cells = [cell.strip() for cell in record]
                if any(cells):
                    yield (separator if first else skipped + reader.line_num), cells
                    first = False
            if first:
                yield separator, []
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error}); mend it") from None
    except (ValueError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read as CSV ({error}); mend it") from None


def _encoding(path: Place) -> str:
    """That of a table; UserError where it is not UTF-8, nor UTF-16 with its mark."""
    with path.open("rb") as file:
        marked = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
        encoding, line = "utf-16" if marked else "utf-8-sig", 1
        file.seek(0)
        decode = codecs.getincrementaldecoder(encoding)().decode
        while True:
            content = file.read(PIECE)
            try:
                text = decode(content, final=not content)
            except UnicodeDecodeError as error:
                line += error.object[: error.start].count(b"\n")
                raise UserError(
                    f"{path}: line {line} is not UTF-8; save the table as UTF-8"
                ) from None
            if (place := text.find("\0")) >= 0:
                line += text.count("\n", 0, place)
                raise UserError(
                    f"{path}: line {line} holds a zero character; save the table as UTF-8"
                )
            if not content:
                return encoding
            line += text.count("\n")


def _seconds(cell: str, column: str, where: str) -> float | None:
    """A cell of a column of EDGES; None where it is empty."""
    if not cell:
        return None
    time = float(cell) if SECONDS.fullmatch(cell) else math.nan
    if not 0 <= time < LONGEST:
        raise UserError(f"{where}: {column} '{cell}' is no number of seconds from 0 up; mend it")
    return time


@dataclass
class LabelTable:
    """The labels of files by name.

    A line names a file by its base name, with or without its ending or that of another format, or
    by more of its path. Unicode forms, backslashes and `./` make no difference. With columns
    `start` and `end` it names the segment of a file that begins at `start`.
    columns: of the labels. Raises UserError for a table that cannot be read.
    """

    path: Path
    columns: list[str] = field(init=False)
    lines: list[Line] = field(init=False)

    def __post_init__(self) -> None:
        lines, self.columns = read_table(self.path, NAME_COLUMNS)
        self.lines = list(lines)
        self._used: dict[int, str] = {}  # line: the file that it names
        self._by_stem: dict[str, list[tuple[Line, PurePosixPath]]] = {}
        for line in self.lines:
            name = normal(line.name)
            for stem in {name.name, name.stem} if name.name else ():
                self._by_stem.setdefault(stem, []).append((line, name))

    def labels_of(self, name: str, folder: str = "", start: float | None = None) -> dict[str, str]:
        """The labels of a file, {} where no line names it.

        name: its path within what was given. folder: the absolute path of that; where it is not
        known, a line may name any folder. start: of the segment, seconds; None for a whole file.
        Raises UserError where lines that name it equally well differ, and where a line names
        another file too.
        """
        file = normal(name)
        found: dict[int, list[Line]] = {}
        for stem in {file.name, file.stem}:
            for line, named in self._by_stem.get(stem, ()):
                if line.start is not None and line.start != start:
                    continue
                if rank := _likeness(named, file, folder):
                    rank = 2 * rank + (line.start is not None)
                    found.setdefault(rank, []).append(line)
        if not found:
            return {}
        best = found[max(found)]
        line = best[0]
        if other := next((each for each in best if each.cells != line.cells), None):
            raise UserError(
                f"{self.path}: lines {line.number} and {other.number} give '{other.name}' other "
                "labels; keep one"
            )
        if self._used.setdefault(line.number, name) != name:
            both = f"{self._used[line.number]} and {name}"
            raise UserError(
                f"{self.path}: '{line.name}' is the name of {both}; give the folder too"
            )
        for each in best:
            self._used[each.number] = name
        return line.cells

    @property
    def unused(self) -> int:
        """How many lines have named no file so far."""
        return len(self.lines) - len(self._used)

    def check_used(self, names: Iterable[str]) -> None:
        """Raises UserError where there are lines, and none of them names a file."""
        if self.lines and not self._used:
            raise UserError(
                f"{self.path}: none of its {len(self.lines)} lines names a file that is there: it "
                f"has '{self.lines[0].name}', and a file is '{next(iter(names), '')}'; mend it"
            )


def normal(name: str) -> PurePosixPath:
    """A path with composed characters, slashes, and without `./`."""
    return PurePosixPath(unicodedata.normalize("NFC", name).replace("\\", "/"))


def _likeness(named: PurePosixPath, file: PurePosixPath, folder: str) -> int:
    """How well a line's name fits a file; 0: not at all."""
    if named.name == file.name:
        ending = 3
    elif named.name == file.stem:
        ending = 2
    elif named.stem == file.stem and named.suffix:
        ending = 1
    else:
        return 0
    inside, outer = file.parent.parts, normal(folder).parts
    given = named.parent.parts
    whole = (*outer, *inside)
    fits = given == whole[len(whole) - len(given) :]
    if not fits and not folder:  # the set does not know where its files were
        fits = inside == given[len(given) - len(inside) :]
    return 4 * len(given) + ending if fits else 0


def on_disk(path: Path) -> Path:
    """A path that a table gives, as the file is called: in its Unicode form, with slashes."""
    if "\0" in str(path) or os.path.lexists(path):
        return path
    text = str(path).replace("\\", "/")
    for form in ("NFC", "NFD"):
        if os.path.exists(other := unicodedata.normalize(form, text)):
            return Path(other)
    return path
