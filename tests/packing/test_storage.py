"""Packing from storage and onto it: the bytes are those of a local set."""

import os
import signal
import time

import pytest
from click.testing import CliRunner

from tests.common.media import make_media
from tests.packing.test_parts import contents, packer, run, videos, whole
from xdc_fast import pack as pack_by_api
from xdc_fast.errors import UserError
from xdc_fast.packing.pack import Share
from xdc_fast.packing.parts import place_tar
from xdc_fast.packing.seal import seal, status
from xdc_fast.packing.sources import collect
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.verify import verify
from xdc_fast.storage import place_of
from xdc_fast.tools.shard import main

__all__ = ["videos", "whole"]  # fixtures
OUT = place_of("s3://b/sets/mine")


@pytest.fixture
def stored(server, videos):
    """The videos, in a folder on storage."""
    folder = server.folder / "b" / "videos"
    folder.mkdir()
    for path in videos.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return place_of("s3://b/videos")


def now_and_then(number, method, path):
    """Every fifth request fails, in one way or another."""
    return [503, "cut", "close"][number % 3] if number % 5 == 4 else None


def test_whatever_fails_the_set_is_that_of_local_folders(server, stored, videos, whole):
    server.fault = now_and_then
    labels = videos / "labels.csv"
    assert run(stored, OUT, labels, share=Share(1, 2)).packed == 5
    assert status(OUT).done_parts == 3
    assert run(stored, OUT, labels, share=Share(0, 2), workers=2).packed == 5
    found = status(OUT)
    assert not found.missing and not found.sealed and found.done_videos == found.videos == 11
    assert seal(OUT).packed == 10
    assert status(OUT).sealed and len(server.faults) == 3
    assert contents(server.folder / "b" / "sets" / "mine") == contents(whole)
    assert server.unfinished == 0
    server.fault = lambda number, method, path: None
    assert verify(OUT)["damaged"] == []
    assert run(stored, OUT, labels).already


def test_a_list_names_files_here_and_there(server, stored, videos, tmp_path):
    make_media(tmp_path / "own.mp4", seconds=1.2, size=(48, 32), rate=16000)
    (server.folder / "b" / "videos" / "a b#1?.mp4").write_bytes((tmp_path / "own.mp4").read_bytes())
    table = tmp_path / "list.csv"
    lines = ["own.mp4", f"{stored}/00.mp4", f"{stored}/a b#1?.mp4", f"{stored}/gone.mp4"]
    table.write_text("\n".join(["path", *lines]) + "\n")
    summary = pack_by_api(table, tmp_path / "set", short_side=32, fps=10, workers=2)
    assert summary.packed == 3 and summary.reasons == {"unreadable": 1}
    assert (
        f"{stored}/gone.mp4,unreadable,no such object" in (tmp_path / "set/refused.csv").read_text()
    )
    assert [ShardSet(tmp_path / "set")[n].source for n in range(3)] == lines[:3]
    (server.folder / "b" / "videos" / "list.csv").write_text("path,class\n01.mp4,one\n")
    assert pack_by_api(stored / "list.csv", tmp_path / "other", short_side=32).packed == 1
    assert ShardSet(tmp_path / "other")[0].labels == {"class": "one"}


def test_folders_of_a_listing_are_classes_and_what_is_no_video_is_passed_over(stored, server):
    folder = server.folder / "b" / "videos"
    for kind, names in {"cat": ["00.mp4", "01.mp4"], "dog": ["02.mp4"]}.items():
        (folder / kind).mkdir()
        for name in names:
            (folder / name).rename(folder / kind / name)
    for path in [*folder.glob("*.mp4"), folder / "labels.csv"]:
        path.unlink()
    (folder / "notes.txt").write_text("none")
    (folder / "marker").write_bytes(b"")
    (folder / ".hidden.mp4").write_text("x")
    (folder / "out").mkdir()
    (folder / "out" / "x.mp4").write_text("x")
    inputs = collect([stored], None, stored / "out")
    assert [source.name for source in inputs.sources] == ["cat/00.mp4", "cat/01.mp4", "dog/02.mp4"]
    assert [source.labels["class"] for source in inputs.sources] == ["cat", "cat", "dog"]
    assert any("1 files passed over" in note for note in inputs.notes)


@pytest.mark.parametrize(
    ("sources", "out", "message"),
    [
        (["s3://b/nothing"], "s3://b/x", "s3://b/nothing: no such object or folder"),
        (["ftp://b/x"], "s3://b/x", "ftp://b/x: not a place that is known"),
        (["s3://b/videos"], "http://127.0.0.1/x", "can be read only"),
        (["s3://b/videos"], "s3://b/other", "s3://b/other: is not empty and holds no packed set"),
        (["s3://b/videos", "--dataset", "ucf101"], "s3://b/x", "dataset takes one local folder"),
        (["LIST"], "s3://b/x", "list.csv: line 2: ftp://h/x: not a place that is known"),
    ],
)
def test_mistakes_are_told(server, stored, tmp_path, sources, out, message):
    (server.folder / "b" / "other").mkdir()
    (server.folder / "b" / "other" / "thesis.pdf").write_text("mine")
    (tmp_path / "list.csv").write_text("path\nftp://h/x\n")
    sources = [str(tmp_path / "list.csv") if each == "LIST" else each for each in sources]
    result = CliRunner().invoke(main, ["pack", *sources, out])
    assert result.exit_code == 2 and message in result.output.splitlines()[-1]
    assert (server.folder / "b" / "other" / "thesis.pdf").is_file()


def test_a_store_that_goes_away_stops_packing_and_nothing_is_lost(server, stored, videos, whole):
    def away(number, method, path):
        return 403 if method == "GET" and path.endswith("07.mp4") else None

    server.fault = away
    with pytest.raises(
        UserError, match=r"packing stopped: s3://b/videos/07\.mp4: access is denied"
    ):
        run(stored, OUT, videos / "labels.csv")
    assert status(OUT).done_parts == 3
    server.fault = lambda number, method, path: None
    asked = len(server.log)
    assert run(stored, OUT, videos / "labels.csv").packed == 10
    again = [path for method, path, _ in server.log[asked:] if method == "GET"]
    assert not any(path.endswith(("00.mp4", "05.mp4")) for path in again)
    assert contents(server.folder / "b" / "sets" / "mine") == contents(whole)


def test_of_two_packers_one_is_killed(server, stored, whole, videos):
    running = [packer(stored, OUT, 1, videos / "labels.csv") for _ in range(2)]
    time.sleep(4)
    os.kill(running[0].pid, signal.SIGKILL)
    running[0].communicate()
    running[0] = packer(stored, OUT, 1, videos / "labels.csv")
    for process in running:
        _, errors = process.communicate(timeout=120)
        assert process.returncode == 0, errors
    assert contents(server.folder / "b" / "sets" / "mine") == contents(whole)


def test_another_tar_of_the_same_name_gets_one_of_its_own(server, tmp_path):
    for content, name in ((b"one", "a.tar"), (b"one", "a.tar"), (b"two", "a-12345678.tar")):
        (tmp_path / "a.tar").write_bytes(content)
        total = "12345678" if content == b"two" else "87654321"
        assert place_tar(tmp_path / "a.tar", OUT, total) == OUT / name
        assert (OUT / name).read_bytes() == content and not (tmp_path / "a.tar").exists()
