"""k-means over features: Lloyd's algorithm; faiss finds the nearest centroids."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from operator import itemgetter

import faiss
import numpy as np
from scipy.sparse import csr_array

from xdc_fast.errors import UserError
from xdc_fast.recipe import Cluster

DISTINCT = 100_000  # rows that are searched for copies; a collapsed encoder shows in fewer
DRAW = 20  # samples per cluster from which a random start is chosen
# Rounds end when one lowers the mean squared distance by less than this share. Measured on toy and
# random features, twenty rounds would lower it by another 0.1 to 0.6 %, at worst by 1.5 %.
TOLERANCE = 1e-3

Search = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Clustering:
    """The result of one k-means."""

    assignment: np.ndarray
    """int32 (N,): the cluster of each sample, 0 to k-1; -1 where it has no features."""
    centroids: np.ndarray
    """float32 (k, D): the mean of each cluster, of the features as they were normalised."""
    distance: np.ndarray
    """float32 (N,): squared distance to the centroid of the sample's cluster; inf without one."""
    mean_squared_distance: float
    """Mean of `distance` over the samples with a cluster; scikit-learn's `inertia_` is its sum."""
    reassigned: int
    """How often an empty cluster was refilled by splitting another."""
    rounds: int = 0
    """How often the centroids were moved to the means of their clusters."""


def cluster(
    features: list[np.ndarray],
    valid: np.ndarray,
    k: int,
    settings: Cluster,
    seed: int,
    gpu: bool = False,
    previous: np.ndarray | None = None,
) -> Clustering:
    """k-means of the samples by the features of one modality, or of several concatenated.

    features: float32 (N, D) each; several are scaled to unit length first, so that each has the
    same weight. valid: bool (N,), which rows hold features. gpu: use the GPUs that faiss sees.
    previous: int32 (N,), an earlier assignment, -1 for none. The clusters then start from its means
    over these features: they keep their numbers and need few rounds. Without it they start from
    the best of settings.n_init random starts.
    On a CPU the result depends only on the arguments (and, in the last digits, on the number of
    threads).
    Raises UserError for k above the number of samples, features that are not finite, and
    fewer distinct feature vectors than clusters.
    """
    rows = np.flatnonzero(valid)
    if not len(rows):
        raise UserError("no sample can be read; run `xdc-shard verify`")
    if k > len(rows):
        raise UserError(f"k={k} clusters of {len(rows)} samples; set k to {len(rows)} or less")
    parts = features if valid.all() else [part[rows] for part in features]
    for part in parts:
        bad = np.flatnonzero(~np.isfinite(part.sum(axis=1)))
        if len(bad):
            raise UserError(
                f"features of sample {rows[bad[0]]} ({len(bad)} in all) are not finite: the "
                "encoder diverged; lower train.lr in a new run"
            )
    points = concat_features(parts, settings)
    if k > (distinct := _distinct(points, k)):
        raise UserError(
            f"k={k} clusters, but only {distinct} distinct feature vectors among {len(rows)} "
            "samples: the encoder has collapsed or the samples are copies; lower train.lr or k"
        )
    order = np.random.default_rng(seed).permutation(len(points))
    train = points
    if 0 < settings.max_samples < len(points):
        train = points[order[: max(settings.max_samples, k)]]
    search = open_search(points.shape[1], gpu)
    last = np.full(len(rows), -1) if previous is None else previous[rows]
    known = last >= 0
    if known.any():
        start, sizes = update_centroids(points, np.where(known, last, k), k + 1)
        start, sizes = start[:k], sizes[:k]
        if not sizes.all():
            start[sizes == 0] = points.mean(axis=0)  # near the points far from every centroid
    else:
        draw = points[order[: min(DRAW * k, len(train))]]
        start = init_centroids(draw, k, settings, seed, search)
    centroids, nearest, distance, reassigned, rounds = lloyd(
        train, start, settings.max_iter, search
    )
    if train is not points:
        nearest, distance = search(points, centroids)
    assignment = np.full(len(valid), -1, dtype=np.int32)
    assignment[rows] = nearest
    distances = np.full(len(valid), np.inf, dtype=np.float32)
    distances[rows] = distance
    return Clustering(assignment, centroids, distances, float(distance.mean()), reassigned, rounds)


