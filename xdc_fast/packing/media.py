"""One media file, decoded: its streams, and frames and sound with their times in seconds."""

from __future__ import annotations

import errno
from bisect import bisect_right, insort
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeVar, cast, overload

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard

from xdc_fast.shards.streams import MAX_JUMP, best_audio, best_video, time_base, videos

REASONS = {
    "no audio": "there is no audio stream",
    "silent": "the sound never exceeds a thousandth of full scale",
    "no video": "there is no video stream",
    "cover art": "the video is an attached picture or a single still",
    "odd shape": "the picture is more than 8 times as long as it is wide",
    "not media": "no demuxer recognises the file",
    "undecodable": "no decoder for it, or nothing came out of the decoder",
    "damaged": "the decoder met errors, timestamps leap, or the file ends before its header says",
    "too short": "the tracks together cover less than --min-seconds",
    "no overlap": "one track ends before the other begins",
    "not in the file": "the segment lies before or after what the file holds",
    "cannot be copied": "--codec copy, and the video is not plain, of constant rate and seekable",
    "unreadable": "the file could not be opened or read",
    "time limit": "decoding took longer than --time-limit",
    "decoder died": "the process that decoded it died, and died again with no other beside it",
}
PLAYLISTS = {"hls", "concat", "dash", "imf"}
UNSPECIFIED = 2  # FFmpeg's number of a transfer function or primaries that are not told
OF_MACHINE = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)  # no fault of the file
MAX_PAUSE = 3600.0  # seconds; no file's header is witness to more
HELD = 16_000_000  # bytes; the packets of a smaller file may wait in memory
AROUND = 32  # packets; twice the pictures that an H.264 decoder may hold back


Track = TypeVar("Track", av.VideoStream, av.AudioStream)
Packets = Iterable[av.Packet]
Shows = Callable[[float, float], bool]
"""Whether a picture is wanted that is on screen from one time to another, in seconds."""


