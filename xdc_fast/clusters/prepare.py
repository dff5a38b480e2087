"""From features to the points that k-means clusters: joined, whitened, of unit length."""

from __future__ import annotations

from collections.abc import Iterator

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
    """The points that `cluster` clusters (N, D'), from features (N, D) each; a new array of their
    type, float32 or float16."""
    if len(parts) == 1:
        return prepare(parts[0], settings, valid, ranks)
    joined = np.empty((len(parts[0]), sum(part.shape[1] for part in parts)), parts[0].dtype)
    for place in blocks(len(joined)):
        units = [unit_length(part[place].astype(np.float32)) for part in parts]
        joined[place] = np.concatenate(units, axis=1)
    return prepare(joined, settings, valid, ranks)


def prepare(
    points: np.ndarray,
    settings: Cluster,
    valid: np.ndarray | None = None,
    ranks: Ranks = ALONE,
) -> np.ndarray:
    """PCA with whitening and length normalisation, by the settings: (N, D) -> (N, D'), a new array
    of the same type, float32 or float16.

    valid, ranks: as of `cluster`. Rows that are not valid mean nothing.
    """
    found = np.array(points, np.float16 if points.dtype == np.float16 else np.float32, order="C")
    if valid is not None:
        found[~valid] = 0
    if settings.pca:
        found = whiten(found, settings.pca, valid, ranks)
    mean: np.ndarray | np.float32 = np.float32(0)
    if settings.normalize == "centered-l2":
        mean = Points(found, "cpu", valid, ranks).mean().numpy()
    if settings.normalize != "none":
        for place in blocks(len(found)):
            found[place] = unit_length(found[place].astype(np.float32) - mean)
    return found


def blocks(count: int) -> Iterator[slice]:
    """ROWS rows after ROWS rows, so that what lies between two arrays is never a third."""
    return (slice(first, first + ROWS) for first in range(0, count, ROWS))


def whiten(
    points: np.ndarray, components: int, valid: np.ndarray | None, ranks: Ranks
) -> np.ndarray:
    """The principal components of unit variance, (N, components) of the type of the points;
    UserError without."""
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
    whitened = np.empty((len(points), components), points.dtype)
    for place in blocks(len(points)):
        block = torch.from_numpy(points[place]).float()
        whitened[place] = torch.addmm(offset, block, turned).numpy()
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
