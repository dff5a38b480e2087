"""Pseudo-labels on the CPU: count, compare and gather them.

An assignment is an int32 or int64 array by sample index; -1 marks a sample without a cluster,
which every count leaves out. Metrics are computed from counts, which any device can make.
"""

import numpy as np

from ._arrays import Shaped
from ._jit import njit
from ._threads import share


@njit(nogil=True)
def _count(assignment: np.ndarray, counts: np.ndarray) -> int:
    """Add to counts; the position of the first value out of range, or -1."""
    for i in range(assignment.size):
        c = assignment[i]
        if c < -1 or c >= counts.size:
            return i
        if c >= 0:
            counts[c] += 1
    return -1


@njit(nogil=True)
def _count_pairs(a: np.ndarray, b: np.ndarray, begin: int, end: int, table: np.ndarray) -> int:
    """Add samples begin to end to table; the position of the first out of range, or -1."""
    for i in range(begin, end):
        row, column = a[i], b[i]
        if row < -1 or row >= table.shape[0] or column < -1 or column >= table.shape[1]:
            return i
        if row >= 0 and column >= 0:
            table[row, column] += 1
    return -1


@njit(nogil=True)
def _gather(assignment: np.ndarray, index: np.ndarray, out: np.ndarray) -> int:
    """Fill out; the position of the first index out of range, or -1."""
    for i in range(index.size):
        if index[i] < 0 or index[i] >= assignment.size:
            return i
        out[i] = assignment[index[i]]
    return -1


def check_integers(name: str, array: Shaped) -> None:
    """Raise ValueError unless the array is int32 or int64 of one dimension."""
    if array.dtype not in (np.int32, np.int64) or len(array.shape) != 1:
        raise ValueError(
            f"{name} must be int32 or int64 of one dimension, "
            f"got {array.dtype} {tuple(array.shape)}"
        )


def check_pair(a: Shaped, b: Shaped) -> None:
    """Raise ValueError unless two assignments are of the same samples."""
    check_integers("a", a)
    check_integers("b", b)
    if a.shape != b.shape:
        raise ValueError(f"assignments of {a.shape[0]} and {b.shape[0]} samples")


def range_error(name: str, position: int, value: int, k: int) -> ValueError:
    """The error for a value of an assignment that is out of range."""
    return ValueError(f"{name}[{position}] is {value}, outside -1 to {k - 1}")


def pair_error(position: int, a: int, b: int, ka: int, kb: int) -> ValueError:
    """The error for the first of two values that is out of range."""
    if not -1 <= a < ka:
        return range_error("a", position, a, ka)
    return range_error("b", position, b, kb)


def index_error(position: int, value: int, samples: int) -> IndexError:
    """The error for a sample index that is out of range."""
    return IndexError(f"index[{position}] is {value}, outside 0 to {samples - 1}")


def cluster_sizes(assignment: np.ndarray, k: int) -> np.ndarray:
    """Samples in each of k clusters, int64 (k,). Raises ValueError for a value not -1 to k - 1."""
    check_integers("assignment", assignment)
    counts = np.zeros(k, np.int64)
    bad = _count(assignment, counts)
    if bad >= 0:
        raise range_error("assignment", bad, assignment[bad], k)
    return counts


def contingency(a: np.ndarray, b: np.ndarray, ka: int, kb: int, *, threads: int = 1) -> np.ndarray:
    """Samples in cluster i of `a` and j of `b`, int64 (ka, kb).

    Samples without a cluster on either side are left out. threads: how many share the samples.
    Raises ValueError for assignments of different length or values out of range.
    """
    check_pair(a, b)
    # each thread fills its own table: that pays where there are more samples than cells
    parts = max(1, min(threads, 1 + a.size // max(1, ka * kb)))
    tables = np.zeros((parts, ka, kb), np.int64)

    def count(part: int) -> int:
        begin, end = part * a.size // parts, (part + 1) * a.size // parts
        return _count_pairs(a, b, begin, end, tables[part])

    for i in share(count, parts):
        if i >= 0:
            raise pair_error(i, a[i], b[i], ka, kb)
    return tables.sum(axis=0)


def gather_labels(
    assignment: np.ndarray, index: np.ndarray, out: np.ndarray | None = None
) -> np.ndarray:
    """Labels of the samples of a batch, -1 included; int64, as class targets are, without `out`.

    Raises IndexError for an index outside the assignment, ValueError for an `out` that does
    not fit.
    """
    check_integers("assignment", assignment)
    check_integers("index", index)
    if out is None:
        out = np.empty(index.shape, np.int64)
    check_integers("out", out)
    if out.shape != index.shape:
        raise ValueError(f"out holds {out.shape[0]} labels for an index of {index.shape[0]}")
    bad = _gather(assignment, index, out)
    if bad >= 0:
        raise index_error(bad, index[bad], assignment.size)
    return out


def purity(table: np.ndarray) -> tuple[np.ndarray, float]:
    """Share of each cluster's most frequent class, from a contingency table (clusters, classes).

    Returns float64 (clusters,), NaN for an empty cluster, and the mean weighted by cluster size
    (NaN where all are empty).
    """
    sizes, top = table.sum(axis=1), table.max(axis=1)
    each = np.divide(top, sizes, out=np.full(len(sizes), np.nan), where=sizes > 0)
    return each, float(top.sum() / sizes.sum()) if sizes.any() else float("nan")


def entropy(counts: np.ndarray) -> float:
    """Entropy in nats of a distribution given by counts; 0 without counts."""
    counts = counts[counts > 0]
    share = counts / counts.sum()
    return float(-(share * np.log(share)).sum()) + 0.0  # + 0.0: no minus zero


def effective_clusters(counts: np.ndarray) -> float:
    """Number of equal clusters of the same entropy, exp(entropy); 0 without counts."""
    return float(np.exp(entropy(counts))) if counts.any() else 0.0


def nmi(table: np.ndarray) -> float:
    """Normalised mutual information of a contingency table, by the mean of both entropies.

    As scikit-learn's normalized_mutual_info_score: 1 where both sides have one cluster or none.
    """
    rows, columns = table.sum(axis=1), table.sum(axis=0)
    if (rows > 0).sum() <= 1 and (columns > 0).sum() <= 1:
        return 1.0
    i, j = np.nonzero(table)
    share = table[i, j] / rows.sum()
    expected = (rows[i] / rows.sum()) * (columns[j] / rows.sum())
    information = float((share * np.log(share / expected)).sum())
    return max(0.0, information) / ((entropy(rows) + entropy(columns)) / 2)


def ari(table: np.ndarray) -> float:
    """Adjusted Rand index of a contingency table (Hubert and Arabie 1985).

    As scikit-learn's adjusted_rand_score: 1 where the two partitions are the same, also the
    trivial ones.
    """
    # Python integers: the products of pair counts outgrow 64 bits.
    pairs = int((table**2).sum())
    rows = int((table.sum(axis=1) ** 2).sum())
    columns = int((table.sum(axis=0) ** 2).sum())
    n = int(table.sum())
    together, apart = pairs - n, n * n - rows - columns + pairs
    only_a, only_b = rows - pairs, columns - pairs
    if only_a == only_b == 0:
        return 1.0
    return (
        2
        * (together * apart - only_a * only_b)
        / ((together + only_a) * (only_a + apart) + (together + only_b) * (only_b + apart))
    )
