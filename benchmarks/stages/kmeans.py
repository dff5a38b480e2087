"""k-means of features: from scratch, and at the next iteration from the last clusters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from benchmarks.harness import Case, Figure
from xdc_fast.clusters.kmeans import Clustering, cluster
from xdc_fast.clusters.points import Points
from xdc_fast.clusters.quality import agreement
from xdc_fast.recipe import Cluster

THREADS = (2,)
ROUNDS = 20
SLACK = 1.005  # inertia of ours, as a multiple of the peer's at most
# Share of samples that change their group. In runs of the toy world the NMI of consecutive
# clusterings is 0.2 to 0.5 after the first iteration, then 0.55 to 0.8.
MOVES = {"a little": 0.05, "much": 0.25}


def cases(quick: bool, threads: int) -> Iterator[Case | Figure]:
    yield from contests(quick, "cpu")


def cuda_cases(quick: bool, threads: int) -> Iterator[Case | Figure]:
    yield from contests(quick, "cuda")


def contests(quick: bool, device: str) -> Iterator[Case | Figure]:
    """On a GPU the features come from the host, and clusters and distances go back there."""
    samples, dim, k = (5_000, 128, 64) if quick else (50_000, 512, 256)
    world = World(samples, dim, groups=3 * k // 2)
    points = world.features()
    size = f"{samples:,} x {dim}, k={k}"
    last = run_ours(points, k, device)
    contests = {f"from scratch, {size}": (points, None)}
    for moved, share in MOVES.items():
        contests[f"next iteration, features moved {moved}, {size}"] = world.moved(share), last
    for name, (now, before) in contests.items():
        if before is not None:
            ours = run_ours(now, k, device, before)
            nmi = agreement(before.assignment, ours.assignment, k)
            name += f", NMI {nmi:.2f}, {ours.rounds} rounds"
        yield Case(
            name,
            "samples per second",
            samples,
            lambda now=now, before=before: run_ours(now, k, device, before).mean_squared_distance,
            {
                f"faiss.Kmeans, {ROUNDS} rounds": partial(make_faiss, now, k, device),
                # its own start, k-means++ in float64, takes several times as long as the rounds
                f"scikit-learn, {ROUNDS} rounds, random start": partial(make_sklearn, now, k),
            },
            assert_as_low,
            (
                "one assignment of all",
                partial(Points(now, device).nearest, torch.from_numpy(now[:k]).to(device)),
            ),
        )
    yield Figure(
        f"inertia from scratch, {size}",
        "mean squared distance, lower is better",
        [last.mean_squared_distance],
        {
            "faiss.Kmeans": [make_faiss(points, k, "cpu", seed)() for seed in range(3)],
            "scikit-learn, k-means++": [make_sklearn(points, k, "k-means++")()],
        },
    )


class World:
    """Features like those of an encoder: groups of different sizes, and a decaying spectrum."""

    def __init__(self, samples: int, dim: int, groups: int):
        self.rng = np.random.default_rng(0)
        self.scale = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
        self.centres = self.rng.standard_normal((groups, dim), dtype=np.float32)
        self.weights = self.rng.dirichlet(np.full(groups, 2.0))
        self.group = self.rng.choice(groups, samples, p=self.weights)
        self.own = self.rng.standard_normal((samples, dim), dtype=np.float32)

    def features(self) -> np.ndarray:
        return (self.centres[self.group] + 0.8 * self.own) * self.scale

    def moved(self, share: float) -> np.ndarray:
        """The features after a training: everything drifts, and a share changes its group."""

        def drift(values: np.ndarray) -> np.ndarray:
            other = self.rng.standard_normal(values.shape, dtype=np.float32)
            return np.float32(1 - share) ** 0.5 * values + np.float32(share) ** 0.5 * other

        leaving = self.rng.random(len(self.group)) < share
        other = self.rng.choice(len(self.centres), len(self.group), p=self.weights)
        group = np.where(leaving, other, self.group)
        return (drift(self.centres)[group] + 0.8 * drift(self.own)) * self.scale


def run_ours(points: np.ndarray, k: int, device: str, last: Clustering | None = None) -> Clustering:
    every = np.ones(len(points), dtype=bool)
    previous = None if last is None else last.assignment
    return cluster([points], every, k, Cluster(max_iter=ROUNDS), 0, device, previous)


def make_faiss(points: np.ndarray, k: int, device: str, seed: int = 0) -> Callable[[], float]:
    import faiss

    gpu = device == "cuda"
    if gpu and not faiss.get_num_gpus():
        raise ImportError("faiss sees no GPU")

    def run() -> float:
        kmeans = faiss.Kmeans(
            points.shape[1], k, niter=ROUNDS, seed=seed,
            max_points_per_centroid=len(points), min_points_per_centroid=1, gpu=gpu,
        )  # fmt: skip
        kmeans.train(points)
        return float(kmeans.assign(points)[0].mean())

    return run


def make_sklearn(points: np.ndarray, k: int, init: str = "random") -> Callable[[], float]:
    from sklearn.cluster import KMeans

    def run() -> float:
        model = KMeans(k, init=init, n_init=1, max_iter=ROUNDS, tol=0, random_state=0)
        return model.fit(points).inertia_ / len(points)

    return run


def assert_as_low(ours: float, other: float) -> None:
    assert ours <= SLACK * other, f"inertia {other:.5g}, ours {ours:.5g}"
