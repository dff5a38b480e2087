"""Nearest neighbours by cosine, and whether they are what was sought."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

RANKS = (1, 5, 10)
NEIGHBOURS = (5, 10, 20)
BLOCK = 2**25  # similarities at a time


def instance_recall(queries: np.ndarray, gallery: np.ndarray) -> dict:
    """{R@k, chance R@k}: row i of the gallery among the k nearest to query i; ties count against.

    queries, gallery: float32 (N, D), unit length.
    """
    ranks = np.concatenate(
        [
            (part >= part.gather(1, rows[:, None])).sum(dim=1).numpy()
            for part, rows in similarities(queries, gallery)
        ]
    )
    return {f"R@{k}": float((ranks <= k).mean()) for k in RANKS} | {
        f"chance R@{k}": min(k / len(gallery), 1.0) for k in RANKS
    }


def class_recall(
    queries: np.ndarray,
    gallery: np.ndarray,
    codes: np.ndarray,
    query_index: np.ndarray,
    gallery_index: np.ndarray,
    groups: list[np.ndarray],
) -> dict:
    """{R@k, NN@k, chance R@k}: one of the query's class among the k nearest, and their vote.

    queries (Q, D), gallery (G, D): float32, unit length, of the samples in query_index (Q,) and
    gallery_index (G,). codes: int (N,), the classes. groups: int (N,) each; samples with an equal
    one that is not -1 are one recording, and no neighbours.
    """
    classes, every = codes[gallery_index], np.arange(codes.max() + 1)
    metrics: dict[str, list] = {}
    for part, rows in similarities(queries, gallery):
        index = query_index[rows.numpy()]
        wanted = codes[index][:, None]
        barred = np.zeros(part.shape, dtype=bool)
        for column in groups:
            mine = column[index][:, None]
            barred |= (mine == column[gallery_index]) & (mine >= 0)
        part[torch.from_numpy(barred)] = -torch.inf
        value, nearest = part.topk(min(max(NEIGHBOURS), len(gallery)), dim=1)
        found = np.where(value.numpy() > -np.inf, classes[nearest.numpy()], -1)
        left = (~barred).sum(axis=1)
        wrong = left - ((classes == wanted) & ~barred).sum(axis=1)
        for k in RANKS:
            metrics.setdefault(f"R@{k}", []).append((found == wanted)[:, :k].any(axis=1))
        for k in NEIGHBOURS:
            votes = (found[:, :k, None] == every).sum(axis=1)
            metrics.setdefault(f"NN@{k}", []).append(votes.argmax(axis=1) == wanted[:, 0])
        for k in RANKS:  # the chance that k drawn without replacement are all of other classes
            drawn = np.arange(k)
            none = np.maximum(wrong[:, None] - drawn, 0) / np.maximum(left[:, None] - drawn, 1)
            metrics.setdefault(f"chance R@{k}", []).append(1 - none.prod(axis=1))
    return {name: float(np.concatenate(values).mean()) for name, values in metrics.items()}


def similarities(
    queries: np.ndarray, gallery: np.ndarray
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """(cosines float32 (B, G), rows int64 (B,)) for block after block of the queries."""
    columns = torch.from_numpy(gallery).T
    for rows in torch.arange(len(queries)).split(max(BLOCK // len(gallery), 1)):
        yield torch.from_numpy(queries)[rows] @ columns, rows
