"""Bytes of one packed sample to pictures and sound."""

from __future__ import annotations

import io
from itertools import groupby
from typing import cast

import av
import numpy as np
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import VideoReformatter


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How the stored picture becomes the upright one: (transpose, then flip x, then flip y).

    The frame's display matrix maps a stored point (x, y) to (ax + cy, bx + dy). Other angles are
    rounded to quarter turns.
    """
    side_data = cast(SideDataContainer, frame.side_data)  # PyAV's stub has another type
    if SideData.DISPLAYMATRIX not in side_data:
        return False, False, False
    matrix = np.frombuffer(bytes(side_data[SideData.DISPLAYMATRIX]), "=i4").reshape(3, 3)
    (a, b), (c, d) = matrix[:2, :2].astype(np.int64)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, bool(a < 0), bool(d < 0)
    return True, bool(c < 0), bool(b < 0)


def mono(frames: list[av.AudioFrame]) -> np.ndarray:
    """The mean of the channels of consecutive frames, float32 (samples,), full scale = 1."""
    alike = groupby(frames, lambda frame: (frame.format.name, frame.layout.nb_channels))
    return np.concatenate([_mean(list(group)) for _, group in alike])


def _mean(frames: list[av.AudioFrame]) -> np.ndarray:
    """`mono` of frames of one sample format and number of channels."""
    channels = frames[0].layout.nb_channels
    if frames[0].format.is_planar and channels >= 8:  # PyAV 18 reads a plane too many and crashes
        pack = av.AudioResampler(frames[0].format.packed, frames[0].layout)
        frames = [packed for frame in frames for packed in pack.resample(frame)]
    data = np.concatenate([frame.to_ndarray() for frame in frames], axis=1)
    if not frames[0].format.is_planar:
        data = data.reshape(-1, channels).T
    if data.dtype.kind == "f":
        return data.mean(axis=0, dtype=np.float32)
    middle = 128.0 if data.dtype == np.uint8 else 0.0
    scale = 2.0 ** (8 * data.dtype.itemsize - 1)
    return ((data.mean(axis=0, dtype=np.float64) - middle) / scale).astype(np.float32)


def decode_frames(file: bytes, numbers: np.ndarray) -> np.ndarray:
    """Pictures of a packed video track, by frame number.

    file: the content of a constant-rate video file. numbers: int (T,), ascending, repeats allowed.
    Returns uint8 (T, H, W, 3), RGB.
    Raises ValueError (av.InvalidDataError is one) or another av.FFmpegError for damaged bytes, and
    ValueError for a number past the end.
    """
    wanted = [int(number) for number in numbers]
    found: dict[int, np.ndarray] = {}
    with av.open(io.BytesIO(file)) as container:
        if not container.streams.video:
            raise ValueError("no video stream")
        stream = container.streams.video[0]
        stream.codec_context.thread_count = 1
        stream.codec_context.options = {"err_detect": "explode"}
        rate, first = stream.average_rate, stream.start_time or 0
        if not rate:
            raise ValueError("no frame rate")
        if wanted[0] > 0:
            container.seek(first + int(wanted[0] / rate / stream.time_base), stream=stream)
        needed, reformatter = set(wanted), VideoReformatter()
        for frame in container.decode(stream):
            number = round((frame.pts - first) * stream.time_base * rate)
            if number in needed:
                found[number] = upright(frame, reformatter)
            if number >= wanted[-1]:
                break
    missing = sorted(needed - found.keys())
    if missing:
        raise ValueError(f"frame {missing[0]} does not decode")
    return np.stack([found[number] for number in wanted])


def upright(frame: av.VideoFrame, reformatter: VideoReformatter) -> np.ndarray:
    """A frame as RGB, uint8 (H, W, 3), its display matrix applied."""
    return turn(
        reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray(), orientation(frame)
    )


def turn(picture: np.ndarray, way: tuple[bool, bool, bool]) -> np.ndarray:
    """Apply an `orientation` to (H, W, ...)."""
    transpose, flip_x, flip_y = way
    picture = picture.swapaxes(0, 1) if transpose else picture
    return picture[:: -1 if flip_y else 1, :: -1 if flip_x else 1]


def decode_waveform(file: bytes, rate: int) -> np.ndarray:
    """The first audio track of a file from its beginning, mono, int16 (S,) at `rate` Hz.

    Raises ValueError (av.InvalidDataError is one) or another av.FFmpegError for damaged bytes.
    """
    with av.open(io.BytesIO(file)) as container:
        if not container.streams.audio:
            raise ValueError("no audio stream")
        stream = container.streams.audio[0]
        resample = Resample(rate)
        blocks = [resample([frame]) for frame in container.decode(stream)]
        blocks.append(resample([], last=True))
    return np.concatenate(blocks)


class Resample:
    """Resamples decoded audio frames of one rate to mono int16 at another; the last call flushes.

    The result does not depend on how many frames a call brings; many at once cost less.
    """

    def __init__(self, rate: int):
        self._resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)

    def __call__(self, frames: list[av.AudioFrame], last: bool = False) -> np.ndarray:
        ready = []
        if frames:
            single = av.AudioFrame.from_ndarray(mono(frames)[None], format="flt", layout="mono")
            single.sample_rate = frames[0].sample_rate
            ready += self._resampler.resample(single)
        if last:
            ready += self._resampler.resample(None)
        return np.concatenate([np.zeros(0, np.int16), *(f.to_ndarray()[0] for f in ready)])
