"""Media that are made wrong or rarely: pictures that change, HDR, channels that cancel out."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from tests.common.media import make_media, tone, write_sound

ONE = Fraction(1)
PARTS = {"wide": ((192, 96), ONE), "tall": ((96, 192), ONE), "flat": ((96, 96), Fraction(2))}


def disc(size, sar):
    """A white disc of 60 pixels on grey, where a pixel is `sar` times as wide as high."""
    width, height = size
    y, x = np.mgrid[:height, :width] + 0.5
    inside = np.hypot((x - width / 2) * float(sar), y - height / 2) < 30
    return np.where(inside, 230, 60)[..., None].repeat(3, 2).astype(np.uint8)


def write_parts(path, codec, parts, seconds=1, fps=15):
    """One video stream whose coded size or aspect changes after each part, and a tone."""
    with av.open(str(path), "w") as container:
        stream = sound = None
        for number, part in enumerate(parts):
            size, sar = PARTS[part]
            encoder = av.CodecContext.create(codec, "w")
            if stream is None:
                stream = container.add_stream(codec, rate=fps)
                sound = container.add_stream(
                    "libopus" if path.suffix == ".webm" else "aac", rate=48000, layout="mono"
                )
                encoder = stream.codec_context
            encoder.width, encoder.height = size
            encoder.pix_fmt, encoder.time_base = "yuv420p", Fraction(1, fps)
            encoder.options = (
                {"tune": "zerolatency"} if codec == "libx264" else {"lag-in-frames": "0"}
            )
            encoder.sample_aspect_ratio = sar
            for k in range(seconds * fps):
                frame = av.VideoFrame.from_ndarray(disc(size, sar), format="rgb24")
                frame.pts, frame.time_base = number * seconds * fps + k, Fraction(1, fps)
                for packet in encoder.encode(frame):
                    packet.stream = stream
                    container.mux(packet)
            for packet in encoder.encode(None):
                packet.stream = stream
                container.mux(packet)
        write_sound(container, sound, tone(seconds * len(parts), 48000, 0.3), 48000)
    return path


def write_hdr(path: Path, signal: np.ndarray, transfer: int, primaries: int = 9) -> Path:
    """Two seconds of one picture, coded RGB values from 0 to 1 (H, W, 3), and a tone.

    transfer: 16 is PQ, 18 HLG. primaries: 9 are those of BT.2020.
    """
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=15, options={"preset": "ultrafast", "qp": "4"})
        sound = container.add_stream("aac", rate=16000, layout="mono")
        context = track.codec_context
        track.height, track.width = signal.shape[:2]
        track.pix_fmt = "yuv420p10le"
        context.colorspace, context.color_trc = 9, transfer
        context.color_primaries, context.color_range = primaries, 1
        picture = av.VideoFrame.from_ndarray((signal * 65535).astype(np.uint16), format="rgb48le")
        for k in range(30):
            frame = picture.reformat(
                format="yuv420p10le", dst_colorspace=9, src_color_range=2, dst_color_range=1
            )
            frame.pts = k
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
        write_sound(container, sound, tone(2, 16000, 0.3), 16000)
    return path


def sine_frame(levels, layout: str, seconds: float = 0.1) -> av.AudioFrame:
    """One tone, in each channel at its own level."""
    waves = (np.array(levels)[:, None] * tone(seconds, 16000, 1.0)).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(waves.T.reshape(1, -1).copy(), "flt", layout)
    frame.sample_rate = 16000
    return frame


def write_channels(path: Path, levels, layout: str, codec: str, seconds: float = 0.4) -> Path:
    """Pictures, and one tone that each channel has at its own level."""
    pictures = make_media(path.with_suffix(".pictures.mkv"), audio=None, seconds=seconds)
    with av.open(str(pictures)) as silent, av.open(str(path), "w") as container:
        stream = silent.streams.video[0]
        track = container.add_stream_from_template(stream)
        sound = container.add_stream(codec, rate=16000, layout=layout)
        for packet in silent.demux(stream):
            if packet.size:
                packet.stream = track
                container.mux(packet)
        resample = av.AudioResampler(sound.format.name, layout, 16000, sound.frame_size or None)
        frame = sine_frame(levels, layout, seconds)
        frame.pts = 0
        for converted in resample.resample(frame) + resample.resample(None):
            container.mux(sound.encode(converted))
        container.mux(sound.encode(None))
    pictures.unlink()
    return path
