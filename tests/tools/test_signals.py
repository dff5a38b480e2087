"""SIGINT and SIGTERM, sent to real processes: one line, and the status that a shell expects."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.common.runs import TINY, make_trained_run

# a command whose work has begun once the file is there, and takes for ever
SLOW = """
import time
from pathlib import Path
from xdc_fast.clips.reader import SampleReader
from xdc_fast.pretraining import loop
from xdc_fast.tools.xdc import main

read = SampleReader.read_waveform

def read_slowly(*arguments):
    Path({begun!r}).touch()
    time.sleep(0.2)
    return read(*arguments)

def never_ends(*_):
    Path({begun!r}).touch()
    time.sleep(600)

SampleReader.read_waveform = read_slowly
if {early}:
    loop.ClipTransform = never_ends
main()
"""


# a command that gets a signal when it begins to import a module, or after its work
IMPORTING = """
import atexit, os, sys

class Finder:
    def find_spec(self, name, *_):
        if name == {module!r}:
            os.kill(os.getpid(), {number})

sys.meta_path.insert(0, Finder())
if {module!r} == "":
    atexit.register(os.kill, os.getpid(), {number})
sys.argv = ["xdc-shard", "ls", {shards!r}]
from xdc_fast.__main__ import xdc_shard
xdc_shard()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("module", ["click", "numpy", "xdc_fast.shards.dataset", ""])
def test_a_signal_is_answered_from_the_first_line_on(module, number, toy_shards):
    """And when the work is done, it changes nothing."""
    script = IMPORTING.format(module=module, number=int(number), shards=str(toy_shards.root))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    stopped = f"xdc-shard: stopped by {number.name}; run the same command again\n"
    assert (done.returncode, done.stderr) == ((128 + number, stopped) if module else (0, ""))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    "command",
    ["pretrain", "early", "extract", "probe", "finetune", "svm", "retrieve"],
)
def test_a_signal_ends_a_command_with_its_status(command, number, toy_shards, tmp_path):
    """early: in pretrain, before its loop notes signals."""
    (tmp_path / "recipe.yaml").write_text("")
    run = make_trained_run(tmp_path / "run").root
    data, label = ("--data", toy_shards.root), ("--label", "class")
    settings = (*TINY, "train.batch=12", f"data={toy_shards.root}")
    pretrain = ("pretrain", tmp_path / "recipe.yaml", *settings)
    arguments = {
        "pretrain": pretrain,
        "early": pretrain,
        "extract": ("extract", run, tmp_path / "features", *data),
        "probe": ("probe", run, *data, *label),
        "finetune": ("finetune", run, *data, *label),
        "svm": ("svm", run, *data, *label),
        "retrieve": ("retrieve", run, *data),
    }[command]
    last = f"out={tmp_path}/new" if "pretrain" in arguments else "--json"
    script = SLOW.format(begun=str(tmp_path / "begun"), early=command == "early")
    with subprocess.Popen(
        [sys.executable, "-c", script, *map(str, (*arguments, last))],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    ) as process:  # fmt: skip
        while not (tmp_path / "begun").exists():
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.02)
        process.send_signal(number)
        stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 128 + number, stderr
    assert f"xdc: stopped by {number.name}; " in stderr and "Traceback" not in stderr
    assert not stdout
