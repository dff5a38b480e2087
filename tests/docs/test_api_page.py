"""docs/api.md documents every public name, and its examples run."""

import re
import subprocess
import sys

import xdc_fast
from tests.common.runs import make_trained_run
from tests.docs.pages import ROOT, blocks

PAGE = ROOT / "docs/api.md"


def test_every_public_name_is_on_the_page():
    named = re.findall(r"^\.\. auto\w+:: (\w+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(named) == xdc_fast.__all__


def test_its_blocks_run(toy_videos, toy_shards, tmp_path):
    """In the folder that the page tells of: videos, shards and a run."""
    (tmp_path / "videos").symlink_to(toy_videos)
    (tmp_path / "shards").symlink_to(toy_shards.root)
    make_trained_run(tmp_path / "run", f"data={toy_shards.root}")
    script = "\n".join(block.text for block in blocks(PAGE, "python"))
    done = subprocess.run(
        [sys.executable, "-"], input=script, cwd=tmp_path, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    shapes, sample, classes = done.stdout.strip().split("\n")
    assert shapes == "torch.Size([8, 15, 40, 40, 3]) torch.Size([8, 16000])"
    assert sample.startswith("(45, 40, 40, 3) (48000,)")
    assert len(re.findall(r"[01]", classes)) == 12
