"""The rows of a shard's sidecars, read from the tar."""

from __future__ import annotations

import hashlib
import io
import json
import math
import struct
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xdc_fast.shards.describe import (
    Unusable,
    Video,
    check_last,
    describe_sound,
    describe_video,
    tracks_of,
)
from xdc_fast.shards.format import LABEL_SEPARATOR, PACKET, SAMPLE, TRACKS
from xdc_fast.shards.section import Section, open_section
from xdc_fast.shards.shard_table import SIDECARS
from xdc_fast.shards.sidecars import bounds_fault
from xdc_fast.shards.tar import Entry, Member, dali_index, entries
from xdc_fast.storage import Place, read_range, write

VIDEO = ("mp4", "m4v", "mov", "mkv", "webm", "avi", "ts", "mts", "mpg", "mpeg", "flv", "wmv", "3gp")
AUDIO = (
    *("wav", "flac", "ogg", "oga", "opus", "mp3"),
    *("m4a", "mka", "aac", "aif", "aiff", "caf", "wma"),
)
SURVEYED = 100  # samples
MOST = np.iinfo(PACKET).max  # bytes
WAV_HEAD = 4096  # bytes; a header that is longer goes to the decoder


@dataclass
class Scan:
    """One shard's tables.

    samples: SAMPLE rows. packets: the PACKET table. idx: DALI's index file. keys and
    metadata: of each sample. rate: of the sound, Hz. refused: (key, reason, detail) of the samples
    that cannot be used, and that are in no table.
    """

    samples: np.ndarray
    packets: np.ndarray
    idx: str
    keys: list[str]
    metadata: list[dict]
    rate: int
    refused: list[tuple[str, str, str]]

    @property
    def label_names(self) -> set[str]:
        return {name for metadata in self.metadata for name in _labels(metadata)}

    def rows(self, shard: str, label_names: list[str]) -> list[list]:
        """The rows of samples.csv without their index; shard: the tar's file name."""
        return [
            [*self._facts(number, shard), *(labels.get(name, "") for name in label_names)]
            for number, labels in enumerate(map(_labels, self.metadata))
        ]

    def refusals(self, shard: str) -> list[tuple[str, ...]]:
        """The rows of refused.csv; shard: the tar's file name."""
        return [(f"{shard}/{key}", reason, detail, "", "") for key, reason, detail in self.refused]

    def _facts(self, number: int, shard: str) -> list:
        """The SAMPLE_COLUMNS of one sample but its index."""
        row, key, metadata = self.samples[number], self.keys[number], self.metadata[number]
        frames, video = int(row["frames"]), row["video"] >= 0
        seconds = frames / float(row["fps"]) if video else int(row["samples"]) / self.rate
        source = _text(metadata.get("source") or key)
        return [key, shard, source, _start(metadata), seconds, frames]

    def write(self, out: Place, tar: str) -> dict[str, str]:
        """Write the sidecars of a tar, .idx, .samples.npy and .packets.npy, beside it; returns
        their checksums."""
        sums = {}
        for suffix, content in self.sidecars().items():
            write(out / f"{tar.removesuffix('.tar')}{suffix}", content)
            sums[suffix] = hashlib.sha256(content).hexdigest()
        return sums

    def sidecars(self) -> dict[str, bytes]:
        """The content of each sidecar, by the ending of its name."""
        tables = [io.BytesIO(), io.BytesIO()]
        for file, table in zip(tables, (self.samples, self.packets), strict=True):
            np.save(file, table)
        contents = [self.idx.encode(), *(file.getvalue() for file in tables)]
        return dict(zip(SIDECARS, contents, strict=True))


def _start(metadata: dict) -> float:
    """Seconds into the source at which a segment of it begins; 0 for a whole one."""
    span = metadata.get("span")
    start = span[0] if isinstance(span, list) and span else 0.0
    plain = isinstance(start, int | float) and math.isfinite(start)
    return float(start) if plain else 0.0


def _labels(metadata: dict) -> dict[str, str]:
    labels = metadata.get("labels")
    return {_text(name): _cell(label) for name, label in labels.items()} if labels else {}


def _cell(label: object) -> str:
    """A label as a cell of samples.csv: several are joined, none is empty."""
    if isinstance(label, list):
        return LABEL_SEPARATOR.join(filter(None, map(_cell, label)))
    return "" if label is None else _text(label)


def _text(value: object) -> str:
    """A value of a JSON document as text; half a character, which JSON may hold, is escaped."""
    return str(value).encode(errors="backslashreplace").decode()


class ScanError(Exception):
    """A tar that cannot be read, or of which nothing can be used; `what` does not name it."""

    def __init__(self, path: Place, what: str):
        super().__init__(f"{path}: {what}")
        self.what = what


