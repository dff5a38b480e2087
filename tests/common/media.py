"""Media made for tests: small files whose content is known to the frame and the sample."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

TICKS = 90_000  # per second, the clock of the pictures
FLASH = 0.075  # seconds; longer than a frame of 15 per second, so that none misses it


def draw(k: int, width: int, height: int) -> np.ndarray:
    """A dark picture, different for every k, uint8 (H, W, 3)."""
    y, x = np.mgrid[:height, :width]
    wave = 60 + 30 * np.sin(x / 9 + k / 3) + 20 * np.cos(y / 7 - k / 5)
    return np.stack([wave, wave * 0.8, 110 - wave], -1).clip(0, 255).astype(np.uint8)


def noise(k: int, width: int, height: int) -> np.ndarray:
    """A picture that hardly compresses, different for every k, uint8 (H, W, 3)."""
    return np.random.default_rng(k).integers(0, 256, (height, width, 3), np.uint8)


def make_media(
    path: Path,
    *,
    seconds: float = 2.0,
    fps: int = 25,
    size: tuple[int, int] = (96, 64),
    video: str | None = "libx264",
    audio: str | None = "aac",
    rate: int = 44100,
    level: float | np.ndarray = 0.05,
    event: float | None = None,
    video_start: float = 0.0,
    audio_start: float = 0.0,
    times: np.ndarray | None = None,
    pictures=draw,
    turn: tuple[float, bool, bool] | None = None,
    sar: Fraction | None = None,
    options: dict[str, str] | None = None,
    coding: dict[str, str] | None = None,
) -> Path:
    """Write a media file.

    event: the second, on the file's clock, at which white frames are shown and a burst of 10 ms
    sounds. video_start, audio_start: where each track begins on that clock. times: the seconds of
    the frames from video_start on, instead of a constant rate. turn: degrees, hflip, vflip.
    options: of the container. coding: of the video encoder.
    """
    with av.open(str(path), "w", options=options or {}) as container:
        track = sound = None
        if video:
            track = container.add_stream(video, rate=fps)
            track.width, track.height = size
            track.pix_fmt = "yuvj420p" if video == "mjpeg" else "yuv420p"
            if size[0] % 2 or size[1] % 2:
                track.pix_fmt = "yuv444p"
            ticks = fps if path.suffix in (".avi", ".mpg") else TICKS  # they count frames
            track.codec_context.time_base = Fraction(1, ticks)
            track.codec_context.thread_count = 1
            if video == "libx264":
                track.options = {"preset": "ultrafast", "g": "12"}
            track.options = {**track.options, **(coding or {})}
            if sar:
                track.codec_context.sample_aspect_ratio = sar
            if turn:
                track.set_display_rotation(turn[0], hflip=turn[1], vflip=turn[2])
        if audio:
            sound = container.add_stream(audio, rate=rate, layout="mono")
        if video:
            shown = np.arange(round(seconds * fps)) / fps if times is None else times
            for k, time in enumerate(shown):
                flash = event is not None and event - 1e-6 <= time + video_start < event + FLASH
                picture = (
                    np.full((size[1], size[0], 3), 255, np.uint8) if flash else pictures(k, *size)
                )
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = round((time + video_start) * TICKS), Fraction(1, TICKS)
                container.mux(track.encode(frame))
            container.mux(track.encode(None))
        if audio:
            wave = tone(seconds, rate, level)
            if event is not None:
                begin = round((event - audio_start) * rate)
                wave[max(begin, 0) : begin + rate // 100] = 0.8
            write_sound(container, sound, wave, rate, audio_start)
    return path


def tone(seconds: float, rate: int, level: float | np.ndarray) -> np.ndarray:
    """A sine of 440 Hz; level: its amplitude, or that of each sample."""
    return level * np.sin(2 * np.pi * 440 * np.arange(round(seconds * rate)) / rate)


def write_sound(container, stream, wave: np.ndarray, rate: int, start: float = 0.0) -> None:
    """Encode float samples (S,) or (S, channels), the first of them at `start` seconds."""
    wave = wave.reshape(len(wave), -1)
    layout = {1: "mono", 2: "stereo"}[wave.shape[1]]
    size = stream.codec_context.frame_size or 1024
    resampler = av.AudioResampler(stream.format.name, layout, rate)
    for begin in range(0, len(wave), size):
        block = (wave[begin : begin + size] * 32767).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(block, format="s16", layout=layout)
        frame.sample_rate, frame.time_base = rate, Fraction(1, rate)
        frame.pts = begin + round(start * rate)
        for converted in resampler.resample(frame):
            container.mux(stream.encode(converted))
    container.mux(stream.encode(None))
