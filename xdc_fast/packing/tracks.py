"""What becomes of the tracks of one source file: the samples that one pass over each makes."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import av
from av.container import InputContainer

from xdc_fast.packing.media import (
    EmptyError,
    Refusal,
    choose_audio,
    choose_video,
    decoded,
    open_media,
    open_tracks,
    stream_facts,
)
from xdc_fast.packing.segments import BrokenError, Clock, Item, Segment, Span, plan, share
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sink import Sink
from xdc_fast.packing.timeline import Grid, resample_frames, sample_count
from xdc_fast.shards.sound import Mono, OverlapError, resample_audio
from xdc_fast.shards.streams import ROUNDING as FRAME_ROUNDING
from xdc_fast.shards.streams import frame_count, time_base

ROUNDING = 1.0  # seconds; by less, tracks begin and end apart in many files
PASSED = 1000  # frames of a long video before a segment, after which it is told that all is well
PRIMING = 0.1  # seconds of sound before a segment, which the resampler's filter looks back at


class Outcome(NamedTuple):
    """What became of a sample.

    place: of its input among those of the file. number: of the sink that holds the sample; None
    where there is none. span: see Segment. answer: the metadata that the file itself gives.
    segment: its number among those that are cut out of its input; None where that is not cut.
    """

    place: int
    number: int | None
    span: Span | None
    answer: dict | Refusal
    segment: int | None = None


@dataclass
class Part:
    """A sample in the making; `passed`: the video goes on after it."""

    segment: Segment
    number: int
    sink: Sink
    mono: Mono = field(default_factory=Mono)
    samples: int = 0
    video_end: float = -math.inf
    passed: bool = False
    answer: dict | Refusal | None = None

    @property
    def begin(self) -> float:
        return self.segment.begin


class Conversion(ABC):
    """The one pass over each track of a file that makes all its samples."""

    def __init__(
        self,
        path: Path,
        settings: PackSettings,
        spans: list[Span | None],
        sink_of: Callable[[int], Sink],
    ):
        self.path, self.settings, self.spans, self.sink_of = path, settings, spans, sink_of
        self.fps, self.rate = settings.frame_rate, settings.audio_rate
        self.most = settings.max_seconds if settings.segment is None else None
        self.longest = None if self.most is None else frame_count(self.most, self.fps)
        self.parts: list[Part] = []
        self.original: dict = {}
        self.clock = Clock(0, 0)
        self.sound_end = math.inf
        self.grid: Grid | None = None  # of a single part

    @abstractmethod
    def run(self) -> Iterator[Outcome | None]:
        """Decode; raises Refusal where the file has not even a beginning."""

    def start(self, container: InputContainer, *begins: float) -> None:
        """Note where a player's time begins, and the first frames of the tracks."""
        self.begins = begins
        # what lies before 0 is what a decoder needs to start with, and is not played
        origin = max(0, container.start_time or 0) / av.time_base
        self.clock = Clock(origin, max(begins))
        if self.spans == [None] and self.settings.segment is None:
            self.grid = Grid(self.clock.head, float(1 / self.fps))

    def shows(self, begin: float, end: float) -> bool:
        """Whether a sample may show a picture that is on screen from `begin` to `end`, seconds."""
        return self.grid is None or self.grid.meets(begin, end)

    def new_parts(self) -> Iterator[Part]:
        """The parts that the file is to be made into, as the pass over its first track asks."""
        settings = self.settings
        for segment in plan(self.spans, settings.segment, settings.max_seconds, self.clock):
            number = len(self.parts)
            self.parts.append(Part(segment, number, self.sink_of(number)))
            yield self.parts[-1]

    def start_of(self, part: Part) -> float:
        return max(part.begin, self.clock.head)

    def frames_of(self, part: Part) -> int | None:
        """How many frames a part can have at most; None where it goes on to the end."""
        end = part.segment.end
        return None if end == math.inf else frame_count(end - self.start_of(part), self.fps)

    def check_room(self, part: Part) -> None:
        """Raises EmptyError for a segment that ends before the tracks begin, or within a frame."""
        seconds = part.segment.end - self.start_of(part)
        if seconds <= 0:
            raise EmptyError("no overlap")
        if self.frames_of(part) == 0:
            raise EmptyError("too short", f"{seconds:.2f} s")

    def take_sound(self, blocks: Iterator[Item], read: Callable) -> None:
        """The pass over the sound, and another one for parts whose channels cancel out."""
        for _ in share(blocks, self.new_parts(), read, self.clock, PRIMING):
            pass
        again = [part for part in self.parts if part.mono.loudest is not None]
        if again:
            for part in again:
                part.mono = Mono(part.mono.loudest)
            with open_media(self.path) as container:
                blocks = decoded(choose_audio(container))
                for _ in share(blocks, again, read, self.clock, PRIMING):
                    pass
        self.sound_end, self.clock.end = self.clock.end, math.inf

    def write_sound(self, part: Part, blocks: Iterator[Item], limit: int) -> int:
        """The sound of a part into its sink; returns the number of samples."""
        start = self.start_of(part)
        return write_sound(part.sink, blocks, start, self.rate, limit, part.mono)

    def tell(self, steps: Iterator[bool]) -> Iterator[Outcome | None]:
        """The outcomes in the order of the parts, each as soon as there is one.

        steps: whether an item was only passed over; None is told after every PASSED of them.

        Of what comes after the end of the file, or after its damage, there is one outcome, for each
        input.
        """
        told, passed, broken = 0, 0, set()
        for only_passed in chain(steps, [False]):
            passed += only_passed
            if only_passed and passed % PASSED == 0:
                yield None
            while told < len(self.parts) and (answer := self.parts[told].answer) is not None:
                part = self.parts[told]
                told += 1
                place, span = part.segment.place, part.segment.span
                empty = isinstance(answer, EmptyError) and not part.segment.first
                if place in broken or empty:
                    continue
                if isinstance(answer, EmptyError):
                    span = self.spans[place]
                if isinstance(answer, BrokenError) and span and self.settings.segment:
                    broken.add(place)
                    whole = self.spans[place]
                    span = (span[0], whole[1] if whole else math.inf)
                cut = None if self.settings.segment is None else part.segment.number
                yield Outcome(place, part.number, span, answer, cut)

    def refuse(self, part: Part, refusal: Refusal) -> None:
        if self.spans[part.segment.place] and refusal.reason == "no overlap":
            origin, end = self.clock.origin, min(self.clock.end, self.sound_end)
            held = f"it holds {self.clock.head - origin:.2f} to {end - origin:.2f} s"
            refusal = EmptyError("not in the file", held)
        part.answer = refusal


