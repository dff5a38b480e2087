"""Convert one source file into the files of one sample, or refuse it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path
from typing import Protocol

import av
import numpy as np

from xdc_fast.packing.copy import check_copyable, copy_video
from xdc_fast.packing.encode import WAV_HEADER, Scaler, VideoWriter, packed_size, wav_header
from xdc_fast.packing.media import (
    Refusal,
    choose_audio,
    choose_streams,
    choose_video,
    decoded,
    open_media,
    stream_facts,
)
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.timeline import resample_frames, sample_count
from xdc_fast.shards.sound import Mono, OverlapError, resample_audio
from xdc_fast.shards.streams import frame_count, time_base

SILENCE = 0.001  # of full scale
ROUNDING = 1.0  # seconds; by less, tracks begin and end apart in many files


class CancelledError(Exception):
    """The channels of the sound cancel out in their mean; `channel` is the one to take."""

    def __init__(self, channel: int):
        super().__init__(f"take channel {channel}")
        self.channel = channel


class Sink(Protocol):
    """Where the tracks of a sample go, in the order of the methods."""

    def write_pcm(self, blocks: Iterable[np.ndarray]) -> int:
        """Takes the sound, int16 blocks; returns the number of samples."""
        ...

    def write_video(
        self,
        grid: Iterator[av.VideoFrame],
        stream: av.VideoStream,
        settings: PackSettings,
        longest: int | None,
    ) -> tuple[int, int, int, bool]:
        """Takes the frames, at most `longest`; returns their number, width, height and whether
        there were more."""
        ...

    def copy_video(self, source: Path, fps: Fraction, frames: int) -> tuple[int, int]:
        """Takes the video stream of a file as it is; returns width and height."""
        ...

    def finish_wav(self, stored: int, samples: int, rate: int) -> None:
        """Makes the sound `samples` long; raises Refusal: silent."""
        ...


@dataclass(frozen=True)
class Files:
    """The sink of a packing run: a video file and a wav file."""

    video: Path
    audio: Path

    def write_pcm(self, blocks: Iterable[np.ndarray]) -> int:
        """Writes raw PCM behind room for a wav header."""
        samples = 0
        with self.audio.open("wb") as file:
            file.write(bytes(WAV_HEADER))
            for block in blocks:
                file.write(block.astype("<i2", copy=False).data)
                samples += len(block)
        return samples

    def write_video(
        self,
        grid: Iterator[av.VideoFrame],
        stream: av.VideoStream,
        settings: PackSettings,
        longest: int | None,
    ) -> tuple[int, int, int, bool]:
        """Encodes the frames."""
        last = next(grid)
        width, height = packed_size(last, settings.short_side)
        scale, rate = Scaler(width, height, settings.codec == "jpeg"), settings.frame_rate
        picture = scale(last)
        with VideoWriter(self.video, settings.codec, rate, width, height) as writer:
            for frame in chain([last], grid):
                if writer.frames == longest:
                    return longest, width, height, True
                if frame is not last:
                    last, picture = frame, scale(frame)
                writer.add(picture)
        return writer.frames, width, height, False

    def copy_video(self, source: Path, fps: Fraction, frames: int) -> tuple[int, int]:
        return copy_video(source, self.video, fps, frames)

    def finish_wav(self, stored: int, samples: int, rate: int) -> None:
        """Cuts the PCM or fills it up with silence, and writes the header."""
        with self.audio.open("r+b") as file:
            file.truncate(WAV_HEADER + 2 * samples)
            file.write(wav_header(samples, rate))
        count = min(samples, stored)
        pcm = np.memmap(self.audio, dtype="<i2", mode="r", offset=WAV_HEADER, shape=(count,))
        check_audible(pcm)


def convert(path: Path, settings: PackSettings, video: Path, audio: Path) -> dict:
    """Decode a source; write its video track to `video` and its sound to `audio`, a wav file.

    Writes only the track of settings.tracks where that names one.
    Returns the metadata that the file itself gives. Raises Refusal, or OSError when `video` or
    `audio` cannot be written.
    """
    return convert_into(Files(video, audio), path, settings)


def convert_into(sink: Sink, path: Path, settings: PackSettings) -> dict:
    """Decode a source into a sink; returns the metadata that it gives, and raises Refusal."""
    try:
        return _convert(sink, path, settings, Mono())
    except CancelledError as cancelled:
        return _convert(sink, path, settings, Mono(cancelled.channel))


def _convert(sink: Sink, path: Path, settings: PackSettings, mono: Mono) -> dict:
    if settings.tracks == "audio":
        return _convert_audio(sink, path, settings, mono)
    if settings.codec == "copy":
        return _convert_copy(sink, path, settings, mono)
    if settings.tracks == "video":
        return _convert_video(sink, path, settings)
    return _convert_both(sink, path, settings, mono)


def _convert_both(sink: Sink, path: Path, settings: PackSettings, mono: Mono) -> dict:
    """Both tracks, from where the later one begins to where the first one ends."""
    fps, rate = settings.frame_rate, settings.audio_rate
    with open_media(path) as pictures, open_media(path) as sound:
        picture_stream, _ = choose_streams(pictures)
        sound_stream = choose_audio(sound)
        original = _original(picture_stream, sound_stream)
        frames = decoded(pictures, picture_stream)
        blocks = decoded(sound, sound_stream)
        first, begin = next(frames), next(blocks)
        start = max(first[0], begin[0])
        longest = None if settings.max_seconds is None else frame_count(settings.max_seconds, fps)
        limit = None if longest is None else sample_count(longest, fps, rate)
        # one frame more than wanted: whether there is more tells a cut video from a whole one
        ahead = 2**62 if limit is None else limit + sample_count(1, fps, rate) + 1
        samples = _write_sound(sink, chain([begin], blocks), start, rate, ahead, mono)
        available = frame_count(samples / rate, fps)
        if samples == 0:
            raise Refusal("no overlap", f"video starts at {first[0]:.2f} s, audio ends before")
        if available == 0:
            raise Refusal("too short", f"{samples / rate:.2f} s")
        tick = float(time_base(picture_stream))
        grid = resample_frames(chain([first], frames), start, fps, available, tick)
        count, width, height, cut = sink.write_video(grid, picture_stream, settings, longest)
        end = start + float(count / fps)
        if not cut:
            for _, end, _ in frames:  # what the sound does not accompany
                if longest is not None and end > start + longest / fps:
                    break
    check_length(count, fps, settings)
    sink.finish_wav(samples, sample_count(count, fps, rate), rate)
    size = {"frames": count, "width": width, "height": height}
    unpaired = _unpaired(first[0], end, begin[0], start + samples / rate, fps)
    return _facts(start, original, count / fps, cut, unpaired, fps=fps, **size)


def _convert_video(sink: Sink, path: Path, settings: PackSettings) -> dict:
    """The video track alone, from its first frame."""
    fps = settings.frame_rate
    longest = None if settings.max_seconds is None else frame_count(settings.max_seconds, fps)
    with open_media(path) as container:
        stream = choose_video(container)
        original = _original(stream)
        frames = decoded(container, stream)
        first = next(frames)
        ahead = 2**62 if longest is None else longest + 1
        tick = float(time_base(stream))
        grid = resample_frames(chain([first], frames), first[0], fps, ahead, tick)
        count, width, height, cut = sink.write_video(grid, stream, settings, longest)
    check_length(count, fps, settings)
    size = {"frames": count, "width": width, "height": height}
    return _facts(first[0], original, count / fps, cut, fps=fps, **size)


def _convert_audio(sink: Sink, path: Path, settings: PackSettings, mono: Mono) -> dict:
    """The audio track alone, from its beginning."""
    rate = settings.audio_rate
    longest = None if settings.max_seconds is None else round(settings.max_seconds * rate)
    with open_media(path) as container:
        stream = choose_audio(container)
        original = _original(stream)
        blocks = decoded(container, stream)
        begin = next(blocks)
        ahead = 2**62 if longest is None else longest + 1
        stored = _write_sound(sink, chain([begin], blocks), begin[0], rate, ahead, mono)
    samples = stored if longest is None else min(stored, longest)
    check_length(samples, rate, settings)
    sink.finish_wav(stored, samples, rate)
    return _facts(begin[0], original, samples / rate, stored > samples)


def _convert_copy(sink: Sink, path: Path, settings: PackSettings, mono: Mono) -> dict:
    """The video's packets as they are; the sound is cut or filled with silence to their span."""
    with_sound, rate = settings.tracks == "both", settings.audio_rate
    start, fps, count = check_copyable(path, with_sound)
    length = sample_count(count, fps, rate)
    with open_media(path) as container:
        original = _original(choose_video(container))
        if with_sound:
            sound_stream = choose_audio(container)
            original |= _original(sound_stream)
            blocks = decoded(container, sound_stream)
            begin = next(blocks)
            if begin[0] >= start + count / fps:
                raise Refusal("no overlap", f"audio starts at {begin[0]:.2f} s, video ends before")
            samples = _write_sound(sink, chain([begin], blocks), start, rate, 2**62, mono)
            if samples == 0:
                raise Refusal("no overlap", f"video starts at {start:.2f} s, audio ends before")
    width, height = sink.copy_video(path, fps, count)
    check_length(count, fps, settings)
    unpaired = 0.0
    if with_sound:
        sink.finish_wav(samples, length, rate)
        unpaired = _unpaired(start, start + count / fps, begin[0], start + samples / rate, fps)
    size = {"frames": count, "width": width, "height": height}
    return _facts(start, original, count / fps, False, unpaired, fps=fps, **size)


