"""Whole commands of a new process with next to nothing to do: what is left is their start.

Compiled kernels are in the cache and files in memory, since each command has run once before.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Figure
from benchmarks.media import pack_videos
from xdc_fast.packing.toy import make_toy

THREADS = (2,)
RUNS = 5
RECIPE = Path(__file__).parents[2] / "recipes/toy.yaml"
PYTHON = "python -c pass"
TORCH = "import torch, make an optimizer"  # which imports its compiler
OPTIMIZER = "import torch; torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)"
PACK = "from xdc_fast.tools.shard import main; main()"
VIDEOS = 64  # a batch of the recipe


def cases(quick: bool, threads: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toy = folder / "toy"
        make_toy(toy, videos=VIDEOS, classes=4, seed=0, workers=threads)
        videos = sorted(toy.glob("*.mp4"))
        shards = pack_videos(videos, folder / "set", threads, short_side=40)
        once = ("train.iterations=1", "train.steps=1", "k=4")
        commands = {
            PYTHON: ["-c", "pass"],
            TORCH: ["-c", OPTIMIZER],
            "import xdc_fast": ["-c", "import xdc_fast"],
            "xdc --help": ["-m", "xdc_fast", "--help"],
            "xdc-shard pack, one video": ["-c", PACK, "pack", videos[0], folder / "one"],
            f"xdc pretrain, {VIDEOS} samples, one step": [
                *("-m", "xdc_fast", "pretrain", RECIPE, *once),
                *(f"data={shards.root}", f"out={folder / 'run'}"),
            ],
        }
        seconds: dict[str, list[float]] = {command: [] for command in commands}
        for turn in range(1 if quick else RUNS + 1):
            for command, arguments in commands.items():
                spent = run(arguments)
                if turn or quick:
                    seconds[command].append(spent)
                for left in ("one", "run"):
                    shutil.rmtree(folder / left, ignore_errors=True)
    peers = {command: seconds.pop(command) for command in (PYTHON, TORCH)}
    for command, spent in seconds.items():
        yield Figure(command, "seconds, lower is better", spent, peers)


def run(arguments: list) -> float:
    """Seconds from the start of a Python to its end."""
    begun = time.perf_counter()
    subprocess.run([sys.executable, *map(str, arguments)], check=True, capture_output=True)
    return time.perf_counter() - begun
