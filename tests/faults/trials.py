"""A trial, and the commands that trials run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from xdc_fast.tools.shard import main as shard_group
from xdc_fast.tools.xdc import main as xdc_group

GROUPS = {"xdc": xdc_group, "xdc-shard": shard_group}
PATIENCE = 120  # seconds; what takes longer hangs
ONE_THREAD = {"OMP_NUM_THREADS": "1", "NUMBA_NUM_THREADS": "1"}  # equal weights, bit for bit


@dataclass(frozen=True)
class Trial:
    """what: was done. reason: why the program did not hold; "" where it did."""

    what: str
    reason: str


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    status: int | None  # None: it did not end in time
    out: str
    err: str


class Hang(BaseException):
    """A command in this process takes longer than PATIENCE."""


def call(*arguments: object) -> Outcome:
    """A command in this process: ("xdc", "report", ...)."""
    name, *rest = map(str, arguments)
    try:
        with _patience():
            result = CliRunner().invoke(GROUPS[name], rest, prog_name=name)
    except Hang:
        return Outcome(None, "", "")
    wrong = result.exception
    if wrong is not None and not isinstance(wrong, SystemExit):
        return Outcome(1, result.stdout, f"Traceback: {type(wrong).__name__}: {wrong}")
    return Outcome(result.exit_code, result.stdout, result.stderr)


@contextmanager
def _patience() -> Iterator[None]:
    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(PATIENCE)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def start(*arguments: object, before: Callable[[], None] | None = None) -> subprocess.Popen:
    """A command in a process of its own. before: called there before it begins."""
    name, *rest = map(str, arguments)
    script = f"from xdc_fast.__main__ import {name.replace('-', '_')} as command; command()"
    return subprocess.Popen(
        [sys.executable, "-c", script, *rest],
        env=os.environ | ONE_THREAD,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        preexec_fn=before,
        cwd=Path(__file__).parents[2],
    )


def finish(process: subprocess.Popen) -> Outcome:
    """What a started command does until it ends."""
    try:
        out, err = process.communicate(timeout=PATIENCE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        return Outcome(None, "", "")
    return Outcome(process.returncode, out, err)


def fault(outcome: Outcome, *statuses: int, named: object = "") -> str:
    """Why an outcome is not as promised: a status of `statuses`, one line for an error that names
    `named`, and no traceback; "" where it is."""
    if outcome.status is None:
        return f"it takes more than {PATIENCE} s"
    if "Traceback" in outcome.err or "Traceback" in outcome.out:
        return outcome.err.strip().splitlines()[-1][:200]
    if outcome.status not in statuses:
        return f"status {outcome.status}: {outcome.err.strip()[-200:]}"
    if outcome.status == 2:
        told = [
            line for line in outcome.err.splitlines() if line.startswith(("xdc: ", "xdc-shard: "))
        ]
        if len(told) != 1:
            return f"{len(told)} lines tell the error: {outcome.err.strip()[-200:]}"
        if str(named) not in told[0]:
            return f"the error does not name {named}: {told[0][:200]}"
    return ""