def scan(path: Place, rate: int, modalities: tuple[str, ...]) -> Scan:
    """Read a shard, of one on storage what its rows need.

    rate: of the sound, Hz. modalities: the tracks of the set,
    video, audio or both. Samples that lack one of them, or that cannot be read, are refused.
    Raises ScanError, and OSError.
    """
    found: list[Entry] = []
    rows, packets, metadata, refused = [], [np.zeros(0, PACKET)], [], []
    seen: set[str] = set()
    count = 0
    with open_section(path) as tar:
        for entry in _entries(path, tar):
            try:
                if entry.key in seen:
                    raise Unusable("key used twice", "the files of a sample must be adjacent")
                if entry.twice:
                    raise Unusable("key used twice", f"{entry.twice} is there twice")
                seen.add(entry.key)
                row, places, facts = _SampleFiles(tar, entry).describe(modalities, rate)
                _check_bounds(row, places, tar.size, modalities)
            except Unusable as error:
                tar.check()
                refused.append((entry.key, error.reason, error.detail))
                continue
            tar.check()
            row["place"] = len(found)
            row["packet"] = count if len(places) else -1
            count += len(places)
            found.append(entry)
            rows.append(row)
            packets.append(places)
            metadata.append(facts)
    keys = [entry.key for entry in found]
    samples = np.array(rows, SAMPLE)
    return Scan(samples, np.concatenate(packets), dali_index(found), keys, metadata, rate, refused)


def _check_bounds(
    row: np.ndarray, places: np.ndarray, size: int, modalities: tuple[str, ...]
) -> None:
    """Raises Unusable for a row that readers would refuse; size: of the tar."""
    row["packet"] = 0 if len(places) else -1
    alone = {"samples": 1, "bytes": size}
    if fault := bounds_fault(row[None], places, alone, modalities):
        raise Unusable("damaged", fault.replace(" of sample 0", ""))


def survey(paths: Sequence[Place]) -> tuple[tuple[str, ...], int]:
    """The tracks that most samples of tars have, and the rate of most of their sounds, Hz, or 0.

    Looks at the first SURVEYED samples that have any. Raises ScanError where none has.
    """
    tracks: Counter[tuple[str, ...]] = Counter()
    rates: Counter[int] = Counter()
    error: ScanError | None = None
    for path in paths:
        with open_section(path) as tar:
            for entry in _entries(path, tar):
                try:
                    found, rate = _SampleFiles(tar, entry).tracks()
                except Unusable as unusable:
                    tar.check()
                    what = f"no sample can be used; {entry.key}: {unusable}"
                    error = error or ScanError(path, what)
                    continue
                tracks[found] += 1
                rates[rate] += "audio" in found
                if tracks.total() == SURVEYED:
                    break
        if tracks.total() == SURVEYED:
            break
    if not tracks:
        raise error or ScanError(paths[0], "there are no samples in it")
    if 2 * tracks[TRACKS["both"]] > tracks.total():
        modalities = TRACKS["both"]
    else:  # samples that have both will do too
        modalities = max(TRACKS["video"], TRACKS["audio"], key=lambda one: tracks[one])
    return modalities, rates.most_common(1)[0][0] if "audio" in modalities else 0


def _entries(path: Place, tar: Section) -> Iterator[Entry]:
    try:
        yield from entries(tar.part(0, tar.size))
        tar.check()
    except OSError:
        raise
    except Exception as error:  # tarfile raises many kinds for bad headers
        tar.check()
        raise ScanError(path, f"not a valid tar ({error}); repair or remove it") from None


def describe_files(
    files: dict[str, Path], rate: int, modalities: tuple[str, ...]
) -> tuple[np.ndarray, np.ndarray]:
    """The SAMPLE row and the PACKET table of a sample whose files are in no tar yet.

    files: by extension. Their offsets are from the beginning of the first one, as if they lay one
    after the other without headers; `moved` brings them into a tar. Raises Unusable.
    """
    members, size = {}, 0
    for extension, path in files.items():
        member = Member(path.name, extension, size, path.stat().st_size)
        members[extension], size = member, size + member.size
    row, packets, _ = _LooseFiles(files, Entry("", members)).describe(modalities, rate)
    _check_bounds(row, packets, size, modalities)
    return row, packets


def moved(row: np.ndarray, place: int, packet: int, entry: Entry) -> np.ndarray:
    """A row of `describe_files` for sample number `place` of a tar, whose files entry names.

    packet: its first number in the table of packets.
    """
    row = row.copy()
    row["place"] = place
    row["packet"] = packet if row["packet"] >= 0 else -1
    members = entry.members
    if row["pcm"] >= 0:
        row["pcm"] += members["wav"].offset - row["audio"]
    for column, extension in (("video", "mp4"), ("audio", "wav"), ("meta", "json")):
        if member := members.get(extension):
            row[column], row[f"{column}_bytes"] = member.offset, member.size
    return row


