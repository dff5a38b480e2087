"""The files of a sample: the video track, the wav file, the metadata."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from contextlib import closing, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple, cast

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from xdc_fast.packing.hdr import BT2020, is_hdr, to_sdr
from xdc_fast.packing.media import Refusal
from xdc_fast.shards.decode import orientation, turn

JPEG_QSCALE = 3  # near libjpeg's quality 85 at four fifths of its bytes
H264_CRF = 20
GOP = 16  # frames between key frames: a short window decodes few frames that it does not need
MAX_ASPECT = 8
WAV_HEADER = 44
MPEG, JPEG = 1, 2  # FFmpeg's limited and full colour range
BT601 = 5
MATRICES = {1: 1, 4: 4, 7: 7, 9: 9, 10: 9}  # the colour matrices that swscale knows besides


class Shape(NamedTuple):
    """Of a `decoded` frame: its stored size, the aspect of its pixels, and its `orientation`."""

    width: int
    height: int
    aspect: Fraction | None
    way: tuple[bool, bool, bool]

    @classmethod
    def of(cls, frame: av.VideoFrame) -> Shape:
        aspect = cast("Fraction | None", frame.opaque)
        return cls(frame.width, frame.height, aspect, orientation(frame))

    def shown(self) -> tuple[Fraction, Fraction]:
        """Width and height as a player shows it: upright, with square pixels."""
        width, height = Fraction(self.width) * (self.aspect or 1), Fraction(self.height)
        return (height, width) if self.way[0] else (width, height)


def packed_size(frame: av.VideoFrame, short_side: int) -> tuple[int, int]:
    """Width and height of the packed picture: upright, square pixels, even; raises Refusal."""
    width, height = Shape.of(frame).shown()
    scale = short_side / min(width, height)
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Refusal("odd shape", f"{frame.width} x {frame.height}")
    return 2 * round(width * scale / 2), 2 * round(height * scale / 2)


class Scaler:
    """Turns `decoded` frames into upright 4:2:0 pictures of one size with BT.601 colours.

    A frame of another shape, as after a phone was turned, is fitted in between black borders. HDR
    becomes SDR.
    """

    def __init__(self, width: int, height: int, full_range: bool):
        self._size, self._range = (width, height), JPEG if full_range else MPEG
        self._format = "yuvj420p" if full_range else "yuv420p"
        self._reformatter = VideoReformatter()  # keeps its tables from frame to frame
        self._to_rgb = VideoReformatter()
        self._fitted: tuple[Shape, tuple[int, int]] | None = None  # the last one

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        way, size = self._fit(frame)
        width, height = size[::-1] if way[0] else size
        full = frame.color_range == JPEG or frame.format.name.startswith("yuvj")
        if is_hdr(frame):
            frame, full = self._sdr(frame, width, height, full), True
        small = self._reformatter.reformat(
            frame,
            width,
            height,
            self._format,
            interpolation="AREA",
            src_colorspace=MATRICES.get(int(frame.colorspace), BT601),
            dst_colorspace=BT601,
            src_color_range=JPEG if full else MPEG,
            dst_color_range=self._range,
            threads=1,
        )
        if not any(way) and size == self._size:
            return small
        stack = small.to_ndarray()
        planes = stack[:height], *stack[height:].reshape(2, height // 2, width // 2)
        return self._place([turn(plane, way) for plane in planes])

    def _sdr(self, frame: av.VideoFrame, width: int, height: int, full: bool) -> av.VideoFrame:
        """An HDR frame in its packed size as SDR, rgb24."""
        signal = self._to_rgb.reformat(
            frame,
            width,
            height,
            "rgb48le",
            interpolation="AREA",
            src_colorspace=MATRICES.get(int(frame.colorspace), BT2020),
            src_color_range=JPEG if full else MPEG,
            dst_color_range=JPEG,
            threads=1,
        )
        rgb = to_sdr(signal.to_ndarray(), frame.color_trc, frame.color_primaries)
        return av.VideoFrame.from_ndarray(rgb, format="rgb24")

    def _fit(self, frame: av.VideoFrame) -> tuple[tuple[bool, bool, bool], tuple[int, int]]:
        """A frame's `orientation`, and the largest even size of its shape; without borders narrower
        than a pixel."""
        shape = Shape.of(frame)
        if self._fitted is None or self._fitted[0] != shape:
            self._fitted = shape, self._size_of(*shape.shown())
        return shape.way, self._fitted[1]

    def _size_of(self, width: Fraction, height: Fraction) -> tuple[int, int]:
        scale = min(self._size[0] / width, self._size[1] / height)
        size = 2 * round(width * scale / 2), 2 * round(height * scale / 2)
        if all(whole - side <= 2 for whole, side in zip(self._size, size, strict=True)):
            return self._size
        return max(2, size[0]), max(2, size[1])

    def _place(self, planes: list[np.ndarray]) -> av.VideoFrame:
        """A picture of Y, U and V in the middle of a black one."""
        width, height = self._size
        black = np.full((height * 3 // 2, width), 128, np.uint8)
        black[:height] = 0 if self._range == JPEG else 16
        targets = black[:height], *black[height:].reshape(2, height // 2, width // 2)
        rows, columns = planes[0].shape
        top, left = (height - rows) // 4, (width - columns) // 4
        for target, plane, step in zip(targets, planes, (2, 1, 1), strict=True):
            rows, columns = plane.shape
            target[step * top :, step * left :][:rows, :columns] = plane
        return av.VideoFrame.from_ndarray(black, format=self._format)


class VideoWriter:
    """A constant-rate mp4 with one video track; the same pictures give the same bytes."""

    def __init__(self, path: Path, codec: str, fps: Fraction, width: int, height: int):
        self._path, self._container = path, open_mp4(path)
        stream = self._container.add_stream("mjpeg" if codec == "jpeg" else "libx264", rate=fps)
        stream.width, stream.height, stream.thread_count = width, height, 1
        context = stream.codec_context
        context.time_base = 1 / fps
        context.flags |= av.codec.context.Flags.bitexact
        context.colorspace = BT601
        if codec == "jpeg":
            stream.pix_fmt, context.color_range = "yuvj420p", JPEG
            context.flags |= av.codec.context.Flags.qscale
            context.global_quality = 118 * JPEG_QSCALE  # FF_QP2LAMBDA
            stream.options = {"qmin": str(JPEG_QSCALE), "qmax": str(JPEG_QSCALE)}
        else:
            stream.pix_fmt, context.color_range = "yuv420p", MPEG
            stream.options = {
                "preset": "medium",
                "crf": str(H264_CRF),
                # mbtree: with it, x264 gives other bytes from run to run at small sizes
                "x264-params": f"keyint={GOP}:min-keyint={GOP}:scenecut=0:bframes=0:mbtree=0"
                ":threads=1",
            }
        self._stream, self._tick, self.frames = stream, 1 / fps, 0

    def add(self, picture: av.VideoFrame) -> None:
        """Encode the next frame; `picture` is 4:2:0 and of the writer's size."""
        picture.pts, picture.time_base = self.frames, self._tick
        picture.pict_type = 0
        with writing(self._path):
            self._container.mux(self._stream.encode(picture))
        self.frames += 1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with writing(self._path), closing(self._container):
            if kind is None:
                self._container.mux(self._stream.encode(None))


def open_mp4(path: Path) -> av.container.OutputContainer:
    """An mp4 for writing, with its index at the beginning and without dates or version strings."""
    options = {"movflags": "faststart", "fflags": "+bitexact"}
    with writing(path):  # "file:": FFmpeg takes what stands before a colon for a protocol
        return av.open(f"file:{path}", "w", format="mp4", container_options=options)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """FFmpeg's errors become OSError: they are of the file that is written, not of the source."""
    try:
        yield
    except av.FFmpegError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def wav_header(samples: int, rate: int) -> bytes:
    """The canonical 44 bytes before 16-bit mono PCM."""
    size = 2 * samples
    form = struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE")
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return form + layout + struct.pack("<4sI", b"data", size)


def metadata(facts: dict) -> bytes:
    """The JSON document of a sample; equal facts give equal bytes."""
    return json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
