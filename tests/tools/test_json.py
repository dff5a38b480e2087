"""`--json` is one JSON document on stdout, whatever the command; all else is on stderr."""

import json
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from tests.common.runs import make_trained_run
from xdc_fast.tools import shard, xdc

PACK = "from xdc_fast.tools.shard import main; main()"


@pytest.mark.parametrize("group", [xdc.main, shard.main], ids=["xdc", "xdc-shard"])
def test_every_command_has_it_and_means_the_same(group):
    for name, command in group.commands.items():
        options = {option: p for p in command.params for option in p.opts}
        assert "--json" in options, name
        assert options["--json"].help == shard.verify.params[-1].help, name


@pytest.mark.parametrize("group", [xdc.main, shard.main], ids=["xdc", "xdc-shard"])
def test_help_is_sentences(group):
    """Of commands and of every option that has a help text."""
    for name, command in group.commands.items():
        text = command.help.split("\n\n")[0].strip()
        assert text[0].isupper() and text[-1] in ".:", name
        for option in command.params:
            if isinstance(option, click.Option) and option.help:
                assert option.help[0].isupper(), (name, option.name)
                assert option.help.rstrip("]").strip()[-1] in ".0123456789", (name, option.name)


def document(group, *arguments):
    """The one document that a command prints."""
    done = CliRunner().invoke(group, [str(a) for a in arguments] + ["--json"])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def test_a_pipe_gets_the_document_alone(tmp_path):
    """In a process of its own, where bars, notes and the library's messages go to stderr."""
    made = document(shard.main, "toy", tmp_path / "toy", "--videos", 6, "--classes", 2)
    assert made["videos"] == 6 and made["labels"] == str(tmp_path / "toy/labels.csv")
    command = [sys.executable, "-c", PACK, "pack", tmp_path / "toy", tmp_path / "set", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["packed"] == 6
    assert "packing" in done.stderr and "labels.csv is there" in done.stderr
    shards = tmp_path / "set"
    assert document(shard.main, "ls", shards)["samples"] == 6
    assert document(shard.main, "verify", shards) == {
        "shards": 1, "samples": 6, "unknown": 0, "damaged": []
    }  # fmt: skip
    assert document(shard.main, "index", shards)["samples"] == 6


def test_the_commands_of_a_run(toy_shards, tmp_path):
    recipe = tmp_path / "r.yaml"
    recipe.write_text(
        f"data: {toy_shards.root}\nout: {tmp_path / 'run'}\nk: 4\ndevice: cpu\n"
        "video: {encoder: r2plus1d_tiny, crop: 32}\naudio: {encoder: audio_tiny}\n"
        "train: {iterations: 1, epochs: 1, batch: 12}\n"
    )
    summary = document(xdc.main, "pretrain", recipe)
    assert summary == json.loads((tmp_path / "run/summary.json").read_text())
    report = document(xdc.main, "report", tmp_path / "run")
    assert report["report"] == str(tmp_path / "run/report.html")
    exported = document(xdc.main, "export", tmp_path / "run", tmp_path / "export")
    assert exported["features"] == {"video": 48, "audio": 48}
    assert document(xdc.main, "bench", recipe, "--seconds", 0.1)["rates"]
    assert document(xdc.main, "doctor").keys() >= {"versions", "machine", "stages"}


def test_export_takes_the_recipe_of_a_released_file_only(toy_shards, tmp_path):
    run = make_trained_run(tmp_path / "run", f"data={toy_shards.root}")
    recipe = tmp_path / "r.yaml"
    recipe.write_text("video: {crop: 32}\n")
    arguments = ["export", str(run.root), str(tmp_path / "out"), "--recipe", str(recipe)]
    refused = CliRunner().invoke(xdc.main, arguments)
    assert refused.exit_code == 2 and "comes with its own recipe" in refused.stderr
