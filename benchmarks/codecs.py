"""JPEG packets or short-GOP H.264: size, quality, packing rate, random windows decoded.

    python -m benchmarks.codecs [--quick] [--json FILE]

The clips are GRID's where ../shared/data/grid_s1 lies beside the repository, else the toy world's.
A window is 8 frames at stride 2 from a random place of a random sample, RGB uint8. Quality is the
PSNR of the packed luma against the source's frames at the packed size. Higher is always better.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import simplejpeg

from xdc_fast.shards.clock import nearest_rate, shown
from xdc_fast.shards.convert import Settings
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.encode import Scaler
from xdc_fast.shards.media import choose_streams, decode_frames, decoded, open_media
from xdc_fast.shards.pack import pack
from xdc_fast.shards.sources import collect

GRID = Path(__file__).parents[2] / "shared/data/grid_s1"
WINDOW = 2 * np.arange(8)


def clips(folder: Path, count: int) -> tuple[str, Path]:
    """A folder of `count` videos, and what they are."""
    if GRID.is_dir():
        every = sorted(GRID.glob("*.mp4"))
        for path in every[:: max(1, len(every) // count)][:count]:
            shutil.copy(path, folder)
        return "grid", folder
    from xdc_fast.shards.toy import make_toy

    make_toy(folder / "toy", videos=count, classes=4, seed=0, workers=1)
    return "toy", folder / "toy"


def decode_jpeg_window(shards: ShardSet, index: int, start: int) -> np.ndarray:
    name, row = shards.row(index)
    packets = shards.packets(name, row, start + WINDOW)
    return np.stack([simplejpeg.decode_jpeg(packet) for packet in packets])


def decode_h264_window(shards: ShardSet, index: int, start: int) -> np.ndarray:
    return decode_frames(shards.video_file(index), start + WINDOW)


def windows_per_second(shards: ShardSet, decode, windows: int, rounds: int) -> list[float]:
    """The rate of each round over the same random windows, after one round of warming up."""
    rng = np.random.default_rng(0)
    rows = shards.rows()
    indices = rng.integers(len(shards), size=windows)
    starts = [int(rng.integers(rows["frames"][i] - WINDOW[-1])) for i in indices]
    rates = []
    for _ in range(rounds + 1):
        begun = time.perf_counter()
        for index, start in zip(indices, starts, strict=True):
            decode(shards, int(index), start)
        rates.append(windows / (time.perf_counter() - begun))
    return rates[1:]


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
        wanted = shown(decoded(source, stream), meta["start"], rate, count, tick)
        return [
            float(np.square(luma(scale(frame)) - luma(found)).mean())
            for frame, found in zip(wanted, packed.decode(video=0), strict=True)
        ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a few seconds, for a smoke test")
    parser.add_argument("--json", type=Path, help="write the results here")
    options = parser.parse_args()
    count, windows, rounds = (8, 30, 1) if options.quick else (100, 400, 5)
    results = []
    with tempfile.TemporaryDirectory() as folder:
        source, place = clips(_new(Path(folder) / "clips"), count)
        for codec, decode in (("jpeg", decode_jpeg_window), ("h264", decode_h264_window)):
            out = Path(folder) / codec
            begun = time.perf_counter()
            summary = pack(collect([place], None, out), out, Settings(codec=codec), workers=1)
            rate = summary.packed / (time.perf_counter() - begun)
            shards = ShardSet(out)
            megabytes = int(shards.rows()["video_bytes"].sum()) / 1e6
            size = f"{shards.row(0)[1]['width']}x{shards.row(0)[1]['height']}"
            case = f"{codec}, {source}, {size} at {shards.settings['fps']:g} fps"
            lasting = shards.manifest["seconds"] / megabytes
            results.append(_item("size", case, "seconds of video per MB", [lasting]))
            some = range(0, len(shards), max(1, len(shards) // (10 if not options.quick else 2)))
            quality = luma_psnr(shards, place, some)
            results.append(_item("quality", case, "dB luma PSNR", [quality]))
            beside = f"{case}, 1 worker and the parent"
            results.append(_item("pack", beside, "videos per second", [rate], threads=2))
            rates = windows_per_second(shards, decode, windows, rounds)
            results.append(_item("decode", case, "windows of 8 frames per second", rates))
    for item in results:
        print(f"{item['stage']:7s} {item['case']:62s} {item['ours']:10.1f} {item['unit']}")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1) + "\n")


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _item(stage: str, case: str, unit: str, values: list[float], threads: int = 1) -> dict:
    return {
        "stage": stage,
        "case": case,
        "device": f"cpu, {os.cpu_count()} cores",
        "threads": threads,
        "unit": unit,
        "ours": statistics.median(values),
        "peers": {},
        "limit": None,
        "runs": len(values),
    }


if __name__ == "__main__":
    main()
