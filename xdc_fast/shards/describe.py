"""What is read of a media file: its pictures and sound, by their times and not by its headers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, tee
from math import floor
from typing import BinaryIO, cast

import av
import numpy as np
import simplejpeg

from xdc_fast.shards.decode import decode_frames, frames_of, orientation, sound_of
from xdc_fast.shards.section import Section
from xdc_fast.shards.sound import ENDLESS, Mono, resample_audio
from xdc_fast.shards.streams import (
    Clock,
    best_audio,
    best_video,
    frame_count,
    nearest_rate,
    open_file,
    ticks_of,
    time_base,
    video_of,
)

UNUSABLE = {
    "no video": "no file of it has a video stream",
    "no audio": "no file of it has an audio stream",
    "not media": "no demuxer recognises a file of it",
    "undecodable": "there is no decoder for it, or nothing came out of the decoder",
    "damaged": "the decoder met errors, or timestamps leap",
    "too short": "the tracks together last less than a frame",
    "key used twice": "an earlier sample of the tar has its key, or its files are not adjacent",
    "bad metadata": "its json file is not valid JSON",
}
MAX_PAUSE = 3600.0  # seconds between two frames
MOST_FRAMES = 2**31 - 1
MAX_BACKWARDS = 1.0  # seconds that the time of decoding may run backwards
ALIKE = 0.02  # of a period; a declared rate that differs less from the gaps between frames is it


class Unusable(Exception):
    """A sample cannot be read; `reason` is a key of UNUSABLE."""

    def __init__(self, reason: str, detail: str):
        super().__init__(f"{reason}: {detail}")
        self.reason, self.detail = reason, detail


@contextmanager
def _faults(kind: str) -> Iterator[None]:
    """Errors of the decoder as Unusable; kind: of the track."""
    try:
        yield
    except (ValueError, av.FFmpegError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise Unusable("damaged", f"{kind}: {what}") from None


@contextmanager
def _opened(file: Section) -> Iterator[av.container.InputContainer]:
    try:
        container = open_file(cast(BinaryIO, file))
    except (ValueError, av.FFmpegError) as error:
        raise Unusable("not media", getattr(error, "strerror", None) or str(error)) from None
    with container:
        yield container


def tracks_of(file: Section) -> tuple[set[str], int]:
    """The tracks of a media file by its header, and the rate of its sound, Hz, or 0."""
    with _opened(file.part(0, file.size)) as container:
        sound = best_audio(container)
        tracks = {"video"} if best_video(container) is not None else set[str]()
        if sound is None or sound.codec_context is None:
            return tracks, 0
        return tracks | {"audio"}, sound.codec_context.sample_rate


@dataclass(frozen=True)
class Video:
    """A video track.

    times: int64 (F,), when its frames are shown, in ticks of the file's clock. end: when the last
    one ends. base: seconds per tick. fps: the rate of most of its frames. hold: the longest time,
    in seconds, that a frame stays on screen. width, height: of the upright picture, in pixels.
    jpegs: int64 (F, 2), place and size in the file of each frame, where all are upright JPEGs; else
    (0, 2).
    """

    times: np.ndarray
    end: int
    base: Fraction
    fps: Fraction
    hold: float
    width: int
    height: int
    jpegs: np.ndarray

    @property
    def begin(self) -> float:
        """When the first frame is shown, in seconds."""
        return float(int(self.times[0]) * self.base)

    def clock(self, origin: float) -> Clock:
        """The clock of a sample that begins at `origin`, in seconds."""
        return Clock(origin, float(self.fps), self.hold)

    def count(self, origin: float) -> int:
        """The number of frames of a sample that begins at `origin`; raises Unusable."""
        count = frame_count(float(self.end * self.base) - origin, self.fps)
        if count > MOST_FRAMES:
            raise Unusable("damaged", f"video: timestamps for {count} frames")
        return count

    def jpegs_of(self, origin: float) -> np.ndarray:
        """The JPEG of each frame of a sample, as `jpegs`; (0, 2) unless they lie one by one."""
        if not len(self.jpegs):
            return self.jpegs
        clock, base = self.clock(origin), float(self.base)
        shown = [clock.ticks(number, base) for number in range(self.count(origin))]
        frames = np.searchsorted(self.times, shown, side="right") - 1
        places = self.jpegs[frames]
        one_by_one = (np.diff(frames) > 0).all()
        return places if one_by_one and (np.diff(places[:, 0]) > 0).all() else places[:0]

    def is_picture(self, file: Section, place: np.ndarray) -> bool:
        """Whether a JPEG decoder makes the frame at a place of `jpegs` a picture of this size."""
        start, size = place.tolist()
        try:
            picture = simplejpeg.decode_jpeg(file.part(start, size).read())
            return picture.shape[:2] == (self.height, self.width)
        except ValueError:
            return False


def describe_video(file: Section) -> Video:
    """The video track of a file; raises Unusable.

    Of an mp4, no more is read than its tables and the first frames: places and sizes are there.
    """
    file = file.part(0, file.size)
    with _opened(file) as container, _faults("video"):
        _check_stream(best_video(container), "video")
        stream = video_of(container)
        ahead, demuxed = tee(container.demux(stream))
        first, size, plain = _first_picture(frames_of(ahead, stream))
        del ahead  # what is read from now on is not kept for it
        tabled = container.format.name.startswith("mov,")
        file.hollow = file.media_data() if tabled else []
        base, jpeg = time_base(stream), plain and stream.codec_context.name == "mjpeg"
        declared = [rate for rate in (stream.guessed_rate, stream.average_rate) if rate]
        packets: list[tuple[int, int, int, int]] = []  # time, duration, place, size
        decoding, most = None, floor(MAX_BACKWARDS / base)
        for packet in demuxed:
            time = ticks_of(packet)
            if not packet.size or packet.is_discard or time is None or time < first:
                continue
            if packet.dts is not None:
                if decoding is not None and decoding - packet.dts > most:
                    raise ValueError(f"timestamps jump back at {float(decoding * base):.2f} s")
                decoding = packet.dts
            place = -1 if packet.pos is None else packet.pos
            jpeg = jpeg and place >= 0
            if jpeg and not tabled:
                jpeg = file.part(place, packet.size).read() == bytes(packet)
            packets.append((time, packet.duration or 0, place, packet.size))
    times, durations, places, sizes = np.array(sorted(packets), np.int64).reshape(-1, 4).T
    gaps = np.diff(times)
    gaps = gaps[gaps > 0]
    if not len(gaps) and not declared:
        raise Unusable("damaged", "video: a single frame without a rate")
    usual = Fraction(float(np.median(gaps))) if len(gaps) else 1 / (declared[0] * base)  # ticks
    last = int(durations[-1]) or round(usual)
    hold = float(max(gaps.max(initial=0), last) * base)
    if hold > MAX_PAUSE:
        raise Unusable("damaged", f"video: a frame stays {hold:.0f} s")
    return Video(
        times=times,
        end=int(times[-1]) + last,
        base=base,
        fps=_rate(usual * base, base, declared),
        hold=hold,
        width=size[0],
        height=size[1],
        jpegs=np.stack([places, sizes], axis=1) if jpeg else np.zeros((0, 2), np.int64),
    )


def _first_picture(
    frames: Iterator[tuple[int, av.VideoFrame]],
) -> tuple[int, tuple[int, int], bool]:
    """When the first frame is shown, in ticks, its width and height when upright, and whether it is
    stored so."""
    time, frame = next(frames, (0, None))
    if frame is None:
        raise Unusable("undecodable", "video: the stream is empty")
    way = orientation(frame)
    size = (frame.height, frame.width) if way[0] else (frame.width, frame.height)
    return time, size, not any(way)


def _check_stream(stream: av.VideoStream | av.AudioStream | None, kind: str) -> None:
    if stream is None:
        raise Unusable(f"no {kind}", f"the file has no {kind} stream")
    if stream.codec_context is None:
        raise Unusable("undecodable", f"no decoder for the {kind} stream")


def _rate(period: Fraction, tick: Fraction, declared: list[Fraction]) -> Fraction:
    """The frame rate: a declared one if most frames show it, else that which they show.

    period: the median time between frames, in seconds, rounded to `tick`.
    """
    near = [rate for rate in declared if abs(1 / rate - period) <= tick + ALIKE * period]
    return near[0] if near else nearest_rate(float(1 / period))


def describe_sound(file: Section, rate: int, earliest: float | None = None) -> tuple[float, int]:
    """When the sound of a file begins, in seconds of its clock, and its samples at `rate` Hz.

    earliest: sound before it does not count. Raises Unusable.
    """
    with _opened(file.part(0, file.size)) as container, _faults("audio"):
        _check_stream(best_audio(container), "audio")
        frames = sound_of(container)
        first = next(frames)
        begin = first[0] if earliest is None else max(first[0], earliest)
        blocks = resample_audio(chain([first], frames), begin, rate, ENDLESS, Mono())
        return begin, sum(map(len, blocks))


def check_last(file: Section, video: Video, origin: float) -> None:
    """Raises Unusable unless the last frame of a sample decodes to a picture of its size."""
    with _faults("video"):
        last = np.array([video.count(origin) - 1])
        picture = decode_frames(file, last, video.clock(origin))[0]
        if picture.shape[:2] != (video.height, video.width):
            raise ValueError("the picture changes its size")
