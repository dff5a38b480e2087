"""Worker processes: a hang or a crash costs one file, never the run."""

from __future__ import annotations

import errno
import gc
import math
import multiprocessing
import os
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType

import av

from xdc_fast.interrupt import blocked
from xdc_fast.packing.convert import Outcome, convert_all
from xdc_fast.packing.media import Refusal
from xdc_fast.packing.segments import Span
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sink import Files, Sink

# what FFmpeg reports of the files we write; errors of the source have become refusals before
OUR_FAULT = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE),
    *(errno.EIO, errno.EACCES, errno.ENOENT),
}
AHEAD = 8  # files per worker that may wait for a slow one before them
NO_FILES = (Path(), Path())
IDLE_DEATHS = 5  # without an outcome between them; more are no accident

SinkOf = Callable[[int], Sink]
Convert = Callable[[Path, PackSettings, list[Span | None], SinkOf], Iterator[Outcome | None]]


class FatalError(Exception):
    """An error that stops the whole run: the disk is full, or a worker cannot start."""


@dataclass
class Job:
    """A file, and what has become of its samples.

    number: of its first input. spans: of its inputs. skip: outcomes that an earlier run has
    recorded, of the first ones. died: the processes that it has cost since its last outcome.
    """

    number: int
    path: Path
    spans: list[Span | None]
    skip: int = 0
    died: int = field(default=0, init=False)
    attempt: int = field(default=0, init=False)
    finished: bool = field(default=False, init=False)
    ready: deque[tuple[Outcome, tuple[Path, Path]]] = field(default_factory=deque, init=False)
    _heard: int = field(default=0, init=False)  # outcomes of this attempt
    _ends: dict[int, float] = field(default_factory=dict, init=False)  # of the last, by place

    def __post_init__(self) -> None:
        self._known = self.skip

    def begin(self, scratch: Path) -> None:
        """A process begins with it, from the first sample on."""
        self.scratch, self._heard = scratch, 0
        self.attempt += 1

    def hear(self, outcome: Outcome) -> None:
        """Note an outcome, unless it is known already."""
        self._heard += 1
        self._ends[outcome.place] = math.inf if outcome.span is None else outcome.span[1]
        if self._heard > self._known:
            self._known, self.died = self._heard, 0
            files = scratch_files(self.scratch, self.number, self.attempt, outcome.number or 0)
            self.ready.append((outcome, files))

    def refuse_rest(self, refusal: Refusal) -> None:
        """Let all that has no outcome yet have this one."""
        recorded = self.skip if len(self.spans) > 1 else 0
        for place, span in enumerate(self.spans):
            begin, end = self._ends.get(place), math.inf if span is None else span[1]
            if begin is None and place >= recorded:
                self.ready.append((Outcome(place, None, span, refusal), NO_FILES))
            elif begin is not None and begin < end:
                self.ready.append((Outcome(place, None, (begin, end), refusal), NO_FILES))
        self.finished = True


def scratch_files(scratch: Path, job: int, attempt: int, number: int) -> tuple[Path, Path]:
    """Where a worker leaves the video track and the wav of a sample of a job."""
    stem = f"{job}-{attempt}-{number}"
    return scratch / f"{stem}.mp4", scratch / f"{stem}.wav"


def work(pipe: Connection, settings: PackSettings, scratch: Path, task: Convert) -> None:
    """What a worker process does: convert each file that comes and answer what became of it.

    None says that all is well. After the outcomes comes (), or what the rest of the file is refused
    for, (reason, detail), or the message of a fatal error.
    """
    end_with_parent()
    gc.freeze()  # what has been imported stays
    pipe.send(None)
    while True:
        job, attempt, path, spans = pipe.recv()

        def sink_of(number: int, job: int = job, attempt: int = attempt) -> Files:
            return Files(*scratch_files(scratch, job, attempt, number))

        end: tuple | str = ()
        try:
            for outcome in task(path, settings, spans, sink_of):
                pipe.send(outcome)
        except MemoryError:
            os._exit(errno.ENOMEM)  # another process may have the memory that this one lacks
        except (av.FFmpegError, OSError, ValueError) as error:
            of_source = isinstance(error, (av.FFmpegError, ValueError))
            ours = not of_source or getattr(error, "errno", None) in OUR_FAULT
            end = str(error) if ours else ("undecodable", str(error))
        pipe.send(end)


