"""Bytes of one packed sample to pictures and sound."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import suppress
from fractions import Fraction
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import VideoReformatter

from xdc_fast.shards.sound import Mono, Resample

FURTHER_BACK = 2  # key frames; the first frames of an open GOP need the GOP before it


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


def decode_frames(file: bytes, numbers: np.ndarray) -> np.ndarray:
    """Pictures of a packed video track, by frame number.

    file: the content of a constant-rate video file. numbers: int (T,), ascending, repeats allowed.
    Returns uint8 (T, H, W, 3), RGB.
    Raises ValueError (av.InvalidDataError is one) or another av.FFmpegError for damaged bytes, and
    ValueError for a number past the end.
    """
    wanted = [int(number) for number in numbers]
    try:
        return _decode_frames(file, wanted, 0)
    except (ValueError, av.FFmpegError):
        for back in range(1, FURTHER_BACK + 1):
            with suppress(ValueError, av.FFmpegError):
                return _decode_frames(file, wanted, back)
        raise


def _decode_frames(file: bytes, wanted: list[int], back: int) -> np.ndarray:
    needed, found, reformatter = set(wanted), {}, VideoReformatter()
    with av.open(io.BytesIO(file)) as container:
        for number, frame in frames_from(container, wanted[0], back):
            if number in needed:
                found[number] = upright(frame, reformatter)
            if number >= wanted[-1]:
                break
    missing = sorted(needed - found.keys())
    if missing:
        raise ValueError(f"frame {missing[0]} does not decode")
    return np.stack([found[number] for number in wanted])


def frames_from(
    container: InputContainer, start: int, back: int
) -> Iterator[tuple[int, av.VideoFrame]]:
    """The numbers and frames of a constant-rate video from the key frame before `start` on.

    back: from so many key frames before that one. Raises as `decode_frames` does.
    """
    stream, period = _video_of(container)
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"err_detect": "explode"}
    if start > 0:
        seek_number(container, start, back)
    first, key = stream.start_time or 0, None
    for packet in container.demux(stream):
        key = packet.pts if key is None else key
        try:
            frames = packet.decode()
        except av.InvalidDataError:
            if key is None or packet.pts is None or packet.pts >= key:
                raise
            continue  # it refers to the GOP before the one that the seek has found
        for frame in frames:
            if frame.pts is None:
                raise ValueError("frames without a time")
            if not frame.is_corrupt:
                yield round((frame.pts - first) / period), frame


def seek_number(container: InputContainer, number: int, back: int = 0) -> None:
    """Seek to the key frame before a frame, or `back` key frames further; raises ValueError."""
    stream, period = _video_of(container)
    ticks = (stream.start_time or 0) + int(number * period)
    for _ in range(back):
        container.seek(ticks, stream=stream)
        packet = next(container.demux(stream))
        ticks = min(t for t in (packet.pts, packet.dts, ticks) if t is not None) - 1
    container.seek(ticks, stream=stream)


def _video_of(container: InputContainer) -> tuple[av.VideoStream, Fraction]:
    """The video stream of a container, and how many ticks a frame lasts; raises ValueError."""
    if not container.streams.video:
        raise ValueError("no video stream")
    stream = container.streams.video[0]
    if not stream.average_rate or not stream.time_base:
        raise ValueError("no frame rate")
    return stream, 1 / (stream.average_rate * stream.time_base)


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
    mono = Mono()
    sound = _decode_sound(file, rate, mono)
    return sound if mono.loudest is None else _decode_sound(file, rate, Mono(mono.loudest))


def _decode_sound(file: bytes, rate: int, mono: Mono) -> np.ndarray:
    with av.open(io.BytesIO(file)) as container:
        if not container.streams.audio:
            raise ValueError("no audio stream")
        stream = container.streams.audio[0]
        resample = Resample(rate, mono)
        blocks = [resample([frame]) for frame in container.decode(stream)]
        blocks.append(resample([], last=True))
    return np.concatenate(blocks)
