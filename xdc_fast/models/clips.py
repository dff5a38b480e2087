"""Clips of one media file, decoded in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from itertools import chain
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from xdc_fast.clips.windows import ClipShape, Windows, fixed_windows
from xdc_fast.errors import UserError
from xdc_fast.packing.convert import convert_into
from xdc_fast.packing.encode import BT601, JPEG, MPEG, Scaler, packed_size
from xdc_fast.packing.media import OF_MACHINE, Refusal, choose_video, decoded, open_media
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sink import check_audible
from xdc_fast.packing.timeline import sample_count
from xdc_fast.shards.decode import upright
from xdc_fast.shards.format import SAMPLE
from xdc_fast.shards.streams import frame_count

# swscale's BILINEAR | FULL_CHR_H_INT | ACCURATE_RND, by number for PyAV before 18: it interpolates
# chroma as libjpeg does. Otherwise pictures are up to a level darker than those of JPEG packets.
LIKE_LIBJPEG = 2 | 0x2000 | 0x40000
LACKING = {"no audio": "video", "silent": "video", "no video": "audio", "cover art": "audio"}

Positions = Callable[[np.ndarray], np.ndarray]
"""From a SAMPLE row, shape (1,), to where clips lie in it, float64 (C,): 0 its start, 1 its end."""


@dataclass(frozen=True)
class MediaClips:
    """C clips of one media file, as its packed sample would give them.

    row: the SAMPLE row (1,) that a set would hold of it. positions: float64 (C,). modalities: the
    tracks that were read. pictures: by number, uint8 (crop, crop, 3), those of the clips. sound:
    int16, the whole track.
    """

    row: np.ndarray
    positions: np.ndarray
    modalities: tuple[str, ...]
    windows: Windows
    pictures: Mapping[int, np.ndarray]
    sound: np.ndarray

    def __len__(self) -> int:
        return len(self.positions)

    def groups(self, modality: str) -> list[np.ndarray]:
        """The clips by what they hold of a track: int64 numbers, those that are alike together.

        Clips of a short file are the same pictures, mostly.
        """
        windows = self.windows
        keys = windows.frames if modality == "video" else windows.start[:, None]
        _, group = np.unique(keys, axis=0, return_inverse=True)
        ends = np.cumsum(np.bincount(group.ravel()))
        return np.split(np.argsort(group.ravel(), kind="stable"), ends[:-1])

    def copy_frames(self, clip: int, out: np.ndarray) -> None:
        """The pictures of a clip into `out`, uint8 (T, crop, crop, 3)."""
        for k, number in enumerate(self.windows.frames[clip].tolist()):
            out[k] = self.pictures[number]

    def copy_waveform(self, clip: int, out: np.ndarray) -> None:
        """The sound of a clip into `out`, int16 (S,); zeros beyond either end of the track."""
        start = int(self.windows.start[clip])
        first = max(start, 0)
        last = max(min(start + len(out), len(self.sound)), first)
        out[:] = 0
        out[first - start : last - start] = self.sound[first:last]


def read_clips(
    path: Path, settings: PackSettings, shape: ClipShape, positions: Positions
) -> MediaClips:
    """Decodes a media file and keeps what its clips need.

    The sound is that of a packed sample; the pictures are those before they are compressed. All of
    the file is decoded, but only pictures of clips are kept, 38 kB each at a crop of 112. Of a file
    that lacks a track the other is read.
    Raises Refusal where `xdc-shard pack` would refuse the file, and UserError where memory or file
    handles are short.
    """
    sink = ClipSink(path, settings, shape, positions)
    try:
        for _ in range(2):  # how many pictures there are is a guess the first time
            if (clips := sink.read()) is not None:
                return clips
        raise Refusal("unreadable", "it changes while it is read")
    except Refusal as refusal:
        if settings.tracks != "both" or refusal.reason not in LACKING:
            raise
        one = replace(settings, tracks=LACKING[refusal.reason])
        return read_clips(path, one, shape, positions)
    except (av.FFmpegError, OSError, ValueError, MemoryError) as error:
        if isinstance(error, MemoryError) or getattr(error, "errno", None) in OF_MACHINE:
            raise UserError(
                f"{path}: {error or 'out of memory'}; stop other programs, and run the same "
                "command again"
            ) from None
        raise Refusal("undecodable", str(error)) from error


class ClipSink:
    """Where `convert_into` leaves a file's sound and the pictures of its clips: in memory."""

    def __init__(self, path: Path, settings: PackSettings, shape: ClipShape, positions: Positions):
        self.path, self.settings, self.shape, self.positions = path, settings, shape, positions
        self._count: int | None = None  # of the pictures, once it is known
        self._samples = 0
        self._sound = np.zeros(0, np.int16)
        self._pictures: dict[int, np.ndarray] = {}

    def read(self) -> MediaClips | None:
        """The clips; None where a wrong guess kept pictures of others. Raises Refusal."""
        facts = convert_into(self, self.path, self.settings)
        self._count = facts["frames"]
        row = self._row(
            facts["frames"], facts["fps"], facts["width"], facts["height"], self._samples
        )
        positions, windows = self._place(row)
        modalities = self.settings.modalities
        if "video" in modalities and not self._pictures.keys() >= {*windows.frames.ravel()}:
            return None
        return MediaClips(row, positions, modalities, windows, self._pictures, self._sound)

    def _row(self, frames: int, fps: float, width: int, height: int, samples: int) -> np.ndarray:
        row = np.zeros(1, SAMPLE)
        for modality in {"video", "audio"} - {*self.settings.modalities}:
            row[modality] = -1
        row["frames"], row["fps"], row["width"], row["height"] = frames, fps, width, height
        row["samples"] = samples
        return row

    def _place(self, row: np.ndarray) -> tuple[np.ndarray, Windows]:
        positions = self.positions(row)
        rows = np.repeat(row, len(positions))
        return positions, fixed_windows(np.arange(len(rows)), rows, self.shape, positions)

    def write_pcm(self, blocks: Iterable[np.ndarray]) -> int:
        self._sound = np.concatenate([np.zeros(0, np.int16), *blocks])
        return len(self._sound)

    def finish_wav(self, stored: int, samples: int, rate: int) -> None:
        self._samples = samples
        self._sound = self._sound[:samples]
        check_audible([self._sound])

    def write_video(
        self,
        grid: Iterator[av.VideoFrame],
        stream: av.VideoStream,
        settings: PackSettings,
        longest: int | None,
    ) -> tuple[int, int, int, bool]:
        first = next(grid)
        width, height = packed_size(first, settings.short_side)
        full_range = settings.codec == "jpeg"
        scale, to_rgb = Scaler(width, height, full_range), VideoReformatter()

        def picture(frame: av.VideoFrame) -> np.ndarray:
            rgb = to_rgb.reformat(
                scale(frame),
                format="rgb24",
                src_colorspace=BT601,
                src_color_range=JPEG if full_range else MPEG,
                dst_color_range=JPEG,
                interpolation=LIKE_LIBJPEG if full_range else None,
                threads=1,
            )
            return rgb.to_ndarray()

        count = self._guess(stream) if self._count is None else self._count
        frames = chain([first], grid)
        return (
            self._keep(frames, count, settings.frame_rate, width, height, picture),
            width,
            height,
            False,
        )

    def copy_video(self, source: Path, fps: Fraction, frames: int) -> tuple[int, int]:
        with open_media(source) as container:
            stream = choose_video(container)
            reformatter = VideoReformatter()
            width, height = stream.codec_context.width, stream.codec_context.height
            pictures = (frame for _, _, frame in decoded(stream))
            self._keep(pictures, frames, fps, width, height, lambda f: upright(f, reformatter))
        return width, height

    def _keep(
        self,
        frames: Iterable[av.VideoFrame],
        count: int,
        fps: Fraction,
        width: int,
        height: int,
        picture: Callable[[av.VideoFrame], np.ndarray],
    ) -> int:
        """Keeps the pictures of the clips of a video of `count` frames; returns how many it has."""
        crop = self.shape.crop
        if min(width, height) < crop:
            raise UserError(
                f"{self.path}: its pictures are {width} x {height} pixels, the recipe crops "
                f"{crop}; set video.crop={min(width, height)} or less"
            )
        samples = sample_count(count, fps, self.settings.audio_rate)
        _, windows = self._place(self._row(count, float(fps), width, height, samples))
        needed = {*windows.frames.ravel().tolist()}
        top, left = int(windows.top[0]), int(windows.left[0])  # all clips have the centre crop
        self._pictures, last, number = {}, None, -1
        for number, frame in enumerate(frames):
            if number in needed:
                if frame is not last:
                    last, whole = frame, picture(frame)
                self._pictures[number] = whole[top : top + crop, left : left + crop].copy()
        return number + 1

    def _guess(self, stream: av.VideoStream) -> int:
        """How many frames the grid will have, by what the container says."""
        fps = self.settings.frame_rate
        seconds = float((stream.duration or 0) * (stream.time_base or 0))
        if not seconds and isinstance(stream.container, InputContainer):
            seconds = (stream.container.duration or 0) / av.time_base
        if "audio" in self.settings.modalities:
            seconds = min(seconds, len(self._sound) / self.settings.audio_rate)
        return max(1, frame_count(seconds, fps))
