"""What lies where in one tar shard: the rows of its sidecars, read from the tar itself."""

from __future__ import annotations

import io
import json
import struct
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from xdc_fast.shards.format import PACKET, SAMPLE
from xdc_fast.shards.tar import Entry, dali_index, entries

VIDEO = ("mp4", "mov", "mkv", "webm", "avi")
AUDIO = ("wav", "flac", "ogg", "mp3", "m4a")


@dataclass
class Scan:
    """One shard's tables."""

    samples: np.ndarray
    packets: np.ndarray
    idx: str
    keys: list[str]
    facts: list[dict]

    def write(self, stem: Path) -> None:
        """Write the sidecars STEM.idx, .samples.npy and .packets.npy."""
        Path(f"{stem}.idx").write_text(self.idx)
        np.save(f"{stem}.samples.npy", self.samples)
        np.save(f"{stem}.packets.npy", self.packets)


class ScanError(Exception):
    """A sample whose files cannot be understood: (key, what)."""


def scan(path: Path, first: int, rate: int) -> Scan:
    """Read a shard whose first sample has index `first`; sound counts at `rate` Hz.

    Raises ScanError, tarfile.TarError or EOFError.
    """
    found = list(entries(path))
    samples = np.zeros(len(found), SAMPLE)
    packets: list[np.ndarray] = []
    facts, count = [], 0
    with path.open("rb") as file:
        for number, entry in enumerate(found):
            row = samples[number]
            row["index"] = first + number
            facts.append(_meta(file, entry, row))
            video = _video(file, entry, row)
            _audio(file, entry, row, rate)
            row["packet"] = count if len(video) else -1
            packets.append(video)
            count += len(video)
    table = np.concatenate([np.zeros(0, PACKET), *packets])
    return Scan(samples, table, dali_index(found), [entry.key for entry in found], facts)


def _read(file, member) -> bytes:
    file.seek(member.offset)
    return file.read(member.size)


def _pick(entry: Entry, extensions: tuple[str, ...]):
    return next((entry.members[e] for e in extensions if e in entry.members), None)


def _meta(file, entry: Entry, row: np.void) -> dict:
    """The sample's metadata; a bare .cls or .txt is its label."""
    if "json" in entry.members:
        member = entry.members["json"]
        row["meta"], row["meta_bytes"] = member.offset, member.size
        try:
            facts = json.loads(_read(file, member))
        except ValueError as error:
            raise ScanError(entry.key, f"json: {error}") from None
        return facts if isinstance(facts, dict) else {}
    member = _pick(entry, ("cls", "txt"))
    if member is None:
        return {}
    value = _read(file, member).decode("utf-8", "replace").strip()
    return {"labels": {"class" if member.extension == "cls" else "text": value}}


def _video(file, entry: Entry, row: np.void) -> np.ndarray:
    """Fill in the video's columns; returns its PACKET rows, none unless they are JPEGs."""
    member = _pick(entry, VIDEO)
    if member is None:
        raise ScanError(entry.key, "no video file (" + ", ".join(VIDEO) + ")")
    row["video"], row["video_bytes"] = member.offset, member.size
    content = _read(file, member)
    try:
        with av.open(io.BytesIO(content)) as container:
            stream = container.streams.video[0]
            places = [(p.pos, p.size) for p in container.demux(stream) if p.size]
            row["frames"], row["fps"] = len(places), float(stream.average_rate or 0)
            context = stream.codec_context
            row["width"], row["height"] = context.width, context.height
            is_jpeg = context.name == "mjpeg"
    except (av.FFmpegError, IndexError, AttributeError) as error:
        raise ScanError(entry.key, f"{member.extension}: {error}") from None
    table = np.array(places, dtype=PACKET)
    located = is_jpeg and all(
        content[offset : offset + 2] == b"\xff\xd8" and content[offset + size - 2 : offset + size]
        == b"\xff\xd9" for offset, size in places
    )
    if not located:
        return table[:0]
    table["offset"] += member.offset
    return table


def _audio(file, entry: Entry, row: np.void, rate: int) -> None:
    """Fill in the audio's columns: its own file, or the video file where it holds the sound."""
    member = _pick(entry, AUDIO) or _pick(entry, VIDEO)
    row["audio"], row["audio_bytes"], row["pcm"] = member.offset, member.size, -1
    content = _read(file, member)
    try:
        if _plain_pcm(content, row, rate):
            return
        row["pcm"] = -1
        with av.open(io.BytesIO(content)) as container:
            stream = container.streams.audio[0]
            length = stream.duration * stream.time_base if stream.duration else None
            length = length or (container.duration or 0) / 1e6
            row["samples"] = round(length * rate)
    except (av.FFmpegError, IndexError) as error:
        raise ScanError(entry.key, f"{member.extension}: no sound ({error})") from None


def _plain_pcm(content: bytes, row: np.void, rate: int) -> bool:
    """Whether a wav is 16-bit mono PCM at `rate`; if so its place and length are filled in."""
    if content[:4] != b"RIFF" or content[8:12] != b"WAVE":
        return False
    position, plain = 12, False
    while position + 8 <= len(content):
        name, size = struct.unpack_from("<4sI", content, position)
        position += 8
        if name == b"fmt ":
            form, channels, hertz, _, _, bits = struct.unpack_from("<HHIIHH", content, position)
            plain = (form, channels, hertz, bits) == (1, 1, rate, 16)
        if name == b"data":
            row["samples"] = min(size, len(content) - position) // 2
            row["pcm"] = row["audio"] + position
            return plain
        position += size + size % 2
    return False
