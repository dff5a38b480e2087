"""Damage is found and named; index files and tables can be rebuilt from the tars."""

import io
import json
import shutil
import tarfile
import wave
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from tests.common.media import make_media
from tests.common.seal import rename_shard, reseal
from xdc_fast.errors import UserError
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.decode import decode_frames, decode_waveform
from xdc_fast.tools.shard import main


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two shards: three samples and two."""
    folder = tmp_path_factory.mktemp("verify")
    (folder / "videos").mkdir()
    for k in range(5):
        make_media(folder / "videos" / f"{k}.mp4", seconds=1.5, size=(48, 32), rate=16000)
    make_media(folder / "videos" / "mute.mp4", audio=None, size=(48, 32))
    (folder / "labels.csv").write_text(
        "file,word,age\n" + "".join(f"{k}.mp4,w{k % 2},{k}\n" for k in range(5))
    )
    inputs = collect([folder / "videos"], folder / "labels.csv", folder / "set")
    settings = PackSettings(short_side=32, fps=10)
    pack(inputs, folder / "set", settings, shard_mb=0.15, workers=1)
    assert len(ShardSet(folder / "set").shards) == 2
    return folder / "set"


@pytest.fixture
def copy(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "set"))


def cli(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def damages(out, *options):
    result = cli("verify", out, "--json", *options)
    report = json.loads(result.stdout)
    assert result.exit_code == (1 if report["damaged"] else 0)
    return report


def test_a_whole_set_is_sound(whole):
    result = cli("verify", whole)
    assert result.exit_code == 0 and "2 shards, 5 samples, no damage" in result.stdout
    found = damages(whole, "--decode")
    assert found == {"shards": 2, "samples": 5, "unknown": 0, "damaged": []}


def flip(path, offset):
    data = bytearray(path.read_bytes())
    data[offset] ^= 0x10
    path.write_bytes(data)


def test_a_flipped_byte_is_found(copy):
    shards = ShardSet(copy)
    name, row = shards.row(1)
    packet = shards.packets(name, row, np.array([3]))[0]
    start = shards.video_file(1).index(packet.tobytes()) + int(row["video"])
    flip(copy / name, start + len(packet) // 2)
    report = damages(copy)
    assert [d["shard"] for d in report["damaged"]] == [name]
    assert "checksum" in report["damaged"][0]["what"]
    result = cli("verify", copy)
    assert result.exit_code == 1 and f"{name}: the checksum differs" in result.stdout


def test_decode_names_the_sample(copy):
    """Bytes that no decoder takes: the sample and the stream are named."""
    shards = ShardSet(copy)
    name, row = shards.row(4)
    packet = shards.packets(name, row, np.array([3]))[0]
    start = shards.video_file(4).index(packet.tobytes()) + int(row["video"])
    data = bytearray((copy / name).read_bytes())
    data[start : start + 40] = bytes(40)
    (copy / name).write_bytes(data)
    found = [(d["sample"], d["what"].split(":")[0]) for d in damages(copy, "--decode")["damaged"]]
    assert ("000000004", "video") in found


def test_a_truncated_tar_is_found(copy):
    path = copy / "part-000000-00001.tar"
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    whats = [d["what"] for d in damages(copy)["damaged"] if d["shard"] == path.name]
    assert any("were written" in what for what in whats)
    assert any("not a valid tar" in what for what in whats)


@pytest.mark.parametrize("suffix", ["idx", "samples.npy", "packets.npy", "tar"])
def test_missing_and_stale_files_are_found(copy, suffix):
    path = copy / f"part-000000-00000.{suffix}"
    other = path.with_name(f"part-000000-00001.{suffix}")
    path.unlink()
    assert any("missing" in d["what"] for d in damages(copy)["damaged"])
    shutil.copy(other, path)
    assert damages(copy)["damaged"]
    path.write_bytes(b"")
    assert damages(copy)["damaged"]


@pytest.mark.parametrize("name", ["samples.csv", "refused.csv"])
def test_a_changed_table_is_found(copy, name):
    path = copy / name
    content = path.read_bytes()
    for changed in (content.replace(b"mp4", b"mp5", 1), content[:-1], b"\xff" + content, b""):
        path.write_bytes(changed)
        assert [d["shard"] for d in damages(copy)["damaged"]] == [name]
    path.unlink()
    (damage,) = damages(copy)["damaged"]
    assert (damage["shard"], damage["what"]) == (name, "missing")


def test_tables_that_disagree_are_found(copy):
    """Their checksums are right; what they say is not what the tars hold."""
    table = copy / "samples.csv"
    text = table.read_text()
    for changed, sample in (
        (text.replace("000000002,", "000000007,"), "000000002"),
        (text.replace("2.mp4", "9.mp4"), "000000002"),
        (text.replace(",3,w1", ",3,w0"), "000000003"),
    ):
        table.write_text(changed)
        reseal(copy)
        assert [d["sample"] for d in damages(copy)["damaged"]] == [sample] or changed == text
    table.write_text(text)
    reseal(copy, frames=1)
    assert "its frames is 1, the tables give 75" in damages(copy)["damaged"][0]["what"]
    reseal(copy, refused={})
    assert any("its refused are 0" in d["what"] for d in damages(copy)["damaged"])
    shutil.copy(copy / "part-000000-00001.tar", copy / "extra.tar")
    assert any(d["shard"] == "extra.tar" for d in damages(copy)["damaged"])


def test_a_bit_that_flips_anywhere_is_found(copy):
    """Every file of the set; none of it ends in a traceback, and a whole set is sound again."""
    draw = np.random.default_rng(0)
    for path in sorted(copy.iterdir()):
        content = path.read_bytes()
        for place in draw.integers(8 * len(content), size=3):
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << (place % 8)
            path.write_bytes(flipped)
            result = cli("verify", copy)
            assert result.exit_code in (1, 2), (path.name, place)
            assert path.name in result.output or path.suffix == ".tar"
            assert isinstance(result.exception, SystemExit)
        path.write_bytes(content)
    assert cli("verify", copy).exit_code == 0


FOREIGN = ("../x.tar", "/tmp/x.tar", "a/b.tar", "x.npy", ".tar", "..", "", "a\0b.tar", "a\\b.tar")


@pytest.mark.parametrize("name", FOREIGN)
def test_a_set_with_foreign_paths_is_refused(copy, name, tmp_path):
    shutil.copytree(copy, tmp_path / "a")  # there is a file where the name points
    rename_shard(copy, name)
    for command in (("verify",), ("ls",)):
        result = cli(*command, copy)
        assert result.exit_code == 2 and "is not the name of a tar" in result.stderr, command
    with pytest.raises(UserError, match="is not the name of a tar"):
        ShardSet(copy)


CHANGES = {
    "place": 7, "video": -5, "video_bytes": 2**40, "meta": -1, "pcm": 3, "samples": 2**40,
    "packet": -5, "frames": -1, "width": 2**31 - 1, "height": 0, "fps": np.nan, "origin": np.inf,
    "hold": -1,
}  # fmt: skip


@pytest.mark.parametrize("column", CHANGES)
def test_rows_that_cannot_be_are_refused_when_a_shard_is_opened(copy, column):
    """Their checksum is right, so a program wrote them so."""
    path = copy / "part-000000-00001.samples.npy"
    rows = np.load(path)
    rows[column][1] = CHANGES[column]
    np.save(path, rows)
    reseal(copy)
    shards = ShardSet(copy)
    assert shards[0].video().shape[0] == 15
    with pytest.raises(UserError, match=rf"{path.name}: damaged: .*rebuild it with"):
        shards[4].video()
    result = cli("verify", copy)
    assert result.exit_code == 1 and path.name in result.stdout


@pytest.mark.parametrize("fault", ["outside", "overlap", "empty"])
def test_packets_that_cannot_be_are_refused(copy, fault):
    path = copy / "part-000000-00000.packets.npy"
    packets = np.load(path)
    if fault == "outside":
        packets[15] += 10**6  # where the last of 15 frames ends
    if fault == "overlap":
        packets[4] = packets[3] - 1
    if fault == "empty":
        packets[4] = packets[3]
    np.save(path, packets)
    reseal(copy)
    with pytest.raises(UserError, match="packets outside of their file"):
        ShardSet(copy).row(0)


@pytest.mark.parametrize("version", [1, 2])
def test_a_set_of_an_older_format_is_upgraded(copy, whole, version):
    """Its settings, inputs and refusals are kept; until then every reader names the way out."""
    manifest = json.loads((copy / "manifest.json").read_text())
    old = {key: value for key, value in manifest.items() if key not in ("tables", "sha256")}
    old["shards"] = [{"name": name} for name in ShardSet(whole).shards]
    (copy / "manifest.json").write_text(json.dumps({**old, "format": version}))
    for path in (*copy.glob("part*.npy"), *copy.glob("label-*"), copy / "shards.npy"):
        path.unlink()
    result = cli("verify", copy)
    assert (
        result.exit_code == 2
        and f"format {version}" in result.stderr
        and "xdc-shard index" in result.stderr
    )
    assert cli("index", copy).exit_code == 0
    assert contents(copy) == contents(whole)


def test_an_incomplete_set_is_a_mistake(copy):
    (copy / "manifest.json").unlink()
    result = cli("verify", copy)
    assert result.exit_code == 2 and "manifest.json" in result.stderr


@pytest.mark.parametrize("content", ["[]", '{"name": "site"}', '{"format": 3}', "{", ""])
def test_a_manifest_of_another_kind_is_a_mistake(copy, content):
    (copy / "manifest.json").write_text(content)
    (copy.parent / "a.mp4").touch()
    for command in (("verify",), ("ls",), ("index",), ("pack", copy.parent)):
        result = cli(*command, copy)
        said = result.stderr.splitlines()[-1]
        assert result.exit_code == 2 and "manifest.json: " in said and "move it away" in said
    assert (copy / "manifest.json").read_text() == content


def test_a_damaged_table_is_a_mistake(copy):
    shards = ShardSet(copy)
    table = copy / "samples.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    assert shards[0].source == "0.mp4"  # in the other shard's rows
    with pytest.raises(UserError, match=r"samples\.csv: damaged: .*; rebuild"):
        assert shards.sources
    reseal(copy)
    with pytest.raises(UserError, match=r"samples\.csv: damaged: 1 rows for 2 samples; rebuild"):
        assert ShardSet(copy).sources
    table.unlink()
    with pytest.raises(UserError, match=r"samples\.csv.*rebuild"):
        assert ShardSet(copy).sources


@pytest.mark.parametrize("name", ["label-001.npy", "label-001.json"])
def test_a_damaged_label_is_a_mistake(copy, name):
    content = (copy / name).read_bytes()
    for changed in (content[:-3], content.replace(b'"', b"'") + b"\0", b""):
        (copy / name).write_bytes(changed)
        with pytest.raises(UserError, match=f"{name}: damaged: .*xdc-shard index"):
            ShardSet(copy).label("word")
        reseal(copy)
        with pytest.raises(UserError, match=r"label-001\.\w+: .*xdc-shard index"):
            ShardSet(copy).label("word")
    (copy / name).unlink()
    with pytest.raises(UserError, match=f"{name}: No such file"):
        ShardSet(copy).label("word")
    assert ShardSet(copy).label("age")[1] == list("01234")


@pytest.mark.parametrize("suffix", ["samples.npy", "packets.npy"])
def test_a_damaged_sidecar_is_a_mistake(copy, suffix):
    path = copy / f"part-000000-00000.{suffix}"
    for content in (path.read_bytes()[:-1], b"", bytes(200)):
        path.write_bytes(content)
        with pytest.raises(UserError, match=f"{path.name}: damaged: .*xdc-shard index"):
            ShardSet(copy).row(0)
    path.unlink()
    with pytest.raises(UserError, match=f"{path.name}: No such file"):
        ShardSet(copy).row(0)


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_index_reproduces_a_packed_set(whole, copy):
    """With the manifest, every byte; without it, all but what the tars cannot tell."""
    for path in (*copy.glob("*.npy"), *copy.glob("*.idx"), copy / "samples.csv"):
        path.unlink()
    result = cli("index", copy)
    assert result.exit_code == 0 and "indexed 5 samples in 2 shards" in result.stdout
    assert contents(copy) == contents(whole)
    (copy / "manifest.json").unlink()
    assert cli("index", copy).exit_code == 0
    old, new = ShardSet(whole).manifest, ShardSet(copy).manifest
    same = ("format", "samples", "frames", "seconds", "bytes", "labels", "refused", "shards")
    assert [old[key] for key in same] == [new[key] for key in same]
    assert all(new["settings"][k] == old["settings"][k] for k in ("codec", "fps", "audio_rate"))
    changed = {n for n, data in contents(whole).items() if contents(copy)[n] != data}
    assert changed == {"manifest.json"}


def foreign(path, samples):
    """A WebDataset tar of another program: (name, content) pairs, in PAX format."""
    with tarfile.open(path, "w") as archive:
        for name, content in samples:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))


def test_index_of_another_programs_shards(tmp_path):
    """H.264 with the sound inside, with a stereo wav beside it, and JPEG packets in an avi."""
    inside = make_media(tmp_path / "a.mp4", seconds=2, size=(64, 48)).read_bytes()
    alone = make_media(tmp_path / "b.mkv", seconds=2, audio=None, size=(64, 48)).read_bytes()
    jpegs = make_media(tmp_path / "c.avi", seconds=2, audio=None, video="mjpeg", size=(64, 48))
    sound = io.BytesIO()
    with wave.open(sound, "wb") as file:
        file.setparams((1, 2, 22050, 0, "NONE", ""))
        file.writeframes(bytes(2 * 44100))
    out = tmp_path / "set"
    out.mkdir()
    foreign(out / "part-a.tar", [("dir/one.mp4", inside), ("dir/one.cls", b"3")])
    foreign(
        out / "part-b.tar",
        [
            (
                "dir/two.json",
                b'{"labels": {"class": 4, "place": "here"}, "source": "film", "seconds": "2 s"}',
            ),
            ("dir/two.mkv", alone),
            ("dir/two.wav", sound.getvalue()),
            ("dir/three.avi", jpegs.read_bytes()),
            ("dir/three.wav", sound.getvalue()),
        ],
    )
    result = cli("index", out)
    assert result.exit_code == 0, result.output
    shards = ShardSet(out)
    rows = shards.rows()
    assert shards.sample_rate == 22050 and rows["frames"].tolist() == [50, 50, 50]
    assert (rows["pcm"] >= 0).tolist() == [False, True, True]
    assert (rows["packet"] >= 0).tolist() == [False, False, True]
    assert shards.settings["codec"] == "copy"  # not all are JPEG packets
    assert abs(rows["samples"] - 44100).max() < 1100
    table = shards.table()
    assert [row["source"] for row in table] == ["dir/one", "film", "dir/three"]
    assert [row["class"] for row in table] == ["3", "4", ""]
    assert decode_frames(shards.video_file(1), np.array([7, 30])).shape == (2, 48, 64, 3)
    assert abs(len(decode_waveform(shards.audio_file(0), 16000)) - 32000) < 800
    name, row = shards.row(2)
    assert all(p[:2].tobytes() == b"\xff\xd8" for p in shards.packets(name, row, np.arange(50)))
    assert damages(out, "--decode")["damaged"] == []


def test_index_refuses_labels_that_cannot_be_columns(tmp_path):
    out = tmp_path / "set"
    out.mkdir()
    video = make_media(tmp_path / "a.mp4", seconds=1, size=(64, 48)).read_bytes()
    foreign(out / "x.tar", [("a.mp4", video), ("a.json", b'{"labels": {"shard": 1}}')])
    result = cli("index", out)
    assert result.exit_code == 2 and "label column 'shard'" in result.stderr
