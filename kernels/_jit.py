"""How the CPU kernels are compiled."""

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Function = TypeVar("Function", bound=Callable)


def njit(**options: Any) -> Callable[[Function], Function]:
    """`numba.njit`, cached on disk where numba finds a writable place and in memory elsewhere."""

    def decorate(function: Function) -> Function:
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # "no locator available": read-only package and home
            return numba.njit(**options)(function)

    return decorate
