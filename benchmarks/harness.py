"""Ours, the peers and the limit in one run on the same bytes."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch

SECONDS = 0.3  # a timed run lasts at least this long


@dataclass
class Case:
    """A contest: every contestant does the same work, `amount` units of it per call."""

    name: str
    unit: str
    """what is counted, per second: higher is better"""
    amount: float
    ours: Callable[[], object]
    peers: dict[str, Callable[[], Callable[[], object]]]
    """by name, what imports and prepares a peer and returns what is timed; raises ImportError
    where it is missing"""
    same: Callable[[object, object], None]
    """takes our output and a peer's, raises AssertionError where they differ"""
    limit: tuple[str, Callable[[], object]] | None = None
    """what the machine can do at most, with nothing but the unavoidable part"""
    clock: Callable[[Callable, int], float] | None = None
    """seconds that so many calls take; None: by the wall clock"""


@dataclass
class Figure:
    """What is no rate: values without a clock, one or more per contestant."""

    name: str
    unit: str
    ours: list[float]
    peers: dict[str, list[float]] = field(default_factory=dict)


def measure(case: Case | Figure, runs: int, seconds: float = SECONDS) -> dict:
    """The item of a case: medians and quartiles, or `failed` where a peer computes otherwise.

    Contestants take turns, first in one order and then in the other. Each has run twice before:
    for the comparison, and to see how many calls fill `seconds`.
    """
    if isinstance(case, Figure):
        return _item(case, {"ours": case.ours} | case.peers, None, {})
    contestants, missing = {"ours": case.ours}, {}
    for name, prepare in case.peers.items():
        try:
            contestants[name] = prepare()
        except ImportError as error:
            missing[name] = " ".join(str(error).split())[:200]
    if failed := _differing(case, contestants):
        return _item(case, {}, None, missing) | {"failed": failed}
    if case.limit:
        contestants["limit"] = case.limit[1]
    clock = case.clock or _clock
    repeats = {name: _repeats(call, seconds, clock) for name, call in contestants.items()}
    rates: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(runs):
        for name in list(contestants)[:: -1 if turn % 2 else 1]:
            rate = case.amount * repeats[name] / clock(contestants[name], repeats[name])
            rates[name].append(rate)
    return _item(case, rates, case.limit and case.limit[0], missing)


def _differing(case: Case, contestants: dict) -> str | None:
    """The first peer whose output differs from ours, and how."""
    expected = case.ours()
    for name, call in contestants.items():
        try:
            if name != "ours":
                case.same(expected, call())
        except AssertionError as error:
            return f"{name}: {' '.join(str(error).split())[:300] or 'another output'}"
    return None


def _repeats(call: Callable, seconds: float, clock: Callable[[Callable, int], float]) -> int:
    """Calls that fill `seconds`."""
    once = clock(call, 1)
    return max(1, round(seconds / once))


def _clock(call: Callable, repeats: int) -> float:
    begun = time.perf_counter()
    for _ in range(repeats):
        call()
    if torch.cuda.is_available():
        torch.cuda.synchronize()  # kernels run on after their launch
    return time.perf_counter() - begun


def device_clock(call: Callable, repeats: int) -> float:
    """Seconds between two CUDA events around the calls, on torch's current stream.

    Where the host launches faster than the device works, that is the device's time alone.
    """
    begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begun.record()
    for _ in range(repeats):
        call()
    ended.record()
    ended.synchronize()
    return begun.elapsed_time(ended) / 1000


def _item(case, rates: dict[str, list[float]], limit: str | None, missing: dict) -> dict:
    quartiles = {k: [float(q) for q in np.percentile(v, (25, 50, 75))] for k, v in rates.items()}
    middle = {name: values[1] for name, values in quartiles.items()}
    ours, bound = middle.pop("ours", None), middle.pop("limit", None)
    return {
        "case": case.name,
        "unit": case.unit,
        "ours": ours,
        "peers": middle,
        "missing": missing,
        "limit": {"name": limit, "value": bound} if limit else None,
        "ratio_best_peer": ours / max(middle.values()) if middle else None,
        "share_of_limit": ours / bound if bound else None,
        "runs": len(rates.get("ours", ())),
        "quartiles": {name: [low, high] for name, (low, _, high) in quartiles.items()},
    }
