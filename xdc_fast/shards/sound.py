"""Decoded sound to mono int16 at one rate."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from typing import cast

import av
import numpy as np

CANCELLED = 0.1  # of the power of a mean of unrelated channels; one that has less is no mix
MOST_LOST = 0.1  # of a track's power
MAX_DRIFT = 0.05  # seconds that audio timestamps may stray before they are believed
MAX_OVERLAP = 0.1  # of the sound; timestamps that overlap more are no clock at all
ENDLESS = 2**62  # samples
BATCH = 16384  # samples that are resampled at once, where so many follow each other


class OverlapError(ValueError):
    """The timestamps of a track are no clock: most of the sound overlaps."""


class Mono:
    """Mixes the channels of decoded frames to their mean, or takes one of them."""

    def __init__(self, channel: int | None = None):
        self._channel = channel
        self._power = np.zeros(0)  # of each channel
        self._lost = 0.0  # power of all channels, where their mean has next to none

    def __call__(self, frames: list[av.AudioFrame]) -> np.ndarray:
        """Consecutive frames as float32 (samples,), full scale = 1."""
        alike = groupby(frames, lambda frame: (frame.format.name, frame.layout.name))
        return np.concatenate([self._mix(_channels(list(group))) for _, group in alike])

    @property
    def loudest(self) -> int | None:
        """The channel to take instead, where channels of opposite sign cancel out in the mean."""
        if self._channel is not None or self._lost <= MOST_LOST * self._power.sum():
            return None
        return int(self._power.argmax())

    def _mix(self, data: np.ndarray) -> np.ndarray:
        count = len(data)
        if self._channel is not None:
            return data[min(self._channel, count - 1)].astype(np.float32)
        mean = data.mean(axis=0, dtype=data.dtype)
        if count > 1:
            power = np.einsum("cs,cs->c", data, data).astype(np.float64)
            if count > len(self._power):
                self._power = np.pad(self._power, (0, count - len(self._power)))
            self._power[:count] += power
            unrelated = power.sum() / count**2  # the power of the mean of channels that are so
            if float(mean @ mean) < CANCELLED * unrelated:
                self._lost += power.sum()
        return mean.astype(np.float32)


def _channels(frames: list[av.AudioFrame]) -> np.ndarray:
    """Frames of one sample format and layout, (channels, samples), full scale = 1.

    float64 for integers, else float32.
    """
    channels = frames[0].layout.nb_channels
    if frames[0].format.is_planar and channels >= 8:  # PyAV 18 reads a plane too many and crashes
        pack = av.AudioResampler(frames[0].format.packed, frames[0].layout)
        frames = [packed for frame in frames for packed in pack.resample(frame)]
    whole = av.AudioFifo()
    for frame in frames:
        frame.pts = None  # their times have been read; here they need not follow each other
        whole.write(frame)
    data = cast(av.AudioFrame, whole.read()).to_ndarray()
    if not frames[0].format.is_planar:
        data = data.reshape(-1, channels).T
    if data.dtype.kind == "f":
        return data.astype(np.float32, copy=False)
    middle = 128.0 if data.dtype == np.uint8 else 0.0
    return (data - middle) / 2.0 ** (8 * data.dtype.itemsize - 1)


class Resample:
    """Resamples decoded audio frames of one rate to mono int16 at another; the last call flushes.

    The result does not depend on how many frames a call brings; many at once cost less.
    """

    def __init__(self, rate: int, mono: Mono):
        self._mono = mono
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)

    def __call__(self, frames: list[av.AudioFrame], last: bool = False) -> np.ndarray:
        ready = []
        if frames:
            wave = self._mono(frames)[None]
            single = av.AudioFrame.from_ndarray(wave, format="flt", layout="mono")
            single.sample_rate = frames[0].sample_rate
            ready += self._resampler.resample(single)
        if last:
            ready += self._resampler.resample(None)
        return np.concatenate([np.zeros(0, np.int16), *(f.to_ndarray()[0] for f in ready)])


def resample_audio(
    frames: Iterable[tuple[float, float, av.AudioFrame]],
    start: float,
    rate: int,
    limit: int,
    mono: Mono,
) -> Iterator[np.ndarray]:
    """Mono int16 blocks at `rate` from `start` (seconds) on, at most `limit` samples in all.

    Holes in the timestamps become silence; where frames overlap, the earlier is kept. Raises
    OverlapError when most of the sound would be lost that way.
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
        raise OverlapError("the timestamps overlap")
