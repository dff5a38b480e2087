"""How the CPU kernels are compiled and kept apart."""

import threading

import numba

# numba's workqueue layer aborts the process when two threads enter parallel kernels at once.
PARALLEL = threading.Lock()


def njit(**options):
    """`numba.njit`, cached on disk where numba finds a writable place and in memory elsewhere."""

    def decorate(function):
        try:
            return numba.njit(cache=True, **options)(function)
        except RuntimeError:  # "no locator available": read-only package and home
            return numba.njit(**options)(function)

    return decorate
