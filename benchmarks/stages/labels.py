"""Pseudo-labels: compared with another assignment, and gathered for batches."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import torch

from benchmarks.harness import Case
from xdc_fast.clips.plan import EpochPlan
from xdc_fast.kernels import contingency, gather_labels, nmi, purity

THREADS = (1, 2)
CLUSTERS, CLASSES = 256, 1000
BATCH, SHARD = 64, 1000  # samples


def cases(quick: bool, threads: int) -> Iterator[Case]:
    samples = 50_000 if quick else 5_000_000
    clusters, classes = draw_assignments(samples)
    first, second = torch.from_numpy(clusters), torch.from_numpy(classes)
    yield Case(
        f"contingency, NMI and purity of {samples:,} samples, k={CLUSTERS}, {CLASSES} classes",
        "samples per second",
        samples,
        partial(compare, clusters, classes),
        {
            "scikit-learn (NMI alone)": partial(make_sklearn, clusters, classes),
            "numpy.bincount": partial(make_bincount, clusters, classes),
        },
        assert_same_figures,
        ("both arrays read once", lambda: (first.sum(), second.sum())),
    )
    if threads > 1:  # gathering takes one
        return
    plan = EpochPlan(np.full(samples // SHARD, SHARD), BATCH)
    epoch = np.concatenate([plan.indices(step) for step in range(plan.steps)])
    orders = {
        "in the order of an epoch": epoch,
        "in random order": np.random.default_rng(0).permutation(samples),
    }
    for order, index in orders.items():
        out, moved = np.empty(len(index), np.int64), clusters[: len(index)]
        yield Case(
            f"labels of {len(index):,} samples gathered {order}",
            "samples per second",
            len(index),
            partial(gather_labels, clusters, index, out),
            {"numpy.take": partial(make_take, clusters, index)},
            np.testing.assert_array_equal,
            ("as many bytes added in order", partial(np.add, moved, index, out=out.copy())),
        )


def draw_assignments(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Clusters that know a little of the classes, int64 each."""
    rng = np.random.default_rng(0)
    classes = rng.integers(CLASSES, size=samples)
    noise = rng.integers(CLUSTERS, size=samples)
    return np.where(rng.random(samples) < 0.4, classes % CLUSTERS, noise), classes


def compare(clusters: np.ndarray, classes: np.ndarray) -> tuple[float, float]:
    table = contingency(clusters, classes, CLUSTERS, CLASSES)
    return nmi(table), purity(table)[1]


def make_sklearn(clusters: np.ndarray, classes: np.ndarray):
    from sklearn.metrics import normalized_mutual_info_score

    return lambda: (normalized_mutual_info_score(classes, clusters),)


def make_bincount(clusters: np.ndarray, classes: np.ndarray):
    def run():
        counts = np.bincount(clusters * CLASSES + classes, minlength=CLUSTERS * CLASSES)
        share = counts.reshape(CLUSTERS, CLASSES) / len(clusters)
        rows, columns = share.sum(axis=1), share.sum(axis=0)
        i, j = np.nonzero(share)
        information = share[i, j] @ np.log(share[i, j] / (rows[i] * columns[j]))
        entropy = -(rows @ np.log(rows) + columns @ np.log(columns)) / 2
        return information / entropy, share.max(axis=1).sum()

    return run


def make_take(clusters: np.ndarray, index: np.ndarray):
    out = np.empty(len(index), np.int64)
    return lambda: clusters.take(index, out=out, mode="clip")  # "raise" would copy out first


def assert_same_figures(ours: tuple, other: tuple) -> None:
    for name, a, b in zip(("NMI", "purity"), ours, other, strict=False):
        assert abs(a - b) <= 1e-9 * abs(a), f"{name} {b}, ours {a}"
