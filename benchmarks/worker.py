"""One stage on one device, in a process that `python -m benchmarks` starts."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from benchmarks.harness import measure
from benchmarks.machine import describe_machine
from benchmarks.stages import load_stage

RUNS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage")
    parser.add_argument("device", choices=["cpu", "cuda"])
    parser.add_argument("threads", type=int)
    parser.add_argument("out", type=Path)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    machine = describe_machine()
    bind(options.threads)
    stage = load_stage(options.stage)
    on_gpu = options.device == "cuda"
    head = {
        "stage": options.stage,
        "device": machine["gpu"] if on_gpu else f"{machine['cpu']}, {machine['cores']} cores",
        "threads": options.threads,
    }
    items = []
    make = stage.cuda_cases if on_gpu else stage.cases
    for case in make(options.quick, options.threads):
        how = {"runs": 5, "seconds": 0.0} if options.quick else {"runs": RUNS}
        item = head | measure(case, **how) | {"quick": options.quick, "machine": machine}
        print(line(item), flush=True)
        items.append(item)
        options.out.write_text(json.dumps(items))


def bind(threads: int) -> None:
    """Give this process `threads` cores and torch as many threads."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    import torch

    torch.set_num_threads(threads)


def line(item: dict) -> str:
    """An item as a paragraph of the printed table."""
    head = f"{item['stage']:10s}{item['case']}, {item['threads']} thread(s) [{item['unit']}]"
    if "failed" in item:
        return f"{head}\n    FAILED {item['failed']}"
    limit = item["limit"] or {"name": None, "value": None}
    values = {"ours": item["ours"]} | item["peers"] | {f"limit: {limit['name']}": limit["value"]}
    keys = ["ours", *item["peers"], "limit"]
    rows = [head]
    for key, (name, value) in zip(keys, values.items(), strict=True):
        if value is not None:
            low, high = item["quartiles"][key]
            share = "" if key == "ours" else f"   ours is {item['ours'] / value:.3g} of it"
            rows.append(f"    {name:38s}{value:14,.1f}  ({low:,.1f} to {high:,.1f}){share}")
    rows += [f"    {name:38s}       missing: {why}" for name, why in item["missing"].items()]
    return "\n".join(rows)


if __name__ == "__main__":
    main()
