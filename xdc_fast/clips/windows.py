"""Where a clip lies in its sample: one window in seconds, frame and sound numbers from it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from xdc_fast.clips.sampler import uniform

TIME, ROW, COLUMN, FLIP = range(4)  # streams of random draws
TICK = 1e-6  # seconds; keeps k / fps * fps from falling below k


@dataclass(frozen=True)
class ClipShape:
    """What a clip holds. The spans of both tracks have the same centre.

    Attributes:
        frames: pictures in a clip; 0 for clips of sound alone.
        fps: pictures per second within the clip.
        crop: the side of the pictures in pixels.
        samples: sound samples in a clip; 0 for clips of pictures alone.
        sample_rate: sound samples per second.

    >>> clip = xdc_fast.ClipShape(frames=8, fps=7.5, crop=112, samples=16000, sample_rate=16000)
    >>> clip.modalities, round(clip.seconds, 2)
    (('video', 'audio'), 1.07)
    """

    frames: int
    fps: float
    crop: int
    samples: int
    sample_rate: int

    @property
    def modalities(self) -> tuple[str, ...]:
        """The tracks that a clip has room for."""
        return ("video",) * (self.frames > 0) + ("audio",) * (self.samples > 0)

    def only(self, *modalities: str) -> ClipShape:
        """The same clip with these tracks alone."""
        return replace(
            self,
            frames=self.frames if "video" in modalities else 0,
            samples=self.samples if "audio" in modalities else 0,
        )

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
    The numbers of a track that the samples lack mean nothing.
    """

    frames: np.ndarray
    start: np.ndarray
    top: np.ndarray
    left: np.ndarray
    flip: np.ndarray


WindowFunction = Callable[[np.ndarray, np.ndarray], Windows]
"""Lays the windows of a batch, given its indices int64 (B,) and their samples' SAMPLE rows (B,)."""


def random_windows(
    indices: np.ndarray, rows: np.ndarray, shape: ClipShape, seed: int, epoch: int, flip: bool
) -> Windows:
    """Training windows: random time, crop and (when asked) flip, a draw per (seed, epoch, index).

    indices, rows: as of WindowFunction.
    """

    def draw(stream: int) -> np.ndarray:
        return uniform(seed, epoch, indices, stream)

    top = (draw(ROW) * (rows["height"] - shape.crop + 1)).astype(np.int64)
    left = (draw(COLUMN) * (rows["width"] - shape.crop + 1)).astype(np.int64)
    mirrored = (draw(FLIP) < 0.5) & flip
    return _place(rows, shape, draw(TIME), top, left, mirrored)


def fixed_windows(
    _indices: np.ndarray, rows: np.ndarray, shape: ClipShape, position: float | np.ndarray = 0.5
) -> Windows:
    """Evaluation windows: centre crop, at one position in time for all or for each.

    position: 0 is the beginning of the sample, 1 its end; see `equal_positions`.
    """
    top = (rows["height"] - shape.crop).astype(np.int64) // 2
    left = (rows["width"] - shape.crop).astype(np.int64) // 2
    positions = np.broadcast_to(position, len(rows))
    return _place(rows, shape, positions, top, left, np.zeros(len(rows), dtype=bool))


def equal_positions(clips: int) -> np.ndarray:
    """Equally spaced positions, float64 (clips,), from the beginning to the end; one is central."""
    return np.linspace(0, 1, clips) if clips > 1 else np.array([0.5])


def _place(
    rows: np.ndarray,
    shape: ClipShape,
    position: np.ndarray,
    top: np.ndarray,
    left: np.ndarray,
    flip: np.ndarray,
) -> Windows:
    tracks = []  # seconds of each that is read, and what a clip takes of it
    if shape.frames and (rows["video"] >= 0).all():
        tracks.append((rows["frames"] / rows["fps"], shape.frames / shape.fps))
    if shape.samples and (rows["audio"] >= 0).all():
        tracks.append((rows["samples"] / shape.sample_rate, shape.samples / shape.sample_rate))
    lengths, spans = zip(*tracks, strict=True)
    seconds, wanted = np.min(lengths, axis=0), max(spans)
    centre = position * np.maximum(seconds - wanted, 0) + np.minimum(seconds, wanted) / 2
    first = np.floor((centre - shape.frames / shape.fps / 2 + TICK) * rows["fps"])
    step = np.floor(np.arange(shape.frames) / shape.fps * rows["fps"][:, None] + TICK)
    frames = np.clip(first[:, None] + step, 0, rows["frames"][:, None] - 1).astype(np.int64)
    start = np.rint(centre * shape.sample_rate - shape.samples / 2).astype(np.int64)
    return Windows(frames, start, top, left, flip)
