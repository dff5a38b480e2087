"""Both tracks on one clock: frames and sound resampled to constant rates from a common start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from math import ceil
from typing import NamedTuple

import av

from xdc_fast.packing.media import EmptyError
from xdc_fast.shards.streams import frame_count

LEAST_SLACK, MOST_SLACK = 1e-6, 0.001  # seconds


class Grid(NamedTuple):
    """The times of a sample's frames: start + k * period for k = 0, 1, ..., in seconds."""

    start: float
    period: float

    def meets(self, begin: float, end: float) -> bool:
        """Whether `resample_frames` may take a frame that is on screen from `begin` to `end`."""
        k = max(0, ceil((begin - 2 * MOST_SLACK - self.start) / self.period))
        return self.start + k * self.period + LEAST_SLACK / 2 < end


def sample_count(frames: int, fps: Fraction, rate: int) -> int:
    """How many audio samples last as long as `frames`."""
    return round(frames / fps * rate)


def resample_frames(
    frames: Iterable[tuple[float, float, av.VideoFrame]],
    start: float,
    fps: Fraction,
    limit: int,
    tick: float,
) -> Iterator[av.VideoFrame]:
    """The frame on screen at start + k / fps for k = 0, 1, ... up to `limit` or the video's end.

    frames: (start, end, frame), seconds. tick: the time base, seconds; rounding to it can make a
    timestamp half a tick late. A frame that is earlier than one before it is left out.
    Raises EmptyError when no frame remains.
    """
    period, slack = float(1 / fps), min(tick / 2, MOST_SLACK) + LEAST_SLACK
    last: av.VideoFrame | None = None
    last_time, last_end, k = 0.0, 0.0, 0
    for time, end, frame in frames:
        if last is not None and time <= last_time:
            continue
        while last is not None and k < limit and start + k * period + slack < time:
            yield last
            k += 1
        if k >= limit:
            return
        last, last_time, last_end = frame, time, end
    whole = frame_count(last_end - start, fps)
    if k == whole == 0:
        if last_end > start:
            raise EmptyError("too short", f"{last_end - start:.2f} s")
        raise EmptyError("no overlap", f"audio starts at {start:.2f} s, video ends before")
    if last is not None:
        for _ in range(k, min(limit, whole)):
            yield last