def open_search(dim: int, gpu: bool) -> Search:
    """(points, centroids) -> the nearest centroid of each point and the squared distance to it."""
    index: faiss.Index = faiss.IndexFlatL2(dim)
    if gpu and faiss.get_num_gpus() > 0:
        index = faiss.index_cpu_to_all_gpus(index)

    def search(points: np.ndarray, centroids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        index.reset()
        index.add(centroids)
        distance, nearest = index.search(points, 1)
        return nearest[:, 0], distance[:, 0]

    return search


def lloyd(
    points: np.ndarray, centroids: np.ndarray, rounds: int, search: Search
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int, int]:
    """Lloyd's algorithm: (centroids, nearest, distance, reassigned, rounds).

    nearest, int (N,), and distance, float32 (N,), are those of the centroids returned.
    """
    before, reassigned, refilled = np.inf, 0, 0
    for done in range(rounds + 1):
        nearest, distance = search(points, centroids)
        mean = distance.mean(dtype=np.float64)
        # clusters that were just split need another round
        if done == rounds or (mean >= (1 - TOLERANCE) * before and not refilled):
            break
        before = mean
        centroids, sizes = update_centroids(points, nearest, len(centroids))
        refilled = split_largest(points, centroids, sizes, nearest, distance)
        reassigned += refilled
    return centroids, nearest, distance, reassigned, done


def update_centroids(
    points: np.ndarray, assignment: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of each cluster, float32 (k, D), 0 where it is empty, and its size, int (k,)."""
    count = len(points)
    member = csr_array((np.ones(count, np.float32), assignment, np.arange(count + 1)), (count, k))
    sizes = np.bincount(assignment, minlength=k)
    return member.T @ points / np.maximum(sizes, 1, dtype=np.float32)[:, None], sizes


def split_largest(
    points: np.ndarray,
    centroids: np.ndarray,
    sizes: np.ndarray,
    nearest: np.ndarray,
    distance: np.ndarray,
) -> int:
    """Refill each empty cluster by splitting the largest, in place; returns how many were empty.

    The largest has the largest sum of distances: a cluster of copies has none and is never split.
    Both halves start on the line from its centroid to its farthest sample.
    """
    empty = np.flatnonzero(sizes == 0)
    if len(empty):
        left = distance.copy()
        width = np.bincount(nearest, distance, len(centroids))
    for new in empty:
        widest = width.argmax()
        members = np.flatnonzero(nearest == widest)
        farthest = members[left[members].argmax()]
        step = 0.1 * (points[farthest] - centroids[widest])
        centroids[new] = centroids[widest] + step
        centroids[widest] -= step
        left[farthest] = 0
        width[widest] /= 2
    return len(empty)


def init_centroids(
    draw: np.ndarray, k: int, settings: Cluster, seed: int, search: Search
) -> np.ndarray:
    """The centroids of the best of settings.n_init k-means over the rows of `draw`."""

    def run(start: int) -> tuple[float, np.ndarray]:
        chosen = kmeans_plusplus(draw, k, np.random.default_rng((seed, start)))
        centroids, _, distance, _, _ = lloyd(draw, draw[chosen], settings.max_iter, search)
        return float(distance.mean(dtype=np.float64)), centroids

    return min(map(run, range(settings.n_init)), key=itemgetter(0))[1]


def kmeans_plusplus(points: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007, section 5): k rows of points, int (k,).

    Each row is the best of 2 + ln k candidates, drawn with weights: the squared distance to the
    nearest row chosen before. It computes in float32: scikit-learn's, in float64, takes longer than
    the rounds.
    """
    points = points - points.mean(axis=0)  # the expanded squares lose digits far from the origin
    square = np.einsum("ij,ij->i", points, points)
    chosen = [int(rng.integers(len(points)))]
    nearest = np.maximum(square + square[chosen] - 2 * (points @ points[chosen[0]]), 0)
    while len(chosen) < k:
        total = np.cumsum(nearest, dtype=np.float64)
        drawn = np.searchsorted(total, rng.random(2 + int(np.log(k))) * total[-1], side="right")
        drawn = np.minimum(drawn, len(points) - 1)
        distance = square[drawn, None] + square - 2 * (points[drawn] @ points.T)
        distance = np.minimum(np.maximum(distance, 0), nearest)
        best = distance.sum(axis=1).argmin()
        nearest = distance[best]
        chosen.append(int(drawn[best]))
    return np.array(chosen)


def concat_features(parts: list[np.ndarray], settings: Cluster) -> np.ndarray:
    """The points that `cluster` clusters, float32 (N, D'), from features (N, D) each."""
    if len(parts) > 1:
        parts = [np.concatenate([unit_length(part) for part in parts], axis=1)]
    return prepare(parts[0], settings)


def prepare(points: np.ndarray, settings: Cluster) -> np.ndarray:
    """PCA with whitening and length normalisation, by the settings: float32 (N, D) -> (N, D')."""
    points = np.ascontiguousarray(points, dtype=np.float32)
    if settings.pca:
        if settings.pca > min(points.shape):
            raise UserError(
                f"cluster.pca={settings.pca} of {points.shape[0]} x {points.shape[1]} features; "
                f"set it to {min(points.shape)} or less"
            )
        pca = faiss.PCAMatrix(points.shape[1], settings.pca, -0.5)
        pca.train(points)
        points = pca.apply(points)
        if not np.isfinite(points).all():
            raise UserError(
                f"cluster.pca={settings.pca} keeps components without variance, which whitening "
                "cannot scale; set it lower"
            )
    if settings.normalize == "centered-l2":
        points = points - points.mean(axis=0)
    if settings.normalize != "none":
        points = unit_length(points)
    return points


def unit_length(points: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length, float (N, D); rows of zeros stay."""
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.maximum(length, np.finfo(np.float32).tiny)


def _distinct(points: np.ndarray, k: int) -> int:
    """The number of distinct rows, or some number from k up: a few rows nearly always have k."""
    few = len(np.unique(points[: 4 * k], axis=0))
    return few if few >= k else len(np.unique(points[: max(DISTINCT, 4 * k)], axis=0))
