"""Pictures cropped and mirrored."""

import numpy as np

from ._jit import njit

U = np.uintp  # signed indices would be tested for negative ones, which keeps LLVM from SIMD


def crop_pictures(
    pictures: np.ndarray, top: int, left: int, mirrored: bool, out: np.ndarray
) -> None:
    """Copies the same part of T pictures, uint8 (T, H, W, 3), into `out`, uint8 (T, h, w, 3).

    top, left: its corner, in pixels. mirrored: left to right. Both arrays are C-contiguous. The
    interpreter lock is not held.
    Raises ValueError for a part beyond the pictures.
    """
    count, height, width, _ = out.shape
    if (
        len(pictures) != count
        or not 0 <= top <= pictures.shape[1] - height
        or not 0 <= left <= pictures.shape[2] - width
    ):
        raise ValueError(f"no {out.shape} at {top}, {left} of {pictures.shape}")
    _crop(pictures, top, left, mirrored, out)


@njit(nogil=True)
def _crop(pictures: np.ndarray, top: int, left: int, mirrored: bool, out: np.ndarray) -> None:
    count, height, width, _ = out.shape
    source, target = pictures.ravel(), out.ravel()
    size = U(3 * width)
    for number in range(count):
        for y in range(height):
            row = (number * pictures.shape[1] + top + y) * pictures.shape[2] + left
            first, to = U(3 * row), U((number * height + y) * width * 3)
            if mirrored:
                last = first + size - U(3)
                for x in range(U(width)):
                    i = U(3) * U(x)
                    target[to + i] = source[last - i]
                    target[to + i + U(1)] = source[last - i + U(1)]
                    target[to + i + U(2)] = source[last - i + U(2)]
            else:
                for i in range(size):
                    target[to + U(i)] = source[first + U(i)]