def end_with_parent() -> None:
    """From now on this process ends when the one that started it does, whatever it ended of."""
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


class Worker:
    """One process and the file it is busy with."""

    def __init__(self, settings: PackSettings, scratch: Path, task: Convert):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # one process imports for all
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

    def give(self, job: Job, scratch: Path, time_limit: float) -> None:
        self.pipe.send((job.number, job.attempt + 1, job.path, job.spans))
        job.begin(scratch)
        self.job, self.deadline = job, time.monotonic() + time_limit

    def free(self) -> None:
        self.job, self.deadline = None, float("inf")

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
    task: Convert = convert_all,
) -> Generator[tuple[Job, Outcome | None, tuple[Path, Path]]]:
    """Convert files in `workers` processes and yield the outcomes in the order of `jobs`.

    Each comes with the files of its sample; None is the end of a job. What takes longer than
    `time_limit` seconds without an outcome is refused, and a new process takes the place of the
    old. A file whose process dies is tried once more while nothing else is decoded, as it may have
    died for want of memory. Closing the generator ends the processes. Raises FatalError.
    """
    arguments = (settings, scratch, task)
    crew: list[Worker] = []
    again: deque[Job] = deque()
    asked = answered = idle_deaths = 0
    try:
        for _ in range(min(workers, len(jobs))):
            crew.append(Worker(*arguments))
        while answered < len(jobs):
            for i, worker in enumerate(crew):
                if (job := worker.job) is not None and _listen(worker, time_limit):
                    idle_deaths = 0
                if job is not None and worker.job is None and not job.finished:
                    again.append(job)
                if worker.job is None and not _is_well(worker):
                    idle_deaths += job is None
                    if idle_deaths > IDLE_DEATHS:
                        raise FatalError("worker processes keep dying while they have no file")
                    worker.stop()
                    crew[i] = Worker(*arguments)
            for worker in crew:
                busy = [other.job for other in crew if other.job is not None]
                if not worker.is_idle or any(job.attempt > 1 for job in busy):
                    continue
                with suppress(OSError):  # it has just died and is replaced next
                    if again:
                        if not busy:
                            worker.give(again[0], scratch, time_limit)
                            again.popleft()
                    elif asked < min(len(jobs), answered + AHEAD * workers):
                        worker.give(jobs[asked], scratch, time_limit)
                        asked += 1
            job = jobs[answered]
            while job.ready:
                yield job, *job.ready.popleft()
            if job.finished:
                yield job, None, NO_FILES
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


def _is_well(worker: Worker) -> bool:
    """Whether a worker without a file lives, and takes note that it has started."""
    try:
        if worker.pipe.poll():
            worker.pipe.recv()
            worker.started = True
    except (EOFError, OSError):
        worker.process.join()
    code = worker.process.exitcode
    if not worker.started and code is not None and code >= 0:
        raise FatalError(f"a worker process could not start (exit status {code})")
    return worker.process.is_alive()


def _listen(worker: Worker, time_limit: float) -> bool:
    """Take note of what a worker with a file says; whether there was an outcome.

    Afterwards it has no file where this is finished, or is to be tried again.
    """
    job = worker.job
    assert job is not None
    try:
        if worker.pipe.poll():
            said = worker.pipe.recv()
            if isinstance(said, str):
                raise FatalError(said)
            if said is None or isinstance(said, Outcome):
                worker.deadline = time.monotonic() + time_limit
                if said is not None:
                    job.hear(said)
                return True
            if said:
                job.refuse_rest(Refusal(*said))
            job.finished = True
            worker.free()
            return True
    except (EOFError, OSError):
        worker.process.join()
    if not worker.process.is_alive():
        job.died += 1
        if job.died > 1:
            code = worker.process.exitcode or 0
            how = f"signal {-code}" if code < 0 else f"exit status {code}"
            how = "out of memory" if code == errno.ENOMEM else how
            job.refuse_rest(Refusal("decoder died", f"{how}, twice"))
        worker.free()
    elif time.monotonic() > worker.deadline:
        worker.stop()
        job.refuse_rest(Refusal("time limit", f"{time_limit:g} s"))
        worker.free()
    return False
