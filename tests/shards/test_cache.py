"""The cache of a machine: every file once, never more than its limit, whatever dies meanwhile."""

import hashlib
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from xdc_fast.errors import UserError
from xdc_fast.shards.cache import Cache
from xdc_fast.storage import StorageError, place_of

SIZE = 1 << 20
SCRIPT = """
import sys
from pathlib import Path
from xdc_fast.shards.cache import Cache
from xdc_fast.storage import place_of
cache = Cache(Path(sys.argv[1]), int(sys.argv[2]))
for number in map(int, sys.argv[3].split(",")):
    name = f"{number}.tar"
    with cache.open(cache.folder / "xdc-set-1" / name, place_of("s3://b") / name, 1 << 20) as file:
        assert file.read() == bytes([number]) * (1 << 20)
"""


@pytest.fixture
def files(server):
    """{name: checksum} of eight objects of a megabyte."""
    found = {}
    for number in range(8):
        content = bytes([number]) * SIZE
        (server.folder / "b" / f"{number}.tar").write_bytes(content)
        found[f"{number}.tar"] = hashlib.sha256(content).hexdigest()
    return found


def read(cache, name, sha256=None):
    with cache.open(
        cache.folder / "xdc-set-1" / name, place_of("s3://b") / name, SIZE, sha256
    ) as file:
        return file.read()


def held(folder):
    """Bytes of all files of a cache, those under way with what they will have."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def start(cache, numbers):
    arguments = [str(cache.folder), str(cache.limit), ",".join(map(str, numbers))]
    return subprocess.Popen([sys.executable, "-c", SCRIPT, *arguments])


def test_processes_and_threads_fetch_a_file_once(server, files, tmp_path):
    cache = Cache(tmp_path / "kept", 20 * SIZE)
    server.fault = lambda number, method, path: 0.05
    others = [start(cache, order) for order in (range(8), reversed(range(8)))]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda name: read(cache, name), [*files] * 2))
    assert found == [bytes([int(name[0])]) * SIZE for name in files] * 2
    assert [other.wait() for other in others] == [0, 0]
    gets = Counter(path for method, path, _ in server.log if method == "GET")
    assert gets == {f"b/{name}": 1 for name in files}


def test_the_limit_holds_while_files_are_fetched_and_the_oldest_go(server, files, tmp_path):
    cache = Cache(tmp_path / "kept", 3 * SIZE + 1000)
    most, done = 0, threading.Event()

    def watch():
        nonlocal most
        while not done.is_set():
            most = max(most, held(cache.folder))
            time.sleep(0.001)

    watcher = threading.Thread(target=watch)
    watcher.start()
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: read(cache, n), [*files] * 3))
    done.set()
    watcher.join()
    assert 2 * SIZE < most <= cache.limit
    for name in ("1.tar", "2.tar", "3.tar"):
        read(cache, name)
    read(cache, "1.tar")  # used, so that 2 is the oldest
    read(cache, "4.tar")
    assert {path.name for path in (cache.folder / "xdc-set-1").glob("*.tar")} == {
        "1.tar", "3.tar", "4.tar"
    }  # fmt: skip


def test_what_arrives_while_files_are_counted_counts(tmp_path, monkeypatch):
    """It gets its name between the listing of the folder and the look at the file."""
    folder = tmp_path / "xdc-set-1"
    folder.mkdir()
    coming = folder / "coming"
    coming.write_bytes(bytes(10))
    iterdir = Path.iterdir

    def arriving(path):
        found = [*iterdir(path)]
        if coming in found:
            coming.rename(folder / "0.tar")
        return iter(found)

    monkeypatch.setattr(Path, "iterdir", arriving)
    assert [(size, path.name) for _, _, size, path in Cache(tmp_path, 100)._files()] == [
        (10, "0.tar")
    ]


def test_a_process_that_is_killed_leaves_nothing_in_the_way(server, files, tmp_path):
    cache = Cache(tmp_path / "kept", 2 * SIZE + 1000)
    arrived = threading.Event()

    def slow(number, method, path):
        arrived.set()
        return 5.0

    server.fault = slow
    other = start(cache, [0])
    assert arrived.wait(30)
    other.kill()
    other.wait()
    server.fault = lambda *request: None
    assert held(cache.folder) >= SIZE  # what it was at
    for name in ("1.tar", "2.tar", "0.tar"):
        assert read(cache, name) == bytes([int(name[0])]) * SIZE
    assert {path.name for path in (cache.folder / "xdc-set-1").iterdir()} == {"2.tar", "0.tar"}


def test_other_files_in_the_folder_are_left_alone(server, files, tmp_path):
    cache = Cache(tmp_path / "kept", 2 * SIZE + 1000)
    (cache.folder / "photos").mkdir(parents=True)
    (cache.folder / "photos" / "one.tar").write_bytes(bytes(4 * SIZE))
    for name in files:
        read(cache, name)
    assert (cache.folder / "photos" / "one.tar").stat().st_size == 4 * SIZE
    assert len(list((cache.folder / "xdc-set-1").glob("*.tar"))) == 2


def test_a_file_with_another_checksum_is_not_kept(server, files, tmp_path):
    cache = Cache(tmp_path / "kept", 3 * SIZE)
    assert read(cache, "0.tar", files["0.tar"]) == bytes(SIZE)
    with pytest.raises(StorageError, match=r"s3://b/1\.tar: its checksum is not that of the set"):
        read(cache, "1.tar", files["2.tar"])
    assert {path.name for path in (cache.folder / "xdc-set-1").iterdir()} == {"0.tar"}


def test_a_file_larger_than_the_cache_is_refused(server, files, tmp_path):
    cache = Cache(tmp_path / "kept", SIZE // 2)
    with pytest.raises(UserError, match=r"s3://b/0\.tar has 0\.00105 GB, more .* set cache_gb="):
        read(cache, "0.tar")
