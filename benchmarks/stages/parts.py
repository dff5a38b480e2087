"""Millions of samples without one of their files: a list is planned, records are sealed, a set is
opened. In processes of their own, for their memory."""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from benchmarks.harness import Case, Figure

THREADS = (1,)
INPUTS, SAMPLES, PART, CLASSES = 10_000_000, 1_000_000, 1024, 400
SHARD = 100  # samples


def cases(quick: bool, threads: int) -> Iterator[Case | Figure]:
    inputs, samples = (INPUTS // 2000, SAMPLES // 200) if quick else (INPUTS, SAMPLES)
    with tempfile.TemporaryDirectory() as name:
        table, out = Path(name) / "list.csv", Path(name) / "set"
        write_list(table, inputs)
        seconds, megabytes = child(plan_list, table)
        what = f"a list of {inputs:,} inputs"
        yield Figure(f"planning {what}", "seconds, lower is better", [seconds])
        yield Figure(f"memory: planning {what}", "MB, lower is better", [megabytes])
        write_records(out, samples)
        what = f"{samples:,} samples"
        seconds, megabytes = child(seal_set, out)
        yield Figure(f"sealing {what}", "seconds, lower is better", [seconds])
        yield Figure(f"memory: sealing {what}", "MB, lower is better", [megabytes])
        peer = "a column of samples.csv by csv.reader"
        seconds, megabytes = child(open_set, out)
        peer_seconds, peer_memory = child(read_column, out)
        yield Figure(f"a set and its label opened, {what}", "seconds, lower is better",
                     [seconds], {peer: [peer_seconds]})  # fmt: skip
        yield Figure(f"memory: a set and its label opened, {what}", "MB, lower is better",
                     [megabytes], {peer: [peer_memory]})  # fmt: skip


def child(function: Callable[[Path], object], path: Path) -> tuple[float, float]:
    """Seconds of a function in a process of its own, and the MB that this grows by; both with what
    the function imports."""
    code = f"from benchmarks.stages.parts import *; told({function.__name__}, {str(path)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, megabytes = json.loads(done.stdout)
    return seconds, megabytes


def told(function: Callable[[Path], object], path: str) -> None:
    before, begun = memory("VmRSS"), time.perf_counter()
    function(Path(path))
    print(json.dumps([time.perf_counter() - begun, memory("VmHWM") - before]))


def memory(name: str) -> float:
    """What the system calls so of this process, MB; ru_maxrss would count the parent's memory."""
    status = Path("/proc/self/status").read_text()
    (size,) = re.findall(rf"{name}:\s+(\d+) kB", status)
    return int(size) * 1024 / 1e6


def write_list(path: Path, count: int) -> None:
    with path.open("w") as file:
        file.write("path,class\n")
        for n in range(count):
            file.write(f"videos/{n // 10_000:05d}/clip-{n:09d}.mp4,{n % CLASSES}\n")


def plan_list(path: Path) -> None:
    from xdc_fast.packing.pack import plan
    from xdc_fast.packing.settings import PackSettings
    from xdc_fast.packing.sources import collect

    inputs = collect([path], None, path.parent / "out")
    firsts, _ = plan(inputs, PackSettings(), PART)
    assert len(firsts) == -(-len(inputs.sources) // PART)
    assert inputs.sources[len(inputs.sources) - 1].labels


def write_records(out: Path, samples: int) -> None:
    """What packing leaves, but the tars have nothing in them."""
    from xdc_fast.packing.parts import Records
    from xdc_fast.packing.settings import PackSettings
    from xdc_fast.shards.format import FORMAT, sample_key, shard_name
    from xdc_fast.shards.shard_table import SIDECARS

    records, zero = Records(out), "0" * 64
    run = {
        "format": FORMAT, "settings": PackSettings().as_dict(), "packer": {}, "labels": ["class"],
        "inputs": {"count": samples, "sha256": None}, "firsts": list(range(0, samples, PART)),
    }  # fmt: skip
    records.begin(run)
    for part, first in enumerate(run["firsts"]):
        shards = []
        for begin in range(first, min(first + PART, samples), SHARD):
            name = f"{shard_name(part, len(shards))}.tar"
            (out / name).touch()
            numbers = range(begin, min(begin + SHARD, first + PART, samples))
            rows = [
                [sample_key(n), name, f"videos/clip-{n:09d}.mp4", 0.0, 10.0, 150, str(n % CLASSES)]
                for n in numbers
            ]
            sums = {"sha256": zero, "sidecars": dict.fromkeys(SIDECARS, zero)}
            shards.append({"name": name, "samples": len(rows), "bytes": 0, **sums, "rows": rows})
        records.add_part(part, {"refused": [], "unpaired": [], "cut": 0, "shards": shards})


def seal_set(out: Path) -> None:
    from xdc_fast.packing.seal import seal

    seal(out)


def open_set(out: Path) -> None:
    from xdc_fast.shards.dataset import ShardSet

    shards = ShardSet(out)
    codes, classes = shards.label("class")
    assert len(codes) == len(shards) and len(classes) == min(CLASSES, len(codes))
    assert shards[len(shards) // 2].source


def read_column(out: Path) -> None:
    with (out / "samples.csv").open(newline="") as file:
        names = [row["class"] for row in csv.DictReader(file)]
    assert len(np.unique(names)) == min(CLASSES, len(names))
