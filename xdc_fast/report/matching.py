"""The agreement of audio and video clusters: a one-to-one matching, and NMI by chance."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from xdc_fast.kernels.labels import contingency, nmi

SHOWN = 64  # pairs of clusters
SHUFFLES = 5


@dataclass(frozen=True)
class Matching:
    """Two clusterings, matched one to one so that most samples lie in matching clusters.

    share: of the samples, those in matching clusters. rows, columns: int (n,), cluster numbers of
    the n <= SHOWN largest matched pairs, best first. counts: int64 (n, n), samples in common.
    overlap: float64 (n, n), samples in common by samples in either.
    """

    share: float
    rows: np.ndarray
    columns: np.ndarray
    counts: np.ndarray
    overlap: np.ndarray


def match(a: np.ndarray, b: np.ndarray, k: int) -> Matching:
    """Match two assignments (N,) into k clusters (Hungarian algorithm on their counts)."""
    table = contingency(a, b, k, k)
    total_a, total_b = table.sum(axis=1), table.sum(axis=0)
    either = total_a[:, None] + total_b - table
    overlap = table / np.maximum(either, 1)
    rows, columns = linear_sum_assignment(table, maximize=True)
    share = table[rows, columns].sum() / max(table.sum(), 1)
    largest = np.argsort(-(total_a[rows] + total_b[columns]), kind="stable")[:SHOWN]
    rows, columns = rows[largest], columns[largest]
    best = np.argsort(-overlap[rows, columns], kind="stable")
    rows, columns = rows[best], columns[best]
    shown = np.ix_(rows, columns)
    return Matching(float(share), rows, columns, table[shown], overlap[shown])


def chance_nmi(a: np.ndarray, b: np.ndarray, ka: int, kb: int) -> float:
    """NMI of `a` with shuffled `b`, the mean of SHUFFLES: above zero where clusters are small."""
    both = (a >= 0) & (b >= 0)
    a, b, rng = a[both], b[both], np.random.default_rng(0)
    shuffled = (contingency(a, rng.permutation(b), ka, kb) for _ in range(SHUFFLES))
    return float(np.mean([nmi(table) for table in shuffled]))
