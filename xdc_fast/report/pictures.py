"""A sample on the page: three frames, its spectrogram and its sound, as data URIs."""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import simplejpeg
import torch
from torch.nn.functional import interpolate

from xdc_fast.clips.windows import ClipShape, fixed_windows
from xdc_fast.encoders.transform import ClipTransform, spectrogram
from xdc_fast.packing.encode import wav_header
from xdc_fast.shards.dataset import ShardSet

FRAMES = 3
JPEG_QUALITY = 85  # of frames that the shards do not hold as JPEG of that size
SHORT_SIDE = 160  # pixels of a shown frame at most
LONGEST = 3.0  # seconds of a sample that are shown
SOUND_BYTES = 4_200_000  # of a whole page, before base64; decides how long the stretches are
DARKEST, BRIGHTEST = 8, 99.8  # percentiles of the log-mel values at the ends of the colour map

# sRGB; CIE lightness rises from 2 to 96 in near-equal steps
COLOURS = ("07080f", "1d1f4a", "4b2f7d", "8a3a84", "c94a74", "ee7550", "f9b35c", "fdf3c4")


@dataclass(frozen=True)
class Exhibit:
    """A sample as the page shows it: data URIs of its frames and its sound.

    mel: float32 (mels, frames), the spectrogram of the whole stretch.
    """

    index: int
    source: str  # and where in it a segment begins
    frames: list[str]
    sound: str
    mel: np.ndarray


@dataclass(frozen=True)
class Stretch:
    """The middle `seconds` of a sample, around the clip of `clip_seconds` that was clustered."""

    seconds: float
    clip_seconds: float


def choose_stretch(shards: ShardSet, clip: ClipShape, indices: list[int]) -> Stretch:
    """The stretch to show: as long as the samples and the size of the page allow."""
    rows = [shards.row(index)[1] for index in indices]
    longest = max(row["samples"] for row in rows) / shards.sample_rate
    fair = SOUND_BYTES / (2 * shards.sample_rate * len(indices))
    sound = clip.samples / clip.sample_rate
    return Stretch(max(min(LONGEST, longest, fair), sound), sound)


def show_sample(shards: ShardSet, inputs: ClipTransform, stretch: Stretch, index: int) -> Exhibit:
    """A stretch of a sample: the middle frame of each third, and the whole sound."""
    name, row = shards.row(index)
    shape = ClipShape(
        frames=2 * FRAMES,
        fps=2 * FRAMES / stretch.seconds,
        crop=0,
        samples=round(stretch.seconds * shards.sample_rate),
        sample_rate=shards.sample_rate,
    )
    window = fixed_windows(np.array([index]), np.array([row]), shape)
    frames = read_frames(shards, index, window.frames[0, 1::2])
    pcm = shards.waveform(name, row, int(window.start[0]), shape.samples)
    return Exhibit(
        index=index,
        source=name_of(shards, index),
        frames=[data_uri("image/jpeg", frame) for frame in frames],
        sound=data_uri("audio/wav", wav_header(len(pcm), shards.sample_rate) + pcm.tobytes()),
        mel=spectrogram(torch.from_numpy(pcm)[None], inputs.spec)[0].numpy(),
    )


def name_of(shards: ShardSet, index: int) -> str:
    """The source of a sample, and where in it a segment begins."""
    line = shards.line(index)
    start = float(line["start"])
    return f"{line['source']} from {start:g} s" if start else line["source"]


def read_frames(shards: ShardSet, index: int, numbers: np.ndarray) -> list[bytes]:
    """Frames as JPEG: the shard's packets, or new ones where it has none or they are large."""
    name, row = shards.row(index)
    pictures: Iterable[np.ndarray]
    if row["packet"] < 0:
        pictures = shards.pictures(name, row, numbers)
    else:
        packets = shards.packets(name, row, numbers)
        if min(row["width"], row["height"]) <= SHORT_SIDE:
            return [packet.tobytes() for packet in packets]
        pictures = map(simplejpeg.decode_jpeg, packets)
    return [simplejpeg.encode_jpeg(shrink(picture), JPEG_QUALITY) for picture in pictures]


def shrink(picture: np.ndarray) -> np.ndarray:
    """A picture, uint8 (H, W, 3), with a short side of at most SHORT_SIDE."""
    scale = SHORT_SIDE / min(picture.shape[:2])
    if scale >= 1:
        return np.ascontiguousarray(picture)
    size = [round(side * scale) for side in picture.shape[:2]]
    planes = torch.from_numpy(picture).permute(2, 0, 1)[None]
    small = interpolate(planes, size, mode="bilinear", antialias=True)
    return np.ascontiguousarray(small[0].permute(1, 2, 0).numpy())


def mel_range(samples: list[Exhibit]) -> tuple[float, float]:
    """Log-mel values of the darkest and the brightest colour, common to all samples."""
    values = np.concatenate([sample.mel.ravel() for sample in samples])
    low, high = np.percentile(values, [DARKEST, BRIGHTEST])
    return float(low), max(float(high), float(low) + 1)


def paint(mel: np.ndarray, low: float, high: float) -> str:
    """A spectrogram (mels, frames) as a PNG data URI, low frequencies at the bottom."""
    shade = np.clip((mel[::-1] - low) / (high - low), 0, 1)
    return data_uri("image/png", png((shade * 255).round().astype(np.uint8), colour_map()))


def colour_map() -> np.ndarray:
    """COLOURS with the steps between them, uint8 (256, 3)."""
    points = np.array([list(bytes.fromhex(colour)) for colour in COLOURS])
    at = np.linspace(0, len(points) - 1, 256)
    mixed = [np.interp(at, np.arange(len(points)), channel) for channel in points.T]
    return np.stack(mixed, axis=1).round().astype(np.uint8)


def png(pixels: np.ndarray, palette: np.ndarray) -> bytes:
    """A PNG of palette indices, uint8 (H, W); palette uint8 (256, 3)."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    height, width = pixels.shape
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels], axis=1)  # 0: no row filter
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"PLTE", palette.tobytes())
        + chunk(b"IDAT", zlib.compress(rows.tobytes(), 9))
        + chunk(b"IEND", b"")
    )


def data_uri(kind: str, content: bytes) -> str:
    """A file as the text of a link; kind: its MIME type."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"
