"""Where files lie: a local path, or an object at s3://, gs://, az://, http:// or https://.

A place is a `pathlib.Path` or a `URL`, which has the few methods of Path that both need: `/`, name,
parent, read_bytes, is_file. The functions here take either. Requests are tried again, with back-off
and jitter, by the client (obstore) alone, as RETRY says. Credentials come from the environment, and
neither they nor what a server answers get into a message.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import shutil
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import IO, TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, unquote, urlsplit

from xdc_fast import files
from xdc_fast.errors import UserError

if TYPE_CHECKING:
    from obstore.store import ObjectStore

SCHEMES = ("s3", "gs", "az", "http", "https")
PIECE = 16 << 20  # bytes of a request for a large object
AT_ONCE = 4  # of these
MOST_PARTS = 9000  # of an upload; S3 takes 10,000
RETRY = {  # of everything: as often as the time allows, for credentials are not renewed meanwhile
    "max_retries": 1000,
    "retry_timeout": timedelta(seconds=180),
    "backoff": {
        "init_backoff": timedelta(milliseconds=100),
        "max_backoff": timedelta(seconds=15),
        "base": 2,
    },
}
TIMEOUT = timedelta(seconds=30)  # of one request
CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_SKIP_SIGNATURE=true for a public "
    "bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}


class StorageError(UserError, OSError):
    """An object cannot be read or written, however often it was tried."""

    def __str__(self) -> str:  # that of OSError changes when a file name is added
        return str(self.args[0])


class NotFound(StorageError, FileNotFoundError):
    """There is no such object."""


@dataclass(frozen=True)
class URL:
    """The name of an object, or of a folder of objects.

    store: "s3://BUCKET", "gs://BUCKET", "az://CONTAINER" or "http://HOST". key: the rest, without
    slashes at its ends.
    """

    store: str
    key: str = ""

    def __str__(self) -> str:
        key = quote(self.key) if self.scheme.startswith("http") else self.key
        return f"{self.store}/{key}" if key else self.store

    def __truediv__(self, name: str) -> URL:
        return URL(self.store, f"{self.key}/{name}".strip("/"))

    @property
    def scheme(self) -> str:
        return self.store.partition(":")[0]

    @property
    def name(self) -> str:
        return str(self).rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.key).suffix

    @property
    def parent(self) -> URL:
        return URL(self.store, self.key.rpartition("/")[0])

    def resolve(self) -> URL:
        """Itself: a URL is whole."""
        return self

    def read_bytes(self) -> bytes:
        """The whole object; raises StorageError, NotFound where it is not there."""
        import obstore

        with _faults(self):
            return bytes(obstore.get(_open(self.store), self.key).bytes())

    def open(self, mode: str = "rb") -> io.BytesIO:
        """The whole object as a file; errors as of read_bytes."""
        assert mode == "rb", "objects are written whole"
        return io.BytesIO(self.read_bytes())

    def is_file(self) -> bool:
        """Whether the object is there; raises StorageError where that cannot be told."""
        try:
            size(self)
        except NotFound:
            return False
        return True


Place = Path | URL


def place_of(text: str | Place) -> Place:
    """The place that a text names. Raises UserError for a URL of another kind.

    A URL with a password or a query is refused: it would get into files and messages.
    """
    if not isinstance(text, str):
        return text if isinstance(text, URL) else Path(text)
    scheme, mark, rest = text.partition("://")
    if not mark or not re.fullmatch(r"[A-Za-z][\w+.-]*", scheme):
        return Path(text)
    scheme = scheme.lower()
    shown = f"{scheme}://{_without_secrets(rest, in_query=scheme.startswith('http'))}"
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise UserError(f"{shown}: not a place that is known; give a local path, or {known}")
    if shown != f"{scheme}://{rest}":
        how = f"set {CREDENTIALS[scheme]}" if scheme in CREDENTIALS else "let the server need none"
        raise UserError(
            f"{shown}: was given with a user, a password, a query or a fragment, which would get "
            f"into files and messages; {how}"
        )
    host, _, key = rest.partition("/")
    if not host or any(part in (".", "..") for part in key.split("/")):
        raise UserError(f"{shown}: not a whole URL; write {scheme}://NAME/FOLDER")
    key = unquote(key) if scheme.startswith("http") else key
    return URL(f"{scheme}://{host}", re.sub("/+", "/", key).strip("/"))


def is_url(text: str) -> bool:
    """Whether a text names a place that is no local path."""
    return isinstance(place_of(text), URL) if "://" in text else False


def _without_secrets(rest: str, in_query: bool) -> str:
    """What follows the scheme of a URL, without user, password, and query and fragment where it
    can have these: a key on storage may hold their signs."""
    if in_query:
        rest = re.split(r"[?#]", rest, maxsplit=1)[0]
    host, slash, path = rest.partition("/")
    return f"{host.rpartition('@')[2]}{slash}{path}"


def size(place: Place) -> int:
    """Bytes of a file; raises OSError (StorageError), FileNotFoundError where it is not there."""
    import obstore

    if isinstance(place, Path):
        return place.stat().st_size
    with _faults(place):
        return obstore.head(_open(place.store), place.key)["size"]


def read_range(place: Place, start: int, count: int) -> memoryview:
    """`count` bytes from byte `start` on; raises OSError where there are fewer."""
    import obstore

    if isinstance(place, Path):
        with place.open("rb") as file:
            part = memoryview(os.pread(file.fileno(), count, start))
    elif not count:  # the client refuses that
        return memoryview(b"")
    else:
        with _faults(place):
            found = obstore.get_range(_open(place.store), place.key, start=start, length=count)
        part = memoryview(found)
    return _checked(place, start, count, part)


async def fetch_ranges(place: URL, ranges: Sequence[tuple[int, int]]) -> list[memoryview]:
    """Several (start, count) of an object, in an event loop: a request for each, all at a time.

    Raises OSError where one is not there.
    """
    import obstore

    starts, counts = zip(*ranges, strict=True)
    with _faults(place):
        store = _open(place.store)
        if len(ranges) == 1:
            part = await obstore.get_range_async(
                store, place.key, start=starts[0], length=counts[0]
            )
            parts = [part]
        else:
            parts = await obstore.get_ranges_async(
                store, place.key, starts=starts, lengths=counts, coalesce=0
            )
    return [
        _checked(place, *span, memoryview(part)) for span, part in zip(ranges, parts, strict=True)
    ]


def _checked(place: Place, start: int, count: int, part: memoryview) -> memoryview:
    if len(part) < count:
        raise StorageError(f"{place}: ends before byte {start + count}; it has been cut")
    return part


class Found(NamedTuple):
    """A file of a folder: its name relative to that, its bytes, and when it was written, in seconds
    since the epoch."""

    name: str
    size: int
    time: float


def files_below(folder: Place) -> Iterator[Found]:
    """Every file in and below a folder.

    Raises UserError for http, which has no listing. Nothing where nothing is there.
    """
    import obstore

    if isinstance(folder, Path):
        for place, folders, names in os.walk(folder):
            folders.sort()
            for path in map(Path(place).joinpath, sorted(names)):
                with suppress(FileNotFoundError):  # another process has removed it
                    status = path.stat()
                    name = path.relative_to(folder).as_posix()
                    yield Found(name, status.st_size, status.st_mtime)
        return
    if folder.scheme.startswith("http"):
        raise UserError(f"{folder}: cannot be listed over http; give s3://, gs:// or az://")
    with _faults(folder):
        for chunk in obstore.list(_open(folder.store), prefix=folder.key or None):
            for found in chunk:
                name = found["path"][len(folder.key) :].lstrip("/")
                yield Found(name, found["size"], found["last_modified"].timestamp())


def write(place: Place, content: bytes | memoryview) -> None:
    """The whole content of a file, in place of what was there; nobody sees half of it."""
    import obstore

    if isinstance(place, Path):
        files.write(place, content)
        return
    with _faults(_writable(place)):
        obstore.put(_open(place.store), place.key, content, chunk_size=PIECE)


def write_new(place: Place, content: bytes) -> bool:
    """The whole content of a file that was not there; whether that was so.

    False too where the answer to a request was lost that had made it: compare what is there.
    """
    import obstore

    if isinstance(place, Path):
        whole = place.with_name(f".{secrets.token_hex(8)}.part")
        files.write(whole, content)
        if files.move_new(whole, place):
            return True
        whole.unlink()
        return False
    with _faults(_writable(place)):
        try:
            obstore.put(_open(place.store), place.key, content, mode="create")
        except obstore.exceptions.AlreadyExistsError:
            return False
    return True


def upload(path: Path, place: URL) -> None:
    """A copy of a local file on storage; nothing is there before it is whole."""
    import obstore

    piece = max(PIECE, path.stat().st_size // MOST_PARTS + 1)
    with _faults(_writable(place)):
        store = _open(place.store)
        obstore.put(store, place.key, path, chunk_size=piece, max_concurrency=AT_ONCE)


def download(place: Place, path: Path) -> None:
    """A copy of a file at a local path; nothing is there before it is whole. Raises OSError."""
    with files.replacing(path, "wb") as file:
        copy_into(file, place, size(place))


def copy_into(file: IO[bytes], place: Place, whole: int, sha256: str | None = None) -> None:
    """Writes a file of `whole` bytes into an open one.

    sha256: of its content, in hex. Raises OSError, also where the content has another checksum.
    """
    total, ahead = hashlib.sha256(), deque[Future[memoryview]]()
    spans = [(at, min(PIECE, whole - at)) for at in range(0, whole, PIECE)]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for number in range(len(spans) + AT_ONCE):
            if number >= AT_ONCE and ahead:
                piece = ahead.popleft().result()
                file.write(piece)
                total.update(piece)
            if number < len(spans):
                ahead.append(pool.submit(read_range, place, *spans[number]))
    if sha256 is not None and total.hexdigest() != sha256:
        raise StorageError(f"{place}: its checksum is not that of the set; put back a copy of it")


@contextmanager
def written_here(folder: Place, last: str) -> Iterator[Path]:
    """A local folder to write files into that shall be in `folder`: itself, or one whose files are
    uploaded after the block, the one named `last` after all others."""
    if isinstance(folder, Path):
        yield folder
        return
    with TemporaryDirectory(prefix="xdc-") as name:
        yield Path(name)
        for path in sorted(Path(name).iterdir(), key=lambda path: (path.name == last, path.name)):
            upload(path, folder / path.name)


def delete(place: Place) -> None:
    """Removes a file; nothing happens where there is none."""
    import obstore

    if isinstance(place, Path):
        place.unlink(missing_ok=True)
        return
    with _faults(_writable(place)), suppress(FileNotFoundError):
        obstore.delete(_open(place.store), place.key)


def delete_below(folder: Place) -> None:
    """Removes a folder and what is below it; nothing happens where there is none."""
    import obstore

    if isinstance(folder, Path):
        shutil.rmtree(folder, ignore_errors=True)
        return
    names = [f"{folder.key}/{found.name}".lstrip("/") for found in files_below(folder)]
    with _faults(_writable(folder)), suppress(FileNotFoundError):
        if names:  # many in one request
            obstore.delete(_open(folder.store), names)


def check_writable(folder: Place) -> None:
    """UserError where files cannot be written into a folder, as far as that can be told now."""
    if isinstance(folder, Path):
        files.check_writable(folder)
    else:
        _writable(folder)


def _writable(url: URL) -> URL:
    if url.scheme.startswith("http"):
        raise UserError(f"{url}: can be read only; write to a local path, s3://, gs:// or az://")
    return url


@lru_cache(maxsize=64)
def _open(name: str) -> ObjectStore:
    """The client of a store, by its URL; it keeps its connections."""
    from obstore import store

    options: Any = {"retry_config": RETRY}
    # an endpoint of http:// is one that the user has given so
    options["client_options"] = {"timeout": TIMEOUT, "allow_http": True}
    host = urlsplit(name).netloc
    if name.startswith("s3:"):
        return store.S3Store(host, **options)
    if name.startswith("gs:"):
        return store.GCSStore(host, **options)
    if name.startswith("az:"):
        return store.AzureStore(host, **options)
    return store.HTTPStore.from_url(name, **options)


_forked = False  # the client's threads are not in this process


def _after_fork() -> None:
    global _forked
    _forked = _forked or _open.cache_info().currsize > 0


os.register_at_fork(after_in_child=_after_fork)


@contextmanager
def _faults(url: URL) -> Iterator[None]:
    """Errors of the client as StorageError, in one line that holds nothing of the answer."""
    from obstore import exceptions

    if _forked:  # a request would never end
        raise StorageError(
            f"{url}: cannot be reached from a process that was forked after storage was used; "
            "start processes with the method spawn or forkserver"
        )
    try:
        yield
    except FileNotFoundError:
        raise NotFound(f"{url}: there is no such object; look at its name") from None
    except (exceptions.PermissionDeniedError, exceptions.UnauthenticatedError):
        way = CREDENTIALS.get(url.scheme)
        way = f"set {way}" if way else "only public files can be read over http"
        raise StorageError(f"{url}: access is denied; {way}") from None
    except (exceptions.BaseError, ValueError) as error:
        raise StorageError(f"{url}: {_reason(url, str(error))}") from None


def _reason(url: URL, text: str) -> str:
    """What is wrong and the way out, from the client's account of a failed request."""
    if found := re.search(r"status code: (\d{3})( [A-Z][A-Za-z ]*)?", text):
        status, number = found[1] + (found[2] or ""), int(found[1])
        if number == 416:
            return "ends before what was asked for; it has been cut"
        if number < 500 and url.scheme == "s3":
            return (
                f"the server answered {status}; set AWS_REGION, and AWS_ENDPOINT_URL for a store "
                "that is not Amazon's"
            )
        return f"the server answered {status}; try again later"
    if "redirect" in text:
        return "it is in another region; set AWS_REGION"
    if "dns error" in text:
        return "the host is not known; look at its name and at the network"
    if re.search(r"TimedOut|timed out", text):
        return "the server did not answer in time; look at the network"
    if "sending request" in text:
        return "there is no connection to the server; look at the network"
    return "the request failed; look at its name, the credentials and the network"
