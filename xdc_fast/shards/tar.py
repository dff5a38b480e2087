"""Tar shards: a writer with fixed headers, and the offset of every file."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, cast

from xdc_fast.shards.section import Section

BLOCK = 512
PIECE = 1 << 20


class ShardWriter:
    """Appends samples to a USTAR file: fixed dates and owners, files of a sample adjacent."""

    def __init__(self, path: Path):
        self.path, self.bytes = path, 0
        self._file = path.open("wb")
        self._sum = hashlib.sha256()

    def add(self, key: str, files: dict[str, bytes | Path]) -> Entry:
        """Append one sample; files maps an extension to its content or where it lies, in order."""
        added = Entry(key)
        for extension, content in files.items():
            info = tarfile.TarInfo(f"{key}.{extension}")
            with io.BytesIO(content) if isinstance(content, bytes) else content.open("rb") as file:
                info.size, info.mode = file.seek(0, io.SEEK_END), 0o644
                file.seek(0)
                self._write(info.tobuf(tarfile.USTAR_FORMAT))
                member = Member(info.name, extension, self.bytes, info.size)
                while block := file.read(PIECE):
                    self._write(block)
            self._write(bytes(-info.size % BLOCK))
            added.members[extension] = member
        return added

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._sum.update(data)
        self.bytes += len(data)

    def close(self) -> str:
        """End the archive, safe on the disk; returns its SHA-256 in hex."""
        self._write(bytes(2 * BLOCK))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return self._sum.hexdigest()

    def abandon(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


@dataclass
class Member:
    """One file in a tar."""

    name: str
    extension: str
    offset: int
    size: int


@dataclass
class Entry:
    """The adjacent files of one sample, by extension, as webdataset groups them."""

    key: str
    members: dict[str, Member] = field(default_factory=dict)
    twice: str = ""  # a name that two of its files have


def entries(tar: Section) -> Iterator[Entry]:
    """The samples of a tar in order; raises tarfile.TarError or EOFError when it is broken.

    The key is the name up to the first dot after its folder, the extension the rest in lower case.
    """
    current = None
    with tarfile.open(fileobj=cast(IO[bytes], tar), mode="r:") as archive:
        for info in archive:
            if not info.isreg():
                continue
            if info.offset_data + info.size > tar.size:
                raise tarfile.ReadError(f"{info.name!a} goes past the end of the file")
            name = info.name.encode(errors="surrogateescape").decode(errors="backslashreplace")
            folder, _, base = name.rpartition("/")
            stem, _, extension = base.partition(".")
            if not stem or not extension:
                continue
            key = f"{folder}/{stem}" if folder else stem
            if current is None or current.key != key:
                if current is not None:
                    yield current
                current = Entry(key)
            if extension.lower() in current.members:
                current.twice = name
            member = Member(name, extension, info.offset_data, info.size)
            current.members[extension.lower()] = member
    if current is not None:
        yield current


def dali_index(samples: list[Entry]) -> str:
    """DALI's index file (v1.2): a line of `extension offset size name` groups per sample."""
    lines = [f"v1.2 {len(samples)}"]
    for sample in samples:
        members = sample.members.values()
        lines.append(
            " ".join(f"{_word(m.extension)} {m.offset} {m.size} {_word(m.name)}" for m in members)
        )
    return "\n".join(lines) + "\n"


def _word(name: str) -> str:
    """A name without blanks, which separate the fields of an index file."""
    return "_".join(name.split())


def checksum(path: Path) -> str:
    """SHA-256 of a file in hex."""
    total = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(PIECE):
            total.update(block)
    return total.hexdigest()
