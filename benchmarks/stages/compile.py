"""First calls of the CPU kernels: compiled, and loaded from the cache.

Each start is a new process with its own cache folder. Only the first calls are timed, on small
arrays; imports are counted apart.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator

from benchmarks.harness import Figure

THREADS = (1,)
STARTS = 3

FIRST_CALLS = """
import json, sys, time
begun = time.perf_counter()
import numpy as np
from xdc_fast import kernels
seconds = {"import of the kernels": time.perf_counter() - begun}

def first(name, call, *arguments, **options):
    begun = time.perf_counter()
    call(*arguments, **options)
    seconds[name] = time.perf_counter() - begun

spec = kernels.MelSpec()
for dtype in (np.int16, np.float32):
    sound = np.zeros((1, spec.samples(1)), dtype)
    first(f"log_mel, {np.dtype(dtype)}", kernels.log_mel, sound, spec)
for dtype in (np.int32, np.int64):
    labels = np.zeros(1, dtype)
    first(f"cluster_sizes, {labels.dtype}", kernels.cluster_sizes, labels, 1)
    first(f"contingency, {labels.dtype}", kernels.contingency, labels, labels, 1, 1)
    index = np.zeros(1, np.int64)
    first(f"gather_labels, {labels.dtype}", kernels.gather_labels, labels, index)
json.dump(seconds, sys.stdout)
"""


def cases(quick: bool, threads: int) -> Iterator[Figure]:
    cold, cached = [], []
    for _ in range(1 if quick else STARTS):
        with tempfile.TemporaryDirectory() as cache:
            cold.append(start(cache))
            cached.append(start(cache))
    unit, second = "seconds, lower is better", "second process, from the cache"
    calls = [name for name in cold[0] if not name.startswith("import")]

    def total(runs: list[dict[str, float]]) -> list[float]:
        return [sum(run[name] for name in calls) for run in runs]

    yield Figure("first calls of all kernels", unit, total(cold), {second: total(cached)})
    for name in cold[0]:
        before, after = ([run[name] for run in runs] for runs in (cold, cached))
        what = f"first call: {name}" if name in calls else name
        yield Figure(what, unit, before, {second: after})


def start(cache: str) -> dict[str, float]:
    """Seconds of each first call in a new process with this cache folder."""
    done = subprocess.run(
        [sys.executable, "-c", FIRST_CALLS],
        env=os.environ | {"NUMBA_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        check=True,
    )
    return json.loads(done.stdout)