class _SampleFiles:
    """The files of one sample in an open tar. Its methods raise Unusable."""

    def __init__(self, tar: Section, entry: Entry):
        self._tar, self._members = tar, entry.members

    def tracks(self) -> tuple[tuple[str, ...], int]:
        """The tracks of the sample, at least one, and the rate of its sound, Hz, or 0."""
        found, rate = set[str](), 0
        if video := self._pick(VIDEO):
            found, rate = tracks_of(self._open(video))
        if sound := self._pick(AUDIO):
            others, rate = tracks_of(self._open(sound))
            found |= others & {"audio"}
        if not found:
            raise Unusable("no video", f"nor sound; {self._names()}")
        return tuple(track for track in TRACKS["both"] if track in found), rate

    def describe(
        self, modalities: tuple[str, ...], rate: int
    ) -> tuple[np.ndarray, np.ndarray, dict]:
        """Its SAMPLE row, where its frames begin (empty unless all are JPEGs), its metadata."""
        row, packets = np.zeros((), SAMPLE), np.zeros(0, PACKET)
        row["video"] = row["audio"] = row["pcm"] = -1
        metadata = self._metadata(row)
        if "video" in modalities:
            member = self._locate("video", VIDEO, row)
            content = self._open(member)
            video = describe_video(content)
            origin = video.begin
        if "audio" in modalities:
            member = self._locate("audio", (*AUDIO, *VIDEO), row)
            if row["audio"] == row["video"]:
                origin, row["samples"] = describe_sound(content, rate, origin)
            elif not self._plain_pcm(member, rate, row):
                _, row["samples"] = describe_sound(self._open(member), rate)
            if not row["samples"]:
                raise Unusable("too short", "there is no sound beside the pictures")
        if "video" in modalities:
            row["frames"], row["fps"] = video.count(origin), float(video.fps)
            row["origin"], row["hold"] = origin, video.hold
            row["width"], row["height"] = video.width, video.height
            if not row["frames"]:
                raise Unusable("too short", "there are no pictures beside the sound")
            packets = self._packets(row, content, video)
        return row, packets, metadata

    def _packets(self, row: np.ndarray, content: Section, video: Video) -> np.ndarray:
        """Where the frames lie in the tar, if all are JPEGs; else the last one must decode."""
        origin = float(row["origin"])
        places = video.jpegs_of(origin)
        if not len(places) or not video.is_picture(content, places[0]):
            check_last(content, video, origin)
            return np.zeros(0, PACKET)
        begins = np.append(places[:, 0], places[-1].sum())
        return begins.astype(PACKET) if begins[-1] <= MOST else np.zeros(0, PACKET)

    def _locate(self, track: str, extensions: tuple[str, ...], row: np.ndarray) -> Member:
        """The file that holds a track, put into the row."""
        member = self._pick(extensions)
        if member is None:
            raise Unusable(f"no {track}", self._names())
        row[track], row[f"{track}_bytes"] = member.offset, member.size
        return member

    def _names(self) -> str:
        """What the sample has, where that is not what was looked for."""
        known = f"its files end in {', '.join(f'.{name}' for name in self._members)}"
        if any("." in name for name in self._members):
            known += "; a name has no dot but the one before its extension"
        return known

    def _pick(self, extensions: tuple[str, ...]) -> Member | None:
        return next((self._members[e] for e in extensions if e in self._members), None)

    def _open(self, member: Member) -> Section:
        return self._tar.part(member.offset, member.size)

    def _metadata(self, row: np.ndarray) -> dict:
        """The sample's JSON file; a .cls or .txt file beside it is a label."""
        metadata: dict = {}
        if member := self._members.get("json"):
            row["meta"], row["meta_bytes"] = member.offset, member.size
            try:
                content = json.loads(self._open(member).read())
            except (ValueError, RecursionError) as error:
                raise Unusable("bad metadata", str(error)) from None
            metadata = content if isinstance(content, dict) else {}
        labels = metadata.get("labels")
        beside = {
            name: self._open(self._members[extension]).read().decode("utf-8", "replace").strip()
            for extension, name in (("cls", "class"), ("txt", "text"))
            if extension in self._members
        }
        return {**metadata, "labels": {**beside, **(labels if isinstance(labels, dict) else {})}}

    def _plain_pcm(self, member: Member, rate: int, row: np.ndarray) -> bool:
        """Whether a file is a wav of 16-bit mono PCM at `rate`; if so, fill in pcm and samples."""
        head = self._open(member).read(WAV_HEAD)
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
                    rest = member.size - position
                    row["samples"] = min(size or rest, rest) // 2  # 0: written to a pipe
                    row["pcm"] = member.offset + position
                return plain
            position += size + size % 2
        return False


class _LooseFiles(_SampleFiles):
    """The files of one sample, each by itself."""

    def __init__(self, files: dict[str, Path], entry: Entry):
        self._files, self._members = files, entry.members

    def _open(self, member: Member) -> Section:
        path = self._files[member.extension]
        return Section(lambda begin, count: bytes(read_range(path, begin, count)), 0, member.size)
