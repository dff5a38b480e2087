"""What lies where in one tar shard: the rows of its sidecars, read from the tar itself."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from xdc_fast.files import replacing
from xdc_fast.shards.format import PACKET, SAMPLE, TRACKS
from xdc_fast.shards.tar import Entry, Member, dali_index, entries

VIDEO = ("mp4", "mov", "mkv", "webm", "avi")
AUDIO = ("wav", "flac", "ogg", "mp3", "m4a")


@dataclass
class Scan:
    """One shard's tables; sound counts at `rate` Hz."""

    samples: np.ndarray
    packets: np.ndarray
    idx: str
    keys: list[str]
    facts: list[dict]
    rate: int

    def write(self, stem: Path) -> None:
        """Write the sidecars STEM.idx, .samples.npy and .packets.npy."""
        with replacing(Path(f"{stem}.idx"), encoding="utf-8") as file:
            file.write(self.idx)
        for name, table in (("samples", self.samples), ("packets", self.packets)):
            with replacing(Path(f"{stem}.{name}.npy"), "wb") as file:
                np.save(file, table)


class ScanError(Exception):
    """A sample whose files cannot be understood."""

    def __init__(self, key: str, what: str):
        super().__init__(f"{key}: {what}")
        self.key, self.what = key, what


def scan(path: Path, first: int, rate: int, modalities: tuple[str, ...]) -> Scan:
    """Read a shard whose first sample has index `first`; sound counts at `rate` Hz.

    modalities: the tracks that every sample has, video, audio or both.
    Raises ScanError, tarfile.TarError or EOFError.
    """
    found = list(entries(path))
    samples = np.zeros(len(found), SAMPLE)
    packets, facts, count = [np.zeros(0, PACKET)], [], 0
    for number, entry in enumerate(found):
        row = samples[number]
        row["index"] = first + number
        row["video"] = row["audio"] = row["pcm"] = -1
        facts.append(_meta(path, entry, row))
        if len(modalities) == 1:
            _refuse_others(path, entry, modalities)
        video = _video(path, entry, row) if "video" in modalities else packets[0]
        if "audio" in modalities:
            _audio(path, entry, row, rate)
        row["packet"] = count if len(video) else -1
        packets.append(video)
        count += len(video)
    keys = [entry.key for entry in found]
    return Scan(samples, np.concatenate(packets), dali_index(found), keys, facts, rate)


def probe(path: Path) -> tuple[tuple[str, ...], int]:
    """What the first sample holds (video, audio or both), and its sound's rate in Hz, or 0."""
    entry = next(entries(path), None)
    if entry is None:
        raise ScanError("", "the shard is empty")
    modalities = _modalities(path, entry)
    if not modalities:
        raise ScanError(entry.key, "neither video nor sound")
    if "audio" not in modalities:
        return modalities, 0
    member = _pick(entry, AUDIO) or _pick(entry, VIDEO)
    try:
        with _open(path, member) as container:
            return modalities, container.streams.audio[0].codec_context.sample_rate
    except (av.FFmpegError, IndexError) as error:
        raise ScanError(entry.key, f"{member.extension}: no sound ({error})") from None


def _modalities(path: Path, entry: Entry) -> tuple[str, ...]:
    """The tracks of a sample by its files' names and, of a video file, by what is in it."""
    member, found = _pick(entry, VIDEO), {"audio"} if _pick(entry, AUDIO) else set()
    if member is not None:
        try:
            with _open(path, member) as container:
                found |= {stream.type for stream in container.streams}
        except av.FFmpegError as error:
            raise ScanError(entry.key, f"{member.extension}: {error}") from None
    return tuple(m for m in TRACKS["both"] if m in found)


def _refuse_others(path: Path, entry: Entry, modalities: tuple[str, ...]) -> None:
    """ScanError where a sample has a track besides the one that its set has."""
    others = [m for m in _modalities(path, entry) if m not in modalities]
    if others:
        raise ScanError(entry.key, f"has {others[0]}, the set has {modalities[0]} only")


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _open(path: Path, member: Member) -> av.container.InputContainer:
    """A file inside the tar, by FFmpeg, without reading it whole."""
    return av.open(f"subfile,,start,{member.offset},end,{member.offset + member.size},,:{path}")


