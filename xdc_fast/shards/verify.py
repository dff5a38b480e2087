"""Check a packed set against its manifest, and that it decodes."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import simplejpeg

from xdc_fast import progress
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.decode import decode_frames, decode_waveform
from xdc_fast.shards.format import SAMPLE_COLUMNS, SAMPLES
from xdc_fast.shards.scan import Scan, ScanError, scan
from xdc_fast.shards.tar import checksum

Damage = dict[str, str]  # shard, sample (its key, or empty), what


def verify(out: Path, decode: bool = False) -> dict:
    """Compare every shard with the manifest, the sidecars and samples.csv.

    decode: also decode every frame and all sound.
    Returns {"shards": int, "samples": int, "damaged": [{"shard", "sample", "what"}, ...]}.
    Raises UserError where there is no manifest.
    """
    shards = ShardSet(out)
    damaged: list[Damage] = []
    seen: set[str] = set()
    rows = _rows(shards, damaged)
    for record in progress.bar(shards.manifest["shards"], unit="shard", desc="verifying"):
        for sample, what in _check_shard(shards, record, rows, seen, decode):
            damaged.append({"shard": record["name"], "sample": sample, "what": what})
    return {"shards": len(shards.shards), "samples": len(shards), "damaged": damaged}


def _rows(shards: ShardSet, damaged: list[Damage]) -> list[dict[str, str]]:
    """The rows of samples.csv; an empty list where their number or their columns are wrong."""
    columns = [*SAMPLE_COLUMNS, *shards.label_names]
    try:
        rows = shards.table()
        if len(rows) != len(shards):
            what = f"{len(rows)} rows, the manifest says {len(shards)}"
        elif rows and list(rows[0]) != columns:
            what = f"its columns are not {', '.join(columns)}"
        else:
            return rows
    except FileNotFoundError:
        what = "missing"
    except (ValueError, csv.Error) as error:
        what = f"cannot be read ({error})"
    damaged.append({"shard": SAMPLES, "sample": "", "what": what})
    return []


def _check_shard(
    shards: ShardSet, record: dict, rows: list[dict[str, str]], seen: set[str], decode: bool
) -> Iterator[tuple[str, str]]:
    """Yield (sample key, what is wrong) for one shard.

    record: of the manifest. rows: of samples.csv, all or none. seen: keys of earlier shards.
    """
    path, first = shards.root / record["name"], record["first"]
    if not path.is_file():
        yield "", "missing"
        return
    size = path.stat().st_size
    if size != record["bytes"]:
        yield "", f"{size} bytes, the manifest says {record['bytes']}"
    elif checksum(path) != record["sha256"]:
        yield "", "the checksum differs from the manifest's"
    try:
        found = scan(path, first, shards.sample_rate, shards.modalities)
    except ScanError as error:
        yield error.key, error.what
        return
    if len(found.keys) != record["samples"]:
        yield "", f"{len(found.keys)} samples, the manifest says {record['samples']}"
    for key in found.keys:
        if key in seen:
            yield key, "its files are not adjacent, or the key is used twice"
        seen.add(key)
    expected = found.rows(path.name, shards.label_names)
    written = rows[first : first + record["samples"]]
    for row, key, values in zip(written, found.keys, expected, strict=False):
        for name, value in zip(row, values, strict=False):
            if str(value) != row[name]:
                yield key, f"its {name} is {value}, {SAMPLES} says {row[name]}"
    yield from _check_sidecars(path.with_suffix(""), found)
    if decode:
        for sample, key in zip(found.samples, found.keys, strict=True):
            for what in _check_decoding(path, sample, found.packets, shards.sample_rate):
                yield key, what


def _check_sidecars(stem: Path, found: Scan) -> Iterator[tuple[str, str]]:
    for suffix, expected in ((".samples.npy", found.samples), (".packets.npy", found.packets)):
        path = Path(f"{stem}{suffix}")
        try:
            if not np.array_equal(np.load(path), expected):
                yield "", f"{path.name} does not match the tar"
        except FileNotFoundError:
            yield "", f"{path.name} is missing"
        except (ValueError, EOFError, OSError) as error:
            yield "", f"{path.name} cannot be read ({error})"
    path = Path(f"{stem}.idx")
    if not path.is_file():
        yield "", f"{path.name} is missing"
    elif path.read_text(errors="replace") != found.idx:
        yield "", f"{path.name} does not match the tar"


def _check_decoding(path: Path, row: np.void, packets: np.ndarray, rate: int) -> Iterator[str]:
    """Yield the decoding errors of one sample."""
    data = np.memmap(path, mode="r", dtype=np.uint8)
    video = data[row["video"] : row["video"] + row["video_bytes"]]
    audio = data[row["audio"] : row["audio"] + row["audio_bytes"]]
    try:
        if row["packet"] >= 0:
            _decode_jpegs(data, packets[row["packet"] : row["packet"] + row["frames"]], row)
        elif row["video"] >= 0:
            _decode_all(video.tobytes(), int(row["frames"]))
    except (av.FFmpegError, ValueError) as error:
        yield f"video: {error}"
    try:
        if row["audio"] >= 0:
            decode_waveform(audio.tobytes(), rate)
    except (av.FFmpegError, ValueError) as error:
        yield f"audio: {error}"


def _decode_jpegs(data: np.ndarray, packets: np.ndarray, row: np.void) -> None:
    for number, (offset, size) in enumerate(packets):
        picture = simplejpeg.decode_jpeg(data[offset : offset + size], strict=True)
        if picture.shape[:2] != (row["height"], row["width"]):
            raise ValueError(f"frame {number} is {picture.shape[1]} x {picture.shape[0]}")


def _decode_all(video: bytes, frames: int, piece: int = 64) -> None:
    for first in range(0, frames, piece):
        decode_frames(video, np.arange(first, min(first + piece, frames)))
