"""Counting and gathering pseudo-labels on a CUDA device; see `labels`.

Results are added up by atomics. Every function waits for the stream, to report values out of
range.
"""

from typing import Any

import numpy as np
from numba import cuda

from ._arrays import CudaArray, Shaped
from ._cuda import THREADS, as_device, as_stream
from .labels import check_integers, check_pair, index_error, pair_error, range_error


@cuda.jit
def count_kernel(assignment: np.ndarray, counts: np.ndarray, bad: np.ndarray) -> None:
    i = cuda.grid(1)
    if i < assignment.size:
        c = assignment[i]
        if c < -1 or c >= counts.size:
            cuda.atomic.min(bad, 0, i)
        elif c >= 0:
            cuda.atomic.add(counts, c, 1)


@cuda.jit
def count_pairs_kernel(a: np.ndarray, b: np.ndarray, table: np.ndarray, bad: np.ndarray) -> None:
    i = cuda.grid(1)
    if i < a.size:
        row, column = a[i], b[i]
        if row < -1 or row >= table.shape[0] or column < -1 or column >= table.shape[1]:
            cuda.atomic.min(bad, 0, i)
        elif row >= 0 and column >= 0:
            cuda.atomic.add(table, (row, column), 1)


@cuda.jit
def gather_kernel(
    assignment: np.ndarray, index: np.ndarray, out: np.ndarray, bad: np.ndarray
) -> None:
    i = cuda.grid(1)
    if i < index.size:
        at = index[i]
        if at < 0 or at >= assignment.size:
            cuda.atomic.min(bad, 0, i)
        else:
            out[i] = assignment[at]


def _launch(kernel: Any, size: int, arrays: tuple[CudaArray, ...], stream: Any) -> int | None:
    """Run one thread per element; the first bad position, or None."""
    stream = as_stream(stream)
    bad = cuda.to_device(np.array([size], np.int64), stream=stream)
    if size:
        kernel[-(-size // THREADS), THREADS, stream](*arrays, bad)
    first = bad.copy_to_host(stream=stream)
    if stream:
        stream.synchronize()
    return int(first[0]) if first[0] < size else None


def cluster_sizes_cuda(assignment: CudaArray, out: CudaArray, stream: Any = 0) -> CudaArray:
    """Add the samples of each cluster to out, int64 (k,), zeros to begin with. Returns out."""
    source, counts = as_device(assignment), as_device(out)
    check_integers("assignment", source)
    _check_counts(counts, 1)
    bad = _launch(count_kernel, source.shape[0], (source, counts), stream)
    if bad is not None:
        raise range_error("assignment", bad, int(source[bad]), counts.shape[0])
    return out


def contingency_cuda(a: CudaArray, b: CudaArray, out: CudaArray, stream: Any = 0) -> CudaArray:
    """Add the samples of each pair of clusters to out, int64 (ka, kb), zeros to begin with."""
    first, second, table = as_device(a), as_device(b), as_device(out)
    check_pair(first, second)
    _check_counts(table, 2)
    bad = _launch(count_pairs_kernel, first.shape[0], (first, second, table), stream)
    if bad is not None:
        raise pair_error(bad, int(first[bad]), int(second[bad]), *table.shape)
    return out


def gather_labels_cuda(
    assignment: CudaArray, index: CudaArray, out: CudaArray, stream: Any = 0
) -> CudaArray:
    """Labels of the samples of a batch, -1 included, into out. Returns out."""
    source, positions, labels = as_device(assignment), as_device(index), as_device(out)
    check_integers("assignment", source)
    check_integers("index", positions)
    check_integers("out", labels)
    if labels.shape != positions.shape:
        raise ValueError(f"out holds {labels.shape[0]} labels for an index of {positions.shape[0]}")
    bad = _launch(gather_kernel, positions.shape[0], (source, positions, labels), stream)
    if bad is not None:
        raise index_error(bad, int(positions[bad]), source.shape[0])
    return out


def _check_counts(counts: Shaped, dimensions: int) -> None:
    if counts.dtype != np.int64 or len(counts.shape) != dimensions:
        raise ValueError(
            f"out must be int64 of {dimensions} dimensions, "
            f"got {counts.dtype} {tuple(counts.shape)}"
        )