def _write_sound(
    sink: Sink,
    blocks: Iterable[tuple[float, float, av.AudioFrame]],
    start: float,
    rate: int,
    limit: int,
    mono: Mono,
) -> int:
    """`resample_audio` into the sink; returns the number of samples, raises CancelledError."""
    try:
        samples = sink.write_pcm(resample_audio(blocks, start, rate, limit, mono))
    except OverlapError as error:
        raise Refusal("damaged", f"audio: {error}") from None
    if mono.loudest is not None:
        raise CancelledError(mono.loudest)
    return samples


def _original(*streams: av.VideoStream | av.AudioStream) -> dict:
    """The metadata of the source's streams: {"video": ..., "audio": ...}."""
    return {stream.type: stream_facts(stream) for stream in streams}


def _unpaired(
    video: float, video_end: float, audio: float, audio_end: float, fps: Fraction
) -> float:
    """The seconds in which a source has one track alone; 0 where it is a rounding."""
    seconds = abs(video - audio) + abs(video_end - audio_end)
    return round(seconds, 3) if seconds > ROUNDING + 1 / fps else 0.0


def _facts(
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


def check_audible(pcm: np.ndarray) -> None:
    """Raises Refusal (silent) for int16 sound that stays below SILENCE."""
    loudest = max(int(pcm.max()), -int(pcm.min()))
    if loudest < SILENCE * 32768:
        raise Refusal("silent", f"peak {loudest / 32768:.5f} of full scale")
