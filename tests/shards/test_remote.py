"""A set on storage is the set in a folder."""

import json
import logging
import pickle
import shutil
import stat

import numpy as np
import pytest
from click.testing import CliRunner

from tests.common.pretraining import recipe, same, weights
from xdc_fast.errors import UserError
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.pretraining.run import Run
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.verify import verify
from xdc_fast.tools.shard import main as xdc_shard
from xdc_fast.tools.xdc import main as xdc


@pytest.mark.parametrize("kind", ["s3", "http"])
def test_samples_tables_and_labels_are_those_of_the_folder(kind, remote, server, toy_shards):
    shards = remote if kind == "s3" else ShardSet(f"{server.url}/b/set")
    assert (len(shards), shards.fingerprint) == (len(toy_shards), toy_shards.fingerprint)
    assert shards.table() == toy_shards.table()
    codes, classes = shards.label("class")
    assert np.array_equal(codes, toy_shards.label("class")[0]) and classes
    for index in (0, 29, 47):
        ours, theirs = shards[index], toy_shards[index]
        assert np.array_equal(ours.video(), theirs.video())
        assert np.array_equal(ours.audio(), theirs.audio())
        assert (ours.meta, ours.labels, ours.key) == (theirs.meta, theirs.labels, theirs.key)


def test_tables_are_fetched_once_and_again_when_the_set_is_another(remote, server, toy_h264):
    remote.rows()
    server.log.clear()
    again = pickle.loads(pickle.dumps(remote))
    again.rows(), again.table()
    assert [path for _, path, _ in server.log] == [
        "b/set/manifest.json",
        *["b/set/samples.csv"] * 2,
    ]
    shutil.rmtree(server.folder / "b" / "set")
    shutil.copytree(toy_h264.root, server.folder / "b" / "set")
    assert ShardSet("s3://b/set").settings["codec"] == "h264"
    assert np.array_equal(ShardSet("s3://b/set").rows(), toy_h264.rows())


def test_a_sample_is_a_few_requests(remote, server):
    remote.rows()
    server.log.clear()
    remote[5].video()
    assert len(server.log) == 1


def test_where_no_set_is_the_url_is_named(server):
    with pytest.raises(UserError, match=r"^s3://b/nothing: no manifest\.json there"):
        ShardSet("s3://b/nothing")
    server.fault = lambda *request: 403
    with pytest.raises(UserError, match=r"^s3://b/set/manifest\.json: access is denied; set AWS"):
        ShardSet("s3://b/set")


def test_verify_finds_what_is_wrong_on_storage(remote, server):
    assert verify("s3://b/set", decode=True)["damaged"] == []
    assert verify(f"{server.url}/b/set")["damaged"] == []
    folder = server.folder / "b" / "set"
    tar = folder / remote.shards[0]
    tar.chmod(tar.stat().st_mode | stat.S_IWUSR)
    content = bytearray(tar.read_bytes())
    content[-1] ^= 1
    tar.write_bytes(content)
    (folder / remote.shards[1]).unlink()
    (folder / remote.shards[1].replace(".tar", ".idx")).unlink()
    (folder / "other.tar").write_bytes(b"")
    found = {(damage["shard"], damage["what"]) for damage in verify("s3://b/set")["damaged"]}
    assert found == {
        (remote.shards[0], "the checksum differs from the manifest's"),
        (remote.shards[1], "missing"),
        (remote.shards[1], f"{remote.shards[1].replace('.tar', '.idx')}: missing"),
        ("other.tar", "the manifest does not name it"),
    }


def test_a_run_on_storage_is_the_local_run_and_holds_no_credentials(
    remote, server, toy_shards, tmp_path, caplog, capfd
):
    caplog.set_level(logging.DEBUG)
    short = ("train.iterations=1", "train.epochs=1")
    pretrain(recipe(toy_shards, tmp_path / "local", *short))
    for read in ("ranges", "shards"):
        out = tmp_path / read
        summary = pretrain(recipe(remote, out, *short, f"read={read}"))
        assert summary["iterations"][0]["clusters"]["n_unreadable"] == 0
        assert same(weights(Run.open(out)), weights(Run.open(tmp_path / "local")))
    texts = [caplog.text, *capfd.readouterr()]
    files = [p for p in tmp_path.rglob("*") if p.is_file() and server.folder not in p.parents]
    assert any(p.name == "recipe.yaml" for p in files) and any(".npy" in p.name for p in files)
    held = "\n".join(texts).encode() + b"".join(path.read_bytes() for path in files)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        assert server.environment[name].encode() not in held


def test_commands_take_a_url(remote, server, finished, tmp_path):
    def call(main, *arguments):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        return done.exit_code, done.stdout or done.output

    status, output = call(xdc_shard, "ls", "s3://b/set", "--json")
    assert status == 0 and json.loads(output)["samples"] == 48
    assert call(xdc_shard, "verify", "s3://b/set")[0] == 0
    run = finished[0].root
    probe = ("probe", run, "--label", "class", "--clips", "1", "--out", tmp_path, "--json")
    ours, theirs = (
        json.loads(call(xdc, *probe, "--data", data)[1])
        for data in ("s3://b/set", finished[0].recipe.data)
    )
    assert ours.pop("data") == "s3://b/set" and theirs.pop("data")
    assert ours == theirs
    status, output = call(xdc_shard, "ls", "s3://key:hush@b/set")
    assert status == 2 and "s3://b/set: was given with a user" in output
    assert "hush" not in output
