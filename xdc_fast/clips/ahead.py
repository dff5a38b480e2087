"""Bytes of batches on storage, fetched far ahead of the threads that decode them."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from xdc_fast.clips.reader import SampleReader
from xdc_fast.clips.sampler import LANE, MOST_LANES
from xdc_fast.clips.windows import WindowFunction, fixed_windows
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.remote import RemoteFiles, Spans
from xdc_fast.storage import StorageError, fetch_ranges

log = logging.getLogger(__name__)

MEMORY = 256 << 20  # bytes of clips that wait to be decoded, about
MOST_CLIPS = 1024  # of them
REQUESTS = 64  # clips that are fetched at a time
PLANNERS = 4  # threads that look up where clips lie
RATIO = 4  # a sample has so many times the bytes of a clip: ranges are read

Result = TypeVar("Result")
Read = Callable[[np.ndarray, WindowFunction, "np.ndarray | None"], Result]


class ReadAhead:
    """Starts the reading of batches, in their order; of a set on storage, fetches them before.

    read: auto, ranges or shards, as of a recipe.
    """

    def __init__(self, reader: SampleReader, read: str = "auto"):
        self.reader = reader
        self.files = reader.shards.files
        self.whole = False
        self.clip_bytes = 0
        if isinstance(self.files, RemoteFiles) and len(reader.shards):
            sample, self.clip_bytes = measure(reader)
            self.whole = choose(read, reader.shards, self.files, sample, self.clip_bytes)

    def start(
        self,
        pool: ThreadPoolExecutor,
        read: Read[Result],
        batches: Iterable[np.ndarray],
        windows: WindowFunction,
        samples: np.ndarray | None,
    ) -> Tasks[Result]:
        """`read(indices, windows, samples)` of each batch in the pool, as futures."""
        if not isinstance(self.files, RemoteFiles):
            return Tasks(pool.submit(read, indices, windows, samples) for indices in batches)
        files, fetcher = self.files, Fetcher(self.reader, self.whole)

        def read_fetched(indices: np.ndarray, fetched: Future[Clips]) -> Result:
            with files.ahead(spans_of(fetched.result())):
                return read(indices, windows, samples)

        def tasks() -> Iterator[Future[Result]]:
            waiting: deque[tuple[np.ndarray, Future[Clips]]] = deque()
            for indices in batches:
                waiting.append((indices, fetcher.fetch(indices, windows, samples)))
                held = min(MOST_CLIPS, MEMORY // max(1, self.clip_bytes))
                if len(waiting) > max(2, held // len(indices)):
                    yield pool.submit(read_fetched, *waiting.popleft())
            while waiting:
                yield pool.submit(read_fetched, *waiting.popleft())

        return Tasks(tasks(), fetcher)


class Tasks(Iterator[Future[Result]]):
    """Futures, and what they need until `close`."""

    def __init__(self, tasks: Iterator[Future[Result]], fetcher: Fetcher | None = None):
        self._tasks, self._fetcher = tasks, fetcher

    def __next__(self) -> Future[Result]:
        return next(self._tasks)

    def close(self) -> None:
        """Ends what is under way; nothing waits for a server then."""
        if self._fetcher is not None:
            self._fetcher.close()


Clip = tuple[str, list[tuple[int, int]], "Future[list[np.ndarray]]"]
Clips = list[Clip]


class Fetcher:
    """Fetches what clips need: by ranges in an event loop, or from whole shards in threads."""

    def __init__(self, reader: SampleReader, whole: bool):
        self._reader, self._whole = reader, whole
        assert isinstance(reader.shards.files, RemoteFiles)
        self._files = reader.shards.files
        self._planners = ThreadPoolExecutor(PLANNERS, thread_name_prefix="plan")
        self._shards = ThreadPoolExecutor(REQUESTS, thread_name_prefix="shards")
        self._loop = asyncio.new_event_loop()
        self._free = asyncio.Semaphore(REQUESTS)
        # a request to a server that is gone must not keep the process
        self._thread = threading.Thread(target=self._loop.run_forever, name="fetch", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Cancels what is under way."""
        if self._loop.is_closed():
            return
        self._planners.shutdown(wait=True, cancel_futures=True)
        self._shards.shutdown(wait=False, cancel_futures=True)
        asyncio.run_coroutine_threadsafe(self._cancel(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    __del__ = close  # a pass whose first batch nobody asks for

    async def _cancel(self) -> None:
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    def fetch(
        self, indices: np.ndarray, windows: WindowFunction, samples: np.ndarray | None
    ) -> Future[Clips]:
        """The clips of a batch on their way: the tar, (offset, size) and data of each."""
        return self._planners.submit(self._plan, indices, windows, samples)

    def _plan(
        self, indices: np.ndarray, windows: WindowFunction, samples: np.ndarray | None
    ) -> Clips:
        reader = self._reader
        names, rows = reader.locate(indices if samples is None else samples[indices])
        places = windows(indices, rows)
        clips = []
        for slot, (name, row) in enumerate(zip(names, rows, strict=True)):
            ranges = reader.ranges(name, row, places, slot)
            future: Future[list[np.ndarray]]
            if self._whole:
                tar = reader.shards.record(name)
                future = self._shards.submit(self._files.read_whole, tar, ranges)
            else:
                future = asyncio.run_coroutine_threadsafe(self._get(name, ranges), self._loop)
            clips.append((name, ranges, future))
        return clips

    async def _get(self, name: str, ranges: list[tuple[int, int]]) -> list[np.ndarray]:
        async with self._free:
            parts = await fetch_ranges(self._files.root / name, ranges)
        return [np.frombuffer(part, np.uint8) for part in parts]


def spans_of(clips: Clips) -> Spans:
    """What clips need, when all has arrived or failed."""
    spans = Spans()
    for name, ranges, future in clips:
        parts: Sequence[np.ndarray | StorageError]
        try:
            parts = future.result()
        except StorageError as error:
            parts = [error] * len(ranges)
        for (offset, size), part in zip(ranges, parts, strict=True):
            spans.add(name, offset, size, part)
    return spans


def measure(reader: SampleReader) -> tuple[float, int]:
    """Mean bytes of a sample in its tar, and those that a clip needs, of some samples."""
    shards = reader.shards
    chosen = np.unique(np.linspace(0, len(shards) - 1, 5).astype(np.int64))
    names, rows = reader.locate(chosen)
    places = fixed_windows(chosen, rows, reader.shape)
    needed = [
        sum(size for _, size in reader.ranges(name, row, places, slot))
        for slot, (name, row) in enumerate(zip(names, rows, strict=True))
    ]
    return shards.manifest["bytes"] / len(shards), int(np.mean(needed))


def choose(read: str, shards: ShardSet, files: RemoteFiles, sample: float, clip: int) -> bool:
    """Whether whole shards are read; says in a line what was chosen, and why."""
    ratio, limit = sample / max(1, clip), files.cache.limit
    largest = shards.manifest["bytes"] / len(shards.shards)
    # the shards that an epoch reads from at a time, and then some; see EpochSampler
    at_once = largest * min(len(shards.shards), MOST_LANES * LANE)
    fits = at_once <= limit
    whole = read == "shards" or (read == "auto" and ratio <= RATIO and fits)
    why = f"a sample has {sample / 1e6:.3g} MB, a clip needs {clip / 1e6:.3g} MB of it"
    if read != "auto":
        why = f"read={read}"
    elif ratio <= RATIO and not fits:
        why += f", but the cache has no room for {at_once / 1e9:.3g} GB of shards"
    what = "whole shards, kept in the cache" if whole else "ranges of the shards"
    line = f"{shards.root}: reads {what}: {why}"
    if line == files.said:  # for each loader of a command
        return whole
    files.said = line
    log.info(line)
    if whole and not fits:
        log.warning(
            "%s: %.3g GB of shards are read from at a time, and cache_gb=%.3g: shards may be "
            "fetched several times",
            shards.root, at_once / 1e9, limit / 1e9,
        )  # fmt: skip
    return whole
