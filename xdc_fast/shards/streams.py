"""The streams of a media file that a player takes, and their clocks."""

from __future__ import annotations

import io
from fractions import Fraction
from math import floor
from typing import BinaryIO, NamedTuple, cast

import av
from av.container import InputContainer
from av.stream import Discard, Disposition

from xdc_fast.shards.section import Section

MAX_JUMP = 60.0  # seconds; timestamps that leap further need a witness, or are no clock
ROUNDING = Fraction(1, 100)  # of a frame; a span this little short of a frame still holds it


class Clock(NamedTuple):
    """When the pictures of a sample are shown: number k at origin + k / fps.

    origin: seconds on the file's own clock. fps: pictures a second. hold: the longest time, in
    seconds, that a frame stays on screen; after it, one is missing.
    """

    origin: float
    fps: float
    hold: float

    def ticks(self, number: int, base: float) -> int:
        """The time of a picture in ticks of `base` seconds.

        Timestamps are rounded to ticks: a frame may be late by half of one.
        """
        slack = min(base / 2, 0.001) + 1e-6
        return floor((self.origin + number / self.fps + slack) / base)


def opened(file: bytes | Section) -> BinaryIO:
    """The content of a file from its beginning."""
    if isinstance(file, Section):
        return cast(BinaryIO, file.part(0, file.size))
    return io.BytesIO(file)


def open_file(file: BinaryIO) -> InputContainer:
    """Open the content of a media file, but no file that it refers to; raises av.FFmpegError."""
    only_this = {"protocol_whitelist": "none"}  # a playlist may name others, even on the network
    return av.open(file, "r", container_options=only_this, metadata_errors="replace")


def video_of(container: InputContainer) -> av.VideoStream:
    """The video stream, the only one that is read from now on; raises ValueError."""
    stream = best_video(container)
    if stream is None or stream.codec_context is None:
        raise ValueError("no video stream that can be decoded")
    _read_only(container, stream)
    return stream


def audio_of(container: InputContainer) -> av.AudioStream:
    """The audio stream, the only one that is read from now on; raises ValueError."""
    stream = best_audio(container)
    if stream is None or stream.codec_context is None:
        raise ValueError("no audio stream that can be decoded")
    _read_only(container, stream)
    return stream


def _read_only(container: InputContainer, stream: av.VideoStream | av.AudioStream) -> None:
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    stream.codec_context.thread_count = 1
    stream.codec_context.options = {"err_detect": "explode"}  # an error, no concealed damage


def own_clock(stream: av.VideoStream) -> Clock:
    """The clock of a video of constant rate from its first frame on; raises ValueError."""
    rate = stream.average_rate
    if not rate:
        raise ValueError("no frame rate")
    origin = float((stream.start_time or 0) * time_base(stream))
    return Clock(origin, float(rate), float(1 / rate))


def videos(container: InputContainer) -> list[av.VideoStream]:
    """The video streams without cover art, the best one first."""
    streams = container.streams
    found = [s for s in streams.video if not s.disposition & Disposition.attached_pic]
    best = streams.best("video")
    return sorted(found, key=lambda stream: stream is not best)


def best_video(container: InputContainer) -> av.VideoStream | None:
    """The video stream that a player takes; cover art is none."""
    return next(iter(videos(container)), None)


def best_audio(container: InputContainer) -> av.AudioStream | None:
    """The audio stream that a player takes beside its video."""
    if not container.streams.audio:
        return None
    best = container.streams.best("audio", related=best_video(container))
    return best if isinstance(best, av.AudioStream) else container.streams.audio[0]


def ticks_of(item: av.Packet | av.VideoFrame) -> int | None:
    """When a packet or frame is shown, in ticks of its stream."""
    return item.dts if item.pts is None else item.pts


def time_base(stream: av.VideoStream | av.AudioStream) -> Fraction:
    """Seconds per tick of a stream's timestamps; FFmpeg's own ticks where it has none."""
    return stream.time_base or Fraction(1, av.time_base)


def nearest_rate(fps: float) -> Fraction:
    """The exact rate that a rounded one stands for: 29.97 is 30000/1001."""
    ntsc = Fraction(round(fps * 1.001) * 1000, 1001)
    return ntsc if abs(ntsc - Fraction(fps)) < fps * 3e-4 else Fraction(fps).limit_denominator(1000)


def frame_count(seconds: float, fps: Fraction) -> int:
    """How many whole frames fit into `seconds`."""
    return max(0, int(seconds * fps + ROUNDING))
