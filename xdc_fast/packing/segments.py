"""Segments of one file: which there are, and one pass over a track for all of them."""

from __future__ import annotations

import heapq
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import chain, count
from threading import Semaphore, Thread
from typing import Any, Protocol, TypeVar

from xdc_fast.packing.media import Refusal

Span = tuple[float, float]
Item = tuple[float, float, Any]
"""A decoded frame after its start and end in seconds."""


class BrokenError(Refusal):
    """What ended the pass over a track: of what comes after it, nothing is known."""


@dataclass
class Clock:
    """What is known of a file's time: seconds on its own clock.

    origin: where a player shows 0. head: where its later track begins. end: where a track is known
    to end; infinite before.
    """

    origin: float
    head: float
    end: float = math.inf


@dataclass(frozen=True)
class Segment:
    """What one sample is made of: what lies between `begin` and `end`, seconds on a file's clock.

    place: of its input among those of the file. within: where this input begins and ends. span: in
    seconds from the beginning of the file; None where all of it is meant. number: among those that
    are cut out of its input. limited: its input may be longer, but is cut there.
    """

    place: int
    begin: float
    end: float
    within: Span
    span: Span | None
    number: int = 0
    limited: bool = False

    @property
    def first(self) -> bool:
        """Whether its input begins with it."""
        return self.number == 0


class Begins(Protocol):
    @property
    def begin(self) -> float: ...


Part = TypeVar("Part", bound=Begins)


def plan(
    spans: list[Span | None], length: float | None, longest: float | None, clock: Clock
) -> Iterator[Segment]:
    """The segments of a file's inputs, in the order in which they begin.

    spans: of the inputs, seconds from the beginning of the file; None is all of it. length: cut
    them into segments of so many seconds, from where all tracks have begun; None: do not. longest:
    seconds of an input that are cut.
    """
    cuts = [_cut(place, span, length, longest, clock) for place, span in enumerate(spans)]
    return heapq.merge(*cuts, key=lambda segment: segment.begin)


def _cut(
    place: int, span: Span | None, length: float | None, longest: float | None, clock: Clock
) -> Iterator[Segment]:
    begin, end = (-math.inf, math.inf) if span is None else (s + clock.origin for s in span)
    if length is None:
        yield Segment(place, begin, end, (begin, end), span)
        return
    zero = max(begin, clock.head)
    most = math.inf if longest is None else zero + longest
    limited, end = most < end, min(most, end)
    for k in count():
        start, stop = zero + k * length, min(zero + (k + 1) * length, end)
        if k and start >= min(end, clock.end):
            return
        part = round(start - clock.origin, 6), round(stop - clock.origin, 6)
        yield Segment(place, start, stop, (begin, end), part, k, limited and stop == end)


def share(
    items: Iterable[Item],
    parts: Iterable[Part],
    read: Callable[[Part, Iterator[Item]], None],
    clock: Clock,
    before: float = 0.0,
) -> Iterator[bool]:
    """One pass over the items of a track for all parts of it; yields after each step whether the
    item was only passed over.

    parts: in the order in which they begin. read: takes the items of a part, from the last one that
    starts `before` seconds before it or earlier, until it needs no more. A Refusal of the pass is
    raised where it waits for the next, as a BrokenError.
    Sets clock.end where the track ends.
    """
    upcoming = iter(parts)
    following = next(upcoming, None)
    if following is not None and following.begin == -math.inf:
        if (other := next(upcoming, None)) is None:  # alone it needs no thread
            read(following, _to_the_end(items, clock))
            return
        upcoming = chain([other], upcoming)
    recent: deque[Item] = deque()
    active: list[Reader] = []
    error: BaseException | None = None
    try:
        for item in _to_the_end(items, clock):
            recent.append(item)
            for reader in active:
                reader.put(item)
            while following is not None and following.begin <= item[0]:
                _forget(recent, following.begin - before)
                active.append(Reader(partial(read, following), recent))
                following = next(upcoming, None)
            _forget(recent, math.inf if following is None else following.begin - before)
            active = [reader for reader in active if not reader.finished]
            yield not active
            if following is None and not active:
                return
    except Refusal as refusal:
        clock.end = recent[-1][1] if recent else clock.head
        error = BrokenError(refusal.reason, refusal.detail)
    except BaseException as failure:
        error = failure
        raise
    finally:
        for reader in active:
            reader.close(error)
    while following is not None:
        _forget(recent, following.begin - before)
        Reader(partial(read, following), recent).close(error)
        following = next(upcoming, None)
        yield False


def _to_the_end(items: Iterable[Item], clock: Clock) -> Iterator[Item]:
    end = clock.head
    for item in items:
        end = max(end, item[1])
        yield item
    clock.end = end


def _forget(recent: deque[Item], time: float) -> None:
    """Drop the items before the last one that starts at `time` or earlier."""
    while len(recent) > 1 and recent[1][0] <= time:
        recent.popleft()


class Reader:
    """A function that takes items one by one and is run item by item.

    It waits for them in a thread of its own, which never runs beside the caller's.
    """

    def __init__(self, read: Callable[[Iterator[Item]], None], items: Iterable[Item]):
        self.finished = False
        self._item: Item | None = None
        self._error: BaseException | None = None
        self._failure: BaseException | None = None
        self._given, self._taken = Semaphore(0), Semaphore(0)
        Thread(target=self._run, args=(read,), daemon=True).start()
        self._taken.acquire()
        for item in items:
            self.put(item)

    def put(self, item: Item) -> None:
        """Hand over the next item, and wait until the function wants another one."""
        self._go_on(item)

    def close(self, error: BaseException | None) -> None:
        """Let the items end, or raise `error` where the function waits for one."""
        self._error = error
        self._go_on(None)

    def _go_on(self, item: Item | None) -> None:
        if self.finished:
            return
        self._item = item
        self._given.release()
        self._taken.acquire()
        if self._failure is not None and self._failure is not self._error:
            raise self._failure

    def _run(self, read: Callable[[Iterator[Item]], None]) -> None:
        try:
            read(self._items())
        except BaseException as failure:
            self._failure = failure
        self.finished = True
        self._taken.release()

    def _items(self) -> Iterator[Item]:
        while True:
            self._taken.release()
            self._given.acquire()
            if self._error is not None:
                raise self._error
            if self._item is None:
                return
            yield self._item
