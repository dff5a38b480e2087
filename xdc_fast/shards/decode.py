"""Bytes of one packed sample to pictures and sound."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from heapq import heappop, heappush
from itertools import chain
from typing import cast

import av
import numpy as np
from av.container import InputContainer
from av.sidedata.sidedata import SideDataContainer
from av.sidedata.sidedata import Type as SideData
from av.video.reformatter import VideoReformatter

from xdc_fast.shards.section import Section
from xdc_fast.shards.sound import ENDLESS, Mono, resample_audio
from xdc_fast.shards.streams import (
    MAX_JUMP,
    Clock,
    audio_of,
    open_file,
    opened,
    own_clock,
    ticks_of,
    time_base,
    video_of,
)

GUESSED = "mpeg"  # FFmpeg's name of MPEG program streams, whose times it guesses in part
FURTHER_BACK = 2  # key frames; the first frames of an open GOP need the GOP before it


def orientation(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How the stored picture becomes the upright one: (transpose, then flip x, then flip y).

    The frame's display matrix maps a stored point (x, y) to (ax + cy, bx + dy). Other angles are
    rounded to quarter turns.
    """
    try:
        side_data = cast(SideDataContainer, frame.side_data)  # PyAV's stub has another type
    except ValueError:  # side data that PyAV does not know, as the view of MV-HEVC, hide the others
        angle = np.deg2rad(frame.rotation)
        (a, b), (c, d) = np.round([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    else:
        if not side_data or SideData.DISPLAYMATRIX not in side_data:
            return False, False, False
        matrix = np.frombuffer(bytes(side_data[SideData.DISPLAYMATRIX]), "=i4").reshape(3, 3)
        (a, b), (c, d) = matrix[:2, :2].astype(np.int64)
    if abs(a) + abs(d) >= abs(b) + abs(c):
        return False, bool(a < 0), bool(d < 0)
    return True, bool(c < 0), bool(b < 0)


def decode_frames(
    file: bytes | Section, numbers: np.ndarray, clock: Clock | None = None
) -> np.ndarray:
    """Pictures of a video file, by frame number.

    Number k is the picture on screen at clock.origin + k / clock.fps seconds.
    file: its content. numbers: int (T,), ascending, repeats allowed. clock: the sample's; without
    one, number 0 is the first frame of a track of constant rate.
    Returns uint8 (T, H, W, 3), RGB.
    Raises ValueError (av.InvalidDataError is one) or another av.FFmpegError for damaged bytes, and
    ValueError for a number past the end.
    """
    wanted = [int(number) for number in numbers]
    for back in range(FURTHER_BACK + 1):
        with suppress(ValueError, av.FFmpegError):
            return _decode_frames(file, wanted, clock, back)
    return _decode_frames(file, wanted, clock, None)  # where seeking does not help


def _decode_frames(
    file: bytes | Section, wanted: list[int], clock: Clock | None, back: int | None
) -> np.ndarray:
    """As `decode_frames`, from `back` key frames further back; for None, from the beginning."""
    pictures = list(each_picture(file, wanted, clock, back))
    if len({picture.shape for picture in pictures}) > 1:
        raise ValueError("the picture changes its size")
    return np.stack(pictures)


def each_picture(
    file: bytes | Section,
    wanted: Sequence[int],
    clock: Clock | None = None,
    back: int | None = None,
) -> Iterator[np.ndarray]:
    """As `decode_frames`, one by one, decoded from the beginning, in one try.

    back: decode from so many key frames before the first instead.
    """
    with open_file(opened(file)) as container:
        stream = video_of(container)
        clock, base = clock or own_clock(stream), float(time_base(stream))
        times = [clock.ticks(int(number), base) for number in wanted]
        frames = frames_from(container, stream, None if back is None else times[0], back or 0)
        shown = _on_screen(frames, times, round(clock.hold / base))
        for number, picture in zip(wanted, shown, strict=True):
            if picture is None:
                raise ValueError(f"frame {number} does not decode")
            yield picture


def _on_screen(
    frames: Iterator[tuple[int, av.VideoFrame]], times: list[int], longest: int
) -> Iterator[np.ndarray | None]:
    """The upright picture that is on screen at each of `times`, ascending; None where none is.

    frames: (time, frame). longest: the ticks that a frame stays on screen at most.
    """
    reformatter = VideoReformatter()
    shown = following = picture = None
    for time in times:
        while shown is None or shown[0] < time:
            following = following or next(frames, None)
            if following is None or following[0] > time:
                break
            shown, following, picture = following, None, None
        if shown is None or time - shown[0] >= longest:
            yield None
            continue
        if picture is None:
            picture = upright(shown[1], reformatter)
        yield picture


def frames_from(
    container: InputContainer, stream: av.VideoStream, start: int | None, back: int = 0
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(time, frame), in ticks, from the key frame before `start` on; for None, from the beginning.

    back: from so many key frames before that one. Raises as `frames_of`.
    """
    if container.format.name == GUESSED:
        start = None  # after a seek, the times are other ones
    if start is not None:
        seek_key(container, stream, start, back)
    return frames_of(container.demux(stream), stream, start)


def frames_of(
    packets: Iterator[av.Packet], stream: av.VideoStream, start: int | None = None
) -> Iterator[tuple[int, av.VideoFrame]]:
    """(time, frame), in ticks, of the packets of a stream.

    start: what a seek was for; None at the beginning. Frames that a seek brings, but that are shown
    before its key frame, are left out: those of an open GOP refer to the one before. From the
    beginning, errors before the first frame are normal: a recorded broadcast begins in its middle.
    Raises ValueError (av.InvalidDataError is one) or another av.FFmpegError for damaged bytes.
    """
    ranked, due = _in_coded_order(stream), list[int]()
    first: int | None = None  # the time of the key frame
    begun = False
    for packet in packets:
        time = ticks_of(packet)
        if start is not None and first is None:
            first = time
        try:
            frames = packet.decode()
        except av.FFmpegError:
            if begun or (first is not None and time is not None and time >= first):
                raise
            continue
        if ranked and time is not None:
            heappush(due, time)
        for frame in frames:
            shown = heappop(due) if ranked else ticks_of(frame)
            if shown is None:
                raise ValueError("frames without a time")
            if first is not None and shown < first:
                continue
            if frame.is_corrupt and (begun or first is not None):
                raise ValueError("a corrupt frame")
            if not frame.is_corrupt:
                begun = True
                yield shown, frame


def _in_coded_order(stream: av.VideoStream) -> bool:
    """Whether packets have the times of all pictures, but not each its own.

    AVI has no timestamps: FFmpeg counts packets, and reorders them for MPEG-4 alone. MPEG program
    streams have some, and FFmpeg guesses the others.
    """
    name, codec = stream.container.format.name, stream.codec_context.name
    return name == GUESSED or (name == "avi" and codec in ("h264", "hevc"))


def seek_key(container: InputContainer, stream: av.VideoStream, start: int, back: int = 0) -> None:
    """Seek to the key frame before `start`, in ticks, or `back` key frames further."""
    for _ in range(back):
        container.seek(start, stream=stream)
        packet = next(container.demux(stream))
        start = min(t for t in (packet.pts, packet.dts, start) if t is not None) - 1
    container.seek(start, stream=stream)


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


def decode_waveform(file: bytes | Section, rate: int, origin: float | None = None) -> np.ndarray:
    """The sound of a media file, mono, int16 (S,) at `rate` Hz.

    origin: seconds on the file's clock at which the result begins; by default its first sound.
    Holes in the timestamps are silent.
    Raises ValueError (av.InvalidDataError is one) or another av.FFmpegError for damaged bytes.
    """
    mono = Mono()
    sound = _decode_sound(file, rate, origin, mono)
    if mono.loudest is not None:
        sound = _decode_sound(file, rate, origin, Mono(mono.loudest))
    return sound


def _decode_sound(file: bytes | Section, rate: int, origin: float | None, mono: Mono) -> np.ndarray:
    with open_file(opened(file)) as container:
        frames = sound_of(container)
        first = next(frames)
        begin = first[0] if origin is None else origin
        blocks = resample_audio(chain([first], frames), begin, rate, ENDLESS, mono)
        return np.concatenate([np.zeros(0, np.int16), *blocks])


def sound_of(container: InputContainer) -> Iterator[tuple[float, float, av.AudioFrame]]:
    """The sound of a file as (start, end, frame), seconds; at least one frame.

    Errors before the first frame are normal, as of `frames_of`. Raises ValueError or another
    av.FFmpegError.
    """
    stream = audio_of(container)
    base, end = float(time_base(stream)), None
    for packet in container.demux(stream):
        try:
            frames = packet.decode()
        except av.FFmpegError:
            if end is not None:
                raise
            continue
        for frame in frames:
            start = (end or 0.0) if frame.pts is None else frame.pts * base
            if end is not None and abs(start - end) > MAX_JUMP:
                raise ValueError(f"timestamps jump from {end:.2f} to {start:.2f} s")
            end = start + frame.samples / frame.sample_rate
            yield start, end, frame
    if end is None:
        raise ValueError("the audio stream is empty")
