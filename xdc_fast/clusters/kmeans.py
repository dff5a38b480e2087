"""k-means over features: Lloyd's rounds with faiss as the search."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import faiss
import numpy as np
from scipy.sparse import csr_array

from xdc_fast.errors import UserError
from xdc_fast.recipe import Cluster

DISTINCT = 100_000  # rows that are searched for copies; a collapsed encoder shows in fewer
DRAW = 20  # samples per cluster that a start from scratch is made of
# Rounds end when one lowers the inertia by less than this share of it; all twenty would lower it
# by another 0.1 to 0.6 % mostly, 1.5 % at worst, as measured on toy and drawn features.
TOLERANCE = 1e-3

Search = Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Clustering:
    """One k-means.

    assignment: int32 (N,), the cluster of each sample; -1 where it has no features.
    centroids: float32 (k, D), in the space that was clustered.
    distance: float32 (N,), squared distance to the own centroid; inf where there is none.
    mean_squared_distance: mean of the distances. reassigned: how often an empty cluster was
    refilled by splitting another.
    rounds: how often the centroids were moved to their means.
    """

    assignment: np.ndarray
    centroids: np.ndarray
    distance: np.ndarray
    mean_squared_distance: float
    reassigned: int
    rounds: int = 0


def cluster(
    features: list[np.ndarray],
    seen: np.ndarray,
    k: int,
    settings: Cluster,
    seed: int,
    gpu: bool = False,
    previous: np.ndarray | None = None,
) -> Clustering:
    """k-means of the samples by the features of one modality, or of several side by side.

    features: float32 (N, D) each; several are made unit length before they are joined, so that
    each counts alike. seen: bool (N,), which rows hold features. gpu: use one where faiss sees it.
    previous: int32 (N,), the assignment that the last iteration ended with, -1 for none. The
    clusters then start as its means over these features: they keep their numbers and need few
    rounds. Without it they start from scratch, as often as settings.n_init says.
    On a CPU the result depends on nothing but the arguments (and, in the last digits, on the
    number of threads).
    Raises UserError for k above the number of samples, features that are not finite, and
    fewer distinct feature vectors than clusters.
    """
    rows = np.flatnonzero(seen)
    if k > len(rows):
        raise UserError(f"k={k} clusters of {len(rows)} samples; set k to {len(rows)} or less")
    parts = features if seen.all() else [part[rows] for part in features]
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
            start[sizes == 0] = points.mean(axis=0)  # for what no other cluster explains
    else:
        draw = points[order[: min(DRAW * k, len(train))]]
        start = init_centroids(draw, k, settings, seed, search)
    centroids, nearest, distance, reassigned, rounds = lloyd(
        train, start, settings.max_iter, search
    )
    if train is not points:
        nearest, distance = search(points, centroids)
    assignment = np.full(len(seen), -1, dtype=np.int32)
    assignment[rows] = nearest
    distances = np.full(len(seen), np.inf, dtype=np.float32)
    distances[rows] = distance
    return Clustering(assignment, centroids, distances, float(distance.mean()), reassigned, rounds)


def open_search(dim: int, gpu: bool) -> Search:
    """(points, centroids) -> the nearest centroid of each point and the squared distance to it."""
    index = faiss.IndexFlatL2(dim)
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
        inertia = distance.mean(dtype=np.float64)
        # a cluster that was just split has not found its place
        if done == rounds or (inertia >= (1 - TOLERANCE) * before and not refilled):
            break
        before = inertia
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


def split_largest(points, centroids, sizes, nearest, distance) -> int:
    """Gives empty clusters a part of the widest, in place; returns how many there were.

    The widest has the largest sum of distances, so that a crowd of copies is never split. It and
    the new one part along the line to its farthest sample.
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
    """Centroids to start from: the best k-means of a draw among those from settings.n_init."""
    best, least = None, np.inf
    for restart in range(settings.n_init):
        chosen = kmeans_plusplus(draw, k, np.random.default_rng((seed, restart)))
        centroids, _, distance, _, _ = lloyd(draw, draw[chosen], settings.max_iter, search)
        if (inertia := distance.mean(dtype=np.float64)) < least:
            best, least = centroids, inertia
    return best


def kmeans_plusplus(points: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007, section 5): k rows of points, int (k,).

    Each is the best of 2 + ln k that were drawn with the squared distance to the nearest row so
    far as weight. In float32: scikit-learn's, in float64, takes longer than the rounds.
    """
    points = points - points.mean(axis=0)  # far from the origin, digits would cancel
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
    """What is clustered, float32 (N, D'), of features (N, D) each: see cluster()."""
    if len(parts) > 1:
        parts = [np.concatenate([_unit(part) for part in parts], axis=1)]
    return prepare(parts[0], settings)


def prepare(points: np.ndarray, settings: Cluster) -> np.ndarray:
    """PCA with whitening and length normalisation, as asked: float32 (N, D) -> (N, D')."""
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
        points = _unit(points)
    return points


def _unit(points: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.maximum(length, np.finfo(np.float32).tiny)


def _distinct(points: np.ndarray, k: int) -> int:
    """Distinct rows, or any number from k up. Few rows nearly always tell that there are k."""
    some = len(np.unique(points[: 4 * k], axis=0))
    return some if some >= k else len(np.unique(points[: max(DISTINCT, 4 * k)], axis=0))
