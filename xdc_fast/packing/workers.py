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
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple

import av
import numpy as np

from xdc_fast.interrupt import blocked
from xdc_fast.packing.convert import convert_all
from xdc_fast.packing.media import Refusal
from xdc_fast.packing.segments import Span
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sink import Files, Sink
from xdc_fast.packing.tracks import Outcome
from xdc_fast.shards.describe import Unusable
from xdc_fast.shards.scan import describe_files
from xdc_fast.storage import URL, NotFound, Place, copy_into, size

if TYPE_CHECKING:
    from xdc_fast.packing.parts import OpenPart

# what FFmpeg reports of the files we write; errors of the source have become refusals before
OUR_FAULT = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EMFILE, errno.ENFILE),
    *(errno.EIO, errno.EACCES, errno.ENOENT),
}
AHEAD = 8  # files per worker that may wait for a slow one before them
STARTS = 3  # of a worker that are tried
IDLE_DEATHS = 5  # without an outcome between them; more are no accident

SinkOf = Callable[[int], Sink]
Convert = Callable[[Path, PackSettings, list[Span | None], SinkOf], Iterator[Outcome | None]]


class Made(NamedTuple):
    """A sample that a worker has made: its files, and what shards say of them.

    row, packets: as of `describe_files`.
    """

    video: Path
    audio: Path
    row: np.ndarray
    packets: np.ndarray


class FatalError(Exception):
    """An error that stops the whole run: the disk is full, or a worker cannot start."""


@dataclass
class Job:
    """A file, and what has become of its samples.

    part: that the file belongs to. number: of its first input. spans: of its inputs. skip: outcomes
    that an earlier run has recorded, of the first ones. died: the processes that it has cost since
    its last outcome.
    """

    part: OpenPart
    number: int
    path: Place
    spans: list[Span | None]
    skip: int = 0
    died: int = field(default=0, init=False)
    attempt: int = field(default=0, init=False)
    finished: bool = field(default=False, init=False)
    ready: deque[tuple[Outcome, Made | None]] = field(default_factory=deque, init=False)
    _heard: int = field(default=0, init=False)  # outcomes of this attempt
    _ends: dict[int, float] = field(default_factory=dict, init=False)  # of the last, by place

    def __post_init__(self) -> None:
        self._known = self.skip

    def begin(self) -> None:
        """A process begins with it, from the first sample on."""
        self._heard = 0
        self.attempt += 1

    def hear(self, outcome: Outcome, made: Made | None) -> None:
        """Note an outcome, unless it is known already."""
        self._heard += 1
        self._ends[outcome.place] = math.inf if outcome.span is None else outcome.span[1]
        if self._heard > self._known:
            self._known, self.died = self._heard, 0
            self.ready.append((outcome, made))

    def refuse_rest(self, refusal: Refusal) -> None:
        """Let all that has no outcome yet have this one."""
        recorded = self.skip if len(self.spans) > 1 else 0
        for place, span in enumerate(self.spans):
            begin, end = self._ends.get(place), math.inf if span is None else span[1]
            if begin is None and place >= recorded:
                self.ready.append((Outcome(place, None, span, refusal), None))
            elif begin is not None and begin < end:
                self.ready.append((Outcome(place, None, (begin, end), refusal), None))
        self.finished = True


def scratch_files(scratch: Path, job: int, attempt: int, number: int) -> tuple[Path, Path]:
    """Where a worker leaves the video track and the wav of a sample of a job."""
    stem = f"{job}-{attempt}-{number}"
    return scratch / f"{stem}.mp4", scratch / f"{stem}.wav"


def work(
    pipe: Connection,
    settings: PackSettings,
    scratch: Path,
    task: Convert,
    environment: dict[str, str],
) -> None:
    """What a worker process does: convert each file that comes and answer what became of it.

    environment: of who started it; the fork server has that of its own start.
    None says that all is well. An outcome comes with what was Made. After the outcomes comes (), or
    what the rest of the file is refused for, (reason, detail), or the message of a fatal error.
    """
    end_with_parent()
    gc.freeze()  # what has been imported stays
    os.environ.update(environment)
    pipe.send(None)
    while True:
        job, attempt, path, spans = pipe.recv()

        def sink_of(number: int, job: int = job, attempt: int = attempt) -> Files:
            return Files(*scratch_files(scratch, job, attempt, number))

        end: tuple | str = ()
        try:
            here = path
            if isinstance(path, URL):
                here = scratch / f"{job}-{attempt}-source{path.suffix[:16]}"
                with here.open("wb") as file:
                    copy_into(file, path, size(path))
                pipe.send(None)
            for outcome in task(here, settings, spans, sink_of):
                pipe.send(outcome and Told(outcome, make(outcome, settings, sink_of)))
        except MemoryError:
            os._exit(errno.ENOMEM)  # another process may have the memory that this one lacks
        except NotFound:
            end = "unreadable", "no such object"
        except Unusable as error:
            end = f"{path}: the sample made of it cannot be read: {error}"
        except (av.FFmpegError, OSError, ValueError) as error:
            of_source = isinstance(error, (av.FFmpegError, ValueError))
            ours = not of_source or getattr(error, "errno", None) in OUR_FAULT
            end = str(error) if ours else ("undecodable", str(error))
        pipe.send(end)


class Told(NamedTuple):
    """What a worker tells of a sample."""

    outcome: Outcome
    made: Made | None


