"""The tables beside a tar, checked when they are opened."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from xdc_fast.errors import UserError
from xdc_fast.files import damaged
from xdc_fast.shards.format import PACKET, SAMPLE, TRACKS
from xdc_fast.shards.remote import RemoteFiles
from xdc_fast.shards.tar import checksum

LARGEST = 1 << 15  # pixels of a side
LONGEST = 1e7  # seconds
MOST_FRAMES = 1000  # a second


def open_sidecars(
    root: Path | RemoteFiles, shard: dict, modalities: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The SAMPLE rows (N,) and the PACKET table of a shard, mapped.

    shard: its record. modalities: the tracks of the set. Raises UserError where a
    file is missing or damaged, or says what cannot be of its tar.
    """
    hint = f"put back a copy of it, or rebuild it with `xdc-shard index {root}`"
    stem = shard["name"].removesuffix(".tar")
    tables = []
    for suffix, dtype in ((".samples.npy", SAMPLE), (".packets.npy", PACKET)):
        path = root / f"{stem}{suffix}"
        try:
            if checksum(path) != shard["sidecars"][suffix]:
                raise damaged(path, "its checksum is not the manifest's", hint)
            tables.append(map_array(path, dtype, hint))
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; {hint}") from None
    samples, packets = tables
    if fault := bounds_fault(samples, packets, shard, modalities):
        raise damaged(root / f"{stem}.samples.npy", fault, hint)
    return samples, packets


def map_array(path: Path, dtype: np.dtype, hint: str) -> np.ndarray:
    """The items of an .npy file of one axis, mapped.

    np.load would parse the header with `ast`, which is not safe in threads before Python 3.12
    (python/cpython#106905). Slices of np.memmap itself cost ten times those of the plain array.
    """
    with path.open("rb") as file:
        start = 10 + int.from_bytes(file.read(10)[8:], "little")  # magic, version, header length
        header = file.read(start - 10)
    rest = path.stat().st_size - start
    wanted = repr(np.lib.format.dtype_to_descr(dtype)).encode()
    if wanted not in header or rest < 0 or rest % dtype.itemsize:
        raise damaged(path, "not a table of this format", hint)
    if not rest:
        return np.empty(0, dtype)
    return np.memmap(path, dtype, mode="r", offset=start).view(np.ndarray)


def bounds_fault(
    samples: np.ndarray, packets: np.ndarray, shard: dict, modalities: tuple[str, ...]
) -> str:
    """What of a shard's rows cannot be of its tar; "" where all is well.

    Arguments as of `open_sidecars`, and what it returns.
    """
    if len(samples) != shard["samples"]:
        return f"{len(samples)} samples, {shard['samples']} were written"
    with np.errstate(all="ignore"):
        for name, right in _checks(samples, packets, shard, modalities).items():
            if not right.all():
                where = int(np.flatnonzero(~right)[0])
                return f"{name} of sample {where} is out of bounds"
    packed = samples["packet"] >= 0
    ends = np.cumsum(samples["frames"][packed].astype(np.int64) + 1)
    count = int(ends[-1]) if len(ends) else 0
    if count != len(packets):
        return f"{len(packets)} places of packets, {count} for its frames"
    rising = packets[1:] > packets[:-1]
    rising[ends[:-1] - 1] = True  # from one sample to the next
    inside = packets[ends - 1] <= samples["video_bytes"][packed]
    return "" if rising.all() and inside.all() else "packets outside of their file"


def _checks(
    samples: np.ndarray, packets: np.ndarray, shard: dict, modalities: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """{column: bool (N,), whether its values can be}."""
    rows, size = {name: samples[name] for name in SAMPLE.names or ()}, shard["bytes"]
    frames = rows["frames"].astype(np.int64)
    counts = np.where(rows["packet"] >= 0, frames + 1, 0)
    firsts = np.cumsum(counts) - counts
    checks = {
        "place": rows["place"] == np.arange(len(samples)),
        "meta": (rows["meta"] >= 0)
        & (rows["meta_bytes"] >= 0)
        & (rows["meta"] <= size - rows["meta_bytes"]),
        "packet": (rows["packet"] == -1) | (rows["packet"] == firsts),
    }
    for track in TRACKS["both"]:
        place, length = rows[track], rows[f"{track}_bytes"]
        if track in modalities:
            checks[track] = (place >= 0) & (length > 0) & (place <= size - length)
        else:
            checks[track] = place == -1
    if "video" in modalities:
        checks["frames"] = frames > 0
        checks["fps"] = (rows["fps"] > 0) & (rows["fps"] <= MOST_FRAMES)
        for side in ("width", "height"):
            checks[side] = (rows[side] > 0) & (rows[side] <= LARGEST)
        checks["origin"] = np.abs(rows["origin"]) <= LONGEST
        checks["hold"] = (rows["hold"] > 0) & (rows["hold"] <= LONGEST)
    if "audio" in modalities:
        ends = rows["audio"] + rows["audio_bytes"]
        plain = (rows["pcm"] >= rows["audio"]) & (rows["samples"] <= (ends - rows["pcm"]) // 2)
        checks["samples"] = rows["samples"] > 0
        checks["pcm"] = (rows["pcm"] == -1) | plain
    return checks
