"""The rows of a shard's sidecars, read from the tar."""

from __future__ import annotations

import json
import math
import struct
import tarfile
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np

from xdc_fast.files import replacing, write
from xdc_fast.shards.format import PACKET, SAMPLE, TRACKS
from xdc_fast.shards.tar import Entry, Member, dali_index, entries

VIDEO = ("mp4", "mov", "mkv", "webm", "avi")
AUDIO = ("wav", "flac", "ogg", "mp3", "m4a")


@dataclass
class Scan:
    """One shard's tables.

    samples: SAMPLE rows. packets: PACKET rows. idx: DALI's index file. keys and metadata: of each
    sample. rate: of the sound, Hz.
    """

    samples: np.ndarray
    packets: np.ndarray
    idx: str
    keys: list[str]
    metadata: list[dict]
    rate: int

    @property
    def label_names(self) -> set[str]:
        return {name for metadata in self.metadata for name in _labels(metadata)}

    def rows(self, shard: str, label_names: list[str]) -> list[list]:
        """The rows of samples.csv; shard: the tar's file name."""
        return [
            [*self._facts(number, shard), *(labels.get(name, "") for name in label_names)]
            for number, labels in enumerate(map(_labels, self.metadata))
        ]

    def _facts(self, number: int, shard: str) -> list:
        """The SAMPLE_COLUMNS of one sample."""
        row, key, metadata = self.samples[number], self.keys[number], self.metadata[number]
        frames, seconds = int(row["frames"]), metadata.get("seconds")
        if not isinstance(seconds, int | float):
            seconds = frames / (float(row["fps"]) or np.inf)
            if row["video"] < 0:
                seconds = int(row["samples"]) / self.rate
        source = str(metadata.get("source") or key)
        return [int(row["index"]), key, shard, source, _start(metadata), seconds, frames]

    def write(self, stem: Path) -> None:
        """Write the sidecars STEM.idx, .samples.npy and .packets.npy."""
        write(Path(f"{stem}.idx"), self.idx)
        for name, table in (("samples", self.samples), ("packets", self.packets)):
            with replacing(Path(f"{stem}.{name}.npy"), "wb") as file:
                np.save(file, table)


def _start(metadata: dict) -> float:
    """Seconds into the source at which a segment of it begins; 0 for a whole one."""
    span = metadata.get("span")
    start = span[0] if isinstance(span, list) and span else 0.0
    plain = isinstance(start, int | float) and math.isfinite(start)
    return float(start) if plain else 0.0


def _labels(metadata: dict) -> dict[str, str]:
    labels = metadata.get("labels")
    return {k: str(v) for k, v in labels.items()} if isinstance(labels, dict) else {}


class ScanError(Exception):
    """A shard that cannot be read. key: the faulty sample; "" where the tar is broken."""

    def __init__(self, key: str, what: str):
        super().__init__(f"sample {key}: {what}" if key else what)
        self.key, self.what = key, what


def scan(path: Path, first: int, rate: int, modalities: tuple[str, ...]) -> Scan:
    """Read a shard.

    first: index of its first sample. rate: of the sound, Hz. modalities: the tracks that every
    sample has: video, audio or both. Raises ScanError.
    """
    found = _entries(path)
    samples = np.zeros(len(found), SAMPLE)
    packets, metadata, count = [np.zeros(0, PACKET)], [], 0
    for number, entry in enumerate(found):
        row = samples[number]
        row["index"] = first + number
        row["video"] = row["audio"] = row["pcm"] = -1
        metadata.append(_meta(path, entry, row))
        if len(modalities) == 1:
            _check_modality(path, entry, modalities[0])
        video = _video(path, entry, row) if "video" in modalities else packets[0]
        if "audio" in modalities:
            _audio(path, entry, row, rate)
        row["packet"] = count if len(video) else -1
        packets.append(video)
        count += len(video)
    keys = [entry.key for entry in found]
    return Scan(samples, np.concatenate(packets), dali_index(found), keys, metadata, rate)


