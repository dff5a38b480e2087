"""What a command says when the user or the system is wrong: one line, and status 2."""

import errno
import os
import subprocess
import sys

import click
import pytest
from click.testing import CliRunner

from tests.common.one_track import cli
from xdc_fast.errors import UserError
from xdc_fast.files import naming
from xdc_fast.tools import Group, shard, xdc
from xdc_fast.tools.xdc import main


def say(error: Exception) -> str:
    """What a command that ends in an error writes to stderr."""
    group = Group("xdc")

    @group.command()
    def work():
        raise error

    done = CliRunner().invoke(group, ["work"])
    assert done.exit_code == 2 and not done.stdout, done.exception
    return done.stderr


def full(path) -> OSError:
    """The error of a full disk, as a library raises it: it names no file."""
    with pytest.raises(OSError) as caught, naming(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return caught.value


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (full("run/heads.pt"), "run/heads.pt: No space left on device; make room there, then"),
        (PermissionError(errno.EACCES, "Permission denied", "x"), "x: Permission denied; change"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x"), "x: No such file; give one that"),
        (MemoryError("Unable to allocate 240 GiB"), "out of memory (Unable to allocate 240 GiB);"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
         "out of memory ([enforce"),
        (UserError("a\nb\x1b[31m: no"), "a\\nb\\x1b[31m: no"),
        (UserError("\udce9: no"), "\\udce9: no"),
    ],
)  # fmt: skip
def test_an_error_is_one_line_with_the_way_out(error, message):
    said = say(error)
    assert said.startswith(f"xdc: {message}") and said.count("\n") == 1


def test_other_errors_of_the_program_are_not_hidden():
    with pytest.raises(AssertionError):
        say(RuntimeError("a fault of ours"))


def test_a_full_disk_behind_stdout_is_named(toy_shards):
    script = "from xdc_fast.__main__ import xdc_shard; xdc_shard()"
    with open("/dev/full", "w") as device:
        done = subprocess.run(
            [sys.executable, "-c", script, "ls", toy_shards.root],
            stdout=device, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith("xdc-shard: standard output: No space left on device; ")


def numeric():
    """Every option that takes a number: (group, command, its option, the option)."""
    for group in (xdc.main, shard.main):
        for name, command in sorted(group.commands.items()):
            for option in command.params:
                if isinstance(option.type, (click.types.IntParamType, click.types.FloatParamType)):
                    yield group, name, option.opts[0], option


@pytest.mark.parametrize(
    ("group", "command", "name", "option"),
    list(numeric()),
    ids=lambda value: getattr(value, "name", ""),
)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e300", "9" * 30])
def test_no_option_takes_an_absurd_number(group, command, name, option, value, tmp_path):
    """Neither does it begin to work on it."""
    given = []
    for parameter in group.commands[command].params:
        if isinstance(parameter, click.Argument) and parameter.required:
            given.append(str(tmp_path / parameter.name))
    given += [text for other in group.commands[command].params if other.required
              and isinstance(other, click.Option) for text in (other.opts[0], "x")]  # fmt: skip
    done = CliRunner().invoke(group, [command, *given, f"{name}={value}"])
    assert done.exit_code == 2, done.output
    said = done.stderr.splitlines()
    assert len(said) == 1, said
    assert name in said[0] or option.name in said[0], said


def test_a_report_from_another_folder_names_its_option(toy_shards, tmp_path, monkeypatch):
    (tmp_path / "shards").symlink_to(toy_shards.root)
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.yaml").write_text("data: shards\nout: run\n...\n")
    monkeypatch.chdir("/")
    done = CliRunner().invoke(main, ["report", str(run)])
    assert done.exit_code == 2 and "its shard set is not at shards, seen from here" in done.stderr
    assert "--data SHARDS" in done.stderr


def test_a_wrong_option_is_one_line_with_the_help():
    done = cli("ls", "--nothing")
    assert done.exit_code == 2
    assert done.stderr == "xdc-shard: No such option '--nothing'. See `xdc-shard ls --help`.\n"


@pytest.mark.parametrize(
    ("group", "arguments"),
    [
        (xdc, ["extract", "run", "", "--data", "set"]),
        (xdc, ["probe", "run", "--data", "set", "--label", "class", "--out", ""]),
        (shard, ["pack", "videos", ""]),
        (shard, ["index", ""]),
    ],
)
def test_an_empty_path_is_not_the_folder_one_is_in(group, arguments):
    done = CliRunner().invoke(group.main, arguments)
    assert done.exit_code == 2 and "the path is empty" in done.stderr
