"""Work shared among Python threads: the kernels release the interpreter lock.

Numba's own pool changes the thread count of every other user of OpenMP in the process, and its idle
threads spin.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import TypeVar

Result = TypeVar("Result")


@lru_cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads, thread_name_prefix="kernels")


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not survive a fork


def share(call: Callable[[int], Result], parts: int) -> list[Result]:
    """[call(0), ..., call(parts - 1)], computed in parallel, the last on the calling thread."""
    if parts == 1:
        return [call(0)]
    others = [_pool(parts - 1).submit(call, part) for part in range(parts - 1)]
    last = call(parts - 1)
    return [*(other.result() for other in others), last]
