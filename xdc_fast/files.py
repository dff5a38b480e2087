"""Files that are either whole or not there."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process at a time is in here for a folder; the others wait."""
    with (folder / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def replacing(path: Path, mode: str = "w", **options) -> Iterator[IO]:
    """A file that takes the place of `path` when it is whole and on the disk.

    Neither a kill nor a power cut leaves half of it. Arguments as of open().
    """
    part = path.with_name(f".{path.name}.part")
    with part.open(mode, **options) as file:
        yield file
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
