"""Inputs in a file, however many there are: only a few numbers of each are in memory."""

from __future__ import annotations

import hashlib
import json
import marshal
import os
import stat
import tempfile
import weakref
from array import array
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple, overload

import numpy as np

from xdc_fast.errors import UserError
from xdc_fast.packing.labels import on_disk
from xdc_fast.packing.segments import Span
from xdc_fast.storage import URL, Place, is_url, place_of

WHOLE = -1.0  # the start of a whole file; it comes before its segments
FLUSH = 1 << 20  # bytes
BLOCK = 4096  # inputs that are read at a time


@dataclass
class Source:
    """One input: `name` is what the set calls it, relative to the SOURCE argument.

    span: (start, end) in seconds of the file, where only a segment of it is meant; else None.
    """

    path: Place
    name: str
    labels: dict[str, str] = field(default_factory=dict)
    span: Span | None = None


class Known(NamedTuple):
    """What a plan asks of an input; identity: what makes it another one, wherever it lies."""

    path: str
    span: Span | None
    identity: bytes


def known(path: str, name: str, labels: dict[str, str], span: Span | None, size: int) -> Known:
    """size: of the file, bytes; -1 where there is none."""
    about = [name, size, labels] if span is None else [name, size, labels, span]
    return Known(path, span, json.dumps(about).encode())


def size_of(path: Place) -> int:
    """Bytes of a local file; -1 where there is none, and on storage, which is not asked."""
    if isinstance(path, URL):
        return -1
    with suppress(OSError, ValueError):
        found = os.stat(path)
        return found.st_size if stat.S_ISREG(found.st_mode) else -1
    return -1


def printable(name: str) -> str:
    """A file name as valid UTF-8, whatever bytes it has on disk."""
    return name if name.isascii() else os.fsencode(name).decode("utf-8", "backslashreplace")


def locate(path: str) -> tuple[str, str, int]:
    """A path that a list gives, as it is on disk, with links resolved, and the size of its file."""
    folder, name = os.path.split(path)
    size = -1
    try:
        found = os.lstat(path)
        plain = not stat.S_ISLNK(found.st_mode)
        size = found.st_size if stat.S_ISREG(found.st_mode) else -1
    except (OSError, ValueError):
        plain = path.isascii() and "\\" not in path and "\0" not in path
        path = path if plain else str(on_disk(Path(path)))
    if plain and name not in ("", ".", ".."):
        return path, f"{_real_folder(folder)}/{name}", size
    return path, real_path(path), size_of(Path(path))


def real_path(path: Path | str) -> str:
    """The path with links resolved; unchanged where it holds a NUL byte."""
    return str(path) if "\0" in str(path) else os.path.realpath(path)


@lru_cache(maxsize=1024)
def _real_folder(folder: str) -> str:
    return real_path(folder).rstrip("/")


