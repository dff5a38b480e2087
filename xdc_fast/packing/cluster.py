"""Parts packed on a Ray cluster: a task for each of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xdc_fast.errors import UserError
from xdc_fast.packing.workers import FatalError
from xdc_fast.storage import Place, place_of

if TYPE_CHECKING:
    from xdc_fast.packing.pack import How, Task

RETRIES = 20  # of a part whose process or node dies
AHEAD = 2  # parts in flight for each that has room
LOOK = 5.0  # seconds after which the size of the cluster is looked at again
LOCAL = "127.0.0.1"  # else a host without a network looks for its address until a time-out


def pack_on_ray(
    tasks: Iterator[Task], out: Place, how: How, address: str | None, tell: Callable[[int], object]
) -> None:
    """Pack parts, as many at a time as the cluster has room for, and a few that wait.

    address: of the cluster, as ray.init takes it; None starts one on this machine, unless
    RAY_ADDRESS names one. how.workers: the CPUs that a part takes. tell: is told the inputs of each
    part that is done.
    Raises UserError without Ray or a cluster, and FatalError for what stops a part.
    """
    ray = _connect(address)
    where = str(out.absolute() if isinstance(out, Path) else out)
    try:
        pack_part = ray.remote(num_cpus=how.workers, max_retries=RETRIES)(_pack_part)
        flying: dict[Any, Task] = {}
        while True:
            room = ray.cluster_resources().get("CPU", 1) / how.workers
            for task in islice(tasks, max(0, AHEAD * max(1, int(room)) - len(flying))):
                flying[pack_part.remote(task, where, how)] = task
            if not flying:
                return
            ready, _ = ray.wait([*flying], num_returns=1, timeout=LOOK)
            for part in ready:
                task = flying.pop(part)
                if fault := ray.get(part):
                    raise FatalError(fault)
                tell(len(task.sources))
    except ray.exceptions.RayError as error:
        raise FatalError(f"Ray: {str(error).strip().splitlines()[0]}") from None
    finally:
        ray.shutdown()


def _connect(address: str | None) -> Any:
    """Ray, connected; raises UserError."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise UserError(
            "engine ray: Ray is not installed; install it with `pip install xdc_fast[ray]`"
        ) from None
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None and "RAY_ADDRESS" not in os.environ:
        options |= {"_node_ip_address": LOCAL, "include_dashboard": False}
    try:
        ray.init(address=address, **options)
    except (ConnectionError, ValueError, RuntimeError) as error:
        line = str(error).strip().splitlines()[0]
        raise UserError(f"address {address}: no Ray cluster there ({line}); start one") from None
    return ray


def _pack_part(task: Task, out: str, how: How) -> str:
    """Pack one part on the node where this runs; returns what stopped it, "" if nothing did."""
    from xdc_fast.packing.pack import pack_parts

    try:
        pack_parts([task], place_of(out), how, lambda count: None)
    except (OSError, FatalError, UserError) as error:
        return str(error)
    return ""