class BothTracks(Conversion):
    """Both tracks, from where the later one begins to where the first one ends."""

    def run(self) -> Iterator[Outcome | None]:
        with ExitStack() as stack:
            tracks = open_tracks(self.path, stack)
            self.original = original_facts(tracks.video, tracks.audio)
            frames = decoded(tracks.video, tracks.video_packets, self.shows)
            blocks = decoded(tracks.audio, tracks.audio_packets)
            first, begin = next(frames), next(blocks)
            self.start(tracks.container, first[0], begin[0])
            self.take_sound(chain([begin], blocks), self.read_sound)
            left = [part for part in self.parts if part.answer is None]
            read = partial(self.read_pictures, tracks.video)
            yield from self.tell(share(chain([first], frames), left, read, self.clock))

    def read_sound(self, part: Part, blocks: Iterator[Item]) -> None:
        frames = self.frames_of(part)
        if self.longest is not None and (frames is None or frames > self.longest):
            # one frame more than wanted: whether there is more tells a cut video from a whole one
            frames = self.longest + 1
        limit = 2**62 if frames is None else sample_count(frames, self.fps, self.rate) + 1
        try:
            self.check_room(part)
            part.samples = self.write_sound(part, blocks, limit)
            seconds = part.samples / self.rate
            if part.samples == 0:
                begin = self.begins[0]
                raise EmptyError("no overlap", f"video starts at {begin:.2f} s, audio ends before")
            if frame_count(seconds, self.fps) == 0:
                raise EmptyError("too short", f"{seconds:.2f} s")
        except Refusal as refusal:
            self.refuse(part, refusal)

    def read_pictures(self, stream: av.VideoStream, part: Part, frames: Iterator[Item]) -> None:
        try:
            part.answer = self.make(part, stream, self.watched(part, frames))
        except Refusal as refusal:
            self.refuse(part, refusal)

    def make(self, part: Part, stream: av.VideoStream, frames: Iterator[Item]) -> dict:
        fps, rate, start = self.fps, self.rate, self.start_of(part)
        available = frame_count(part.samples / rate, fps)
        if (most := self.frames_of(part)) is not None:
            available = min(available, most)
        grid = resample_frames(frames, start, fps, available, float(time_base(stream)))
        count, width, height, cut = part.sink.write_video(grid, stream, self.settings, self.longest)
        if not cut:
            for _ in frames:  # what the sound does not accompany
                pass
        check_length(count, fps, self.settings)
        part.sink.finish_wav(part.samples, sample_count(count, fps, rate), rate)
        size = {"frames": count, "width": width, "height": height}
        cut |= part.segment.limited and part.passed and self.sound_end > part.segment.end
        unpaired = self.unpaired(part)
        return sample_facts(start, self.original, count / fps, cut, unpaired, fps=fps, **size)

    def watched(self, part: Part, frames: Iterator[Item]) -> Iterator[Item]:
        """The frames up to the first that starts after the part, or, of the last part, after its
        input."""
        reach = part.segment.within[1] if self.is_last(part) else part.segment.end
        if self.longest is not None:  # and enough to see whether there is more
            reach = min(reach, self.start_of(part) + float((self.longest + 2) / self.fps))
        for item in frames:
            part.video_end = max(part.video_end, item[1])
            yield item
            if item[0] >= reach and self.holds_frame(reach, part.video_end):
                part.passed = True
                return

    def is_last(self, part: Part) -> bool:
        """Whether the sound of an input ends in this part of it."""
        return not self.holds_frame(part.segment.end, self.sound_end)

    def holds_frame(self, begin: float, end: float) -> bool:
        """Whether what lies between has room for a frame; `frame_count` takes no infinity."""
        return end - begin > float((1 - FRAME_ROUNDING) / self.fps)

    def unpaired(self, part: Part) -> float:
        """The seconds in which a track is alone before or after a part; 0 where it is a rounding.

        What lies outside of it counts for the first and the last part of an input.
        """
        segment = part.segment
        begin = segment.within[0] if segment.first else segment.begin
        last = self.is_last(part) or not part.passed
        end = segment.within[1] if last else segment.end
        if self.longest is not None:
            end = min(end, self.start_of(part) + float(self.longest / self.fps))
        begins = [max(begin, time) for time in self.begins]
        ends = [min(end, time) for time in (part.video_end, self.sound_end)]
        return unpaired_seconds(begins, ends, self.fps)


