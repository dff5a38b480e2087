"""A stretch of a file, here or on storage, as a file of its own; only what is read is fetched."""

from __future__ import annotations

import io
import os
import struct
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from xdc_fast import storage
from xdc_fast.storage import URL, Place

BLOCK = 1 << 16  # bytes
MOST_AHEAD = 16  # blocks of one request
MOST_KEPT = 64  # blocks
Read = Callable[[int, int], bytes]  # from byte, count


class Section(io.RawIOBase):
    """size bytes from `begin` on of what `read` reads.

    hollow: (begin, end) in it that are read as zeros, as nobody looks at them.
    After an error of the system or of storage it is read as if it ended there, since FFmpeg would
    print others that follow; `check` raises that.
    """

    def __init__(self, read: Read, begin: int, size: int, faults: list[OSError] | None = None):
        self._read, self._begin, self.size = read, begin, size
        self._faults: list[OSError] = [] if faults is None else faults
        self._at = 0
        self.hollow: list[tuple[int, int]] = []

    def part(self, begin: int, size: int) -> Section:
        """A stretch of it, at its own beginning."""
        return Section(self._read, self._begin + begin, min(size, self.size - begin), self._faults)

    def check(self) -> None:
        """Raises the OSError that reading this, or a part of it, had."""
        for fault in self._faults:
            raise fault

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, base + offset)
        return self._at

    def read(self, count: int | None = -1) -> bytes:
        """Up to `count` bytes, the rest without it; fewer at the edge of what is hollow."""
        left = max(0, self.size - self._at)
        count = left if count is None or count < 0 else min(count, left)
        data = None
        for begin, end in self.hollow:
            if begin <= self._at < end:
                data = bytes(min(count, end - self._at))
            elif self._at < begin:
                count = min(count, begin - self._at)
        if data is None:
            data = self._fetch(self._begin + self._at, count) if count else b""
        self._at += len(data)
        return data

    def _fetch(self, start: int, count: int) -> bytes:
        try:
            return b"" if self._faults else self._read(start, count)
        except OSError as fault:
            self._faults.append(fault)
            return b""

    def media_data(self) -> list[tuple[int, int]]:
        """(begin, end) of the content of each mdat box of an mp4."""
        found, at, here = [], 0, self.part(0, self.size)
        while at + 8 <= self.size:
            here.seek(at)
            head = here.read(16)
            size, name = struct.unpack_from(">I4s", head)
            begin = at + 8
            if size == 1 and len(head) == 16:
                size, begin = struct.unpack_from(">Q", head, 8)[0], at + 16
            end = min(at + size, self.size) if size else self.size
            if end < begin:
                break
            if name == b"mdat":
                found.append((begin, end))
            at = end
        return found


class _Blocks:
    """Reads an object block by block, further ahead the longer it is read in order, and keeps the
    blocks that were used last. For one thread."""

    def __init__(self, place: URL, size: int):
        self._place, self._size = place, size
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._next, self._ahead = -1, 1

    def read(self, start: int, count: int) -> bytes:
        parts = []
        while count > 0:
            number, offset = divmod(start, BLOCK)
            part = self._block(number, -(-(offset + count) // BLOCK))[offset : offset + count]
            if not part:
                break
            parts.append(part)
            start, count = start + len(part), count - len(part)
        return b"".join(parts)

    def _block(self, number: int, wanted: int) -> bytes:
        """A block; wanted: how many are, from it on."""
        if number not in self._kept:
            self._ahead = min(2 * self._ahead, MOST_AHEAD) if number == self._next else 1
            blocks = min(max(wanted, self._ahead), MOST_AHEAD)
            start = number * BLOCK
            count = min(blocks * BLOCK, self._size - start)
            data = storage.read_range(self._place, start, count)
            for place in range(0, count, BLOCK):
                self._kept[number + place // BLOCK] = bytes(data[place : place + BLOCK])
            self._next = number + blocks
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        self._kept.move_to_end(number)
        return self._kept[number]


@contextmanager
def open_section(place: Place) -> Iterator[Section]:
    """A whole file, to be read by one thread; raises OSError, as reading it does."""
    size = storage.size(place)
    if isinstance(place, Path):
        with place.open("rb") as file:
            number = file.fileno()
            yield Section(lambda start, count: os.pread(number, count, start), 0, size)
    else:
        yield Section(_Blocks(place, size).read, 0, size)
