"""From features to the points that k-means clusters: joined, whitened, of unit length."""

from __future__ import annotations

import numpy as np
import torch

from xdc_fast.clusters.points import ROWS, Points
from xdc_fast.errors import UserError
from xdc_fast.ranks import ALONE, Ranks
from xdc_fast.recipe import Cluster


def concat_features(
    parts: list[np.ndarray],
    settings: Cluster,
    valid: np.ndarray | None = None,
    ranks: Ranks = ALONE,
) -> np.ndarray:
    """The points that `cluster` clusters, float32 (N, D'), from features (N, D) each."""
    if len(parts) > 1:
        parts = [np.concatenate([unit_length(part) for part in parts], axis=1)]
    return prepare(parts[0], settings, valid, ranks)


def prepare(
    points: np.ndarray,
    settings: Cluster,
    valid: np.ndarray | None = None,
    ranks: Ranks = ALONE,
) -> np.ndarray:
    """PCA with whitening and length normalisation, by the settings: float32 (N, D) -> (N, D').

    valid, ranks: as of `cluster`. Rows that are not valid mean nothing.
    """
    points = np.ascontiguousarray(points, dtype=np.float32)
    if valid is not None and not valid.all():
        points = np.where(valid[:, None], points, np.float32(0))
    if settings.pca:
        points = whiten(points, settings.pca, valid, ranks)
    if settings.normalize == "centered-l2":
        points = points - Points(points, "cpu", valid, ranks).mean().numpy()
    if settings.normalize != "none":
        points = unit_length(points)
    return points


def whiten(
    points: np.ndarray, components: int, valid: np.ndarray | None, ranks: Ranks
) -> np.ndarray:
    """The principal components of unit variance, float32 (N, components); UserError without."""
    every, dim = Points(points, "cpu", valid, ranks), points.shape[1]
    if components > min(every.count, dim):
        raise UserError(
            f"cluster.pca={components} of {every.count} x {dim} features; "
            f"set it to {min(every.count, dim)} or less"
        )
    import faiss  # most clusterings have no PCA, and go without its load

    pca = faiss.PCAMatrix(dim, components, -0.5)
    shown = np.linspace(0, every.count - 1, min(every.count, pca.max_points_per_d * dim))
    sample = every.take(torch.from_numpy(shown.astype(np.int64))).numpy()
    fitted: list[np.ndarray] = []
    if ranks.first:
        pca.train(sample)
        fitted = [faiss.vector_to_array(vector) for vector in (pca.A, pca.b)]
    matrix, offset = map(torch.from_numpy, ranks.broadcast(fitted))
    turned = matrix.reshape(components, dim).T
    whitened = np.empty((len(points), components), np.float32)
    for first in range(0, len(points), ROWS):
        place = slice(first, first + ROWS)
        whitened[place] = torch.addmm(offset, torch.from_numpy(points[place]), turned).numpy()
    if not all(ranks.gather(bool(np.isfinite(whitened).all()))):
        raise UserError(
            f"cluster.pca={components} keeps components without variance, which whitening "
            "cannot scale; set it lower"
        )
    return whitened


def unit_length(points: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length, float (N, D); rows of zeros stay."""
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.maximum(length, np.finfo(np.float32).tiny)
