"""Where the tracks of a sample go while a source file is converted."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Protocol

import av
import numpy as np

from xdc_fast.packing.copy import copy_video
from xdc_fast.packing.encode import WAV_HEADER, Scaler, VideoWriter, packed_size, wav_header
from xdc_fast.packing.media import Refusal
from xdc_fast.packing.settings import PackSettings

SILENCE = 0.001  # of full scale
PIECE = 1 << 20  # bytes


class Sink(Protocol):
    """Where the tracks of a sample go, in the order of the methods."""

    def write_pcm(self, blocks: Iterable[np.ndarray]) -> int:
        """Takes the sound, int16 blocks; returns the number of samples."""
        ...

    def write_video(
        self,
        grid: Iterator[av.VideoFrame],
        stream: av.VideoStream,
        settings: PackSettings,
        longest: int | None,
    ) -> tuple[int, int, int, bool]:
        """Takes the frames, at most `longest`; returns their number, width, height and whether
        there were more."""
        ...

    def copy_video(self, source: Path, fps: Fraction, frames: int) -> tuple[int, int]:
        """Takes the video stream of a file as it is; returns width and height."""
        ...

    def finish_wav(self, stored: int, samples: int, rate: int) -> None:
        """Makes the sound `samples` long; raises Refusal: silent."""
        ...


@dataclass(frozen=True)
class Files:
    """The sink of a packing run: a video file and a wav file."""

    video: Path
    audio: Path

    def write_pcm(self, blocks: Iterable[np.ndarray]) -> int:
        """Writes raw PCM behind room for a wav header."""
        samples = 0
        with self.audio.open("wb") as file:
            file.write(bytes(WAV_HEADER))
            for block in blocks:
                file.write(block.astype("<i2", copy=False).data)
                samples += len(block)
        return samples

    def write_video(
        self,
        grid: Iterator[av.VideoFrame],
        stream: av.VideoStream,
        settings: PackSettings,
        longest: int | None,
    ) -> tuple[int, int, int, bool]:
        """Encodes the frames."""
        last = next(grid)
        width, height = packed_size(last, settings.short_side)
        scale, rate = Scaler(width, height, settings.codec == "jpeg"), settings.frame_rate
        picture = scale(last)
        with VideoWriter(self.video, settings.codec, rate, width, height) as writer:
            for frame in chain([last], grid):
                if writer.frames == longest:
                    return longest, width, height, True
                if frame is not last:
                    last, picture = frame, scale(frame)
                writer.add(picture)
        return writer.frames, width, height, False

    def copy_video(self, source: Path, fps: Fraction, frames: int) -> tuple[int, int]:
        return copy_video(source, self.video, fps, frames)

    def finish_wav(self, stored: int, samples: int, rate: int) -> None:
        """Cuts the PCM or fills it up with silence, and writes the header."""
        with self.audio.open("r+b", buffering=0) as file:
            if samples != stored:
                file.truncate(WAV_HEADER + 2 * samples)
            file.write(wav_header(samples, rate))
            pieces = iter(partial(file.read, PIECE), b"")
            check_audible(np.frombuffer(piece, "<i2") for piece in pieces)


def check_audible(blocks: Iterable[np.ndarray]) -> None:
    """Raises Refusal (silent) for int16 sound that stays below SILENCE."""
    loudest = max(max(int(block.max()), -int(block.min())) for block in blocks)
    if loudest < SILENCE * 32768:
        raise Refusal("silent", f"peak {loudest / 32768:.5f} of full scale")