class Spool(Sequence[Source]):
    """Inputs in packing order: each once, those of a file together, as they begin.

    Files are in the order in which they were added. All inputs of one file get the path and the
    name that the first one has; splits go by them.
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115, as long as this object
        weakref.finalize(self, self._file.close)
        self._written, self._ends, self._digests = 0, array("q", [0]), bytearray()
        self._edges = array("d")  # of all inputs; empty until one is a segment
        self._waiting = bytearray()
        self._order = self._first = np.zeros(0, np.int64)
        self._labels: dict[int, int] = {}
        self._more: list[Callable[[Source], None]] = []

    def add(
        self,
        path: str,
        name: str,
        labels: dict[str, str] | None = None,
        span: Span | None = None,
        line: tuple[str, int] | None = None,
        size: int | None = None,
    ) -> None:
        """An input, as of Source; line: the list that names it, and the number in there.

        size: bytes, of an object on storage that a listing names.
        """
        if is_url(path):
            real, size = path, -1 if size is None else size
        else:
            path, real, size = locate(path)
        self._waiting += marshal.dumps((path, name, labels or {}, span, line, size))
        self._ends.append(self._written + len(self._waiting))
        if len(self._waiting) >= FLUSH:
            self._flush()
        self._digests += hashlib.blake2b(os.fsencode(real), digest_size=16).digest()
        if span is not None and not self._edges:
            self._edges = array("d", [WHOLE]) * (2 * (len(self._ends) - 2))
        if span is not None or self._edges:
            self._edges.extend(span or (WHOLE, WHOLE))

    def _flush(self) -> None:
        self._file.write(self._waiting)
        self._written += len(self._waiting)
        self._waiting.clear()

    def settle(self) -> int:
        """Put all in order; returns how many were there twice.

        Raises UserError where one was given with different labels.
        """
        self._flush()
        self._file.flush()
        digests = np.frombuffer(self._digests, np.uint64).reshape(-1, 2)
        self._digests = bytearray()
        count = len(digests)
        order = np.lexsort(digests.T)  # stable: in a file, the first one stays the first
        new = np.zeros(count, bool)
        new[:1] = True
        for column in digests.T:
            column = column[order]
            new[1:] |= column[1:] != column[:-1]
        del digests, column
        self._first = np.empty(count, np.int64)
        self._first[order] = order[np.maximum.accumulate(np.where(new, np.arange(count), 0))]
        if new.all():
            self._order = np.arange(count)
            return 0
        edges = np.full((count, 2), WHOLE)
        if self._edges:
            edges = np.frombuffer(self._edges, np.float64).reshape(-1, 2)
        order = np.lexsort((edges[:, 1], edges[:, 0], self._first))
        keys = np.column_stack([self._first[order], edges[order]])
        again = np.zeros(count, bool)
        again[1:] = (keys[1:] == keys[:-1]).all(axis=1)
        kept = np.maximum.accumulate(np.where(again, 0, np.arange(count)))
        for place in np.flatnonzero(again).tolist():
            self._check_twin(int(order[kept[place]]), int(order[place]))
        self._order = order[~again]
        return int(again.sum())

    def _check_twin(self, one: int, other: int) -> None:
        """Take the labels of an input from where it has some; raises UserError."""
        path, name, labels, _, line, _ = self._read(one)
        _, _, others, _, again, _ = self._read(other)
        if line and again and line[0] == again[0] and labels != others:
            raise UserError(
                f"{line[0]}: lines {line[1]} and {again[1]} give '{name}' other labels; keep one"
            )
        if one in self._labels:
            labels = self._read(self._labels[one])[2]
        if labels and others and labels != others:
            raise UserError(f"{path}: two lists give it other labels; keep one")
        if others and not labels:
            self._labels[one] = other

    def label(self, more: Callable[[Source], None]) -> None:
        """Let a function add labels to each input when it is read."""
        self._more.append(more)

    def _read(self, number: int) -> tuple:
        begin, end = self._ends[number], self._ends[number + 1]
        return marshal.loads(os.pread(self._file.fileno(), end - begin, begin))

    def _named(self, number: int, row: tuple) -> tuple:
        """A row of the file with the path and the name of the first of its file."""
        path, name, labels, span, _, size = row
        if (first := int(self._first[number])) != number:
            path, name, *_ = self._read(first)
        if number in self._labels:
            labels = self._read(self._labels[number])[2]
        name = printable(name)
        if self._more:
            source = Source(place_of(path), name, labels, span)
            for more in self._more:
                more(source)
        return path, name, labels, span, size

    def _source(self, place: int) -> Source:
        number = int(self._order[place])
        path, name, labels, span, _ = self._named(number, self._read(number))
        return Source(place_of(path), name, labels, span)

    def known(self) -> Iterator[Known]:
        """What a plan asks of each input."""
        for begin in range(0, len(self), BLOCK):
            numbers = self._order[begin : begin + BLOCK].tolist()
            first, last = numbers[0], numbers[-1]
            if numbers != list(range(first, last + 1)):
                rows = [self._read(number) for number in numbers]
            else:
                at = self._ends[first]
                data = os.pread(self._file.fileno(), self._ends[last + 1] - at, at)
                rows = [
                    marshal.loads(data[self._ends[n] - at : self._ends[n + 1] - at])
                    for n in numbers
                ]
            for number, row in zip(numbers, rows, strict=True):
                yield known(*self._named(number, row))

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, place: int) -> Source: ...
    @overload
    def __getitem__(self, place: slice) -> list[Source]: ...
    def __getitem__(self, place: int | slice) -> Source | list[Source]:
        if isinstance(place, slice):
            return [self._source(each) for each in range(*place.indices(len(self)))]
        return self._source(range(len(self))[place])

    def __iter__(self) -> Iterator[Source]:
        return map(self._source, range(len(self)))
