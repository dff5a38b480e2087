"""The folder of a run, on a disk or on object storage."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import mkdtemp
from weakref import finalize

from xdc_fast import storage
from xdc_fast.errors import UserError
from xdc_fast.files import locked
from xdc_fast.storage import URL, NotFound, Place

LOCK, OWNER = ".lock", ".owner"
OTHER = "wait for it, or give another out=FOLDER"
KEPT_HERE = ("checkpoint.before.pt",)  # storage replaces a file at once: one checkpoint is enough


class Folder:
    """The files of a run, by their names in it.

    place: the folder as the user names it. root: where its files are read and written.
    """

    place: Place
    root: Path

    def __init__(self, place: Path):
        self.place = self.root = place

    def file(self, name: str) -> Path:
        """Where a file can be read, if it is there."""
        return self.root / name

    def top(self) -> set[str]:
        """The files and folders in it, without hidden ones."""
        return {path.name for path in self.root.glob("[!.]*")}

    def names(self, within: str = "") -> list[str]:
        """The files in a folder of it and below, without hidden ones, in alphabetical order."""
        found = storage.files_below(self.root / within) if (self.root / within).is_dir() else ()
        prefix = f"{within}/" if within else ""
        return sorted(prefix + file.name for file in found if not is_hidden(file.name))

    @contextmanager
    def hold(self) -> Iterator[None]:
        """One process at a time works in here; raises Busy where another does."""
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(self.root / LOCK, f"{self.place}: another process is at work there; {OTHER}"):
            yield

    def publish(self) -> None:
        """Returns when what was written is where the user wants it."""

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Errors name the folder as the user does."""
        yield


class StoredFolder(Folder):
    """A folder on object storage. Each process has a copy of what it needs below TMPDIR, as long
    as it lives."""

    place: URL

    def __init__(self, place: URL):
        self.place, self.root = place, Path(mkdtemp(prefix="xdc-run-"))
        finalize(self, shutil.rmtree, self.root, ignore_errors=True)
        self._known: dict[str, tuple[int, int]] = {}  # files that are the same on storage
        self._token = b""

    def file(self, name: str) -> Path:
        """As of Folder; the file is fetched. Raises StorageError where it cannot be."""
        path = self.root / name
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            with suppress(NotFound):
                storage.download(self.place / name, path)
                self._known[name] = stamp(path)
        return path

    def top(self) -> set[str]:
        """As of Folder."""
        return {name.partition("/")[0] for name in self.names()}

    def names(self, within: str = "") -> list[str]:
        """As of Folder, of what is on storage and of what is not published yet."""
        prefix = f"{within}/" if within else ""
        found = storage.files_below(self.place / within if within else self.place)
        stored = {prefix + file.name for file in found if not is_hidden(file.name)}
        return sorted(stored.union(super().names(within)))

    @contextmanager
    def hold(self) -> Iterator[None]:
        """The last process that comes works in here: storage does not tell whether an earlier one
        is alive. That one stops when it publishes."""
        self._token = secrets.token_hex(8).encode()
        storage.write(self.place / OWNER, self._token)
        yield
        self.publish()
        storage.delete(self.place / OWNER)

    def publish(self) -> None:
        """Uploads what has changed, checkpoint.pt last: it counts on the others.

        Raises UserError where another process has taken the folder over.
        """
        if self._token:
            self._check_owner()
        stamps = {name: stamp(self.root / name) for name in super().names()}
        changed = [name for name in stamps if self._known.get(name) != stamps[name]]
        for name in sorted(changed, key=lambda name: (name == "checkpoint.pt", name)):
            if name not in KEPT_HERE:
                storage.upload(self.root / name, self.place / name)
                self._known[name] = stamps[name]

    @contextmanager
    def naming(self) -> Iterator[None]:
        """Errors about files of the copy are told of those on storage."""
        try:
            yield
        except UserError as error:
            raise UserError(str(error).replace(str(self.root), str(self.place))) from None

    def _check_owner(self) -> None:
        owner = b""
        with suppress(NotFound):
            owner = (self.place / OWNER).read_bytes()
        if owner != self._token:
            raise UserError(f"{self.place}: another process has begun to work there; {OTHER}")


def open_folder(place: str | Place) -> Folder:
    """The folder of a run; UserError for a URL that is none."""
    place = storage.place_of(place)
    return StoredFolder(place) if isinstance(place, URL) else Folder(place)


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder that it lies in, begins with a dot."""
    return any(part.startswith(".") for part in name.split("/"))


def stamp(path: Path) -> tuple[int, int]:
    """What changes when a file does: its size and the time of its last change."""
    status = path.stat()
    return status.st_size, status.st_mtime_ns
