"""Worker processes: a hang or a crash costs one file, never the run."""

from __future__ import annotations

import errno
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Generator
from contextlib import suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType

import av

from xdc_fast.interrupt import blocked
from xdc_fast.packing.convert import convert
from xdc_fast.packing.media import Refusal
from xdc_fast.packing.settings import PackSettings

# what FFmpeg reports of the files we write; errors of the source have become refusals before
OUR_FAULT = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE, errno.ENOMEM),
    *(errno.EIO, errno.EACCES, errno.ENOENT),
}
AHEAD = 8  # files per worker that may wait for a slow one before them
IDLE_DEATHS = 5  # without an outcome between them; more are no accident

Job = tuple[int, Path]
Outcome = dict | Refusal
Convert = Callable[[Path, PackSettings, Path, Path], dict]


def scratch_files(scratch: Path, number: int) -> tuple[Path, Path]:
    """Where a worker leaves the video track and the wav of input `number`."""
    return scratch / f"{number}.mp4", scratch / f"{number}.wav"


class FatalError(Exception):
    """An error that stops the whole run: the disk is full, or a worker cannot start."""


def work(pipe: Connection, settings: PackSettings, scratch: Path, task: Convert) -> None:
    """What a worker process does: convert each file that comes and answer what became of it.

    An answer is the metadata, a refusal's (reason, detail), or the message of a fatal error.
    """
    threading.Thread(target=_die_with_parent, daemon=True).start()
    pipe.send(None)
    while True:
        number, path = pipe.recv()
        answer: dict | tuple[str, str] | str
        try:
            answer = task(path, settings, *scratch_files(scratch, number))
        except Refusal as refusal:
            answer = (refusal.reason, refusal.detail)
        except (av.FFmpegError, OSError, ValueError) as error:
            of_source = isinstance(error, (av.FFmpegError, ValueError))
            ours = not of_source or getattr(error, "errno", None) in OUR_FAULT
            answer = str(error) if ours else ("undecodable", str(error))
        pipe.send(answer)


def _die_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


class Worker:
    """One process and the file it is busy with."""

    def __init__(self, settings: PackSettings, scratch: Path, task: Convert):
        context = multiprocessing.get_context("spawn")
        self.pipe, child = context.Pipe()
        self.process = context.Process(
            target=work, args=(child, settings, scratch, task), daemon=True
        )
        resource_tracker.ensure_running()  # starting it later would unblock SIGINT
        # a new process runs the caller's main module again; ours need not wait for its imports
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            with blocked():
                self.process.start()
        finally:
            sys.modules["__main__"] = main
        child.close()
        self.started, self.deadline = False, float("inf")
        self.job: Job | None = None

    @property
    def is_idle(self) -> bool:
        return self.started and self.job is None

    def give(self, job: Job, time_limit: float) -> None:
        self.pipe.send(job)
        self.job, self.deadline = job, time.monotonic() + time_limit

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run_jobs(
    jobs: list[Job],
    settings: PackSettings,
    scratch: Path,
    workers: int,
    time_limit: float,
    task: Convert = convert,
) -> Generator[tuple[Job, Outcome]]:
    """Convert files in `workers` processes and yield the outcomes in the order of `jobs`.

    A file that takes longer than `time_limit` seconds, or whose process dies, is refused, and a
    new process takes the place of the old. Closing the generator ends the processes.
    Raises FatalError.
    """
    arguments = (settings, scratch, task)
    crew: list[Worker] = []
    outcomes: dict[int, Outcome] = {}  # by place in jobs
    asked = answered = idle_deaths = 0
    place = {number: i for i, (number, _) in enumerate(jobs)}
    try:
        for _ in range(min(workers, len(jobs))):
            crew.append(Worker(*arguments))
        while answered < len(jobs):
            for i, worker in enumerate(crew):
                outcome = _poll(worker, time_limit)
                if outcome is not None and worker.job is not None:
                    outcomes[place[worker.job[0]]] = outcome
                    worker.job, worker.deadline, idle_deaths = None, float("inf"), 0
                if worker.is_idle and not worker.process.is_alive():
                    idle_deaths += outcome is None
                    if idle_deaths > IDLE_DEATHS:
                        raise FatalError("worker processes keep dying while they have no file")
                    worker.stop()
                    crew[i] = Worker(*arguments)
            for worker in crew:
                if worker.is_idle and asked < min(len(jobs), answered + AHEAD * workers):
                    with suppress(BrokenPipeError):  # it has just died and is replaced next
                        worker.give(jobs[asked], time_limit)
                        asked += 1
            if answered in outcomes:
                yield jobs[answered], outcomes.pop(answered)
                answered += 1
            else:
                _sleep(crew)
    finally:
        for worker in crew:
            worker.stop()


def _sleep(crew: list[Worker]) -> None:
    """Wait until a worker answers, dies or runs out of time."""
    until = min(worker.deadline for worker in crew) - time.monotonic()
    handles = [h for worker in crew for h in (worker.pipe, worker.process.sentinel)]
    wait(handles, timeout=min(max(until, 0), 3600))


def _poll(worker: Worker, time_limit: float) -> Outcome | None:
    """The outcome of the worker's file, None while it is busy."""
    try:
        if worker.pipe.poll():
            answer = worker.pipe.recv()
            if not worker.started:
                worker.started = True
                return None
            if isinstance(answer, str):
                raise FatalError(answer)
            return Refusal(*answer) if isinstance(answer, tuple) else answer
    except (EOFError, ConnectionResetError):
        worker.process.join()
    if not worker.process.is_alive():
        code = worker.process.exitcode or 0
        if not worker.started:
            raise FatalError(f"a worker process could not start (exit status {code})")
        if worker.job is None:
            return None
        return Refusal("decoder died", f"signal {-code}" if code < 0 else f"exit status {code}")
    if time.monotonic() > worker.deadline:
        worker.stop()
        return Refusal("time limit", f"{time_limit:g} s")
    return None
