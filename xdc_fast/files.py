"""Files that are either whole or not there, and folders that one process holds at a time."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from xdc_fast.errors import UserError


class Busy(UserError):
    """Another process holds a folder."""


@contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Only one process at a time is in here for a lock file, which is made where there is none.

    busy: raise Busy with this message where another process holds it; without one, wait for it.
    """
    with path.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (fcntl.LOCK_NB if busy else 0))
        except BlockingIOError:
            raise Busy(busy) from None
        yield


@contextmanager
def replacing(path: Path, mode: str = "w", **options: Any) -> Iterator[IO]:
    """A file that takes the place of `path` when it is whole and on the disk.

    Neither a kill nor a power cut leaves half of it. Arguments as of open().
    """
    part = path.with_name(f".{path.name}.part")
    with part.open(mode, **options) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def write(path: Path, content: bytes | memoryview | str) -> None:
    """The whole content of a file, by `replacing`; text is UTF-8, its line ends as they are."""
    with replacing(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: object, indent: int = 2) -> None:
    """A JSON document and a line end, by `replacing`."""
    write(path, json.dumps(value, indent=indent) + "\n")


def read_json(path: Path, hint: str) -> dict:
    """The JSON object that a file holds; UserError, which ends with `hint`, for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, ValueError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not valid JSON; {hint}")
    return value
