"""Processes that are killed, interrupted, or find the disk full: the same command ends the work."""

from __future__ import annotations

import os
import resource
import signal
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tests.faults.trials import Trial, fault, finish, start
from tests.faults.world import EXTRACT, LABEL, World, pack, pretrain

ROOM = {"pack": 30_000, "pretrain": 30_000, "extract": 1_000, "export": 30_000}  # bytes of a file


def _jobs(world: World, out: Path) -> dict[str, tuple[object, ...]]:
    """Commands that write into `out`, by name."""
    run = world.made / "run"
    return {
        "pack": pack(world, out / "set"),
        "toy": ("xdc-shard", "toy", out / "toy", "--videos", 8, "--classes", 2, "--workers", 2),
        "pretrain": pretrain(world.shards, out / "run"),
        "extract": ("xdc", "extract", run, out / "features", "--data", world.shards, *EXTRACT),
        "probe": ("xdc", "probe", run, "--data", world.shards, *LABEL, "--out", out / "probe"),
        "export": ("xdc", "export", run, out / "export"),
    }


def _result(out: Path) -> dict[str, object]:
    """What a job leaves, without what tells the time."""
    kept: dict[str, object] = {}
    for path in sorted(path for path in out.rglob("*") if path.is_file()):
        name = str(path.relative_to(out))
        if path.name == "encoders.pt":
            state = torch.load(path)
            kept[name] = {
                f"{m}.{k}": v.numpy().tobytes() for m in state for k, v in state[m].items()
            }
        elif path.suffix in (".tar", ".npy", ".idx", ".csv", ".mp4", ".safetensors", ".npz"):
            kept[name] = path.read_bytes()
    return kept


def _whole(world: World, name: str) -> tuple[dict[str, object], float]:
    """What a job leaves that nothing disturbs, and the seconds that it takes."""
    out, begun = world.scratch("whole"), time.monotonic()
    done = finish(start(*_jobs(world, out)[name]))
    assert done.status == 0, done
    return _result(out), time.monotonic() - begun


def _again(world: World, name: str, out: Path, wanted: dict[str, object]) -> str:
    """Why the same command does not bring the job to the same end; "" if it does."""
    done = finish(start(*_jobs(world, out)[name]))
    if reason := fault(done, 0):
        return f"the second time: {reason}"
    found = _result(out)
    if found.keys() != wanted.keys():
        return f"other files: {sorted(found.keys() ^ wanted.keys())[:3]}"
    return next(
        (f"{name} has another content" for name in wanted if found[name] != wanted[name]), ""
    )


def kills(world: World, draw: np.random.Generator, count: int) -> Iterator[Trial]:
    """SIGKILL of a command at a random time; the same command then gives the same result."""
    for name in _jobs(world, world.root):
        wanted, seconds = _whole(world, name)
        for _ in range(count):
            out, wait = world.scratch(), float(draw.uniform(0.3, seconds))
            process = start(*_jobs(world, out)[name])
            time.sleep(wait)
            process.kill()
            process.communicate()
            yield Trial(f"{name} killed after {wait:.1f} s", _again(world, name, out, wanted))


def workers(world: World, draw: np.random.Generator, count: int) -> Iterator[Trial]:
    """SIGKILL of a process that decodes for `pack`: no video is lost, the bytes are the same."""
    wanted, _ = _whole(world, "pack")
    for _ in range(count):
        out = world.scratch()
        process = start(*_jobs(world, out)["pack"])
        killed = None
        while killed is None and process.poll() is None:
            # a child forks the workers
            at_work = [pid for child in _children(process.pid) for pid in _children(child)]
            if at_work and list((out / "set").glob(".packing/scratch/*")):
                killed = int(draw.choice(at_work))
                time.sleep(float(draw.uniform(0, 0.3)))
                try:
                    os.kill(killed, signal.SIGKILL)
                except ProcessLookupError:
                    killed = None
        reason = fault(finish(process), 0)
        found = {} if reason else _result(out)
        yield Trial(
            "a worker of pack is killed", reason or ("" if found == wanted else "other bytes")
        )


def _children(pid: int) -> list[int]:
    try:
        text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    except OSError:
        return []
    return [int(child) for child in text.split()]


def signals(world: World, draw: np.random.Generator, count: int) -> Iterator[Trial]:
    """SIGINT and SIGTERM at a random time: one line, and the status that a shell expects."""
    for name in ("pack", "pretrain", "extract", "probe"):
        wanted, seconds = _whole(world, name)
        for number, status in ((signal.SIGINT, 130), (signal.SIGTERM, 143)):
            for _ in range(count):
                out, wait = world.scratch(), float(draw.uniform(0.3, 0.9 * seconds))
                process = start(*_jobs(world, out)[name])
                time.sleep(wait)
                process.send_signal(number)
                done = finish(process)
                reason = fault(done, 0, status, -number)
                if not reason and done.status == status:
                    lines = [line for line in done.err.splitlines() if line.startswith("xdc")]
                    reason = "" if len(lines) == 1 else f"{len(lines)} lines: {done.err[-200:]}"
                reason = reason or _again(world, name, out, wanted)
                yield Trial(f"{name} gets {number.name} after {wait:.1f} s", reason)


def full_disk(world: World, draw: np.random.Generator, count: int) -> Iterator[Trial]:
    """No file may grow beyond ROOM: one line with the file, and then the work goes on."""

    def limit(room: int) -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))

    for name, room in ROOM.items():
        wanted, _ = _whole(world, name)
        out = world.scratch()
        done = finish(start(*_jobs(world, out)[name], before=partial(limit, room)))
        reason = fault(done, 2, named=out)
        yield Trial(f"{name}: the disk is full", reason)
        yield Trial(f"{name}: there is room again", _again(world, name, out, wanted))
