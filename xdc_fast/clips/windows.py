"""Where a clip lies in its sample: one window in seconds, frame and sound numbers from it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from xdc_fast.clips.sampler import uniform

TIME, ROW, COLUMN, FLIP = range(4)  # streams of random draws
TICK = 1e-6  # seconds; keeps k / fps * fps from falling below k


@dataclass(frozen=True)
class ClipShape:
    """What a clip holds.

    frames: pictures per clip, at `fps` pictures per second. crop: their side in pixels.
    samples: sound samples per clip, at `sample_rate` per second. Both spans share their centre.
    """

    frames: int
    fps: float
    crop: int
    samples: int
    sample_rate: int

    @property
    def seconds(self) -> float:
        """The longer of the two spans: what a window must cover."""
        return max(self.frames / self.fps, self.samples / self.sample_rate)


@dataclass(frozen=True)
class Windows:
    """The windows of a batch: where to read and how to crop.

    frames: int64 (B, T), frame numbers in each sample; past an end, the end frame again.
    start: int64 (B,), the first sound sample; may be negative (zeros are read there).
    top, left: int64 (B,), the crop's corner in pixels. flip: bool (B,), mirrored left to right.
    Of a track that the samples lack, the numbers mean nothing.
    """

    frames: np.ndarray
    start: np.ndarray
    top: np.ndarray
    left: np.ndarray
    flip: np.ndarray


def random_windows(rows, shape: ClipShape, seed: int, epoch: int, flip: bool) -> Windows:
    """Training windows: random time, crop and (when asked) flip, a draw per (seed, epoch, index).

    rows: SAMPLE rows (B,) of the shard format.
    """

    def draw(stream: int) -> np.ndarray:
        return uniform(seed, epoch, rows["index"], stream)

    top = (draw(ROW) * (rows["height"] - shape.crop + 1)).astype(np.int64)
    left = (draw(COLUMN) * (rows["width"] - shape.crop + 1)).astype(np.int64)
    mirrored = (draw(FLIP) < 0.5) & flip
    return _place(rows, shape, draw(TIME), top, left, mirrored)


def fixed_windows(rows, shape: ClipShape, clip: int = 0, clips: int = 1) -> Windows:
    """Evaluation windows: centre crop, clip number `clip` of `clips` equally spaced ones.

    One clip lies in the middle; the first and last of several touch the sample's ends.
    """
    share = np.full(len(rows), 0.5 if clips == 1 else clip / (clips - 1))
    top = (rows["height"] - shape.crop).astype(np.int64) // 2
    left = (rows["width"] - shape.crop).astype(np.int64) // 2
    return _place(rows, shape, share, top, left, np.zeros(len(rows), dtype=bool))


def _place(rows, shape: ClipShape, share, top, left, flip) -> Windows:
    tracks = []  # seconds of each that the samples have, and what a clip takes of it
    if (rows["video"] >= 0).all():
        tracks.append((rows["frames"] / rows["fps"], shape.frames / shape.fps))
    if (rows["audio"] >= 0).all():
        tracks.append((rows["samples"] / shape.sample_rate, shape.samples / shape.sample_rate))
    lengths, spans = zip(*tracks, strict=True)
    seconds, wanted = np.min(lengths, axis=0), max(spans)
    centre = share * np.maximum(seconds - wanted, 0) + np.minimum(seconds, wanted) / 2
    first = np.floor((centre - shape.frames / shape.fps / 2 + TICK) * rows["fps"])
    step = np.floor(np.arange(shape.frames) / shape.fps * rows["fps"][:, None] + TICK)
    frames = np.clip(first[:, None] + step, 0, rows["frames"][:, None] - 1).astype(np.int64)
    start = np.rint(centre * shape.sample_rate - shape.samples / 2).astype(np.int64)
    return Windows(frames, start, top, left, flip)
