"""What grows with the number of samples beside their clips: labels, as files, figures and tables.

The samples are made up. Memory is what Python and NumPy have at the most, beyond the labels.
"""

from __future__ import annotations

import tempfile
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.harness import Figure
from xdc_fast.clusters.kmeans import Clustering
from xdc_fast.clusters.quality import agreement, sizes
from xdc_fast.pretraining.folder import Folder
from xdc_fast.pretraining.learner import balanced_weights
from xdc_fast.pretraining.run import Run
from xdc_fast.recipe import Recipe
from xdc_fast.report.tables import write_tables

THREADS = (1,)
K, WIDTH = 1024, 512
RUNS = 3


def cases(quick: bool, threads: int) -> Iterator[Figure]:
    count = 50_000 if quick else 1_000_000
    rng = np.random.default_rng(0)
    clusterings = {
        name: Clustering(
            rng.integers(K, size=count).astype(np.int32),
            rng.random((K, WIDTH), dtype=np.float32),
            rng.random(count, dtype=np.float32),
            0.5,
            0,
        )
        for name in ("video", "audio")
    }
    video, audio = (clustering.assignment for clustering in clusterings.values())
    sources = [f"videos/{number:09d}.mp4" for number in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Folder(Path(folder)), Recipe(k=K))
        run.save_clusters(0, clusterings)
        work: dict[str, Callable[[], object]] = {
            "write both clusterings": lambda: run.save_clusters(0, clusterings),
            "read both assignments": lambda: run.assignments(0, ("video", "audio"), count),
            "sizes and agreement of the clusters": lambda: (
                sizes(video, K), sizes(audio, K), agreement(video, audio, K),
            ),
            "weights of the clusters": lambda: balanced_weights(video, K),
            "draw the start of k-means": lambda: rng.permutation(count)[: 20 * K],
            "table of all samples in a report": lambda: write_tables(
                run.root, run.clusters(0, count), [], None, [], sources
            ),
        }  # fmt: skip
        for name, call in work.items():
            name = f"{name}, {count:,} samples"
            seconds = [measure(call) for _ in range(1 if quick else RUNS)]
            yield Figure(name, "seconds", seconds)
            tracemalloc.start()
            call()
            yield Figure(f"memory: {name}", "MB", [tracemalloc.get_traced_memory()[1] / 1e6])
            tracemalloc.stop()


def measure(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun
