"""Numba kernels for the CPU and CUDA: log-mel spectrograms, pictures and pseudo-labels.

Arrays in, arrays out. The CUDA versions live in `logmel_cuda` and `labels_cuda` and take any
array with __cuda_array_interface__; importing this package does not touch a device.
"""

from .labels import (
    ari,
    cluster_sizes,
    contingency,
    effective_clusters,
    entropy,
    gather_labels,
    nmi,
    purity,
)
from .logmel import log_mel
from .mel import MelSpec, filter_bank

__all__ = [
    "MelSpec",
    "ari",
    "cluster_sizes",
    "contingency",
    "effective_clusters",
    "entropy",
    "filter_bank",
    "gather_labels",
    "log_mel",
    "nmi",
    "purity",
]
