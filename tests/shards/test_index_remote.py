"""`index` of tars on storage: what a local index writes, of a part of their bytes."""

import json
import re
import shutil

import numpy as np
import pytest
from click.testing import CliRunner

from tests.common.media import make_media, noise
from tests.shards.test_index import clocked, dataset, wav
from xdc_fast import ClipLoader, ClipShape
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.index import index
from xdc_fast.shards.shard_table import SUM
from xdc_fast.shards.verify import verify
from xdc_fast.storage import StorageError, place_of
from xdc_fast.tools.shard import main

URL = "s3://b/set"


@pytest.fixture(scope="module")
def tars(tmp_path_factory):
    """Two tars of large mp4 and wav files: H.264 with B-frames, and JPEGs."""
    folder = tmp_path_factory.mktemp("tars")
    options = {"size": (320, 240), "seconds": 4, "audio": None, "pictures": noise}
    sound = wav(0, samples=60 * 16000)
    for name, video, more in (
        ("h264", "libx264", {"coding": {"bf": "2", "preset": "ultrafast", "crf": "12"}}),
        ("jpeg", "mjpeg", {"options": {"movflags": "faststart"}}),
    ):
        path = make_media(folder / f"{name}.mp4", video=video, **options, **more)
        files = {"mp4": path, "wav": sound, "json": b'{"labels": {"kind": "x"}}'}
        members = [(f"{key}.{end}", data) for key in "ab" for end, data in files.items()]
        dataset(folder / "set", *members, name=f"{name}.tar")
    return folder / "set"


def put(server, folder):
    target = server.folder / "b" / "set"
    shutil.copytree(folder, target, dirs_exist_ok=True)
    return target


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def fetched(server):
    """Bytes of tars that were asked for."""
    spans = [span for method, path, span in server.log if method == "GET" and path.endswith(".tar")]
    ends = [re.fullmatch(r"bytes=(\d+)-(\d+)", span).groups() for span in spans]
    return sum(int(end) - int(begin) + 1 for begin, end in ends)


def test_the_tables_are_those_of_a_local_index_of_few_bytes(tars, server, tmp_path):
    """In spite of faults; only the checksums of the tars are not known, which is no damage."""
    faults = {1: 503, 5: "cut", 9: "close", 14: 503, 21: "cut"}
    remote, local = put(server, tars), shutil.copytree(tars, tmp_path / "local")
    server.fault = lambda number, *_: faults.get(number)
    result = CliRunner().invoke(main, ["index", URL])
    assert result.exit_code == 0 and "s3://b/set: indexed 4 samples in 2 shards" in result.output
    assert sum(server.faults.values()) == len(faults)
    assert fetched(server) < 0.2 * sum(path.stat().st_size for path in remote.glob("*.tar"))
    assert server.log[-1][1] != "b/set/manifest.json"  # a last listing
    written = [path for method, path, _ in server.log if method == "PUT"]
    assert written[-1] == "b/set/manifest.json"
    index(local)
    ours, theirs = contents(remote), contents(local)
    assert {*ours} == {*theirs} - {".lock"}
    for name in {*ours} - {"shards.npy", "manifest.json"}:
        assert ours[name] == theirs[name], name
    tables = [np.load(folder / "shards.npy") for folder in (remote, local)]
    for field in tables[0].dtype.names:
        assert np.array_equal(tables[0][field], tables[1][field]) == (field != SUM)
    assert (np.array(ShardSet(URL).rows()["packet"]) >= 0).tolist() == [False] * 2 + [True] * 2
    assert ShardSet(URL).record("h264.tar")[SUM] is None
    assert verify(URL, decode=True)["damaged"] == [] == verify(remote)["damaged"]
    listed = CliRunner().invoke(main, ["ls", URL])
    assert listed.exit_code == 0 and "not known" in listed.output
    verified = CliRunner().invoke(main, ["verify", URL])
    assert verified.exit_code == 0
    assert f"{len(ShardSet(URL).shards)} of the shards have no known checksum" in verified.output


