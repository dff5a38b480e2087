"""One media file, decoded: its streams, and frames and sound with their times in seconds."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
from av.stream import Discard, Disposition

REASONS = {
    "no audio": "there is no audio stream",
    "silent": "the sound never exceeds a thousandth of full scale",
    "no video": "there is no video stream",
    "cover art": "the video is an attached picture or a single still",
    "odd shape": "the picture is more than 8 times as long as it is wide",
    "not media": "no demuxer recognises the file",
    "undecodable": "no decoder for it, or nothing came out of the decoder",
    "damaged": "the decoder met errors, or the file ends before its header says",
    "too short": "the tracks together cover less than --min-seconds",
    "no overlap": "one track ends before the other begins",
    "cannot be copied": "--codec copy, and the video is not plain constant-rate video",
    "unreadable": "the file could not be opened or read",
    "time limit": "decoding took longer than --time-limit",
    "decoder died": "the decoder crashed on it",
}
PLAYLISTS = {"hls", "concat", "dash", "imf"}
MAX_JUMP = 60.0  # seconds; timestamps that leap further within a stream are no clock


class Refusal(Exception):
    """This file is not packed; `reason` is a key of REASONS."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail


def open_media(path: Path) -> av.container.InputContainer:
    """Open a local file and nothing that it may point to; raises Refusal."""
    try:
        if not path.is_file():
            raise Refusal("unreadable", "not a regular file" if path.exists() else "no such file")
        with path.open("rb") as file:  # tells a forbidden file from one that is no media
            file.read(1)
        options = {"protocol_whitelist": "file"}  # a file may name others, even on the network
        container = av.open(f"file:{path}", container_options=options, metadata_errors="replace")
    except av.FFmpegError as error:
        raise Refusal("not media", error.strerror or str(error)) from None
    except OSError as error:
        raise Refusal("unreadable", error.strerror or str(error)) from None
    if PLAYLISTS & set(container.format.name.split(",")):
        container.close()
        raise Refusal("not media", "a playlist of other files")
    return container


def choose_streams(
    container: av.container.InputContainer, wanted: tuple[str, ...] = ("video", "audio")
):
    """The video and the audio stream a player would take, each None unless wanted.

    Raises Refusal for one that is wanted and not there, or has no decoder.
    """
    pictures = [s for s in container.streams.video if s.disposition & Disposition.attached_pic]
    videos = [s for s in container.streams.video if s not in pictures]
    sounds = container.streams.audio
    if "video" in wanted and not videos:
        raise Refusal("cover art", "attached picture") if pictures else Refusal("no video")
    if "audio" in wanted and not sounds:
        raise Refusal("no audio")
    video = container.streams.best("video")
    video = video if video in videos else next(iter(videos), None)
    audio = container.streams.best("audio", related=video) or next(iter(sounds), None)
    chosen = video if "video" in wanted else None, audio if "audio" in wanted else None
    for stream in chosen:
        if stream is not None and stream.codec_context is None:
            raise Refusal("undecodable", f"no decoder for the {stream.type} stream")
    return chosen


def decoded(
    container: av.container.InputContainer, stream
) -> Iterator[tuple[float, float, object]]:
    """The frames of one stream as (start, end, frame), start and end in seconds, in order.

    Frames that an edit list discards do not appear: FFmpeg has dropped them. Errors before the
    first frame are the joining of a broadcast in its middle; any later one raises Refusal.
    """
    for other in container.streams:
        if other is not stream:
            other.discard = Discard.all
    context = stream.codec_context
    context.thread_count = 1
    context.options = {"err_detect": "explode"}  # an error instead of concealed damage
    clock, end, error = Timestamps(stream), None, None
    try:
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except av.FFmpegError as failure:
                if end is not None:
                    raise
                error, frames = failure, []
            for frame in frames:
                start, end = clock.place(frame)
                yield start, end, frame
    except av.FFmpegError as failure:
        if isinstance(failure, OSError) and failure.errno in (errno.EIO, errno.ESTALE):
            raise Refusal("unreadable", failure.strerror) from None
        if end is None:
            raise Refusal("undecodable", f"{stream.type}: {failure.strerror}") from None
        raise Refusal("damaged", f"{stream.type} after {end:.2f} s: {failure.strerror}") from None
    if end is None:
        detail = error.strerror if error else "the stream is empty"
        raise Refusal("undecodable", f"{stream.type}: {detail}")
    _check_complete(container, stream, end)


class Timestamps:
    """When each decoded frame of a stream begins and ends, in seconds."""

    def __init__(self, stream):
        self._kind = stream.type
        self._base = stream.time_base.as_integer_ratio()  # Fractions are slow, frame by frame
        rate = (stream.average_rate or stream.guessed_rate) if stream.type == "video" else None
        self._usual = float(1 / rate) if rate else 0.04
        self._end: float | None = None
        self._last = {"pts": -(2**63), "dts": -(2**63)}
        self._faults = {"pts": 0, "dts": 0}

    def place(self, frame) -> tuple[float, float]:
        """Start and end of the next frame; raises Refusal for a corrupt frame or a wild jump."""
        ticks, end = self._choose(frame), self._end
        start = end or 0.0 if ticks is None else self._seconds(ticks)
        if frame.is_corrupt and end is not None:
            raise Refusal("damaged", f"{self._kind}: corrupt frame at {start:.2f} s")
        if end is not None and abs(start - end) > MAX_JUMP:
            leap = f"timestamps jump from {end:.2f} to {start:.2f} s"
            raise Refusal("damaged", f"{self._kind}: {leap}")
        if self._kind == "audio":
            self._end = start + frame.samples / frame.sample_rate
        else:
            duration = self._seconds(frame.duration) if frame.duration else self._usual
            self._end = start + duration
        return start, self._end

    def _seconds(self, ticks: int) -> float:
        numerator, denominator = self._base
        return ticks * numerator / denominator

    def _choose(self, frame) -> int | None:
        """pts, or dts where that has run backwards less often (FFmpeg's own rule): the pts of
        AVI and of broken muxers are out of order when there are B-frames."""
        for name in ("pts", "dts"):
            value = getattr(frame, name)
            if value is not None:
                self._faults[name] += value <= self._last[name]
                self._last[name] = value
        if frame.pts is None or self._faults["pts"] > self._faults["dts"]:
            return frame.pts if frame.dts is None else frame.dts
        return frame.pts


def _check_complete(container, stream, end: float) -> None:
    """An mp4 says how long each stream is: a file cut short ends before."""
    if "mp4" in container.format.name and stream.duration:
        declared = float(((stream.start_time or 0) + stream.duration) * stream.time_base)
        if end < declared - 0.5:
            raise Refusal("damaged", f"{stream.type} ends at {end:.2f} of {declared:.2f} s")


def stream_facts(stream) -> dict:
    """What a sample's metadata tells of a source stream."""
    context = stream.codec_context
    if stream.type == "audio":
        return {"codec": context.name, "rate": context.sample_rate, "channels": context.channels}
    rate = stream.average_rate or Fraction(0)
    size = {"width": context.width, "height": context.height}
    return {"codec": context.name, **size, "fps": round(float(rate), 4)}
