"""Other labels for a packed set: samples.csv and the manifest change, and nothing else."""

import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from xdc_fast.shards import tables
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.tools.shard import main


def cli(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def copy(toy_shards, tmp_path):
    return Path(shutil.copytree(toy_shards.root, tmp_path / "set"))


def names(files):
    """Of files, but those of labels."""
    return {name for name in files if not name.startswith("label-")}


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_labels_are_added_and_replaced(copy, tmp_path):
    before, shards = contents(copy), ShardSet(copy)
    table = tmp_path / "labels.csv"
    first, second = shards.sources[0], shards.sources[1]
    table.write_text(
        f"file,class,mood\nvideos/{first},9,calm\n{Path(second).stem},8,\nno.mp4,1,x\n"
    )
    done = cli("label", copy, "--labels", table, "--json")
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout) == {
        "samples": 48, "labeled": 2, "unused_lines": 1, "columns": ["class", "mood"],
    }  # fmt: skip
    after, new = contents(copy), ShardSet(copy)
    changed = {name for name in after if after[name] != before.get(name)}
    assert {name for name in changed if not name.startswith("label-")} == {
        "samples.csv",
        "shards.npy",
        "manifest.json",
    }
    assert new.manifest["relabeled"] == ["class", "mood"] and new.fingerprint == shards.fingerprint
    old = shards.manifest["labels"]
    assert new.label_names == sorted({*old, "mood"})
    assert [new[k].labels["class"] for k in (0, 1)] == ["9", "8"]
    assert new[2].labels["class"] == json.loads(json.dumps(new[2].meta["labels"]["class"]))
    assert [new[k].labels["mood"] for k in (0, 1, 2)] == ["calm", "", ""]
    assert cli("verify", copy).exit_code == 0
    assert cli("index", copy).exit_code == 0
    assert contents(copy) == after
    table.write_text("name,mood\n000000002,glad\n")  # by the key
    assert cli("label", copy, "--labels", table).exit_code == 0
    assert [ShardSet(copy)[k].labels["mood"] for k in (0, 1, 2)] == ["calm", "", "glad"]
    assert cli("verify", copy).exit_code == 0


def test_a_call_that_ends_between_its_two_files_is_done_again(copy, tmp_path, monkeypatch):
    """After an error the set is as before; after a kill the same command mends it."""
    before, table = contents(copy), tmp_path / "labels.csv"
    table.write_text(f"file,mood\n{ShardSet(copy).sources[0]},calm\n")

    def fail(*_):
        raise OSError(28, "No space left on device", "manifest.json")

    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_manifest", fail)
        assert cli("label", copy, "--labels", table).exit_code == 2
    assert contents(copy) == before
    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_manifest", fail)
        patch.setattr(tables, "settle", lambda out: None)
        assert cli("label", copy, "--labels", table).exit_code == 2
    assert cli("verify", copy).exit_code == 2
    assert cli("label", copy, "--labels", table).exit_code == 0
    assert cli("verify", copy).exit_code == 0
    assert names(contents(copy)) == names(before) and ShardSet(copy)[0].labels["mood"] == "calm"
    table.write_text(f"file,place\n{ShardSet(copy).sources[0]},here\n")
    with monkeypatch.context() as patch:
        patch.setattr(tables, "write_manifest", fail)
        patch.setattr(tables, "settle", lambda out: None)
        assert cli("label", copy, "--labels", table).exit_code == 2
    assert cli("index", copy).exit_code == 0  # it keeps what earlier calls have written
    assert names(contents(copy)) == names(before) and ShardSet(copy)[0].labels["mood"] == "calm"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("file,class\nnothing.mp4,1\n", "none of its 1 lines names a file"),
        ("file,class\na,b,c\n", "line 2"),
        ("file,shard\nx,1\n", "a name that samples.csv uses"),
        ("file\nx\n", "no column beside the one of files"),
    ],
)
def test_tables_that_fit_nothing_change_nothing(copy, tmp_path, text, words):
    before = contents(copy)
    table = tmp_path / "labels.csv"
    table.write_text(text)
    done = cli("label", copy, "--labels", table)
    assert done.exit_code == 2 and words in done.stderr and len(done.stderr.splitlines()) == 1
    assert contents(copy) == before


def test_labels_of_a_damaged_table_are_told_when_it_is_rebuilt(copy, tmp_path, caplog):
    table = tmp_path / "labels.csv"
    table.write_text(f"file,mood\n{ShardSet(copy).sources[0]},calm\n")
    assert cli("label", copy, "--labels", table).exit_code == 0
    samples = copy / "samples.csv"
    samples.write_bytes(samples.read_bytes()[:-1])
    assert cli("label", copy, "--labels", table).exit_code == 2
    done = cli("index", copy)
    assert done.exit_code == 0, done.output
    assert "the labels mood are lost, give them again" in caplog.text
    assert cli("label", copy, "--labels", table).exit_code == 0
    assert ShardSet(copy)[0].labels["mood"] == "calm"


def test_a_folder_that_is_no_set(tmp_path):
    (tmp_path / "labels.csv").write_text("file,class\na,1\n")
    for folder in (tmp_path, tmp_path / "nothing"):
        done = cli("label", folder, "--labels", tmp_path / "labels.csv")
        assert done.exit_code == 2 and "no manifest.json there" in done.stderr
