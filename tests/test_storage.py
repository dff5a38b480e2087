"""One way to read and write files, local or on a store, whatever the store does meanwhile."""

import hashlib
import os
import pickle
import time
from datetime import timedelta
from io import BytesIO
from pathlib import Path
from threading import Timer

import numpy as np
import pytest

from xdc_fast import storage
from xdc_fast.errors import UserError
from xdc_fast.storage import URL, NotFound, StorageError, place_of

SECRET = "a-secret-that-no-log-may-hold"


@pytest.fixture(params=["local", "s3"])
def folder(request, tmp_path):
    """A place to write to, of either kind."""
    if request.param == "local":
        (tmp_path / "set").mkdir()
        return tmp_path / "set"
    request.getfixturevalue("server")
    return place_of("s3://b/set")


def first(fault, method="GET", count=1):
    """The first requests of a method go wrong."""
    left = [count]

    def decide(number, found, path):
        left[0] -= found == method
        return fault if found == method and left[0] >= 0 else None

    return decide


def test_files_are_written_read_listed_and_removed(folder, tmp_path):
    content = np.random.default_rng(0).bytes(11 << 20)
    (tmp_path / "source").write_bytes(content)
    storage.write(folder / "a.json", b"{}")
    storage.write(folder / "a.json", b"{1}")
    if isinstance(folder, URL):
        storage.upload(tmp_path / "source", folder / "big.tar")
    else:
        storage.write(folder / "big.tar", content)
    assert (folder / "a.json").read_bytes() == b"{1}"
    assert storage.size(folder / "big.tar") == len(content)
    assert storage.read_range(folder / "big.tar", 5, 100) == content[5:105]
    assert storage.read_range(folder / "big.tar", 7, 0) == b""
    found = sorted(storage.files_below(folder))
    assert [(f.name, f.size) for f in found] == [("a.json", 3), ("big.tar", len(content))]
    assert all(abs(file.time - time.time()) < 60 for file in found)
    storage.download(folder / "big.tar", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content
    total = hashlib.sha256(content).hexdigest()
    storage.copy_into(BytesIO(), folder / "big.tar", len(content), total)
    with pytest.raises(OSError, match=r"big\.tar: its checksum"):
        storage.copy_into(BytesIO(), folder / "big.tar", len(content), "0" * 64)
    storage.delete(folder / "a.json")
    storage.delete(folder / "a.json")
    assert not (folder / "a.json").is_file() and (folder / "big.tar").is_file()
    with pytest.raises(FileNotFoundError):
        (folder / "a.json").read_bytes()
    with pytest.raises(OSError, match="has been cut"):
        storage.read_range(folder / "big.tar", len(content) - 5, 10)
    assert list(storage.files_below(folder / "nothing")) == []


@pytest.mark.parametrize("fault", [None, 503, "cut", "close"])
def test_of_several_writers_one_makes_a_new_object(server, fault):
    server.fault = first(fault, "PUT")
    place = place_of("s3://b/x")
    storage.write_new(place, b"one")  # its answer may be lost
    assert place.read_bytes() == b"one"
    assert not storage.write_new(place, b"other")
    assert place.read_bytes() == b"one"


def test_a_folder_is_written_with_its_last_file_last(folder):
    with storage.written_here(folder, "last.json") as here:
        (here / "last.json").write_bytes(b"{}")
        (here / "table").write_bytes(b"1")
    assert [found.name for found in storage.files_below(folder)] == ["last.json", "table"]
    times = {found.name: found.time for found in storage.files_below(folder)}
    assert isinstance(folder, Path) or times["table"] < times["last.json"]


@pytest.mark.parametrize("fault", [500, 503, 429, "cut", "close", 5.0])
def test_requests_are_tried_again(server, fault, monkeypatch):
    monkeypatch.setattr(storage, "TIMEOUT", timedelta(seconds=0.5))
    content = np.random.default_rng(1).bytes(1 << 20)
    place = place_of("s3://b/x")
    server.fault = first(fault, "PUT")
    storage.write(place, content)
    server.fault = first(fault)
    assert place.read_bytes() == content
    server.fault = first(fault)
    assert storage.read_range(place, 9, 999) == content[9 : 9 + 999]
    assert server.faults[fault] == 3


def test_a_restart_of_the_server_goes_unnoticed(server):
    place = place_of("s3://b/x")
    storage.write(place, b"abc")
    server.stop()
    timer = Timer(0.5, server.start)
    timer.start()
    assert place.read_bytes() == b"abc"
    timer.join()


def test_an_upload_that_fails_leaves_nothing_to_see(server, tmp_path):
    (tmp_path / "source").write_bytes(bytes(11 << 20))
    server.fault = first(503, "PUT", 10**9)
    with pytest.raises(StorageError, match="503 Service Unavailable"):
        storage.upload(tmp_path / "source", place_of("s3://b/big.tar"))
    server.fault = first(None)
    assert list(storage.files_below(place_of("s3://b"))) == []


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (500, "the server answered 500 Internal Server Error; try again later"),
        (403, "access is denied; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"),
        (301, "it is in another region; set AWS_REGION"),
        ("close", "there is no connection to the server"),
    ],
)
def test_an_error_is_one_line_without_what_was_sent_or_answered(server, fault, reason):
    server.fault = first(fault, count=10**9)
    with pytest.raises(StorageError) as caught:
        place_of("s3://b/set/x").read_bytes()
    text = str(caught.value)
    assert text.startswith(f"s3://b/set/x: {reason}") and "\n" not in text
    assert isinstance(caught.value, UserError) and caught.value.__suppress_context__
    assert SECRET not in text and "AKIA" not in text and "SlowDown" not in text