class Refusal(Exception):
    """This file is not packed; `reason` is a key of REASONS."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple:
        return type(self), (self.reason, self.detail)


class EmptyError(Refusal):
    """Not one frame remains of what was asked for."""


def open_media(path: Path) -> InputContainer:
    """Open a local file, but no other file that it refers to; raises Refusal.

    Where memory or file handles are short, FFmpeg's own error, or OSError.
    """
    try:
        if not path.is_file():
            raise Refusal("unreadable", "not a regular file" if path.exists() else "no such file")
        with path.open("rb") as file:  # tells a forbidden file from one that is no media
            file.read(1)
        options = {"protocol_whitelist": "file"}  # a file may name others, even on the network
        container = av.open(f"file:{path}", container_options=options, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        if error.errno in OF_MACHINE:
            raise
        reason = "not media" if isinstance(error, av.FFmpegError) else "unreadable"
        raise Refusal(reason, error.strerror or str(error)) from None
    if PLAYLISTS & set(container.format.name.split(",")):
        container.close()
        raise Refusal("not media", "a playlist of other files")
    return container


def choose_streams(container: InputContainer) -> tuple[av.VideoStream, av.AudioStream]:
    """The streams that a player would take; raises Refusal where one is missing."""
    video, audio = _find_video(container), _find_audio(container)
    return _decodable(video), _decodable(audio)


def choose_video(container: InputContainer) -> av.VideoStream:
    """As `choose_streams`, for the video alone."""
    return _decodable(_find_video(container))


def choose_audio(container: InputContainer) -> av.AudioStream:
    """As `choose_streams`, for the audio alone."""
    return _decodable(_find_audio(container))


def _find_video(container: InputContainer) -> av.VideoStream:
    if (video := best_video(container)) is not None:
        return video
    if container.streams.video:
        raise Refusal("cover art", "attached picture")
    raise Refusal("no video")


def _find_audio(container: InputContainer) -> av.AudioStream:
    if (audio := best_audio(container)) is None:
        raise Refusal("no audio")
    return audio


def _decodable(stream: Track) -> Track:
    if stream.codec_context is None:
        raise Refusal("undecodable", f"no decoder for the {stream.type} stream")
    return stream


class Tracks(NamedTuple):
    """Both tracks of a file: the container of the video, the streams, and the packets of each."""

    container: InputContainer
    video: av.VideoStream
    video_packets: Packets
    audio: av.AudioStream
    audio_packets: Packets


def open_tracks(path: Path, stack: ExitStack) -> Tracks:
    """Open a file until `stack` ends; raises Refusal.

    A small file is read once, a large one once for each track. So is one with errors, as those of a
    track are none of the other.
    """
    container = stack.enter_context(open_media(path))
    video, audio = choose_streams(container)
    if path.stat().st_size <= HELD:
        try:
            packets = list(demux(video, audio))
        except av.FFmpegError:
            container = stack.enter_context(open_media(path))
            video, audio = choose_streams(container)
        else:
            of_video, of_audio = ([p for p in packets if p.stream is s] for s in (video, audio))
            return Tracks(container, video, of_video, audio, of_audio)
    audio = choose_audio(stack.enter_context(open_media(path)))
    return Tracks(container, video, demux(video), audio, demux(audio))


def demux(*streams: av.VideoStream | av.AudioStream) -> Iterator[av.Packet]:
    """The packets of some streams of a file, each at the end with one that flushes its decoder."""
    container = cast(InputContainer, streams[0].container)
    for other in container.streams:
        if other not in streams:
            other.discard = Discard.all
    return container.demux(*streams)


@overload
def decoded(
    stream: av.VideoStream, packets: Packets | None = None, shows: Shows | None = None
) -> Iterator[tuple[float, float, av.VideoFrame]]: ...
@overload
def decoded(
    stream: av.AudioStream, packets: Packets | None = None
) -> Iterator[tuple[float, float, av.AudioFrame]]: ...
def decoded(
    stream: av.VideoStream | av.AudioStream,
    packets: Packets | None = None,
    shows: Shows | None = None,
) -> Iterator[tuple[float, float, Any]]:
    """The frames of one stream as (start, end, frame), start and end in seconds, in order.

    packets: of the stream; None: they are read now. shows: pictures that it does not want are left
    out where the decoder needs them for no other. A picture's `opaque` is the aspect of its pixels,
    where the file gives one and it is not 1, and its transfer function is the container's, where
    the coded video gives none.
    FFmpeg drops the frames that an edit list discards. Errors before the first frame are normal: a
    recorded broadcast begins in its middle. Any later one raises Refusal, but for errors of the
    machine, which stay FFmpeg's.
    """
    context = stream.codec_context
    context.thread_count = 1
    context.options = {"err_detect": "explode"}  # an error instead of concealed damage
    clock = Timestamps(stream)
    tags = Tags(stream) if isinstance(stream, av.VideoStream) else None
    end: float | None = None
    count = 0
    error: av.FFmpegError | None = None
    try:
        packets = demux(stream) if packets is None else packets
        if shows and context.name == "h264":  # others tell less of what needs a picture
            packets = _skipping(packets, stream, clock, shows)
        for packet in packets:
            try:
                frames: list[Any] = packet.decode()
            except av.FFmpegError as failure:
                if end is not None or failure.errno in OF_MACHINE:
                    raise
                error, frames = failure, []
            for frame in frames:
                start, end = clock.place(frame)
                count += 1
                if tags:
                    tags.put_on(frame)
                yield start, end, frame
    except av.FFmpegError as failure:
        if failure.errno in OF_MACHINE:
            raise
        reason = failure.strerror or str(failure)
        if isinstance(failure, OSError) and failure.errno in (errno.EIO, errno.ESTALE):
            raise Refusal("unreadable", reason) from None
        if end is None:
            raise Refusal("undecodable", f"{stream.type}: {reason}") from None
        raise Refusal("damaged", f"{stream.type} after {end:.2f} s: {reason}") from None
    if end is None:
        detail = error.strerror if error else "the stream is empty"
        raise Refusal("undecodable", f"{stream.type}: {detail}")
    _check_complete(stream, end)
    if stream.type == "video" and count == 1:
        raise Refusal("cover art", "a single still")


def _skipping(
    packets: Packets, stream: av.VideoStream | av.AudioStream, clock: Timestamps, shows: Shows
) -> Iterator[av.Packet]:
    """The packets; before each, the decoder's skip_frame is set to skip it where it may.

    The last picture is decoded, and so are those without a timestamp.
    """
    context, upcoming = stream.codec_context, deque[av.Packet]()
    times, passed = list[int](), deque[int]()  # sorted; in the order of the packets

    def choose(packet: av.Packet) -> av.Packet:
        wanted = True
        if packet.pts is not None:
            following = bisect_right(times, packet.pts)
            if following < len(times) and clock.in_order:
                wanted = shows(clock.seconds(packet.pts), clock.seconds(times[following]))
            passed.append(packet.pts)
            if len(passed) > AROUND:
                times.remove(passed.popleft())
        context.skip_frame = "DEFAULT" if wanted else "NONREF"
        return packet

    for packet in packets:
        upcoming.append(packet)
        if packet.pts is not None:
            insort(times, packet.pts)
        if len(upcoming) > AROUND:
            yield choose(upcoming.popleft())
    yield from map(choose, upcoming)


class Tags:
    """How a video's pixels are meant, by the container as well as by the coded video.

    Their aspect is the container's, until another is coded with a key frame.
    """

    def __init__(self, stream: av.VideoStream):
        self._context, self._aspect = stream.codec_context, stream.sample_aspect_ratio
        self._transfer, self._primaries = self._context.color_trc, self._context.color_primaries
        self._coded: tuple[Fraction | None] | None = None

    def put_on(self, frame: av.VideoFrame) -> None:
        """To be called for each frame; the decoder may know the aspect of frames to come."""
        if self._coded is None or frame.key_frame:
            coded = (self._context.sample_aspect_ratio,)
            if self._coded is not None and coded != self._coded:
                (self._aspect,) = coded
            self._coded = coded
        if self._aspect and self._aspect != 1:
            frame.opaque = Fraction(self._aspect)  # a new one: PyAV goes by the object's address
        if self._transfer != UNSPECIFIED and frame.color_trc == UNSPECIFIED:
            frame.color_trc, frame.color_primaries = self._transfer, self._primaries


class Timestamps:
    """When each decoded frame of a stream begins and ends, in seconds."""

    def __init__(self, stream: av.VideoStream | av.AudioStream):
        self._kind, self._stream = stream.type, stream
        self._base = time_base(stream).as_integer_ratio()  # Fractions are slow, frame by frame
        rate = (stream.average_rate or stream.guessed_rate) if stream.type == "video" else None
        self._usual = float(1 / rate) if rate else 0.04
        self._end: float | None = None
        self._last = {"pts": -(2**63), "dts": -(2**63)}
        self._faults = {"pts": 0, "dts": 0}
        self._witness: tuple[np.ndarray | None, float] | None = None

    @property
    def in_order(self) -> bool:
        """Whether no frame yet was to be shown before the one that came before it."""
        return not self._faults["pts"]

    def place(self, frame: av.VideoFrame | av.AudioFrame) -> tuple[float, float]:
        """Start and end of the next frame; raises Refusal for a corrupt frame or a wild jump."""
        ticks, end = self._choose(frame), self._end
        start = end or 0.0 if ticks is None else self.seconds(ticks)
        if frame.is_corrupt and end is not None:
            raise Refusal("damaged", f"{self._kind}: corrupt frame at {start:.2f} s")
        if end is not None and abs(start - end) > MAX_JUMP and not self._is_pause(end, start):
            leap = f"timestamps jump from {end:.2f} to {start:.2f} s"
            raise Refusal("damaged", f"{self._kind}: {leap}")
        if isinstance(frame, av.AudioFrame):
            self._end = start + frame.samples / frame.sample_rate
        else:
            duration = self.seconds(frame.duration) if frame.duration else self._usual
            self._end = start + duration
        return start, self._end

    def _is_pause(self, begin: float, end: float) -> bool:
        """Whether a gap in the timestamps is one in time: another track runs on through it.

        Where the file has no other, its header is the witness.
        """
        if begin > end:
            return False
        if self._witness is None:
            self._witness = _other_tracks(self._stream)
        times, duration = self._witness
        if times is None:
            return end - begin <= MAX_PAUSE and end <= duration
        within = times[(times > begin) & (times < end)]
        return bool(np.diff(within, prepend=begin, append=end).max() <= MAX_JUMP)

    def seconds(self, ticks: int) -> float:
        numerator, denominator = self._base
        return ticks * numerator / denominator

    def _choose(self, frame: av.VideoFrame | av.AudioFrame) -> int | None:
        """pts, or dts where it has run backwards less often, as FFmpeg chooses.

        With B-frames, AVI and broken muxers give pts out of order.
        """
        for name in ("pts", "dts"):
            value = getattr(frame, name)
            if value is not None:
                self._faults[name] += value <= self._last[name]
                self._last[name] = value
        if frame.pts is None or self._faults["pts"] > self._faults["dts"]:
            return frame.pts if frame.dts is None else frame.dts
        return frame.pts


def _other_tracks(
    stream: av.VideoStream | av.AudioStream,
) -> tuple[np.ndarray | None, float]:
    """When the packets of a file's other tracks are due, sorted seconds, and when the file ends.

    None instead of times where there is no other track.
    """
    with open_media(Path(stream.container.name.removeprefix("file:"))) as container:
        others = [*videos(container), *container.streams.audio]
        others = [other for other in others if other.index != stream.index]
        end = ((container.start_time or 0) + (container.duration or 0)) / av.time_base
        if not others:
            return None, end
        packets = container.demux(*others)
        times = [float(p.pts * p.time_base) for p in packets if p.pts is not None]
    return np.sort(times), end


def _check_complete(stream: av.VideoStream | av.AudioStream, end: float) -> None:
    """Raises Refusal for an mp4 that ends before the duration in its header."""
    if "mp4" in stream.container.format.name and stream.duration:
        declared = float(((stream.start_time or 0) + stream.duration) * time_base(stream))
        if end < declared - 0.5:
            raise Refusal("damaged", f"{stream.type} ends at {end:.2f} of {declared:.2f} s")


def stream_facts(stream: av.VideoStream | av.AudioStream) -> dict:
    """The metadata of a source stream."""
    context = stream.codec_context
    if isinstance(context, av.AudioCodecContext):
        return {"codec": context.name, "rate": context.sample_rate, "channels": context.channels}
    rate = stream.average_rate or Fraction(0)
    size = {"width": context.width, "height": context.height}
    return {"codec": context.name, **size, "fps": round(float(rate), 4)}
