"""The blocks of README.md and docs/start.md run as they stand, in order, in one folder."""

import csv
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.pages import ROOT, blocks

START = ROOT / "docs/start.md"
README = ROOT / "README.md"


def section(page, *titles):
    """The blocks of a page under some headings."""
    text = page.read_text(encoding="utf-8").splitlines()
    headings = [i for i, line in enumerate(text, 1) if line.startswith("#")]
    title = {i: text[i - 1].lstrip("# ") for i in headings}
    return [
        block
        for block in blocks(page, "sh", "python")
        if title[max(i for i in headings if i < block.line)] in titles
    ]


def run(block, folder):
    """Carry a block out in a folder, `make` excepted; fails where it does."""
    (folder / "stubs").mkdir(exist_ok=True)
    (folder / "stubs/make").write_text("#!/bin/sh\n")
    (folder / "stubs/make").chmod(0o755)
    path = f"{folder / 'stubs'}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    command = [sys.executable] if block.language == "python" else ["bash", "-e"]
    done = subprocess.run(
        command, input=block.text, cwd=folder, env=os.environ | {"PATH": path},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{block.name}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture
def folder(tmp_path):
    """A folder like the repository: recipes and an environment to activate."""
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    (tmp_path / ".venv/bin/activate").touch()
    return tmp_path


@pytest.mark.slow
def test_readme(folder, toy_videos):
    """On toy videos, a folder per class."""
    with (toy_videos / "labels.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            (folder / "VIDEOS" / row["class"]).mkdir(parents=True, exist_ok=True)
            shutil.copy(toy_videos / row["file"], folder / "VIDEOS" / row["class"])
    for name in ("a.mp4", "b.mp4"):
        shutil.copy(toy_videos / "000000.mp4", folder / name)
    for block in section(README, "Your own videos", "In Python"):
        run(block, folder)
    assert (folder / "runs/mine/report.html").is_file()


@pytest.mark.slow
def test_first_run(folder):
    printed = [run(block, folder) for block in blocks(START, "sh", "python")]
    assert (folder / "toy/run/report.html").is_file()
    assert printed[-1] == "{'video': (48,), 'audio': (48,)}\n"
