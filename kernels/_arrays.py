"""Types of the arrays that the kernels accept."""

from typing import Any, Protocol

import numpy as np

CudaArray = Any
"""Of any library: it has __cuda_array_interface__."""


class Shaped(Protocol):
    """An array on the host or on a device."""

    @property
    def dtype(self) -> np.dtype: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