def test_a_set_of_another_library_is_indexed_and_read(server, tmp_path):
    webdataset = pytest.importorskip("webdataset")
    video = clocked(tmp_path / "v.mp4", seconds=2).read_bytes()
    folder = tmp_path / "set"
    folder.mkdir()
    with webdataset.ShardWriter(f"file:{folder}/%03d.tar", maxcount=2, verbose=0) as sink:
        for key in range(3):
            sink.write({"__key__": f"clip{key}", "mp4": video, "cls": key})
    put(server, folder)
    index(place_of(URL))
    shards = ShardSet(URL)
    assert [row["key"] for row in shards.table()] == ["clip0", "clip1", "clip2"]
    clip = ClipShape(8, 16, 40, 8000, 16000)
    loader = ClipLoader(URL, clip, batch_size=1, device="cpu")
    assert loader.read([2, 0]).index.tolist() == [2, 0]
    row = shards.rows()[1]
    span = (int(row["video"]), int(row["video_bytes"]))
    whole = shards.files.read_whole(shards.record("000.tar"), [span])[0]  # compares sizes alone
    assert bytes(whole) == video
    with (server.folder / "b" / "set" / "001.tar").open("ab") as tar:
        tar.write(bytes(512))
    shards = ShardSet(URL, tmp_path / "another cache")
    with pytest.raises(StorageError, match=r"001\.tar: not of the size"):
        shards.files.read_whole(shards.record("001.tar"), [span])
    assert [found["shard"] for found in verify(URL)["damaged"]] == ["001.tar"]


@pytest.mark.parametrize("version", [2, 3])
def test_what_a_manifest_knows_is_kept(server, toy_shards, version):
    """Settings, refusals, and the checksums of tars of the same name and size."""
    remote = put(server, toy_shards.root)
    before = contents(remote)
    if version == 2:
        held = {key: value for key, value in toy_shards.manifest.items() if key != "tables"}
        held |= {"format": 2, "shards": [toy_shards.record(name) for name in toy_shards.shards]}
        (remote / "manifest.json").chmod(0o644)
        (remote / "manifest.json").write_text(json.dumps(held))
        for path in (*remote.glob("label-*"), *remote.glob("*.npy")):
            path.unlink(missing_ok=True)
    (remote / "label-009.npy").write_bytes(b"of an earlier index")
    assert CliRunner().invoke(main, ["index", URL]).exit_code == 0
    assert contents(remote) == before
    assert ShardSet(URL).fingerprint == toy_shards.fingerprint


def test_tars_that_cannot_be_read_are_named(server, tars, tmp_path):
    remote = put(server, tars)
    whole = contents(remote)
    whole_tar = (remote / "h264.tar").read_bytes()

    def error():
        result = CliRunner().invoke(main, ["index", URL])
        assert result.exit_code == 2 and "Traceback" not in result.output
        assert len(result.stderr.rpartition("\r")[2].splitlines()) == 1
        assert not (remote / "manifest.json").exists()
        return result.output

    (remote / "h264.tar").write_bytes(whole_tar[:-60_000])
    assert "s3://b/set/h264.tar: not a valid tar" in error()
    (remote / "h264.tar").write_bytes(b"no tar" * 1000)
    assert "s3://b/set/h264.tar: not a valid tar" in error()
    (remote / "h264.tar").write_bytes(whole_tar)

    def vanish(number, method, path):
        if method == "PUT":
            (remote / "jpeg.tar").unlink(missing_ok=True)

    server.fault = vanish
    assert "s3://b/set: its tars were changed meanwhile" in error()
    (remote / "jpeg.tar").write_bytes(whole["jpeg.tar"])
    for last in (4, 7, 11, 16, 22):  # wherever it happens, no sample is taken for a damaged one
        begin = len(server.log)
        server.fault = lambda number, *_, end=begin + last: 403 if number > end else None
        assert re.search(r"s3://b/set\S*: access is denied; set AWS", error())
    server.fault = lambda *_: None
    (remote / "jpeg.tar").write_bytes(whole["jpeg.tar"])
    assert CliRunner().invoke(main, ["index", URL]).exit_code == 0
    result = CliRunner().invoke(main, ["index", f"{server.url}/b/set"])
    assert result.exit_code == 2 and "can be read only" in result.output