def probe(path: Path) -> tuple[tuple[str, ...], int]:
    """What a shard's first sample holds: video, audio or both, and its sound's rate in Hz, or 0.

    Raises ScanError.
    """
    found = _entries(path)
    if not found:
        raise ScanError("", "the shard is empty")
    entry = found[0]
    modalities = _modalities(path, entry)
    if not modalities:
        raise ScanError(entry.key, "neither video nor sound")
    if "audio" not in modalities:
        return modalities, 0
    member = _find_sound(entry)
    try:
        with _open(path, member) as container:
            return modalities, container.streams.audio[0].codec_context.sample_rate
    except (av.FFmpegError, IndexError) as error:
        raise ScanError(entry.key, f"{member.extension}: no sound ({error})") from None


def _entries(path: Path) -> list[Entry]:
    try:
        return list(entries(path))
    except (tarfile.TarError, EOFError) as error:
        raise ScanError("", f"not a valid tar ({error})") from None


def _modalities(path: Path, entry: Entry) -> tuple[str, ...]:
    """The tracks of a sample by its files' names and, of a video file, by what is in it."""
    member, found = _pick(entry, VIDEO), set()
    if _pick(entry, AUDIO):
        found.add("audio")
    if member is not None:
        try:
            with _open(path, member) as container:
                found |= {stream.type for stream in container.streams}
        except av.FFmpegError as error:
            raise ScanError(entry.key, f"{member.extension}: {error}") from None
    return tuple(m for m in TRACKS["both"] if m in found)


def _check_modality(path: Path, entry: Entry, modality: str) -> None:
    """Raises ScanError where a sample has another track than the only one of its set."""
    others = [m for m in _modalities(path, entry) if m != modality]
    if others:
        raise ScanError(entry.key, f"has {others[0]}, the set has {modality} only")


def _read(path: Path, offset: int, size: int) -> bytes:
    with path.open("rb") as file:
        file.seek(offset)
        return file.read(size)


def _open(path: Path, member: Member) -> av.container.InputContainer:
    """A file inside the tar, by FFmpeg, without reading it whole."""
    span = f"start,{member.offset},end,{member.offset + member.size}"
    return av.open(f"subfile,,{span},,:file:{path}")  # "file:": names may hold colons


def _pick(entry: Entry, extensions: tuple[str, ...]) -> Member | None:
    return next((entry.members[e] for e in extensions if e in entry.members), None)


def _find_sound(entry: Entry) -> Member:
    """The file that holds the sound: an audio file, or else the video file."""
    member = _pick(entry, AUDIO) or _pick(entry, VIDEO)
    if member is None:
        raise ScanError(entry.key, f"no sound file ({', '.join(AUDIO)})")
    return member


def _meta(path: Path, entry: Entry, row: np.void) -> dict:
    """The sample's metadata; without a JSON file, a .cls or .txt file is its label."""
    if "json" in entry.members:
        member = entry.members["json"]
        row["meta"], row["meta_bytes"] = member.offset, member.size
        try:
            content = json.loads(_read(path, member.offset, member.size))
        except ValueError as error:
            raise ScanError(entry.key, f"json: {error}") from None
        return content if isinstance(content, dict) else {}
    label = _pick(entry, ("cls", "txt"))
    if label is None:
        return {}
    value = _read(path, label.offset, label.size).decode("utf-8", "replace").strip()
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
    places = [(packet.pos, packet.size) for packet in packets if packet.pos is not None]
    if not jpeg or len(places) < len(packets):
        return np.zeros(0, PACKET)
    located = [(member.offset + position, size) for position, size in places]
    for packet, place in ((packets[0], located[0]), (packets[-1], located[-1])):
        if bytes(packet) != _read(path, *place):  # some containers give other positions
            return np.zeros(0, PACKET)
    return np.array(located, PACKET)


def _audio(path: Path, entry: Entry, row: np.void, rate: int) -> None:
    """Fill in the audio's columns."""
    member = _find_sound(entry)
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
    """Whether a file is a wav of 16-bit mono PCM at `rate`; if so, fill in pcm and samples."""
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
