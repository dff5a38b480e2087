"""Host memory for batches."""

from __future__ import annotations

import weakref
from collections import defaultdict
from math import prod

import numpy as np
import torch


class Buffers:
    """Memory for tensors, used again once nothing refers to the tensor that had it, nor to a view.

    Memory new from the system costs its first touch: measured on a virtual machine, a fifth of the
    decoding on one thread and a third on two.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[np.ndarray]] = defaultdict(list)  # by bytes

    def empty(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        """An uninitialised tensor in host memory."""
        size = prod(shape) * dtype.itemsize
        free = self._free[size]
        try:
            buffer = free.pop()
        except IndexError:
            buffer = np.empty(size, np.uint8)
        owner = buffer[:]  # an array that lives as long as the storage made of it
        weakref.finalize(owner, free.append, buffer)
        return torch.from_numpy(owner).view(dtype).view(shape)


def picture_buffer(rows: np.ndarray, count: int) -> np.ndarray:
    """Bytes for `count` of the largest pictures of SAMPLE rows (B,), at an odd address: uint8.

    Rows that begin at multiples of 32 libjpeg-turbo writes past the cache; decoding and cropping
    then take a quarter longer.
    """
    size = count * int((3 * rows["height"].astype(np.int64) * rows["width"]).max())
    buffer = np.empty(size + 32, np.uint8)
    start = -buffer.ctypes.data % 32 + 1
    return buffer[start : start + size]
