"""docs/shards.md suffices to read and to write a set: what follows it meets what is on disk."""

import csv
import hashlib
import json
import re
import struct
import tarfile
import wave

import av
import numpy as np
import pytest

from tests.common.media import draw, make_media, tone
from tests.docs.pages import ROOT, blocks, table
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.describe import UNUSABLE
from xdc_fast.shards.index import index
from xdc_fast.shards.verify import verify

PAGE = ROOT / "docs/shards.md"
TYPES = {"<i8": "q", "<i4": "i", "<f8": "d"}


def code(cell):
    """A cell without its backticks."""
    return cell.replace("`", "")


@pytest.fixture(scope="module")
def packed(toy_videos, tmp_path_factory):
    """A set with a refused input, in two shards or more."""
    folder = tmp_path_factory.mktemp("format")
    (folder / "videos").mkdir()
    for path in toy_videos.iterdir():
        (folder / "videos" / path.name).symlink_to(path)
    (folder / "videos/broken.mp4").write_bytes(b"no video")
    inputs = collect([folder / "videos"], toy_videos / "labels.csv", folder / "set")
    pack(inputs, folder / "set", PackSettings(short_side=40), shard_mb=2, workers=2)
    return folder / "set"


@pytest.fixture(scope="module")
def read_sample():
    (reader,) = blocks(PAGE, "python")
    names: dict = {}
    exec(compile(reader.text, reader.name, "exec"), names)
    return names["read_sample"]


