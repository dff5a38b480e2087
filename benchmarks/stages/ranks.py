"""Two processes of one run against one: each has as much to do as the one alone.

Two runs that know nothing of each other show what the machine's cores can do side by side. Then
k-means on both against faiss, what the sum of the gradients costs, and how long a run that was
killed takes to its next step.
"""

from __future__ import annotations

import json
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
import torch

from benchmarks.harness import Figure
from benchmarks.media import find_videos, pack_videos
from benchmarks.stages.kmeans import MOVES, ROUNDS, World, make_faiss
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clusters.kmeans import cluster
from xdc_fast.clusters.points import ROWS as BLOCK
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
RUNS, SUMS = 2, 20
UNITS = {
    "feed": "clips per second",
    "training": "clips per second",
    "features": "clips per second",
    "k-means, next iteration": "samples per second",
}
SMALL = ("video.encoder=r2plus1d_small", "video.crop=64", "audio.encoder=audio_small")
# of two ranks alone
WHOLE, BYTES, SUM, HALF = "k-means of one set", "bytes", "sum of them", "sum of them in bfloat16"


def cases(quick: bool, threads: int) -> Iterator[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        what, videos = find_videos(Path(folder), 32 if quick else 96)
        shards = pack_videos(videos, Path(folder) / "set", threads, 1, short_side=80)
        ways = {"alone": (1, 1), "apart": (2, 1), "ours": (2, 2)}
        found: dict[str, dict[str, list[float]]] = {}
        peers = []
        for _ in range(1 if quick else RUNS):
            for way, (processes, world) in ways.items():
                with tempfile.TemporaryDirectory(dir=folder) as place:
                    told = run(shards, Path(place), processes, world, quick)
                for part, values in told.items():
                    found.setdefault(part, {}).setdefault(way, []).append(sum(values))
            peers.append(rate_of_faiss(quick))
        for part, unit in UNITS.items():
            rates = found[part]
            yield Figure(f"{part}, one process, {what}", unit, rates["alone"])
            yield Figure(
                f"{part}, two ranks, {what}", unit, rates["ours"],
                {"two runs that know nothing of each other": rates["apart"]},
            )  # fmt: skip
        yield Figure(
            "k-means, next iteration of one set, two ranks", "samples per second",
            found[WHOLE]["ours"], {f"faiss.Kmeans, one process, {ROUNDS} rounds": peers},
        )  # fmt: skip
        size = found[BYTES]["ours"][0] / 2e6
        whole, half = ([seconds / 2 for seconds in found[part]["ours"]] for part in (SUM, HALF))
        yield Figure(f"sum of gradients over two ranks, {size:.1f} MB", "seconds", whole)
        yield Figure(
            f"sum of gradients over two ranks, {size / 2:.1f} MB, bfloat16", "seconds", half
        )
        yield resume(shards, Path(folder), 1 if quick else RUNS)


def problem(quick: bool) -> tuple[World, int, int]:
    """That of the stage `kmeans`: its world, the samples, and k."""
    samples, dim, k = (5_000, 128, 64) if quick else (50_000, 512, 256)
    return World(samples, dim, groups=3 * k // 2), samples, k


def rate_of_faiss(quick: bool) -> float:
    """Samples per second of faiss on the features that have moved, with the threads of here."""
    world, samples, k = problem(quick)
    work = make_faiss(world.moved(MOVES["a little"]), k, "cpu")
    work()
    begun = time.perf_counter()
    work()
    return samples / (time.perf_counter() - begun)


def resume(shards: ShardSet, folder: Path, runs: int) -> Figure:
    """Seconds from the start of two ranks to their next step, after both were killed."""
    out = folder / "run"
    settings = (*SMALL, "k=16", "train.batch=16", "train.group=8", "train.checkpoint_steps=1",
                "train.steps=1000", "train.iterations=1", "threads=1", "device=cpu")  # fmt: skip
    (folder / "recipe.yaml").write_text("method: xdc\n")
    line = [sys.executable, "-m", "xdc_fast", "pretrain", folder / "recipe.yaml",
            f"data={shards.root}", f"out={out}", *settings]  # fmt: skip
    metrics, seconds, lines = out / "metrics.jsonl", [], 0
    for number in range(runs + 1):
        begun = time.perf_counter()
        running = start(line, 2, 2)
        while not metrics.is_file() or len(metrics.read_text().splitlines()) <= lines:
            assert all(process.poll() is None for process in running), "a process failed"
            time.sleep(0.01)
        if number:
            seconds.append(time.perf_counter() - begun)
        for process in running:
            process.kill()
            process.communicate()
        lines = len(metrics.read_text().splitlines())
    return Figure("start of two ranks that were killed, to their next step", "seconds", seconds)


def start(line: list, processes: int, world: int) -> list[subprocess.Popen]:
    """So many processes, each a run of its own, or together one of `world` ranks."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = []
    for number in range(processes):
        environment = os.environ | {f"{pool}_NUM_THREADS": "1" for pool in POOLS} | {
            "WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1", "NUMBER": str(number),
            "MASTER_PORT": str(port), "RANK": str(number if world > 1 else 0),
        }  # fmt: skip
        running.append(
            subprocess.Popen([*map(str, line)], env=environment, stdout=subprocess.PIPE,
                             stderr=None if world == 1 else subprocess.DEVNULL, text=True)
        )  # fmt: skip
    return running


def run(
    shards: ShardSet, folder: Path, processes: int, world: int, quick: bool
) -> dict[str, list[float]]:
    """What every process has measured, by part."""
    line = [sys.executable, "-m", "benchmarks.stages.ranks", shards.root, folder, int(quick)]
    running = start(line, processes, world)
    told = [process.communicate()[0] for process in running]
    assert not any(process.returncode for process in running), "a process failed"
    values: dict[str, list[float]] = {}
    for text in told:
        for part, value in json.loads(text).items():
            values.setdefault(part, []).append(value)
    return values


def measure(
    ranks: Ranks, shards: ShardSet, folder: Path, quick: bool
) -> Iterator[tuple[str, float]]:
    """What this process measures, by part: rates, and on two ranks what concerns them alone."""
    batch = GROUP * ranks.world
    recipe = load_recipe(
        None,
        (f"k={K}", *SMALL, f"train.batch={batch}", f"train.group={GROUP}"),
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

    for part, work in zip(UNITS, (feed, train, encode, cluster_again), strict=True):
        yield part, rate(work, ranks)
    if ranks.world == 1:
        return
    yield WHOLE, rate(cluster_one_set(ranks, quick), ranks)
    weights = sum(parameter.numel() for parameter in learner.models.parameters())
    yield BYTES, 4 * weights
    for part, kind in ((SUM, torch.float32), (HALF, torch.bfloat16)):
        gradients = torch.zeros(weights, dtype=kind)

        def add_up(gradients: torch.Tensor = gradients) -> int:
            for _ in range(SUMS):
                ranks.sum(gradients)
            return SUMS

        yield part, 1 / rate(add_up, ranks)


def cluster_one_set(ranks: Ranks, quick: bool) -> Callable[[], int]:
    """The next iteration of a set, of which each rank has its rows; returns how many."""
    world, samples, k = problem(quick)
    own, settings = ranks.share(samples, BLOCK), Cluster(max_iter=ROUNDS)
    valid = np.ones(own.stop - own.start, dtype=bool)
    last = cluster([world.features()[own]], valid, k, settings, 0, ranks=ranks).assignment
    moved = world.moved(MOVES["a little"])[own]

    def again() -> int:
        cluster([moved], valid, k, settings, 0, previous=last, ranks=ranks)
        return len(moved)

    return again


def rate(work: Callable[[], int], ranks: Ranks) -> float:
    """How much a call does in a second, the first one aside."""
    work()
    ranks.barrier()
    begun = time.perf_counter()
    done = work()
    ranks.barrier()
    return done / (time.perf_counter() - begun)


def main() -> None:
    root, folder, quick = sys.argv[1:]
    with open_ranks() as ranks:
        place = Path(folder) if ranks.world > 1 else Path(folder) / os.environ["NUMBER"]
        print(json.dumps(dict(measure(ranks, ShardSet(root), place, bool(int(quick))))))


if __name__ == "__main__":
    main()
