"""How good, and how healthy, a clustering is."""

from __future__ import annotations

import numpy as np

from xdc_fast.kernels.labels import cluster_sizes, contingency, effective_clusters, nmi, purity
from xdc_fast.shards.dataset import ShardSet


def sizes(assignment: np.ndarray, k: int) -> dict[str, float]:
    """Smallest, median and largest cluster in samples, the empty ones, and exp(entropy)."""
    counts = cluster_sizes(assignment, k)
    return {
        "min": int(counts.min()),
        "median": float(np.median(counts)),
        "max": int(counts.max()),
        "empty": int((counts == 0).sum()),
        "effective": float(effective_clusters(counts)),
    }


def agreement(a: np.ndarray, b: np.ndarray, k: int) -> float:
    """NMI of two clusterings into k."""
    return float(nmi(contingency(a, b, k, k)))


def against_labels(assignment: np.ndarray, k: int, shards: ShardSet) -> dict[str, dict[str, float]]:
    """NMI and size-weighted purity against every label column of the set."""
    out = {}
    for column in shards.label_names:
        codes, classes = shards.label(column)
        if classes:
            table = contingency(assignment, codes, k, len(classes))
            out[column] = {"nmi": float(nmi(table)), "purity": float(purity(table)[1])}
    return out
