"""Runs that end at every change they make to the disk, and are started again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.common.media import make_media

CHANGES = ("replace", "unlink", "mkdir", "rmdir", "fsync")
SCRIPT = """
import os, sys
from pathlib import Path
from tests.packing.test_crashes import end_at
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.packing.toy import make_toy

if __name__ == "__main__":
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    end_at(int(sys.argv[3]))
    if source.name == "toy":
        make_toy(out, 3, workers=1)
    else:
        settings = PackSettings(short_side=32, fps=10, segment=2.0)
        pack(collect([source], None, out), out, settings, shard_mb=0, workers=1)
"""


def end_at(number: int) -> None:
    """From now on, this process ends like a killed one before or after its n-th change."""
    seen = 0

    def count():
        nonlocal seen
        seen += 1
        if seen == number:
            os._exit(9)

    def counted(change):
        def call(*arguments, **options):
            count()
            result = change(*arguments, **options)
            count()
            return result

        return call

    for name in CHANGES:
        setattr(os, name, counted(getattr(os, name)))


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("what", ["videos", "nothing usable", "toy"])
def test_a_run_that_ends_anywhere_can_be_continued(tmp_path, what):
    source = tmp_path / what
    source.mkdir()
    (source / "c.mp4").write_text("no film")
    if what == "videos":
        make_media(source / "a.mp4", seconds=4.5, size=(48, 32), rate=16000)
        make_media(source / "b.mp4", seconds=2, size=(48, 32), rate=16000)
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    here = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}

    def run(out, number):
        command = [sys.executable, str(script), str(source), str(out), str(number)]
        return subprocess.run(command, env=here, capture_output=True, check=False).returncode

    assert run(tmp_path / "whole", 0) == 0
    number = 1
    while run(tmp_path / f"out{number}", number) == 9:
        out = tmp_path / f"out{number}"
        assert run(out, 0) == 0
        assert contents(out) == contents(tmp_path / "whole")
        number += 1
    assert number > 5
