"""A folder on this machine that keeps files of storage, never more than its limit.

All processes of a machine share it. A file is fetched once, under a lock of its own, and is there
when it is whole. The oldest by last use make room. What is being fetched counts with its whole size
from its beginning; what a process that was killed left of it is removed.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import IO

from xdc_fast import storage
from xdc_fast.errors import UserError
from xdc_fast.files import locked, remove_leftovers, replacing
from xdc_fast.storage import URL

ROOM = ".room"  # the lock of who makes room
USED = ".used"  # bytes that are taken at most; counted anew when they seem too many
PREFIX = "xdc-set-"  # of the folders in it, one for each set
WAIT = 0.05  # seconds until another look whether a file under way has arrived


def default_folder() -> Path:
    """Where the cache is unless a recipe says so."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "xdc_fast"


class Cache:
    """folder: it may be still to make. limit: of all that lies in it, in bytes."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit

    def open(self, path: Path, source: URL, size: int, sha256: str | None = None) -> IO[bytes]:
        """The file `path` of the cache, open; `source` is fetched where it is not there.

        size, sha256: of its content, the latter in hex.
        Raises StorageError where it cannot be fetched or is another one, UserError where it is
        larger than the cache.
        """
        while True:
            if (file := self.open_if_there(path)) is not None:
                return file
            path.parent.mkdir(parents=True, exist_ok=True)
            with locked(path.with_name(f".{path.name}.lock")):
                if not path.exists():
                    self._fetch(path, source, size, sha256)
                with suppress(FileNotFoundError):  # it had to make room at once
                    return path.open("rb")

    def open_if_there(self, path: Path) -> IO[bytes] | None:
        """A file of the cache, open, None where it is not there."""
        try:
            file = path.open("rb")
            os.utime(file.fileno())
            return file
        except FileNotFoundError:
            return None

    def _fetch(self, path: Path, source: URL, size: int, sha256: str | None) -> None:
        with ExitStack() as held:
            with locked(self.folder / ROOM):
                self._make_room(size, source)
                file = held.enter_context(replacing(path, "wb"))
                file.truncate(size)
            storage.copy_into(file, source, size, sha256)

    def _make_room(self, size: int, source: URL) -> None:
        """Removes the files that were not used for the longest time until `size` bytes fit."""
        if size > self.limit:
            raise UserError(
                f"{self.folder}: {source} has {size / 1e9:.3g} GB, more than the cache may hold; "
                f"set cache_gb={size / 1e9 * 2:.2g} or more, or read=ranges"
            )
        ledger = self.folder / USED
        try:
            used = int(ledger.read_bytes())
        except (OSError, ValueError):
            used = self.limit
        while used + size > self.limit:
            found = self._files()
            used = sum(bytes_ for _, _, bytes_, _ in found)
            for _, _, bytes_, path in found:
                if used + size <= self.limit:
                    break
                if not path.name.startswith("."):
                    path.unlink(missing_ok=True)
                    used -= bytes_
            if used + size > self.limit:  # the rest is being fetched
                time.sleep(WAIT)
        ledger.write_text(str(used + size))

    def _files(self) -> list[tuple[bool, float, int, Path]]:
        """(whether it is a table and no tar, last use, bytes, path) of all files, in that order.

        What else a user keeps in the folder is not ours to count or to remove.
        """
        while True:
            found = []
            with suppress(FileNotFoundError):  # one has arrived and got its name meanwhile: again
                for folder in self.folder.glob(f"{PREFIX}*"):
                    remove_leftovers(folder)
                    for path in folder.iterdir():
                        if path.suffix != ".lock":  # which are empty, and come and go
                            state = path.stat()
                            is_table = path.suffix != ".tar"
                            found.append((is_table, state.st_mtime, state.st_size, path))
                return sorted(found)