def test_what_is_not_there_is_told_apart(server):
    with pytest.raises(NotFound, match="s3://b/x: there is no such object"):
        place_of("s3://b/x").read_bytes()


def test_files_over_http_are_read_and_not_written(server):
    (server.folder / "b" / "my set").mkdir()
    (server.folder / "b" / "my set" / "x").write_bytes(b"0123456789")
    folder = place_of(f"{server.url}/b/my%20set/")
    assert str(folder) == f"{server.url}/b/my%20set"
    assert (folder / "x").read_bytes() == b"0123456789"
    assert storage.read_range(folder / "x", 3, 4) == b"3456"
    assert not (folder / "y").is_file()
    for change in (
        lambda: storage.write(folder / "x", b""),
        lambda: storage.delete(folder / "x"),
        lambda: list(storage.files_below(folder)),
    ):
        with pytest.raises(UserError, match=r"http.*s3://, gs:// or az://"):
            change()


def test_names_of_places():
    assert place_of("data/set") == Path("data/set")
    assert place_of("C:/x") == Path("C:/x")
    url = place_of("S3://bucket//set/") / "shard-000000.tar"
    assert str(url) == "s3://bucket/set/shard-000000.tar"
    assert (url.name, str(url.parent)) == ("shard-000000.tar", "s3://bucket/set")
    assert str(url.parent.parent) == "s3://bucket" and place_of(url) == url
    assert pickle.loads(pickle.dumps(url)) == url


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("s3://key:hush@b/x", "s3://b/x: was given with a user"),
        ("https://h/x?X-Amz-Signature=hush", "https://h/x: was given with a user"),
        ("https://h/x#hush", "https://h/x: was given"),
        ("ftp://user:hush@h/x", "ftp://h/x: not a place that is known"),
        ("s3:///x", "s3:///x: not a whole URL"),
        ("s3://b/../x", "s3://b/../x: not a whole URL"),
    ],
)
def test_other_names_are_refused_and_secrets_not_repeated(text, message):
    with pytest.raises(UserError) as caught:
        place_of(text)
    assert str(caught.value).startswith(message) and "hush" not in str(caught.value)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_forked_process_is_told_instead_of_waiting_for_ever(server):
    place = place_of("s3://b/x")
    storage.write(place, b"abc")
    reads, writes = os.pipe()
    child = os.fork()
    if not child:
        try:
            place.read_bytes()
        except StorageError as error:
            os.write(writes, str(error).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert b"start processes with the method spawn" in os.read(reads, 1000)
    os.close(reads), os.close(writes)
    assert place.read_bytes() == b"abc"
