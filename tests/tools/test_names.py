"""Names of files that are no UTF-8, and names in a locale that has ASCII alone."""

import json
import os
import subprocess
import sys

import pytest

RECIPE = """
k: 4
device: cpu
video: {encoder: r2plus1d_tiny, crop: 32}
audio: {encoder: audio_tiny}
train: {iterations: 1, steps: 1, batch: 12}
"""
EACH = """
import sys
from xdc_fast.__main__ import xdc
for arguments in {commands!r}:
    sys.argv = ["xdc", *arguments]
    try:
        xdc()
    except SystemExit as end:
        assert not end.code, end.code
"""
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize(
    ("name", "locale"),
    [
        pytest.param(b"caf\xe9", {"LC_ALL": "C.UTF-8"}, marks=pytest.mark.slow, id="no UTF-8"),
        pytest.param("café · 日".encode(), ASCII, id="ASCII locale"),
    ],
)
def test_a_run_may_have_any_name(name, locale, toy_shards, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    run = os.fsdecode(os.fsencode(tmp_path) + b"/" + name)
    commands = [
        ["pretrain", str(tmp_path / "r.yaml"), f"data={toy_shards.root}", f"out={run}"],
        ["report", run],
        ["export", run, f"{run}.export", "--json"],
    ]
    if locale is ASCII:  # as a process of that locale knows it
        commands = [
            [os.fsencode(a).decode("ascii", "surrogateescape") for a in c] for c in commands
        ]
    done = subprocess.run(
        [sys.executable, "-c", EACH.format(commands=commands)],
        env=os.environ | locale,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr.decode(errors="replace")
    said = done.stdout.splitlines()
    assert said[0].startswith(os.fsencode(run) + b": xdc, k=4")
    assert said[1] == os.fsencode(run) + b"/report.html"
    assert json.loads(said[2])["features"]
    assert list(os.scandir(os.fsencode(run) + b"/tensorboard"))