class VideoTrack(Conversion):
    """The video track alone, from its first frame."""

    def run(self) -> Iterator[Outcome | None]:
        with open_media(self.path) as container:
            stream = choose_video(container)
            self.original = original_facts(stream)
            frames = decoded(stream, shows=self.shows)
            first = next(frames)
            self.start(container, first[0])
            read = partial(self.read_pictures, stream)
            steps = share(chain([first], frames), self.new_parts(), read, self.clock)
            yield from self.tell(steps)

    def read_pictures(self, stream: av.VideoStream, part: Part, frames: Iterator[Item]) -> None:
        try:
            self.check_room(part)
            part.answer = self.make(part, stream, frames)
        except Refusal as refusal:
            self.refuse(part, refusal)

    def make(self, part: Part, stream: av.VideoStream, frames: Iterator[Item]) -> dict:
        fps, start, most = self.fps, self.start_of(part), self.frames_of(part)
        limits = [most, None if self.longest is None else self.longest + 1]
        ahead = min((limit for limit in limits if limit is not None), default=2**62)
        grid = resample_frames(frames, start, fps, ahead, float(time_base(stream)))
        count, width, height, cut = part.sink.write_video(grid, stream, self.settings, self.longest)
        if part.segment.limited:
            cut = any(time >= part.segment.end for time, _, _ in frames)
        check_length(count, fps, self.settings)
        size = {"frames": count, "width": width, "height": height}
        return sample_facts(start, self.original, count / fps, cut, fps=fps, **size)


