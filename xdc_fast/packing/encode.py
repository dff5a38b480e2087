"""The files of a sample: the video track, the wav file, the metadata."""

from __future__ import annotations

import json
import struct
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.video.reformatter import VideoReformatter

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


def packed_size(frame: av.VideoFrame, aspect: Fraction | None, short_side: int) -> tuple[int, int]:
    """Width and height of the packed picture: upright, square pixels, even; raises Refusal."""
    width, height = Fraction(frame.width) * (aspect or 1), Fraction(frame.height)
    if orientation(frame)[0]:
        width, height = height, width
    scale = short_side / min(width, height)
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise Refusal("odd shape", f"{frame.width} x {frame.height}")
    return 2 * round(width * scale / 2), 2 * round(height * scale / 2)


class Scaler:
    """Turns decoded frames into upright 4:2:0 pictures of one size with BT.601 colours."""

    def __init__(self, width: int, height: int, full_range: bool):
        self._size, self._range = (width, height), JPEG if full_range else MPEG
        self._format = "yuvj420p" if full_range else "yuv420p"
        self._reformatter = VideoReformatter()  # keeps its tables from frame to frame

    def __call__(self, frame: av.VideoFrame) -> av.VideoFrame:
        way = orientation(frame)
        width, height = self._size[::-1] if way[0] else self._size
        full = frame.color_range == JPEG or frame.format.name.startswith("yuvj")
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
        if not any(way):
            return small
        stack = small.to_ndarray()
        planes = stack[:height], *stack[height:].reshape(2, height // 2, width // 2)
        turned = np.concatenate([turn(plane, way).ravel() for plane in planes])
        stack = turned.reshape(self._size[1] * 3 // 2, self._size[0])
        return av.VideoFrame.from_ndarray(stack, format=self._format)


class VideoWriter:
    """A constant-rate mp4 with one video track; the same pictures give the same bytes."""

    def __init__(self, path: Path, codec: str, fps: Fraction, width: int, height: int):
        self._container = open_mp4(path)
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
        self._container.mux(self._stream.encode(picture))
        self.frames += 1

    def __enter__(self) -> VideoWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                self._container.mux(self._stream.encode(None))
        finally:
            self._container.close()


def open_mp4(path: Path) -> av.container.OutputContainer:
    """An mp4 for writing, with its index at the beginning and without dates or version strings."""
    options = {"movflags": "faststart", "fflags": "+bitexact"}
    return av.open(str(path), "w", format="mp4", container_options=options)


def wav_header(samples: int, rate: int) -> bytes:
    """The canonical 44 bytes before 16-bit mono PCM."""
    size = 2 * samples
    form = struct.pack("<4sI4s", b"RIFF", 36 + size, b"WAVE")
    layout = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return form + layout + struct.pack("<4sI", b"data", size)


def metadata(facts: dict) -> bytes:
    """The JSON document of a sample; equal facts give equal bytes."""
    return json.dumps(facts, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()
