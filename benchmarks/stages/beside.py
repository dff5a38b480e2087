"""Training beside other work on the same cores: how the idle threads of OpenMP wait decides.

A run is `xdc pretrain` of the toy world in a process of its own, with as many threads as cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

from benchmarks.harness import Figure
from benchmarks.media import pack_videos
from xdc_fast.packing.toy import make_toy
from xdc_fast.pretraining.run import Run

THREADS = (2,)
RECIPE = Path(__file__).parents[2] / "recipes/toy.yaml"
BUSY = 4  # processes beside a run that do nothing but compute
WAYS = {
    "ours": {},
    "OpenMP's default": {"GOMP_SPINCOUNT": "300000"},  # libgomp's, where nothing is said
    "OMP_WAIT_POLICY=passive": {"OMP_WAIT_POLICY": "passive"},
}
SAYING = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY", "OMP_NUM_THREADS")
RUNS = 3


def cases(quick: bool, threads: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        toy = Path(folder) / "toy"
        make_toy(toy, videos=64 if quick else 256, classes=10, seed=0, workers=threads)
        shards = pack_videos(
            sorted(toy.glob("*.mp4")), Path(folder) / "set", threads, short_side=40
        )
        settings = (
            f"data={shards.root}",
            f"train.steps={2 if quick else 24}",
            "train.iterations=2",
        )
        for name, runs, busy in (
            ("one run alone", 1, 0),
            ("two runs at a time, together", 2, 0),
            (f"one run beside {BUSY} busy processes", 1, BUSY),
        ):
            found: dict[str, list[float]] = {way: [] for way in WAYS}
            for _ in range(1 if quick else RUNS):
                for way in WAYS:
                    found[way].append(rate(settings, Path(folder), WAYS[way], runs, busy))
            yield Figure(name, "clips per second", found.pop("ours"), found)


def rate(
    settings: tuple[str, ...], folder: Path, way: dict[str, str], runs: int, busy: int
) -> float:
    """Clips per second of runs at a time, added up, in their last iterations."""
    environment = {key: value for key, value in os.environ.items() if key not in SAYING} | way
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(busy)]
    try:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            outs = [Path(place) / str(number) for number in range(runs)]
            running = [
                subprocess.Popen(
                    [sys.executable, "-m", "xdc_fast", "pretrain", RECIPE, *settings,
                     f"out={out}"],
                    env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                )
                for out in outs
            ]  # fmt: skip
            statuses = [process.wait() for process in running]
            assert not any(statuses), "a run failed"
            records = [Run.open(out).summary()["iterations"][-1] for out in outs]
    finally:
        for other in others:
            other.kill()
            other.wait()
    return sum(record["clips_per_second"] for record in records)
