"""Both tracks on one clock: frames and sound resampled to constant rates from a common start."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction

import av
import numpy as np

from xdc_fast.packing.media import Refusal
from xdc_fast.shards.decode import Mono, Resample

MAX_DRIFT = 0.05  # seconds that audio timestamps may stray before they are believed
MAX_OVERLAP = 0.1  # of the sound; timestamps that overlap more are no clock at all
BATCH = 16384  # samples that are resampled at once, where so many follow each other
ROUNDING = Fraction(1, 100)  # of a frame; a span this little short of a frame still holds it


def nearest_rate(fps: float) -> Fraction:
    """The exact rate that a rounded one stands for: 29.97 is 30000/1001."""
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    return ntsc if abs(ntsc - Fraction(fps)) < fps * 3e-4 else Fraction(fps).limit_denominator(1000)


def frame_count(seconds: float, fps: Fraction) -> int:
    """How many whole frames fit into `seconds`."""
    return max(0, int(seconds * fps + ROUNDING))


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
    Raises Refusal when no frame remains.
    """
    period, slack = float(1 / fps), min(tick / 2, 0.001) + 1e-6
    last: av.VideoFrame | None = None
    last_time, last_end, k, seen = 0.0, 0.0, 0, 0
    for time, end, frame in frames:
        seen += 1
        if last is not None and time <= last_time:
            continue
        while last is not None and k < limit and start + k * period + slack < time:
            yield last
            k += 1
        if k >= limit:
            return
        last, last_time, last_end = frame, time, end
    if seen == 1:
        raise Refusal("cover art", "a single still")
    whole = frame_count(last_end - start, fps)
    if k == whole == 0:
        if last_end > start:
            raise Refusal("too short", f"{last_end - start:.2f} s")
        raise Refusal("no overlap", f"audio starts at {start:.2f} s, video ends before")
    if last is not None:
        for _ in range(k, min(limit, whole)):
            yield last


def resample_audio(
    frames: Iterable[tuple[float, float, av.AudioFrame]],
    start: float,
    rate: int,
    limit: int,
    mono: Mono,
) -> Iterator[np.ndarray]:
    """Mono int16 blocks at `rate` from `start` (seconds) on, at most `limit` samples in all.

    Holes in the timestamps become silence; where frames overlap, the earlier is kept. Raises
    Refusal when most of the sound would be lost that way.
    """
    position = drop = waiting = source_rate = 0
    expected = overlap = total = 0.0
    resample: Resample | None = None
    batch: list[av.AudioFrame] = []

    def place(block: np.ndarray) -> np.ndarray:
        nonlocal position, drop
        skipped = min(drop, len(block))
        drop -= skipped
        block = block[skipped : skipped + limit - position]
        position += len(block)
        return block

    for time, end, frame in frames:
        jump = resample is not None and abs(time - expected) > MAX_DRIFT
        if resample is None or jump or frame.sample_rate != source_rate:
            if resample is not None:
                yield place(resample(batch, last=True))
            overlap += max(0.0, expected - time) if jump else 0.0
            resample, source_rate, expected = Resample(rate, mono), frame.sample_rate, time
            batch, waiting = [], 0
            begin = round((time - start) * rate)
            drop = max(0, position - begin)
            silence = min(max(0, begin - position), limit - position)
            position += silence
            yield np.zeros(silence, np.int16)
        expected += end - time
        total += end - time
        batch.append(frame)
        waiting += frame.samples
        # near the limit frame by frame: what comes after it is not even decoded
        if waiting >= BATCH or position + waiting * rate / source_rate + 1 >= limit:
            yield place(resample(batch))
            batch, waiting = [], 0
            if position >= limit:
                return
    if resample is not None:
        yield place(resample(batch, last=True))
    if overlap > MAX_OVERLAP * total + MAX_DRIFT:
        raise Refusal("damaged", "audio: the timestamps overlap")
