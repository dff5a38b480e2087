"""Two processes of one run against one: each has as much to do as the one alone.

Two runs that know nothing of each other show what the machine's cores can do side by side.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import numpy as np

from benchmarks.harness import Figure
from benchmarks.media import find_videos, pack_videos
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clusters.kmeans import cluster
from xdc_fast.encoders.build import build_encoders
from xdc_fast.encoders.features import compute_features
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.pretraining.learner import Learner
from xdc_fast.pretraining.schedule import training_batches
from xdc_fast.ranks import Ranks, open_ranks
from xdc_fast.recipe import Cluster, load_recipe
from xdc_fast.shards.dataset import ShardSet

THREADS = (2,)  # of all processes together
POOLS = ("OMP", "MKL", "OPENBLAS")
GROUP, ROWS, WIDTH, K = 16, 20_480, 512, 256
RUNS = 3
UNITS = {
    "feed": "clips per second",
    "training": "clips per second",
    "features": "clips per second",
    "k-means, next iteration": "samples per second",
}


def cases(quick: bool, threads: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        what, videos = find_videos(Path(folder), 32 if quick else 96)
        shards = pack_videos(videos, Path(folder) / "set", threads, 1, short_side=80)
        ways = {"alone": (1, 1), "apart": (2, 1), "ours": (2, 2)}
        found: dict[str, dict[str, list[float]]] = {part: {} for part in UNITS}
        for _ in range(1 if quick else RUNS):
            for way, (processes, world) in ways.items():
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    told = run(shards, Path(place), processes, world, quick)
                for part, rates in told.items():
                    found[part].setdefault(way, []).append(sum(rates))
        for part, unit in UNITS.items():
            rates = found[part]
            yield Figure(f"{part}, one process, {what}", unit, rates["alone"])
            yield Figure(
                f"{part}, two ranks, {what}", unit, rates["ours"],
                {"two runs that know nothing of each other": rates["apart"]},
            )  # fmt: skip


def run(
    shards: ShardSet, folder: Path, processes: int, world: int, quick: bool
) -> dict[str, list[float]]:
    """The rates of every process, by part."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for number in range(processes):
        environment = os.environ | {f"{pool}_NUM_THREADS": "1" for pool in POOLS} | {
            "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port), "RANK": str(number if world > 1 else 0),
        }  # fmt: skip
        line = [sys.executable, "-m", "benchmarks.stages.ranks", shards.root, folder, str(number),
                str(int(quick))]  # fmt: skip
        running.append(subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, text=True))
    told = [process.communicate()[0] for process in running]
    assert not any(process.returncode for process in running), "a process failed"
    rates: dict[str, list[float]] = {part: [] for part in UNITS}
    for lines in told:
        for part, rate in zip(UNITS, lines.split(), strict=True):
            rates[part].append(float(rate))
    return rates


def measure(ranks: Ranks, shards: ShardSet, folder: Path, quick: bool) -> Iterator[float]:
    """The rates of this process, in the order of UNITS."""
    batch = GROUP * ranks.world
    recipe = load_recipe(
        None,
        (f"k={K}", "video.encoder=r2plus1d_small", "video.crop=64", "audio.encoder=audio_small",
         f"train.batch={batch}", f"train.group={GROUP}"),
    )  # fmt: skip
    inputs, encoders = ClipTransform(recipe), build_encoders(recipe)
    loader = HostLoader(shards, inputs.shape, threads=1, spec=inputs.spec)
    samples = np.arange(len(shards))
    steps = 2 if quick else 6 * (EpochSampler(shards.shard_sizes, GROUP).steps // ranks.world)

    def batches() -> Iterator:
        settings = load_recipe(None, (f"train.batch={batch}", f"train.group={GROUP}",
                                      f"train.steps={steps}")).train  # fmt: skip
        return training_batches(
            loader, samples, settings, seed=0, flip=True, iteration=0, step=0, ranks=ranks
        )

    def feed() -> int:
        return sum(len(group) for _, groups, _ in batches() for group in groups)

    labels = np.random.default_rng(0).integers(K, size=len(shards)).astype(np.int32)
    learner = Learner(encoders, inputs, {"video": labels, "audio": labels}, "xdc", K,
                      recipe.train, 0, ranks=ranks)  # fmt: skip

    def train() -> int:
        for epoch, groups, _ in batches():
            learner.step(groups, epoch, 0.0)
        learner.average_statistics()
        return steps * GROUP

    def encode() -> int:
        place = folder / f"features-{next(passes)}"
        compute_features(encoders, loader, inputs, GROUP, folder=place, ranks=ranks)
        return len(shards) // ranks.world

    passes = count()
    draw = np.random.default_rng(ranks.rank)
    centres = np.random.default_rng(9).standard_normal((2 * K, WIDTH))
    rows = ROWS // 10 if quick else ROWS
    points = centres[draw.integers(2 * K, size=rows)] + draw.standard_normal((rows, WIDTH))
    points, valid = points.astype(np.float32), np.ones(rows, dtype=bool)
    last = cluster([points], valid, K, Cluster(), 0, ranks=ranks).assignment
    moved = points + 0.5 * draw.standard_normal(points.shape).astype(np.float32)

    def cluster_again() -> int:
        cluster([moved], valid, K, Cluster(max_iter=4), 0, previous=last, ranks=ranks)
        return rows

    for work in (feed, train, encode, cluster_again):
        yield rate(work, ranks)


def rate(work: Callable[[], int], ranks: Ranks) -> float:
    """How much a call does in a second, the first one aside."""
    work()
    ranks.barrier()
    begun = time.perf_counter()
    done = work()
    ranks.barrier()
    return done / (time.perf_counter() - begun)


def main() -> None:
    root, folder, number, quick = sys.argv[1:]
    with open_ranks() as ranks:
        (Path(folder) / number).mkdir(exist_ok=True)
        place = Path(folder) if ranks.world > 1 else Path(folder) / number
        print(*measure(ranks, ShardSet(root), place, bool(int(quick))))


if __name__ == "__main__":
    main()
