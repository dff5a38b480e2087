"""A data set in a user's folder: media files by name, and the lines of its official lists."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from xdc_fast.errors import UserError
from xdc_fast.packing.sources import NO_MEDIA, files_under
from xdc_fast.storage import Place

LISTS = (".csv", ".txt")


@dataclass
class Row:
    """One video that a data set names.

    listed: the list that names it. paths: its files, relative to ROOT; none where it is missing.
    span: the seconds of the file that are meant; None for all of it. whole: files of which the row
    means `part`, in seconds, unless they are no longer than it; they are for want of `paths`.
    """

    name: str
    listed: str
    labels: dict[str, str]
    paths: list[str]
    span: tuple[float, float] | None = None
    whole: list[str] = field(default_factory=list)
    part: tuple[float, float] = (0.0, 0.0)

    def put(self, column: str, value: str, where: str) -> None:
        """Set a label unless it is empty; raises UserError where the row has another one."""
        before = self.labels.get(column) or value
        if value not in ("", before):
            raise malformed(where, f"{self.name} is '{value}' here, '{before}' in an earlier line")
        self.labels[column] = before


class Holding:
    """What one walk of ROOT found: `media` {stem: paths} and `lists` {file name: paths}.

    Paths are relative to ROOT, in sorted order. site: where the lists come from, for messages.
    """

    def __init__(self, root: Path, out: Place, site: str):
        self.root, self.site = root, site
        self.media: dict[str, list[str]] = {}
        self.lists: dict[str, list[str]] = {}
        for path in sorted(files_under(root, out)):
            file = path.rpartition("/")[2]
            stem, ending = os.path.splitext(file)
            if ending.lower() in LISTS:
                self.lists.setdefault(file, []).append(path)
            elif ending.lower() not in NO_MEDIA:
                self.media.setdefault(stem, []).append(path)

    def find(self, *stems: str, folder: str = "") -> list[str]:
        """The files of the first of `stems` that exists; those in a folder `folder` come first."""
        paths = next((self.media[stem] for stem in stems if stem in self.media), [])
        return sorted(paths, key=lambda path: parent(path) != folder)

    def absent(self, *names: str) -> UserError:
        return UserError(
            f"{self.root}: no {' or '.join(names)} in any folder there; get the lists of the data "
            f"set from {self.site}"
        )

    def lines(self, name: str) -> Iterator[tuple[str, str]]:
        """(file:line, text) of a list, without blank lines."""
        with self._open(name) as file:
            for number, line in enumerate(_decoded(file), 1):
                if text := line.strip():
                    yield f"{file.name}:{number}", text

    def records(
        self, name: str, count: int = 0, most: int = 0, separator: str = ","
    ) -> Iterator[tuple[str, list[str]]]:
        """(file:line, fields) of a CSV without its comments (#), `count` to `most` fields in each.

        0: as many as in the first; `most` is `count` unless it is given.
        """
        with self._open(name) as file:
            reader = csv.reader(_decoded(file), skipinitialspace=True, delimiter=separator)
            try:
                for fields in reader:
                    if not fields or fields[0].startswith("#"):
                        continue
                    where, count = f"{file.name}:{reader.line_num}", count or len(fields)
                    if not count <= len(fields) <= (most or count):
                        raise malformed(where, f"{len(fields)} fields instead of {count}")
                    yield where, [field.strip() for field in fields]
            except csv.Error as error:
                raise malformed(f"{file.name}:{reader.line_num}", str(error)) from None

    def rows(
        self, name: str, *needed: str, separator: str = ","
    ) -> Iterator[tuple[str, dict[str, str]]]:
        """(file:line, {column: value}) of a CSV whose first line names its columns."""
        records = self.records(name, separator=separator)
        where, header = next(records, (f"{self._path(name)}:1", []))
        if lacks := [column for column in needed if column not in header]:
            raise malformed(where, f"no column {', '.join(lacks)}")
        for where, fields in records:
            yield where, dict(zip(header, fields, strict=True))

    def _open(self, name: str) -> TextIO:
        return self._path(name).open(encoding="utf-8-sig", newline="")

    def _path(self, name: str) -> Path:
        paths = [self.root / path for path in self.lists.get(name, ())]
        if not paths:
            raise self.absent(name)
        first, *others = paths
        for other in others:
            if other.read_bytes() != first.read_bytes():
                raise UserError(f"{first} and {other} differ; leave one of them there")
        return first


def parent(path: str) -> str:
    """The name of the folder that a relative path lies in; empty at the top."""
    return path.rpartition("/")[0].rpartition("/")[2]


def malformed(where: str, reason: str) -> UserError:
    return UserError(f"{where}: {reason}; take the list as its official site has it")


def _decoded(file: TextIO) -> Iterator[str]:
    """The lines of a file; raises UserError where it is not UTF-8 text."""
    try:
        yield from file
    except UnicodeDecodeError:
        raise UserError(f"{file.name}: not a text file; fetch the list again") from None