class AudioTrack(Conversion):
    """The audio track alone, from its beginning."""

    def run(self) -> Iterator[Outcome | None]:
        with open_media(self.path) as container:
            stream = choose_audio(container)
            self.original = original_facts(stream)
            blocks = decoded(stream)
            begin = next(blocks)
            self.start(container, begin[0])
            self.take_sound(chain([begin], blocks), self.read_sound)
            for part in self.parts:
                if part.answer is None:
                    self.finish(part)
            yield from self.tell(iter(()))

    def limit(self, part: Part) -> int:
        """The most samples that a part can have."""
        most = math.inf if self.most is None else self.most
        seconds = min(part.segment.end - self.start_of(part), most)
        return 2**62 if seconds == math.inf else round(max(0.0, seconds) * self.rate)

    def read_sound(self, part: Part, blocks: Iterator[Item]) -> None:
        try:
            self.check_room(part)
            part.samples = self.write_sound(part, blocks, self.limit(part) + 1)
            seconds = part.samples / self.rate
            if part.segment.span and frame_count(seconds, self.fps) == 0:
                outside = self.spans[part.segment.place] and not seconds
                raise EmptyError("no overlap" if outside else "too short", f"{seconds:.2f} s")
        except Refusal as refusal:
            self.refuse(part, refusal)

    def finish(self, part: Part) -> None:
        limit, rate = self.limit(part), self.rate
        samples = min(part.samples, limit)
        more = self.most is not None or part.segment.limited
        try:
            check_length(samples, rate, self.settings)
            part.sink.finish_wav(part.samples, samples, rate)
        except Refusal as refusal:
            part.answer = refusal
        else:
            start, cut = self.start_of(part), more and part.samples > limit
            part.answer = sample_facts(start, self.original, samples / rate, cut)


def write_sound(
    sink: Sink, blocks: Iterable[Item], start: float, rate: int, limit: int, mono: Mono
) -> int:
    """`resample_audio` into the sink; returns the number of samples."""
    try:
        return sink.write_pcm(resample_audio(blocks, start, rate, limit, mono))
    except OverlapError as error:
        raise Refusal("damaged", f"audio: {error}") from None


def original_facts(*streams: av.VideoStream | av.AudioStream) -> dict:
    """The metadata of the source's streams: {"video": ..., "audio": ...}."""
    return {stream.type: stream_facts(stream) for stream in streams}


def unpaired_seconds(begins: Sequence[float], ends: Sequence[float], fps: Fraction) -> float:
    """The seconds in which one of two tracks is alone; 0 where it is a rounding."""
    seconds = abs(begins[0] - begins[1]) + abs(ends[0] - ends[1])
    return round(seconds, 3) if seconds > ROUNDING + 1 / fps else 0.0


def sample_facts(
    start: float,
    original: dict,
    seconds: Fraction | float,
    cut: bool,
    unpaired: float = 0.0,
    *,
    fps: Fraction | float = 0,
    frames: int = 0,
    width: int = 0,
    height: int = 0,
) -> dict:
    """A sample's metadata; without video, its fps, frames, width and height are 0."""
    return {
        "start": round(start, 6),
        "original": original,
        "seconds": float(seconds),
        "cut": cut,
        "unpaired": unpaired,
        "fps": float(fps),
        "frames": frames,
        "width": width,
        "height": height,
    }


def check_length(count: int, rate: Fraction | float, settings: PackSettings) -> None:
    """Raises Refusal (too short) unless `count` frames or samples at `rate` are long enough."""
    if count < settings.min_seconds * rate:
        raise Refusal("too short", f"{float(count / rate):.2f} s")
