"""A small object store on loopback: S3's requests and plain HTTP over a folder, with faults."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

PAGE = 100  # keys of a page of a listing; S3 has 1000
PIECE = 1 << 16


@dataclass
class ObjectServer:
    """Objects are the files below `folder`: s3://BUCKET/KEY is BUCKET/KEY there.

    fault: given the number of a request, its method and its path, what goes wrong with it: a
    status such as 503, "cut" (half of an answer, then the connection is closed), "close" (no
    answer at all), a number of seconds below 10 that it takes longer, or None.
    log: (method, path, range or "") of each request. most: requests answered at a time, at most.
    """

    folder: Path
    fault: Callable[[int, str, str], object] = lambda number, method, path: None
    log: list[tuple[str, str, str]] = field(default_factory=list)
    faults: Counter = field(default_factory=Counter)  # that happened
    port: int = 0
    most: int = 0

    def __post_init__(self):
        self._uploads: dict[str, dict[int, bytes]] = {}
        self._lock = threading.Lock()
        self._active = 0
        self.folder.mkdir(parents=True, exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What a client needs to find it as S3."""
        return {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ALLOW_HTTP": "true",
            "AWS_ACCESS_KEY_ID": "AKIATESTACCESSKEY",
            "AWS_SECRET_ACCESS_KEY": "a-secret-that-no-log-may-hold",
            "AWS_REGION": "us-east-1",
        }

    def start(self) -> None:
        """On the port that it had before, where it was stopped."""
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def log_message(self, *_: object) -> None:
                pass

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except (ConnectionError, TimeoutError):
                    self.close_connection = True

            def answer(self) -> None:
                owner.answer(self)

            do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = answer

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def process_request(self, request, client_address):
                owner._open.add(request)
                super().process_request(request, client_address)

            def shutdown_request(self, request):
                owner._open.discard(request)
                super().shutdown_request(request)

            def handle_error(self, *_: object) -> None:
                pass

        self._open: set = set()
        self._server = Server(("127.0.0.1", self.port), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def stop(self) -> None:
        """As a crash: open connections are cut."""
        self._server.shutdown()
        self._server.server_close()
        for connection in list(self._open):
            with suppress(OSError):
                connection.shutdown(2)
        self._thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        parts = urlsplit(request.path)
        path, query = unquote(parts.path).strip("/"), parse_qs(parts.query, True)
        span = request.headers.get("Range", "")
        with self._lock:
            number = len(self.log)
            self.log.append((request.command, path, span))
            self._active += 1
            self.most = max(self.most, self._active)
        try:
            self._answer(request, number, path, query)
        finally:
            with self._lock:
                self._active -= 1

    def _answer(self, request, number: int, path: str, query: dict) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        fault = self.fault(number, request.command, path)
        if fault is not None:
            with self._lock:
                self.faults[fault] += 1
        if fault == "close":
            request.close_connection = True
            return
        if isinstance(fault, float):
            time.sleep(fault)
        elif isinstance(fault, int):
            _send(request, fault, b"<Error><Code>SlowDown</Code></Error>")
            return
        answers = {"GET": self._get, "HEAD": self._get, "PUT": self._put,
                   "POST": self._post, "DELETE": self._delete}  # fmt: skip
        if fault == "cut" and request.command not in ("GET", "HEAD"):
            answers[request.command](request, path, query, body, quiet=True)
            request.close_connection = True  # it was done, and the answer is lost
            return
        options = {"cut": True} if fault == "cut" else {}
        answers[request.command](request, path, query, body, **options)

    def _get(self, request, path, query, body, cut=False):
        if "list-type" in query:
            _send(request, 200, self._listing(path, query))
            return
        file = self.folder / path
        if not file.is_file():
            _send(request, 404, b"<Error><Code>NoSuchKey</Code></Error>")
            return
        size = file.stat().st_size
        first, last, status = 0, size - 1, 200
        if found := re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", "")):
            begin, end = found.groups()
            first = int(begin) if begin else max(0, size - int(end))
            last = min(int(end), size - 1) if begin and end else size - 1
            status = 206
            if first >= size:
                _send(request, 416, b"", {"Content-Range": f"bytes */{size}"})
                return
        request.send_response(status)
        count = last - first + 1
        request.send_header("Content-Length", str(count))
        request.send_header("Accept-Ranges", "bytes")
        request.send_header("Last-Modified", "Mon, 01 Jan 2024 00:00:00 GMT")
        request.send_header("ETag", f'"{size:x}-{file.stat().st_mtime_ns:x}"')
        if status == 206:
            request.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        request.end_headers()
        if request.command == "HEAD":
            return
        if cut:
            count //= 2
        request.wfile.flush()
        with file.open("rb") as opened:
            while count > 0:
                sent = os.sendfile(request.connection.fileno(), opened.fileno(), first, count)
                first, count = first + sent, count - sent
        if cut:
            request.close_connection = True

    def _listing(self, bucket: str, query: dict) -> bytes:
        prefix, root = query.get("prefix", [""])[0], self.folder / bucket
        delimiter = query.get("delimiter", [""])[0]
        after = query.get("continuation-token", query.get("start-after", [""]))[0]
        found: dict[str, int] = {}
        times: dict[str, str] = {}
        for file in root.rglob("*"):
            key = file.relative_to(root).as_posix()
            if file.is_file() and key.startswith(prefix) and not file.name.endswith(".part"):
                rest = key[len(prefix) :]
                if delimiter and delimiter in rest:
                    found[prefix + rest.split(delimiter)[0] + delimiter] = -1
                else:
                    status = file.stat()
                    found[key] = status.st_size
                    written = datetime.fromtimestamp(status.st_mtime, timezone.utc)
                    times[key] = f"{written:%FT%T.%f}Z"
        keys = sorted(key for key in found if key > after)
        more, keys = len(keys) > PAGE, keys[:PAGE]
        items = "".join(
            f"<CommonPrefixes><Prefix>{escape(key)}</Prefix></CommonPrefixes>"
            if found[key] < 0
            else f"<Contents><Key>{escape(key)}</Key><Size>{found[key]}</Size><ETag>x</ETag>"
            f"<LastModified>{times[key]}</LastModified></Contents>"
            for key in keys
        )
        token = f"<NextContinuationToken>{escape(keys[-1])}</NextContinuationToken>" if more else ""
        return (
            f"<ListBucketResult><Name>{bucket}</Name><Prefix>{escape(prefix)}</Prefix>"
            f"<KeyCount>{len(keys)}</KeyCount><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{token}{items}</ListBucketResult>"
        ).encode()

    def _put(self, request, path, query, body, quiet=False):
        if "uploadId" in query:
            self._uploads[query["uploadId"][0]][int(query["partNumber"][0])] = body
        else:
            with self._lock:
                if request.headers.get("If-None-Match") == "*" and (self.folder / path).exists():
                    if not quiet:
                        _send(request, 412, b"<Error><Code>PreconditionFailed</Code></Error>")
                    return
                self._store(path, body)
        if not quiet:
            tag = hashlib.md5(body).hexdigest()
            _send(request, 200, b"", {"ETag": f'"{tag}"'})

    def _store(self, path: str, body: bytes) -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        part = file.with_name(f".{secrets.token_hex(4)}.part")
        part.write_bytes(body)
        part.replace(file)

    def _post(self, request, path, query, body, quiet=False):
        if "uploads" in query:
            name = secrets.token_hex(8)
            self._uploads[name] = {}
            found = f"<UploadId>{name}</UploadId>"
            text = f"<InitiateMultipartUploadResult>{found}</InitiateMultipartUploadResult>"
        elif "uploadId" in query:
            parts = self._uploads.pop(query["uploadId"][0], None)
            if parts is None:
                if not quiet:
                    _send(request, 404, b"<Error><Code>NoSuchUpload</Code></Error>")
                return
            self._store(path, b"".join(parts[number] for number in sorted(parts)))
            text = "<CompleteMultipartUploadResult><ETag>x</ETag></CompleteMultipartUploadResult>"
        else:  # ?delete
            keys = re.findall(r"<Key>(.*?)</Key>", body.decode())
            for key in keys:
                (self.folder / path / key).unlink(missing_ok=True)
            done = "".join(f"<Deleted><Key>{key}</Key></Deleted>" for key in keys)
            text = f"<DeleteResult>{done}</DeleteResult>"
        if not quiet:
            _send(request, 200, text.encode())

    def _delete(self, request, path, query, body, quiet=False):
        if "uploadId" in query:
            self._uploads.pop(query["uploadId"][0], None)
        else:
            (self.folder / path).unlink(missing_ok=True)
        if not quiet:
            _send(request, 204, b"")

    @property
    def unfinished(self) -> int:
        """Multipart uploads that were neither completed nor aborted."""
        return len(self._uploads)


def _send(request, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
    request.send_response(status)
    for name, value in (headers or {}).items():
        request.send_header(name, value)
    if status != 204:
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if request.command != "HEAD" and body:
        request.wfile.write(body)


@contextmanager
def serving(folder: Path, **options: object) -> Iterator[ObjectServer]:
    """A server over a folder for some lines; arguments as of ObjectServer."""
    server = ObjectServer(folder, **options)
    server.start()
    try:
        yield server
    finally:
        server.stop()
