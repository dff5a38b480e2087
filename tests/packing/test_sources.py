"""The inputs of a packing run: which files, their names, their labels."""

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.common.media import make_media
from xdc_fast.errors import UserError
from xdc_fast.packing.pack import Summary, pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.verify import verify
from xdc_fast.tools.shard import main


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Ten copies of a video in two class folders, and files that are no inputs."""
    folder = tmp_path_factory.mktemp("videos")
    video = make_media(folder / "video.mp4", seconds=1.2, size=(48, 32), rate=16000)
    for name in ("cats", "dogs"):
        (folder / name).mkdir()
        for stem in ("0", "1", "2", "3", "mute"):
            shutil.copy(video, folder / name / f"{stem}.mp4")
    (folder / "dogs" / "mute.mp4").rename(folder / "dogs" / "text.mp4")
    (folder / "dogs" / "notes.txt").write_text("not an input")
    (folder / "dogs" / ".hidden.mp4").write_text("not an input")
    video.unlink()
    return folder


def pack_list(table: Path, out: Path) -> Summary:
    settings = PackSettings(short_side=32, fps=10)
    return pack(collect([table], None, out), out, settings, workers=1)


def test_labels_join_by_name(videos, tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("file,sound,split\n0.mp4,high,1\ncats/1.mp4,low,2\nmissing.mp4,low,1\n")
    inputs = collect([videos / "cats"], table, tmp_path / "out")
    labels = {source.name: source.labels for source in inputs.sources}
    assert labels["0.mp4"] == {"sound": "high", "split": "1"}
    assert labels["1.mp4"] == {"sound": "low", "split": "2"}
    assert any("3 inputs have no labels, 1 lines match no input" in note for note in inputs.notes)
    with pytest.raises(UserError, match=r"'0\.mp4' is the name of cats/0\.mp4 and dogs/0\.mp4"):
        collect([videos], table, tmp_path / "out")
    table.write_text("file,sound,split\nmute.mp4,high,1\ncats/1.mp4,low,2\n")
    deep = collect([videos], table, tmp_path / "out")
    assert deep.columns == ["class", "sound", "split"]
    assert {s.name: s.labels["sound"] for s in deep.sources}["cats/mute.mp4"] == "high"
    assert {s.name: s.labels["sound"] for s in deep.sources}["cats/1.mp4"] == "low"
    table.write_text("file,sound\n0.mp4,high\n0.mp4,low\n")
    with pytest.raises(UserError, match=r"labels\.csv: lines 2 and 3 give '0\.mp4' other"):
        collect([videos], table, tmp_path / "out")
    table.write_text("video,sound\n0.mp4,high\n")
    with pytest.raises(
        UserError, match="no column file or path or filename or name; it has: video"
    ):
        collect([videos], table, tmp_path / "out")
    for columns, words in (("file,source", "rename it"), ("file,a,a", "two columns of the same")):
        table.write_text(f"{columns}\nmute.mp4{',high' * columns.count(',')}\n")
        with pytest.raises(UserError, match=words):
            collect([videos], table, tmp_path / "out")


def test_sources_may_be_a_list(videos, tmp_path):
    """A CSV: paths from its own folder, other columns are labels, missing files are refused."""
    table = tmp_path / "list.csv"
    relative = os.path.relpath(videos / "cats" / "2.mp4", tmp_path)
    table.write_text(f"path,kind\n{relative},a\ngone.mp4,b\n{videos}/dogs/0.mp4,c\n")
    summary = pack_list(table, tmp_path / "out")
    assert (summary.packed, summary.reasons) == (2, {"unreadable": 1})
    codes, names = ShardSet(tmp_path / "out").label("kind")
    assert names == ["a", "c"] and codes.tolist() == [0, 1]


def test_sources_are_named_and_taken_once(videos, tmp_path):
    inputs = collect([videos / "cats", videos / "dogs" / "0.mp4", videos / "cats"], None, tmp_path)
    assert [s.name for s in inputs.sources][:2] == ["cats/0.mp4", "cats/1.mp4"]
    assert len(inputs.sources) == 6
    assert "5 inputs were given twice and are taken once" in inputs.notes
    with pytest.raises(UserError, match="no such file"):
        collect([videos / "nowhere"], None, tmp_path)
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(UserError, match="no inputs"):
        pack(collect([empty], None, tmp_path / "out"), tmp_path / "out", PackSettings())


def test_folders_are_walked_through_links_and_without_the_output(tmp_path):
    for name in ("videos/a.mp4", "videos/packed/b.mp4", "elsewhere/c.mp4"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "videos" / "link").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere" / "back").symlink_to(tmp_path / "videos")
    found = collect([tmp_path / "videos"], None, tmp_path / "videos" / "packed")
    assert [source.name for source in found.sources] == ["a.mp4", "link/c.mp4"]


def test_a_folder_that_cannot_be_read_is_a_mistake(tmp_path, monkeypatch):
    (tmp_path / "shut").mkdir()
    scandir = os.scandir

    def forbid(path):  # permissions do not bind root
        if Path(path).name == "shut":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", forbid)
    with pytest.raises(UserError, match="shut: Permission denied"):
        collect([tmp_path], None, tmp_path / "out")


def test_odd_paths_are_refused_and_odd_names_are_kept(videos, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    shutil.copy(videos / "cats" / "0.mp4", folder / "a\rb.mp4")
    (folder / "loop.mp4").symlink_to("loop.mp4")
    table = folder / "list.csv"
    rows = b'path,kind\n"a\rb.mp4",x\nloop.mp4,x\n%s,x\n' % (b"n" * 300)
    table.write_bytes(rows)
    summary = pack_list(table, tmp_path / "out")
    assert (summary.packed, summary.reasons) == (1, {"unreadable": 2})
    assert ShardSet(tmp_path / "out").sources == ["a\rb.mp4"]
    assert not verify(tmp_path / "out")["damaged"]


def test_a_nul_in_a_list_is_no_traceback(tmp_path):
    (tmp_path / "list.csv").write_bytes(b"path\nn\0l.mp4\n")
    arguments = [str(tmp_path / "list.csv"), str(tmp_path / "out")]
    result = CliRunner().invoke(main, ["pack", *arguments])
    assert result.exit_code == 2
    assert "list.csv: line 2 holds a zero character; save the table as UTF-8" in result.stderr
