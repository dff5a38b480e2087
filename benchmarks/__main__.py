"""Measure stages against their peers and the machine's limit.

Each stage runs once per number of threads, in a process with as many cores and library threads,
and once on the GPU, where it has GPU cases and there is one. Outputs are compared before anything
is timed; the exit status is 1 where they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.ffmpeg import link_ffmpeg
from benchmarks.machine import describe_machine
from benchmarks.stages import load_stage, stage_names

POOLS = ("OMP", "MKL", "OPENBLAS")


def make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = stage_names()
    parser.add_argument(
        "stage",
        nargs="+",
        choices=[*names, "all"],
        metavar="STAGE",
        help=f"{', '.join(names)}, all",
    )
    parser.add_argument("--quick", action="store_true", help="little data, seconds: a smoke test")
    parser.add_argument("--json", type=Path, help="write the results here")
    return parser


def main() -> None:
    options = make_parser().parse_args()
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
    names = stage_names()
    chosen = names if "all" in options.stage else options.stage
    gpu = describe_machine()["gpu"]
    cores = len(os.sched_getaffinity(0))
    results, broken = [], []
    with tempfile.TemporaryDirectory() as folder:
        link_ffmpeg(Path(folder))
        for stage in chosen:
            begun = time.perf_counter()
            module = load_stage(stage)
            devices = [("cpu", threads) for threads in getattr(module, "THREADS", ())]
            if gpu and hasattr(module, "cuda_cases"):
                devices.append(("cuda", cores))
            for device, threads in devices:
                if threads > cores:
                    print(f"{stage}: {threads} threads need as many cores, {cores} here")
                    continue
                items, status = measure_apart(stage, device, threads, options.quick, Path(folder))
                results += items
                if status:
                    broken.append(f"{stage}, {device}, {threads} threads: exit status {status}")
            print(f"{stage}: {time.perf_counter() - begun:.0f} s", flush=True)
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")
    broken += [f"{i['stage']}: {i['case']}: {i['failed']}" for i in results if "failed" in i]
    if broken:
        sys.exit("\n".join(broken))


def measure_apart(
    stage: str, device: str, threads: int, quick: bool, folder: Path
) -> tuple[list[dict], int]:
    """The items of a stage from a process with `threads` threads, and its exit status."""
    out = folder / f"{stage}-{device}-{threads}.json"
    environment = os.environ | {f"{pool}_NUM_THREADS": str(threads) for pool in POOLS}
    paths = (str(folder), os.environ.get("LD_LIBRARY_PATH"))
    environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
    command = [sys.executable, "-m", "benchmarks.worker", stage, device, str(threads)]
    command.append(str(out))
    done = subprocess.run([*command, *(["--quick"] if quick else [])], env=environment, check=False)
    return json.loads(out.read_text()) if out.exists() else [], done.returncode


if __name__ == "__main__":
    main()
