"""Pseudo-labels: compared with another assignment, and gathered for batches.

Cache lines bound the speed of gathering: a window of an epoch is 16 random shards, so that hardware
cannot prefetch them. Measured on an AMD EPYC with one thread, in millions of labels a second:
gathering has 471 in the order of an epoch and 141 in random order; reading alone, without writing,
has 480 and 177; adding in order, the limit below, has 1,400.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch

from benchmarks.harness import Case
from xdc_fast.clips.sampler import EpochSampler
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
        partial(compare, clusters, classes, threads),
        {
            "scikit-learn (NMI alone)": partial(make_sklearn, clusters, classes),
            "numpy.bincount": partial(make_bincount, clusters, classes),
        },
        assert_same_figures,
        ("both arrays read once", lambda: (first.sum(), second.sum())),
    )
    if threads > 1:  # gathering takes one
        return
    sampler = EpochSampler(np.full(samples // SHARD, SHARD), BATCH)
    epoch = np.concatenate([sampler.indices(step) for step in range(sampler.steps)])
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


def cuda_cases(quick: bool, threads: int, device: str = "cuda") -> Iterator[Case]:
    """Assignments, index and results stay on the device."""
    from xdc_fast.kernels.labels_cuda import contingency_cuda, gather_labels_cuda

    samples = 500 if quick else 50_000_000
    clusters, classes = (torch.from_numpy(a).to(device) for a in draw_assignments(samples))
    table = torch.zeros(CLUSTERS, CLASSES, dtype=torch.int64, device=device)
    yield Case(
        f"contingency of {samples:,} samples, k={CLUSTERS}, {CLASSES} classes",
        "samples per second",
        samples,
        lambda: contingency_cuda(clusters, classes, table.zero_()),
        {"torch.bincount": lambda: partial(count_pairs, clusters, classes)},
        assert_same_tensors,
        ("both arrays read once", lambda: (clusters.sum(), classes.sum())),
    )
    index = torch.from_numpy(np.random.default_rng(0).permutation(samples)).to(device)
    out, other = torch.empty_like(index), torch.empty_like(index)
    yield Case(
        f"labels of {samples:,} samples gathered in random order",
        "samples per second",
        samples,
        partial(gather_labels_cuda, clusters, index, out),
        {"torch.index_select": lambda: partial(torch.index_select, clusters, 0, index, out=other)},
        assert_same_tensors,
        ("both arrays read once", lambda: (clusters.sum(), index.sum())),
    )


def count_pairs(clusters: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    counts = torch.bincount(clusters * CLASSES + classes, minlength=CLUSTERS * CLASSES)
    return counts.view(CLUSTERS, CLASSES)


def assert_same_tensors(ours: torch.Tensor, other: torch.Tensor) -> None:
    assert torch.equal(ours, other), "other counts or labels"


def draw_assignments(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Clusters and classes that agree a little, int64 each."""
    rng = np.random.default_rng(0)
    classes = rng.integers(CLASSES, size=samples)
    noise = rng.integers(CLUSTERS, size=samples)
    return np.where(rng.random(samples) < 0.4, classes % CLUSTERS, noise), classes


def compare(clusters: np.ndarray, classes: np.ndarray, threads: int) -> tuple[float, float]:
    table = contingency(clusters, classes, CLUSTERS, CLASSES, threads=threads)
    return nmi(table), purity(table)[1]


def make_sklearn(clusters: np.ndarray, classes: np.ndarray) -> Callable[[], tuple[float]]:
    from sklearn.metrics import normalized_mutual_info_score

    return lambda: (normalized_mutual_info_score(classes, clusters),)


def make_bincount(clusters: np.ndarray, classes: np.ndarray) -> Callable[[], tuple[float, float]]:
    def run() -> tuple[float, float]:
        counts = np.bincount(clusters * CLASSES + classes, minlength=CLUSTERS * CLASSES)
        share = counts.reshape(CLUSTERS, CLASSES) / len(clusters)
        rows, columns = share.sum(axis=1), share.sum(axis=0)
        i, j = np.nonzero(share)
        information = share[i, j] @ np.log(share[i, j] / (rows[i] * columns[j]))
        entropy = -(rows @ np.log(rows) + columns @ np.log(columns)) / 2
        return information / entropy, share.max(axis=1).sum()

    return run


def make_take(clusters: np.ndarray, index: np.ndarray) -> Callable[[], np.ndarray]:
    out = np.empty(len(index), np.int64)
    return lambda: clusters.take(index, out=out, mode="clip")  # "raise" would copy out first


def assert_same_figures(ours: tuple, other: tuple) -> None:
    for name, a, b in zip(("NMI", "purity"), ours, other, strict=False):
        assert abs(a - b) <= 1e-9 * abs(a), f"{name} {b}, ours {a}"