def _pick(entry: Entry, extensions: tuple[str, ...]) -> Member | None:
    return next((entry.members[e] for e in extensions if e in entry.members), None)


def _meta(path: Path, entry: Entry, row: np.void) -> dict:
    """The sample's metadata; without any, a .cls or .txt file is its label."""
    if "json" in entry.members:
        member = entry.members["json"]
        row["meta"], row["meta_bytes"] = member.offset, member.size
        try:
            facts = json.loads(_read(path, member.offset, member.size))
        except ValueError as error:
            raise ScanError(entry.key, f"json: {error}") from None
        return facts if isinstance(facts, dict) else {}
    member = _pick(entry, ("cls", "txt"))
    if member is None:
        return {}
    value = _read(path, member.offset, member.size).decode("utf-8", "replace").strip()
    return {"labels": {"class" if "cls" in entry.members else "text": value}}


def _video(path: Path, entry: Entry, row: np.void) -> np.ndarray:
    """Fill in the video's columns; returns its PACKET rows, none unless all are JPEGs."""
    member = _pick(entry, VIDEO)
    if member is None:
        raise ScanError(entry.key, f"no video file ({', '.join(VIDEO)})")
    row["video"], row["video_bytes"] = member.offset, member.size
    try:
        with _open(path, member) as container:
            stream = container.streams.video[0]
            packets = [packet for packet in container.demux(stream) if packet.size]
            row["frames"], row["fps"] = len(packets), float(stream.average_rate or 0)
            context = stream.codec_context
            row["width"], row["height"] = context.width, context.height
            jpeg = context.name == "mjpeg"
    except (av.FFmpegError, IndexError, AttributeError) as error:
        raise ScanError(entry.key, f"{member.extension}: {error}") from None
    if not packets:
        raise ScanError(entry.key, f"{member.extension}: the video track is empty")
    located = jpeg and all(packet.pos is not None for packet in packets)
    if located and all(_is_located(path, packet, row) for packet in (packets[0], packets[-1])):
        return np.array([(packet.pos + member.offset, packet.size) for packet in packets], PACKET)
    return np.zeros(0, PACKET)


def _is_located(path: Path, packet: av.Packet, row: np.void) -> bool:
    """Whether the packet's position is that of its bytes: some containers give another."""
    return bytes(packet) == _read(path, int(row["video"]) + packet.pos, packet.size)


def _audio(path: Path, entry: Entry, row: np.void, rate: int) -> None:
    """Fill in the audio's columns: its own file, or the video file where it holds the sound."""
    member = _pick(entry, AUDIO) or _pick(entry, VIDEO)
    if member is None:
        raise ScanError(entry.key, f"no sound file ({', '.join(AUDIO)})")
    row["audio"], row["audio_bytes"] = member.offset, member.size
    if _plain_pcm(path, member, row, rate):
        return
    try:
        with _open(path, member) as container:
            stream = container.streams.audio[0]
            length = stream.duration * stream.time_base if stream.duration else None
            row["samples"] = round((length or (container.duration or 0) / 1_000_000) * rate)
    except (av.FFmpegError, IndexError) as error:
        raise ScanError(entry.key, f"{member.extension}: no sound ({error})") from None


def _plain_pcm(path: Path, member: Member, row: np.void, rate: int) -> bool:
    """Whether a file is a wav of 16-bit mono PCM at `rate`; if so, fill in place and length."""
    head = _read(path, member.offset, min(member.size, 4096))
    if head[:4] != b"RIFF" or head[8:12] != b"WAVE":
        return False
    position, plain = 12, False
    while position + 8 <= len(head):
        name, size = struct.unpack_from("<4sI", head, position)
        position += 8
        if name == b"fmt " and position + 16 <= len(head):
            form, channels, hertz, _, _, bits = struct.unpack_from("<HHIIHH", head, position)
            plain = (form, channels, hertz, bits) == (1, 1, rate, 16)
        if name == b"data":
            if plain:
                row["samples"] = min(size, member.size - position) // 2
                row["pcm"] = member.offset + position
            return plain
        position += size + size % 2
    return False
