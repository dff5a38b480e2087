"""k-means over features, by faiss."""

from __future__ import annotations

from dataclasses import dataclass

import faiss
import numpy as np

from xdc_fast.errors import UserError
from xdc_fast.recipe import Cluster

DISTINCT = 100_000  # rows that are searched for copies; a collapsed encoder shows in fewer


@dataclass(frozen=True)
class Clustering:
    """One k-means.

    assignment: int32 (N,), the cluster of each sample; -1 where it has no features.
    centroids: float32 (k, D), in the space that was clustered.
    distance: float32 (N,), squared distance to the own centroid; inf where there is none.
    inertia: mean of the distances. splits: empty clusters that faiss refilled by splitting.
    """

    assignment: np.ndarray
    centroids: np.ndarray
    distance: np.ndarray
    inertia: float
    splits: int


def cluster(
    features: list[np.ndarray],
    seen: np.ndarray,
    k: int,
    settings: Cluster,
    seed: int,
    gpu: bool = False,
) -> Clustering:
    """k-means of the samples by the features of one modality, or of several side by side.

    features: float32 (N, D) each; several are made unit length before they are joined, so that
    each counts alike. seen: bool (N,), which rows hold features. gpu: use one where faiss sees it.
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
    if len(parts) > 1:
        parts = [np.concatenate([_unit(part) for part in parts], axis=1)]
    points = prepare(parts[0], settings)
    if k > (distinct := len(np.unique(points[: max(DISTINCT, 4 * k)], axis=0))):
        raise UserError(
            f"k={k} clusters, but only {distinct} distinct feature vectors among {len(rows)} "
            "samples: the encoder has collapsed or the samples are copies; lower train.lr or k"
        )
    train = points
    if 0 < settings.points < len(points):
        chosen = np.random.default_rng(seed).permutation(len(points))[: max(settings.points, k)]
        train = np.ascontiguousarray(points[chosen])
    kmeans = faiss.Kmeans(
        points.shape[1],
        k,
        niter=settings.rounds,
        nredo=settings.restarts,
        seed=seed % 2**31,
        # every point given counts, and few per cluster are no reason for faiss to warn
        max_points_per_centroid=len(train),
        min_points_per_centroid=1,
        gpu=gpu and faiss.get_num_gpus() > 0,
    )
    kmeans.train(train)
    distance, nearest = kmeans.assign(points)
    assignment = np.full(len(seen), -1, dtype=np.int32)
    assignment[rows] = nearest
    distances = np.full(len(seen), np.inf, dtype=np.float32)
    distances[rows] = distance
    splits = int(sum(stats["nsplit"] for stats in kmeans.iteration_stats))
    return Clustering(assignment, kmeans.centroids, distances, float(distance.mean()), splits)


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
