"""Files that are either whole or not there, and folders that one process holds at a time."""

from __future__ import annotations

import fcntl
import json
import math
import os
from collections.abc import Iterator, Mapping
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
def naming(file: str | Path) -> Iterator[None]:
    """Errors of the system that name no file, as those of a full disk, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(file)
        raise


@contextmanager
def replacing(path: Path, mode: str = "w", **options: Any) -> Iterator[IO]:
    """A file that takes the place of `path` when it is whole and on the disk.

    Neither a kill nor a power cut leaves half of it. Arguments as of open().
    """
    part = path.with_name(f".{path.name}.part")
    with naming(path), part.open(mode, **options) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def read_text(path: Path, hint: str, most: int = 100_000) -> str:
    """The text of a file that a user wrote.

    Raises UserError, which ends with `hint`, for what is no regular file of UTF-8, or longer than
    `most` bytes.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: a folder or a device, not a file; {hint}")
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise UserError(f"{path}: longer than {most:,} bytes; {hint}")
        return content.decode()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {hint}") from None
    except ValueError:  # of the name, or of the text
        raise UserError(f"{path}: not a text file in UTF-8; {hint}") from None


def write(path: Path, content: bytes | memoryview | str) -> None:
    """The whole content of a file, by `replacing`; text is UTF-8, its line ends as they are."""
    with replacing(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: object, indent: int = 2) -> None:
    """A JSON document and a line end, by `replacing`."""
    write(path, to_json(value, indent) + "\n")


def to_json(value: object, indent: int | None = None) -> str:
    """A value as JSON in ASCII; a number that is not finite, which JSON has not, as null."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def read_json(path: Path, hint: str) -> dict:
    """The JSON object that a file holds; UserError, which ends with `hint`, for anything else."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise UserError(f"{path}: not valid JSON; {hint}")
    return value
