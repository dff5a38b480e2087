"""The files of a set on storage: tables are copied to this machine, tars are read by ranges."""

from __future__ import annotations

import hashlib
import threading
from bisect import bisect_right, insort
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import numpy as np

from xdc_fast import storage
from xdc_fast.files import write
from xdc_fast.shards.cache import PREFIX, Cache
from xdc_fast.shards.format import MANIFEST
from xdc_fast.storage import URL, NotFound, StorageError


class Spans:
    """Bytes of tars that were fetched ahead, or why they could not be."""

    def __init__(self) -> None:
        self._found: dict[str, list[tuple[int, int, int]]] = {}  # begin, end, number in _data
        self._data: list[np.ndarray | StorageError] = []

    def add(self, name: str, offset: int, size: int, data: np.ndarray | StorageError) -> None:
        """data: uint8 (size,), what lies from `offset` on in a tar."""
        insort(self._found.setdefault(name, []), (offset, offset + size, len(self._data)))
        self._data.append(data)

    def get(self, name: str, offset: int, size: int) -> np.ndarray | None:
        """A part of what was added, None where it was not; raises its StorageError."""
        found = self._found.get(name, [])
        for place in range(bisect_right(found, (offset, 1 << 62, 0)) - 1, -1, -1):
            begin, end, number = found[place]
            if offset + size <= end:
                data = self._data[number]
                if isinstance(data, StorageError):
                    raise data
                return data[offset - begin : offset - begin + size]
        return None


class RemoteFiles:
    """The files of the set at a URL; `files / NAME` is a copy of a table on this machine.

    Copies lie in the cache, in a folder for this URL and this content of the manifest.
    said: what loaders have told about how they read it.
    """

    said = ""

    def __init__(self, root: URL, cache: Cache):
        self.root, self.cache = root, cache
        self._ahead = threading.local()
        manifest = b""
        with suppress(NotFound):
            manifest = (root / MANIFEST).read_bytes()
        made_of = hashlib.sha256(str(root).encode() + b"\0" + manifest).hexdigest()
        self.folder = cache.folder / f"{PREFIX}{made_of[:16]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        if manifest and not (self.folder / MANIFEST).is_file():
            write(self.folder / MANIFEST, manifest)

    def __str__(self) -> str:
        return str(self.root)

    def __truediv__(self, name: str) -> Path:
        path, source = self.folder / name, self.root / name
        if name == MANIFEST:
            return path
        if (file := self.cache.open_if_there(path)) is None:
            try:
                file = self.cache.open(path, source, storage.size(source))
            except NotFound:
                return path
        file.close()
        return path

    @contextmanager
    def ahead(self, spans: Spans) -> Iterator[None]:
        """Lets `read` of this thread take what was fetched ahead."""
        self._ahead.spans = spans
        try:
            yield
        finally:
            del self._ahead.spans

    def read(self, name: str, offset: int, size: int) -> np.ndarray:
        """`size` bytes of a tar from `offset`, uint8; raises StorageError."""
        spans: Spans | None = getattr(self._ahead, "spans", None)
        if spans is not None and (found := spans.get(name, offset, size)) is not None:
            return found
        file = self.cache.open_if_there(self.folder / name)
        if file is None:
            data = storage.read_range(self.root / name, offset, size)
            return np.frombuffer(data, np.uint8)
        with file:
            return _part(file, offset, size)

    def read_whole(self, tar: dict, ranges: list[tuple[int, int]]) -> list[np.ndarray]:
        """Several (offset, size) of a tar, each uint8 (size,), from a copy in the cache.

        tar: its record, with name, bytes and sha256, or None. Raises StorageError.
        """
        path, source = self.folder / tar["name"], self.root / tar["name"]
        if tar["sha256"] is None and not path.exists() and storage.size(source) != tar["bytes"]:
            raise StorageError(f"{source}: not of the size in the set; put back a copy of it")
        with self.cache.open(path, source, tar["bytes"], tar["sha256"]) as file:
            return [_part(file, offset, size) for offset, size in ranges]


def _part(file: IO[bytes], offset: int, size: int) -> np.ndarray:
    file.seek(offset)
    return np.frombuffer(file.read(size), np.uint8)