def make(outcome: Outcome, settings: PackSettings, sink_of: Callable[[int], Files]) -> Made | None:
    """What shards will say of a sample; None for a refusal. Raises Unusable."""
    if outcome.number is None or isinstance(outcome.answer, Refusal):
        return None
    files = sink_of(outcome.number)
    tracks = {"video": ("mp4", files.video), "audio": ("wav", files.audio)}
    own = dict(tracks[modality] for modality in settings.modalities)
    found = describe_files(own, settings.audio_rate, settings.modalities)
    return Made(files.video, files.audio, *found)


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
    """One process, the file it is busy with, and the one that it takes next without being told."""

    def __init__(self, settings: PackSettings, scratch: Path, task: Convert):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])  # one process imports for all
        self.pipe, child = context.Pipe()
        self.process = context.Process(
            target=work, args=(child, settings, scratch, task, dict(os.environ)), daemon=True
        )
        resource_tracker.ensure_running()  # starting it later would unblock SIGINT
        # a new process runs the caller's main module again; ours need not wait for its imports
        main, sys.modules["__main__"] = sys.modules["__main__"], ModuleType("__main__")
        try:
            for _ in range(STARTS):
                with blocked(), suppress(EOFError, ConnectionError):  # the fork server was killed
                    self.process.start()
                    break
                time.sleep(0.1)
            else:
                raise FatalError("a worker process could not start")
        finally:
            sys.modules["__main__"] = main
        child.close()
        self.started, self.deadline = False, float("inf")
        self.job: Job | None = None
        self.next: Job | None = None

    @property
    def has_room(self) -> bool:
        return self.started and self.next is None

    def give(self, job: Job, time_limit: float) -> None:
        """A file to begin with when it is through with the one it has."""
        self.pipe.send((job.number, job.attempt + 1, job.path, job.spans))
        self.next = job
        if self.job is None:
            self.go_on(time_limit)

    def go_on(self, time_limit: float) -> None:
        """It is through with a file."""
        self.job, self.next = self.next, None
        self.deadline = float("inf") if self.job is None else time.monotonic() + time_limit
        if self.job is not None:
            self.job.begin()

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run_jobs(
    jobs: Iterable[Job],
    settings: PackSettings,
    scratch: Path,
    workers: int,
    time_limit: float,
    task: Convert = convert_all,
) -> Generator[tuple[Job, Outcome | None, Made | None]]:
    """Convert files in `workers` processes and yield the outcomes in the order of `jobs`.

    Each comes with what was made of it; None is the end of a job. Jobs are taken as they are
    needed. What takes longer than
    `time_limit` seconds without an outcome is refused, and a new process takes the place of the
    old. A file whose process dies is tried once more while nothing else is decoded, as it may have
    died for want of memory. Closing the generator ends the processes. Raises FatalError.
    """
    arguments = (settings, scratch, task)
    crew: list[Worker] = []
    again: deque[Job] = deque()
    returned: deque[Job] = deque()  # by processes that died before they began with them
    left = iter(jobs)
    waiting: deque[Job] = deque()  # without an end, in their order; the last ones have not begun
    begun = idle_deaths = 0  # begun: of those that wait
    try:
        waiting.extend(islice(left, AHEAD * workers))
        for _ in range(min(workers, len(waiting))):
            crew.append(Worker(*arguments))
        while waiting:
            for i, worker in enumerate(crew):
                if (job := worker.job) is not None and _listen(worker, time_limit):
                    idle_deaths = 0
                if job is not None and worker.job is not job and not job.finished:
                    again.append(job)
                if worker.job is None and not _is_well(worker):
                    idle_deaths += job is None
                    if idle_deaths > IDLE_DEATHS:
                        raise FatalError("worker processes keep dying while they have no file")
                    if worker.next is not None:
                        returned.append(worker.next)
                    worker.stop()
                    crew[i] = Worker(*arguments)
            # those without a file come first; the last files wait behind no other, and none is
            # sent ahead that may not fit into the pipe: both ends would wait
            for worker in sorted(crew, key=lambda worker: worker.job is not None):
                busy = [other.job for other in crew if other.job is not None]
                if not worker.has_room or any(job.attempt > 1 for job in busy):
                    continue
                ahead = len(waiting) - begun >= len(crew) and len(waiting[begun].spans) == 1
                if worker.job is not None and not ahead:
                    continue
                with suppress(OSError):  # it has just died and is replaced next
                    if again:
                        if not busy:
                            worker.give(again[0], time_limit)
                            again.popleft()
                    elif returned:
                        worker.give(returned[0], time_limit)
                        returned.popleft()
                    elif begun < len(waiting):
                        worker.give(waiting[begun], time_limit)
                        begun += 1
            job = waiting[0]
            while job.ready:
                yield job, *job.ready.popleft()
            if job.finished:
                yield job, None, None
                waiting.popleft()
                begun -= 1
                waiting.extend(islice(left, 1))
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

    Afterwards it has another file, or none, where this is finished or is to be tried again.
    """
    job = worker.job
    assert job is not None
    try:
        if worker.pipe.poll():
            said = worker.pipe.recv()
            if isinstance(said, str):
                raise FatalError(said)
            if said is None or isinstance(said, Told):
                worker.deadline = time.monotonic() + time_limit
                if said is not None:
                    job.hear(*said)
                return True
            if said:
                job.refuse_rest(Refusal(*said))
            job.finished = True
            worker.go_on(time_limit)
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
        worker.job = None
    elif time.monotonic() > worker.deadline:
        worker.stop()
        job.refuse_rest(Refusal("time limit", f"{time_limit:g} s"))
        worker.job = None
    return False
