"""JPEG packets, the default, against short-GOP H.264: speed, size and quality.

Ours is JPEG packets, the peer H.264. Quality is the PSNR of the packed luma against the source's
frames at the packed size.
"""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import av
import numpy as np
import simplejpeg

from benchmarks.harness import Case, Figure
from benchmarks.media import describe_shards, find_videos, pack_videos
from xdc_fast.packing.convert import convert
from xdc_fast.packing.encode import Scaler
from xdc_fast.packing.media import choose_streams, decoded, open_media
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.timeline import resample_frames
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.decode import decode_frames
from xdc_fast.shards.streams import nearest_rate

THREADS = (1,)
WINDOW = 2 * np.arange(8)


def cases(quick: bool, threads: int) -> Iterator[Case | Figure]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        what, videos = find_videos(folder, 8 if quick else 100)
        sets = {c: pack_videos(videos, folder / c, codec=c) for c in ("jpeg", "h264")}
        jpeg, h264 = sets.values()
        what = describe_shards(what, jpeg)

        sizes = {c: [s.manifest["seconds"] / video_megabytes(s)] for c, s in sets.items()}
        yield _figure(f"size, {what}", "seconds of video per MB", sizes)
        some = range(0, len(jpeg), max(1, len(jpeg) // (2 if quick else 10)))
        psnr = {c: [luma_psnr(s, videos[0].parent, some)] for c, s in sets.items()}
        yield _figure(f"quality, {what}", "dB luma PSNR", psnr)

        few = videos[: 2 if quick else 10]
        yield Case(
            f"conversion, {what}",
            "videos per second",
            len(few),
            partial(convert_videos, few, "jpeg", folder),
            {"h264": lambda: partial(convert_videos, few, "h264", folder)},
            assert_same_facts,
        )
        windows = draw_windows(jpeg, 8 if quick else 400)
        yield Case(
            f"random windows of 8 frames at stride 2, {what}",
            "windows per second",
            len(windows),
            partial(decode_windows, decode_jpeg_window, jpeg, windows),
            {"h264": lambda: partial(decode_windows, decode_h264_window, h264, windows)},
            assert_same_pictures,
        )


def _figure(name: str, unit: str, values: dict[str, list[float]]) -> Figure:
    return Figure(name, unit, values["jpeg"], {"h264": values["h264"]})


def video_megabytes(shards: ShardSet) -> float:
    return int(shards.rows()["video_bytes"].sum()) / 1e6


def convert_videos(videos: list[Path], codec: str, folder: Path) -> list[dict]:
    """Convert each video, always into the same two files."""
    settings = PackSettings(codec=codec)
    return [convert(v, settings, folder / f"{codec}.mp4", folder / f"{codec}.wav") for v in videos]


def draw_windows(shards: ShardSet, count: int) -> list[tuple[int, int]]:
    """Random samples, and a first frame in each."""
    rng = np.random.default_rng(0)
    frames = shards.rows()["frames"]
    indices = rng.integers(len(shards), size=count)
    return [(int(i), int(rng.integers(frames[i] - WINDOW[-1]))) for i in indices]


def decode_windows(decode: Callable, shards: ShardSet, windows: list) -> list[np.ndarray]:
    return [decode(shards, index, start) for index, start in windows]


def decode_jpeg_window(shards: ShardSet, index: int, start: int) -> np.ndarray:
    packets = shards.packets(*shards.row(index), start + WINDOW)
    return np.stack([simplejpeg.decode_jpeg(packet) for packet in packets])


def decode_h264_window(shards: ShardSet, index: int, start: int) -> np.ndarray:
    return decode_frames(shards.video_file(index), start + WINDOW)


def luma_psnr(shards: ShardSet, place: Path, indices: range) -> float:
    """dB over all frames of some samples, full scale 255 (219 in limited range)."""
    errors = np.concatenate([luma_errors(shards, place, index) for index in indices])
    return float(-10 * np.log10(errors.mean()))


def luma_errors(shards: ShardSet, place: Path, index: int) -> list[float]:
    """Mean squared luma error of each frame of a sample, relative to full scale."""
    row, meta, jpeg = shards.row(index)[1], shards.meta(index), shards.settings["codec"] == "jpeg"
    width, height, count = (int(row[name]) for name in ("width", "height", "frames"))
    scale, full = Scaler(width, height, jpeg), 255 if jpeg else 219

    def luma(frame: av.VideoFrame) -> np.ndarray:
        return frame.to_ndarray()[:height].astype(np.float32) / full

    packed = av.open(io.BytesIO(shards.video_file(index)))
    with open_media(place / meta["source"]) as source, packed:
        stream, _ = choose_streams(source)
        rate, tick = nearest_rate(float(row["fps"])), float(stream.time_base)
        wanted = resample_frames(decoded(stream), meta["start"], rate, count, tick)
        return [
            float(np.square(luma(scale(frame)) - luma(found)).mean())
            for frame, found in zip(wanted, packed.decode(video=0), strict=True)
        ]


def assert_same_facts(ours: list[dict], other: list[dict]) -> None:
    assert ours == other, "other frames or sound"


def assert_same_pictures(ours: list[np.ndarray], other: list[np.ndarray]) -> None:
    """The same pictures, each with the losses of its codec."""
    for number, (a, b) in enumerate(zip(ours, other, strict=True)):
        assert a.shape == b.shape, f"window {number}: {b.shape}, ours {a.shape}"
        off = np.abs(a.astype(np.int16) - b).mean()
        assert off < 4, f"window {number}: pixels differ by {off:.1f} on average"
