"""One source file becomes the files of one sample, or is refused."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import chain
from pathlib import Path

import numpy as np

from xdc_fast.shards.clock import frame_count, heard, nearest_rate, sample_count, shown
from xdc_fast.shards.copy import check_copyable, copy_video
from xdc_fast.shards.encode import WAV_HEADER, Scaler, VideoWriter, packed_size, wav_header
from xdc_fast.shards.media import Refusal, choose_streams, decoded, open_media, stream_facts

SILENCE = 0.001  # of full scale


@dataclass(frozen=True)
class Settings:
    """What decides a sample's bytes; the manifest keeps it."""

    codec: str = "jpeg"
    """jpeg, h264, or copy (the video stream as it is)."""
    fps: float = 15.0
    """Frames per second of the packed video."""
    short_side: int = 128
    """Pixels of the shorter side, even."""
    audio_rate: int = 16000
    """Hz."""
    max_seconds: float | None = None
    """Longer videos are cut to their first seconds."""
    min_seconds: float = 1.0
    """Shorter ones are refused."""

    @property
    def frame_rate(self) -> Fraction:
        """fps as a fraction: 29.97 is 30000/1001."""
        return nearest_rate(self.fps)

    def as_dict(self) -> dict:
        return asdict(self)


def convert(path: Path, settings: Settings, video: Path, audio: Path) -> dict:
    """Decode a source and write its video track and wav file.

    Returns the metadata that the file itself gives. Raises Refusal, or OSError when `video` or
    `audio` cannot be written.
    """
    if settings.codec == "copy":
        return _convert_copy(path, settings, video, audio)
    fps, rate = settings.frame_rate, settings.audio_rate
    with open_media(path) as pictures, open_media(path) as sound:
        picture_stream, sound_stream = choose_streams(pictures)
        sound_stream = sound.streams[sound_stream.index]
        facts = {"video": stream_facts(picture_stream), "audio": stream_facts(sound_stream)}
        frames = decoded(pictures, picture_stream)
        blocks = decoded(sound, sound_stream)
        first, begin = next(frames), next(blocks)
        start = max(first[0], begin[0])
        longest = None if settings.max_seconds is None else frame_count(settings.max_seconds, fps)
        limit = None if longest is None else sample_count(longest, fps, rate)
        # one frame more than wanted: whether there is more tells a cut video from a whole one
        ahead = 2**62 if limit is None else limit + sample_count(1, fps, rate) + 1
        samples = write_pcm(audio, heard(chain([begin], blocks), start, rate, ahead))
        available = frame_count(samples / rate, fps)
        if samples == 0:
            raise Refusal("no overlap", f"video starts at {first[0]:.2f} s, audio ends before")
        if available == 0:
            raise Refusal("too short", f"{samples / rate:.2f} s")
        tick = float(picture_stream.time_base)
        grid = shown(chain([first], frames), start, fps, available, tick)
        count, width, height, cut = write_video(video, grid, picture_stream, settings, longest)
    finish_wav(audio, samples, count, fps, settings)
    size = {"frames": count, "width": width, "height": height}
    return {**_facts(fps, start, facts), **size, "seconds": float(count / fps), "cut": cut}


def _convert_copy(path: Path, settings: Settings, video: Path, audio: Path) -> dict:
    """The video's packets as they are; the sound is cut or filled with silence to their span."""
    start, fps, count = check_copyable(path)
    rate = settings.audio_rate
    with open_media(path) as sound:
        picture_stream, sound_stream = choose_streams(sound)
        facts = {"video": stream_facts(picture_stream), "audio": stream_facts(sound_stream)}
        blocks = decoded(sound, sound_stream)
        begin = next(blocks)
        if begin[0] >= start + count / fps:
            raise Refusal("no overlap", f"audio starts at {begin[0]:.2f} s, video ends before")
        limit = sample_count(count, fps, rate)
        samples = write_pcm(audio, heard(chain([begin], blocks), start, rate, limit))
    if samples == 0:
        raise Refusal("no overlap", f"video starts at {start:.2f} s, audio ends before")
    width, height = copy_video(path, video, fps, count)
    finish_wav(audio, samples, count, fps, settings)
    size = {"frames": count, "width": width, "height": height}
    return {**_facts(fps, start, facts), **size, "seconds": float(count / fps), "cut": False}


def _facts(fps: Fraction, start: float, original: dict) -> dict:
    return {"fps": float(fps), "start": round(start, 6), "original": original}


def write_pcm(path: Path, blocks) -> int:
    """Write raw PCM behind room for a wav header; returns the number of samples."""
    samples = 0
    with path.open("wb") as file:
        file.write(bytes(WAV_HEADER))
        for block in blocks:
            file.write(block.astype("<i2", copy=False))
            samples += len(block)
    return samples


def finish_wav(path: Path, stored: int, frames: int, fps: Fraction, settings: Settings) -> None:
    """Make the sound as long as `frames`, with a wav header; raises Refusal: too short, silent."""
    if frames < settings.min_seconds * fps:
        raise Refusal("too short", f"{float(frames / fps):.2f} s")
    samples = sample_count(frames, fps, settings.audio_rate)
    with path.open("r+b") as file:
        file.truncate(WAV_HEADER + 2 * samples)
        file.write(wav_header(samples, settings.audio_rate))
    pcm = np.memmap(path, dtype="<i2", mode="r", offset=WAV_HEADER, shape=(min(samples, stored),))
    loudest = max(int(pcm.max()), -int(pcm.min()))
    if loudest < SILENCE * 32768:
        raise Refusal("silent", f"peak {loudest / 32768:.5f} of full scale")


def write_video(path: Path, grid, stream, settings: Settings, longest: int | None):
    """Encode the frames of the grid; returns their number, width, height and whether it was cut."""
    first = next(grid)
    width, height = packed_size(first, stream.sample_aspect_ratio, settings.short_side)
    scale, last, picture = Scaler(width, height, settings.codec == "jpeg"), None, None
    with VideoWriter(path, settings.codec, settings.frame_rate, width, height) as writer:
        for frame in chain([first], grid):
            if writer.frames == longest:
                return longest, width, height, True
            if frame is not last:
                last, picture = frame, scale(frame)
            writer.add(picture)
    return writer.frames, width, height, False
