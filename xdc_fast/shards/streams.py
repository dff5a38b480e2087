"""The streams of a media file that a player takes, and their clocks."""

from __future__ import annotations

from fractions import Fraction

import av
from av.container import InputContainer
from av.stream import Disposition

ROUNDING = Fraction(1, 100)  # of a frame; a span this little short of a frame still holds it


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
