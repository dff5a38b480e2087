"""How the CPU kernels are compiled."""

from collections.abc import Callable

import numba


def njit(**options) -> Callable:
    """`numba.njit`, cached on disk where numba finds a writable place and in memory elsewhere."""

    def decorate(function: Callable) -> Callable:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # "no locator available": read-only package and home
            return numba.njit(**options)(function)

    return decorate