def test_the_pages_reader_gets_what_was_packed(packed, read_sample, toy_videos):
    shards = ShardSet(packed)
    assert len(shards.shards) > 1
    with (packed / "samples.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for number in (0, len(shards) // 2, len(shards) - 1):
        frames, sound, metadata = read_sample(packed, number)
        assert metadata["source"] == rows[number]["source"]
        assert metadata["labels"].items() <= rows[number].items()
        with av.open(str(toy_videos / metadata["source"])) as video:
            source = [f.reformat(40, 40, "rgb24").to_ndarray() for f in video.decode(video=0)]
        assert frames.shape == (len(source), 40, 40, 3) and frames.dtype == np.uint8
        assert np.abs(frames.astype(float) - source).mean() < 8
        assert sound.dtype == np.int16
        assert len(sound) == round(metadata["frames"] / metadata["fps"] * 16000)
        with tarfile.open(packed / rows[number]["shard"]) as tar:
            content = tar.extractfile(f"{rows[number]['key']}.wav")
            with wave.open(content) as told:
                assert told.getparams()[:3] == (1, 2, 16000)
                assert np.array_equal(sound, np.frombuffer(told.readframes(10**9), "<i2"))


def test_the_pages_record_layout_is_that_of_the_bytes(packed):
    """Each field unpacked by hand, at the byte and with the type that the page gives."""
    fields = table(PAGE, "`part-000000-00000.samples.npy`, ")[1:]
    size = max(int(at) + int(code(kind)[-1]) for _, kind, at, _ in fields)
    assert f"`part-000000-00000.samples.npy`, {size} bytes per" in PAGE.read_text(encoding="utf-8")
    path = packed / "part-000000-00000.samples.npy"
    rows = np.load(path)
    assert [code(row[0]) for row in fields] == list(rows.dtype.names)
    data = path.read_bytes()
    start = 10 + struct.unpack_from("<H", data, 8)[0]
    assert data[:8] == b"\x93NUMPY\x01\x00" and len(data) == start + size * len(rows)
    for number in (0, len(rows) - 1):
        for field, kind, at, _ in fields:
            place = start + number * size + int(at)
            (value,) = struct.unpack_from("<" + TYPES[code(kind)], data, place)
            assert value == rows[number][code(field)]


def test_the_pages_table_of_shards_is_that_on_disk(packed):
    fields = table(PAGE, "`shards.npy` is a NumPy array")[1:]
    rows, names = np.load(packed / "shards.npy"), sorted(path.name for path in packed.glob("*.tar"))
    assert [code(row[0]) for row in fields] == list(rows.dtype.names)
    for (name, kind, _), dtype in zip(fields, rows.dtype.descr, strict=True):
        assert code(name) == dtype[0]
        assert kind == ("32 bytes" if dtype[1:] == ("|u1", (32,)) else f"`{dtype[1]}`") or (
            name == "`name`" and dtype[1].startswith("|S")
        )
    assert [name.decode() for name in rows["name"]] == names
    text = (packed / "samples.csv").read_bytes()
    for row in rows:
        path = packed / row["name"].decode()
        for field, suffix in (("", ".tar"), ("idx_", ".idx"), ("samples_npy_", ".samples.npy")):
            content = path.with_suffix(suffix).read_bytes()
            assert hashlib.sha256(content).digest() == row[f"{field}sha256"].tobytes()
        lines = text[row["rows"] :][: row["rows_bytes"]]
        assert hashlib.sha256(lines).digest() == row["rows_sha256"].tobytes()
        first = csv.reader([lines.decode().splitlines()[0]])
        assert next(first)[0] == str(row["first"])
        assert (
            lines.count(b"\n") == row["samples"] == len(np.load(path.with_suffix(".samples.npy")))
        )


def test_the_pages_labels_are_those_on_disk(packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    with (packed / "samples.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for number, column in enumerate(manifest["labels"]):
        told = json.loads((packed / f"label-{number:03d}.json").read_text())
        assert told["column"] == column and told["classes"] == sorted(told["classes"])
        codes = np.load(packed / f"label-{number:03d}.npy")
        assert codes.dtype == "<i4"
        assert [told["classes"][code] for code in codes] == [row[column] for row in rows]


def test_offsets_are_those_of_the_tar(packed):
    with (packed / "samples.csv").open(newline="", encoding="utf-8") as file:
        keys = [row["key"] for row in csv.DictReader(file)]
    with tarfile.open(packed / "part-000000-00000.tar") as tar:
        members = {m.name: m for m in tar}
    assert all((m.uid, m.gid, m.uname, m.mtime, m.mode) == (0, 0, "", 0, 0o644) for m in
               members.values())  # fmt: skip
    files = {"video": "mp4", "audio": "wav", "meta": "json"}
    rows = np.load(packed / "part-000000-00000.samples.npy")
    lines = (packed / "part-000000-00000.idx").read_text().splitlines()
    assert lines[0] == f"v1.2 {len(rows)}"
    for row, line in zip(rows, lines[1:], strict=True):
        words = iter(line.split(" "))
        groups = list(zip(words, words, words, words, strict=True))
        for (field, extension), group in zip(files.items(), groups, strict=True):
            member = members[f"{keys[row['place']]}.{extension}"]
            assert (row[field], row[f"{field}_bytes"]) == (member.offset_data, member.size)
            place = (extension, str(member.offset_data), str(member.size), member.name)
            assert group == place
        assert row["pcm"] == row["audio"] + 44


def test_the_page_names_every_key_and_file(packed):
    manifest = json.loads((packed / "manifest.json").read_text())
    top = [code(row[0]) for row in table(PAGE, "`manifest.json` is a JSON object")[1:]]
    assert top == list(manifest)
    named = {code(row[0]) for row in table(PAGE, "The `settings`:")[1:]}
    assert named == manifest["settings"].keys() | {"tracks", "segment"}
    metadata = ShardSet(packed).meta(0)
    told = {code(key) for row in table(PAGE, "The metadata is")[1:] for key in row[0].split(", ")}
    assert told == metadata.keys() | {"span"}
    for name in ("samples.csv", "refused.csv"):
        with (packed / name).open(newline="", encoding="utf-8") as file:
            header = next(csv.reader(file))
        row = next(r for r in table(PAGE, "The CSV files have")[1:] if code(r[0]) == name)
        known = [part.strip("`") for part in row[1].split() if part.startswith("`")]
        known = [part.rstrip("`,") for part in known]
        assert header[: len(known)] == known
    files = {code(row[0]) for row in table(PAGE, "one folder:")[1:]}
    files |= {name for several in files for name in several.split(", ")}
    found = {re.sub(r"(-0000|label-00)\d", r"\g<1>0", p.name) for p in packed.iterdir()}
    assert found <= files
    assert {name for name in found if name.startswith("part-")} == {
        name for name in files if name.startswith("part-")
    }
    assert manifest["inputs"]["count"] == manifest["samples"] + sum(manifest["refused"].values())


def test_the_page_gives_the_reasons_for_which_index_leaves_out():
    rows = table(PAGE, "lists it as `TAR/KEY` with the reason:")
    assert {code(reason): meaning for reason, meaning in rows[1:]} == UNUSABLE


def test_a_set_written_by_the_pages_rules_is_indexed_and_read(read_sample, tmp_path):
    """Tars of another writer: frames as JPEG, keys of its own, labels in json."""
    names = ["a", "b", "c"]
    for shard in (names[:2], names[2:]):
        with tarfile.open(tmp_path / f"from-{shard[0]}.tar", "w") as tar:
            for name in shard:
                stem = tmp_path / name
                make_media(stem.with_suffix(".mp4"), video="mjpeg", audio=None, level=0.3)
                make_media(
                    stem.with_suffix(".wav"), video=None, audio="pcm_s16le", rate=16000, level=0.3
                )
                (tmp_path / f"{name}.json").write_text(json.dumps({"labels": {"letter": name}}))
                for extension in ("mp4", "wav", "json"):
                    tar.add(tmp_path / f"{name}.{extension}", f"{name}.{extension}")
                    (tmp_path / f"{name}.{extension}").unlink()
    manifest = index(tmp_path)
    assert manifest["samples"] == 3 and manifest["labels"] == ["letter"]
    assert verify(tmp_path, decode=True)["damaged"] == []
    frames, sound, metadata = read_sample(tmp_path, 2)
    assert metadata["labels"] == {"letter": "c"}
    assert frames.shape == (50, 64, 96, 3)
    assert np.abs(frames[7].astype(float) - draw(7, 96, 64)).mean() < 4
    expected = np.rint(tone(2.0, 16000, 0.3) * 32767)
    assert np.abs(sound - expected).max() <= 1
