"""Windows all along the samples of a set, read as evaluation reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xdc_fast import ClipLoader, ClipShape, ShardSet


def read_windows(root: Path, count: int = 20) -> list[np.ndarray]:
    """For each sample, what the clocks of `draw_clock` and `sound_clock` say, float64 (count, 2).

    Windows of half a second, from the beginning of a sample to its end. NaN where a set has no such
    track. Raises UserError for a window that cannot be read.
    """
    shards = ShardSet(root)
    clip = ClipShape(8, 16, 40, 8000, shards.sample_rate or 16000)
    loader = ClipLoader(shards, clip, batch_size=1, device="cpu", threads=1)
    told = np.full((len(shards), count, 2), np.nan)
    for place, position in enumerate(np.linspace(0, 1, count)):
        for sample in range(len(shards)):
            batch = loader.read([sample], position)
            if batch.frames is not None:
                left = batch.frames[0, :, :, :4].float().mean() / 255 * 219
                told[sample, place, 0] = float(left) / PER_SECOND
            if batch.waveform is not None:
                wave = batch.waveform[0].double() / 32768
                told[sample, place, 1] = float((2 * (wave**2).mean()).sqrt()) / LOUDER
    return list(told)


PER_SECOND = 20  # luma
LOUDER = 0.09  # of full scale, per second


def draw_clock(time: float, width: int = 96, height: int = 64) -> np.ndarray:
    """A picture whose left half gets brighter by PER_SECOND, uint8 (H, W, 3)."""
    picture = np.full((height, width, 3), 40, np.uint8)
    picture[:, : width // 2] = round(time * PER_SECOND * 255 / 219)
    return picture


def sound_clock(seconds: float, rate: int, begin: float = 0.0) -> np.ndarray:
    """A tone that gets louder by LOUDER a second, float64 (S,)."""
    time = begin + np.arange(round(seconds * rate)) / rate
    return LOUDER * time * np.sin(2 * np.pi * 440 * time)
