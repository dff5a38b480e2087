"""Copy a video stream: the same packets in a new mp4, with exact constant-rate timestamps."""

from __future__ import annotations

import io
import zlib
from contextlib import suppress
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import numpy as np

from xdc_fast.packing.encode import open_mp4, writing
from xdc_fast.packing.hdr import is_hdr
from xdc_fast.packing.media import Refusal, choose_streams, choose_video, decoded, open_media
from xdc_fast.shards.decode import FURTHER_BACK, frames_from, orientation, seek_key
from xdc_fast.shards.streams import nearest_rate, open_file, own_clock, time_base, video_of

MOST_REORDERED = 16  # frames that H.264 and HEVC may show before one that is coded before them
JITTER = 0.0015  # seconds; containers that count milliseconds round to them


def check_copyable(path: Path, with_sound: bool) -> tuple[float, Fraction, int]:
    """Decode all of a video; returns its first frame's time, its rate and its number of frames.

    Raises Refusal when it is rotated, changes its shape, is HDR, is of variable rate, does not
    decode cleanly, or lacks the sound that `with_sound` asks for.
    """
    with open_media(path) as container:
        stream = choose_streams(container)[0] if with_sound else choose_video(container)
        rates = {stream.average_rate, stream.guessed_rate}
        times, shapes = [], set()
        for time, _, frame in decoded(stream):
            if any(orientation(frame)):
                raise Refusal("cannot be copied", "the picture is rotated")
            if is_hdr(frame):
                raise Refusal("cannot be copied", "the picture is HDR")
            shapes.add((frame.width, frame.height, frame.opaque))
            if len(shapes) > 1:
                raise Refusal("cannot be copied", f"the picture changes its shape at {time:.2f} s")
            times.append(time)
    mean = (times[-1] - times[0]) / (len(times) - 1)
    rates.add(nearest_rate(1 / mean) if mean > 0 else None)
    worst, fps = min((_stray(times, rate), rate) for rate in rates if rate)
    if worst > JITTER + 0.02 / fps:
        raise Refusal("cannot be copied", f"frames stray {worst:.3f} s from a constant rate")
    return times[0], fps, len(times)


def _stray(times: list[float], fps: Fraction) -> float:
    """The largest distance, in seconds, of a frame from its time at a constant rate."""
    return max(abs(time - times[0] - k / fps) for k, time in enumerate(times))


def copy_video(source: Path, target: Path, fps: Fraction, frames: int) -> tuple[int, int]:
    """Put the packets of the video stream into a new mp4; returns width and height.

    The new timestamp of a packet is its rank in presentation order.
    Raises Refusal when packets and frames do not match, or mp4 cannot hold the codec or cannot be
    read again.
    """
    with open_media(source) as container:
        stream = choose_video(container)
        try:
            packets = [packet for packet in container.demux(stream) if packet.size]
        except av.FFmpegError as error:
            raise Refusal("unreadable", error.strerror or str(error)) from None
        times = [packet.pts for packet in packets if packet.pts is not None]
        if len(times) < len(packets) or any(packet.is_discard for packet in packets):
            raise Refusal("cannot be copied", "an edit list hides frames, or packets have no time")
        if len(packets) != frames:
            raise Refusal("cannot be copied", f"{len(packets)} packets show {frames} frames")
        order = sorted(range(frames), key=times.__getitem__)
        rank = {packet: k for k, packet in enumerate(order)}
        delay = max(i - rank[i] for i in range(frames))
        with writing(target):
            try:
                with open_mp4(target) as mp4:
                    track = mp4.add_stream_from_template(stream)
                    track.time_base = 1 / fps
                    for i, packet in enumerate(packets):
                        packet.stream, packet.time_base = track, 1 / fps
                        packet.pts, packet.dts, packet.duration = rank[i], i - delay, 1
                        mp4.mux(packet)
            except (av.ArgumentError, av.InvalidDataError, ValueError) as error:
                raise Refusal("cannot be copied", f"mp4 does not take it: {error}") from None
        _check_random_access(target.read_bytes(), frames)
        return stream.codec_context.width, stream.codec_context.height


def _check_random_access(file: bytes, frames: int) -> None:
    """Raises Refusal unless a seek to any frame gives the pictures that decoding through gives.

    What a seek gives depends on the key frame that it finds: one seek for each of them is enough.
    """
    try:
        through, _ = _checksums(file, 0, frames, 0)
        starts = _seek_points(file, frames)
    except (av.FFmpegError, ValueError, IndexError) as error:
        raise Refusal("cannot be copied", f"the mp4 cannot be read: {error}") from None
    if through.keys() != {*range(frames)}:
        raise Refusal("cannot be copied", "the mp4 cannot be read: it lacks frames")
    for start, following in pairwise([*starts, frames]):
        stop = min(following + MOST_REORDERED, frames)
        for back in range(FURTHER_BACK + 1):
            found, whole = _checksums(file, start, stop, back)
            for number, checksum in found.items():
                if checksum != through[number]:
                    what = f"frame {number} is another one after a seek"
                    raise Refusal("cannot be copied", what)
            if whole:
                break
        else:
            what = f"frames from {start} on do not decode after a seek: they need frames before"
            raise Refusal("cannot be copied", what)


def _seek_points(file: bytes, frames: int) -> list[int]:
    """The first of the frame numbers that a seek reaches from one and the same key frame."""
    starts, last = [], None
    with open_file(io.BytesIO(file)) as container:
        stream = video_of(container)
        clock, base = own_clock(stream), float(time_base(stream))
        for number in range(frames):
            seek_key(container, stream, clock.ticks(number, base))
            key = next(container.demux(stream)).dts
            if number == 0 or key != last:
                starts.append(number)
            last = key
    return starts


def _checksums(file: bytes, start: int, stop: int, back: int) -> tuple[dict[int, int], bool]:
    """Of the pictures from `start` to `stop` that a seek to `start` gives; whether it gives all."""
    found: dict[int, int] = {}
    with open_file(io.BytesIO(file)) as container, suppress(av.InvalidDataError):
        stream = video_of(container)
        clock, base = own_clock(stream), float(time_base(stream))
        numbers = {clock.ticks(number, base): number for number in range(start, stop)}
        begin = clock.ticks(start, base) if start else None
        for time, frame in frames_from(container, stream, begin, back):
            if time in numbers:
                found[numbers[time]] = _checksum(frame)
            if numbers.get(time) == stop - 1:
                break
    return found, found.keys() == {*range(start, stop)}


def _checksum(frame: av.VideoFrame) -> int:
    try:
        picture = frame.to_ndarray()
    except ValueError:  # PyAV has no array of this pixel format
        picture = frame.to_ndarray(format="rgb24")
    return zlib.crc32(np.ascontiguousarray(picture).data)
