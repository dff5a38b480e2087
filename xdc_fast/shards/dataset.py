"""A packed set, open for reading: samples, frame packets and stretches of sound by byte offset."""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Iterator
from difflib import get_close_matches
from functools import cached_property, lru_cache
from operator import index as as_index
from pathlib import Path

import numpy as np

from xdc_fast.errors import UserError
from xdc_fast.files import damaged
from xdc_fast.shards.cache import Cache, default_folder
from xdc_fast.shards.decode import decode_frames, decode_waveform
from xdc_fast.shards.format import LABEL_SEPARATOR, SAMPLE_COLUMNS, SAMPLES
from xdc_fast.shards.remote import RemoteFiles
from xdc_fast.shards.sample import Sample
from xdc_fast.shards.shard_table import record_of
from xdc_fast.shards.sidecars import open_sidecars
from xdc_fast.shards.streams import Clock
from xdc_fast.shards.tables import modalities_of, open_shards, read_label, read_manifest
from xdc_fast.storage import URL, Place, place_of, read_range

CACHE_GB = 50.0
PLACE = np.dtype([("offset", "<i8"), ("bytes", "<i8")])  # of a packet in its tar


def _map(path: Path, size: int) -> np.ndarray:
    """The bytes of a tar, mapped; raises OSError unless it has this size.

    Slices of np.memmap itself cost ten times those of the array.
    """
    if (found := path.stat().st_size) != size:
        raise OSError(f"the tar has {found} bytes, the manifest says {size}")
    return np.memmap(path, mode="r", dtype=np.uint8).view(np.ndarray)


def clock_of(row: np.void) -> Clock:
    """The clock of a sample's pictures; row: of SAMPLE."""
    return Clock(float(row["origin"]), float(row["fps"]), float(row["hold"]))


class ShardSet:
    """The samples of one packed set: `len(shards)` of them, `shards[i]` is a Sample.

    Negative indices and IndexError are those of a list. A set can be pickled (the copy opens the
    folder again), and torch.utils.data.DataLoader takes it as a map-style dataset.

    Args:
        root: the folder that `xdc-shard pack` or `xdc-shard index` wrote; a local path, s3://,
            gs://, az:// or http(s)://. Credentials come from the environment.
        cache: a folder of this machine for what is kept of a set on storage; by default
            ~/.cache/xdc_fast.
        cache_gb: what it may hold, in 10⁹ bytes.

    Attributes:
        root: where the set is.
        files: `shards.files / NAME` is the local path of a table; on storage, of a copy of it.
        modalities: the tracks that every sample has, ("video", "audio") or one of them.
        sample_rate: of the sound, in Hz.
        label_names: the label columns.
        settings: how the set was packed; see the shard format.
        shards: the names of its tars.
        shard_sizes: int64 (tars,), the samples of each.
        manifest: the content of manifest.json.

    Raises:
        UserError: for a folder that holds no complete set, or one of another format.

    >>> shards = xdc_fast.ShardSet("shards")
    >>> len(shards), shards.modalities, shards.sample_rate
    (48, ('video', 'audio'), 16000)
    >>> sample = shards[0]
    >>> sample.video().shape, sample.audio().shape, sample.labels["class"]
    ((45, 40, 40, 3), (48000,), '2')
    """

    def __init__(
        self, root: str | Place, cache: str | Path | None = None, cache_gb: float = CACHE_GB
    ):
        self.root = place_of(root)
        self.files: Path | RemoteFiles
        self._cache = cache, cache_gb
        if isinstance(self.root, URL):
            kept = Cache(Path(cache or default_folder()), int(cache_gb * 1e9))
            self.files = RemoteFiles(self.root, kept)
        else:
            self.files = self.root
        self.manifest = manifest = read_manifest(self.files)
        self.settings: dict = manifest["settings"]
        self.modalities: tuple[str, ...] = modalities_of(manifest)
        self.sample_rate: int = manifest["settings"]["audio_rate"]
        self.label_names: list[str] = manifest["labels"]
        self._table = open_shards(self.files, manifest)
        self._firsts = self._table["first"].copy()
        self.shard_sizes: np.ndarray = self._table["samples"].copy()
        # by the tar's name; a map lives as long as an array refers to it, evicted or not
        keep = lru_cache(maxsize=512)
        self._map = keep(lambda name: _map(self.files / name, self.record(name)["bytes"]))
        self._sidecars = keep(self._open_sidecars)
        self._lines = lru_cache(maxsize=64)(self._read_lines)
        self._labels: dict[str, tuple[np.ndarray, list[str]]] = {}
        self._memberships: dict[str, tuple[np.ndarray, np.ndarray, list[str]]] = {}

    def __len__(self) -> int:
        return self.manifest["samples"]

    def __getitem__(self, index: int) -> Sample:
        number = as_index(index)
        if not -len(self) <= number < len(self):
            raise IndexError(f"{self.root}: sample {number} of {len(self)}")
        return Sample(self, number % len(self))

    def __iter__(self) -> Iterator[Sample]:
        return (Sample(self, index) for index in range(len(self)))

    def __reduce__(self) -> tuple[type[ShardSet], tuple]:
        return ShardSet, (self.root, *self._cache)  # maps and caches stay in their process

    def row(self, index: int) -> tuple[str, np.void]:
        """The tar's file name and the SAMPLE row of one sample."""
        if not 0 <= index < len(self):
            raise IndexError(f"{self.root}: sample {index} of {len(self)}")
        number = self._shard_of(index)
        name = self._name(number)
        return name, self._sidecars(name)[0][index - self._firsts[number]]

    def _shard_of(self, index: int) -> int:
        """The number of the tar that holds a sample; empty ones hold none."""
        return int(self._firsts.searchsorted(index, side="right")) - 1

    def rows(self) -> np.ndarray:
        """All SAMPLE rows, shape (N,)."""
        return np.concatenate([self._sidecars(name)[0] for name in self.shards])

    def index_of(self, name: str, row: np.void) -> int:
        """The index of a sample by its tar and its SAMPLE row."""
        return self.record(name)["first"] + int(row["place"])

    def key_of(self, name: str, row: np.void) -> str:
        """The key of a sample by its tar and its SAMPLE row, for messages about it."""
        try:
            return self.line(self.index_of(name, row))["key"]
        except UserError:  # samples.csv is damaged too
            return f"number {int(row['place'])}"

    def record(self, name: str) -> dict:
        """What shards.npy says of a tar; see `shard_table.record_of`."""
        number = int(self._table["name"].searchsorted(name.encode()))
        if number == len(self._table) or self._name(number) != name:
            raise KeyError(name)
        return record_of(self._table[number])

    def _open_sidecars(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return open_sidecars(self.files, self.record(name), self.modalities)

    def read(self, name: str, offset: int, size: int) -> np.ndarray:
        """`size` bytes of a tar from `offset`, a uint8 view; OSError past its end."""
        if isinstance(self.files, RemoteFiles):
            return self.files.read(name, int(offset), int(size))
        data = self._map(name)[offset : offset + size]
        if len(data) < size:
            raise OSError(f"the tar ends before byte {offset + size}")
        return data

    def video_file(self, index: int) -> bytes:
        """The content of the sample's video file; ValueError where the set has no video."""
        return self._file(index, "video")

    def audio_file(self, index: int) -> bytes:
        """The content of the file with the sample's sound; ValueError where the set has none."""
        return self._file(index, "audio")

    def meta(self, index: int) -> dict:
        """The sample's metadata: source, seconds, fps, frames, labels; {} where it has none."""
        facts = json.loads(self._file(index, "meta") or b"{}")
        return facts if isinstance(facts, dict) else {}

    def _file(self, index: int, part: str) -> bytes:
        name, row = self.row(index)
        if row[part] < 0:
            raise ValueError(f"{self.root}: its samples have no {part}")
        return self.read(name, row[part], row[f"{part}_bytes"]).tobytes()

    def packets(self, name: str, row: np.void, frames: np.ndarray) -> list[np.ndarray]:
        """The JPEG packets of `frames` (numbers within the sample), uint8 views."""
        places = self.packet_places(name, row, frames).tolist()
        first, last = min(places)[0], max(places)
        data = self.read(name, first, last[0] + last[1] - first)  # of storage, one request
        return [data[offset - first : offset - first + size] for offset, size in places]

    def packet_places(self, name: str, row: np.void, frames: np.ndarray) -> np.ndarray:
        """Where these packets lie in their tar, rows of PLACE (T,).

        They reach to the next one: where tracks are interleaved, more may follow a JPEG's end.
        """
        table, first = self._sidecars(name)[1], row["packet"] + frames
        places = np.empty(len(frames), PLACE)
        begins = table[first]
        places["offset"] = row["video"] + begins.astype(np.int64)
        places["bytes"] = table[first + 1] - begins
        return places

    def pictures(self, name: str, row: np.void, frames: np.ndarray) -> np.ndarray:
        """Pictures of a video file by number, uint8 (T, H, W, 3), RGB; as of `decode_frames`."""
        file = self.read(name, row["video"], row["video_bytes"]).tobytes()
        pictures = decode_frames(file, frames, clock_of(row))
        if pictures.shape[1:3] != (row["height"], row["width"]):
            raise ValueError("the picture has another size than its sample")
        return pictures

    def decoded_sound(self, name: str, row: np.void) -> np.ndarray:
        """The whole sound of a file that is no plain PCM, int16 (S,); as of `decode_waveform`."""
        file = self.read(name, row["audio"], row["audio_bytes"]).tobytes()
        together = row["audio"] == row["video"]  # one file, one clock
        return decode_waveform(file, self.sample_rate, float(row["origin"]) if together else None)

    def waveform(
        self, name: str, row: np.void, start: int, count: int, out: np.ndarray | None = None
    ) -> np.ndarray:
        """int16 (count,) from sound sample `start` at the set's rate; zeros beyond either end.

        out: int16 (count,) to write it into.
        PCM is read by its offset, a track of another kind is decoded whole. Damage raises
        ValueError (av.InvalidDataError is one) or another av.FFmpegError.
        """
        decoded = self.decoded_sound(name, row) if row["pcm"] < 0 else None
        length = int(row["samples"]) if decoded is None else len(decoded)
        first, last = max(start, 0), min(start + count, length)
        if out is None:
            out = np.empty(count, dtype=np.int16)
        if last - first < count:
            out[:] = 0
        if first < last:
            if decoded is None:
                data = self.read(name, row["pcm"] + 2 * first, 2 * (last - first))
                part = np.frombuffer(data, dtype="<i2")
            else:
                part = decoded[first:last]
            out[first - start : last - start] = part
        return out

    def table(self) -> list[dict[str, str]]:
        """The rows of samples.csv; raises UserError where it is damaged."""
        return [row for _, rows in self.lines() for row in rows]

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of samples.csv."""
        return (*SAMPLE_COLUMNS, *self.label_names)

    def lines(self) -> Iterator[tuple[str, list[dict[str, str]]]]:
        """The rows of samples.csv, tar by tar, after its name; UserError where it is damaged."""
        path = self.files / SAMPLES
        for number, name in enumerate(self.shards):
            rows = self._read_lines(number, path)
            yield name, [dict(zip(self.columns, row, strict=True)) for row in rows]

    def line(self, index: int) -> dict[str, str]:
        """The row of samples.csv of one sample; raises UserError where it is damaged."""
        number = self._shard_of(index)
        row = self._lines(number, self.root / SAMPLES)[index - int(self._firsts[number])]
        return dict(zip(self.columns, row, strict=True))

    def _column(self, name: str) -> list[str]:
        place = self.columns.index(name)
        return [row[place] for row in self._rows()]

    def _rows(self) -> Iterator[list[str]]:
        path = self.files / SAMPLES  # of a set on storage, a copy
        for number in range(len(self._table)):
            yield from self._read_lines(number, path)

    def _read_lines(self, number: int, path: Place) -> list[list[str]]:
        """The rows of samples.csv, which lies at `path`, of a tar's samples; raises UserError."""
        shown, hint = self.root / SAMPLES, f"rebuild it with `xdc-shard index {self.root}`"
        record = self._table[number]
        try:
            begin, size = int(record["rows"]), int(record["rows_bytes"])
            if isinstance(path, Path):
                with path.open("rb") as file:
                    file.seek(begin)
                    text = file.read(size)
            else:
                text = bytes(read_range(path, begin, size))
            if hashlib.sha256(text).digest() != record["rows_sha256"].tobytes():
                raise damaged(shown, "its checksum is not that of the set", hint)
            rows = list(csv.reader(io.StringIO(text.decode(), newline="")))
        except (OSError, ValueError, csv.Error) as error:
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(f"{shown}: {reason}; {hint}") from None
        if len(rows) != record["samples"]:
            raise damaged(shown, f"{len(rows)} rows for {record['samples']} samples", hint)
        for row in rows:
            if len(row) != len(self.columns):
                raise damaged(shown, f"a row of {len(row)} cells", hint)
        return rows

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the shards' checksums: 16 hexadecimal digits, equal where the bytes are.

        Where that of a tar is not known, those of its index and its table of samples count.
        """
        sums = self._table["sha256"].copy()
        unknown = ~sums.any(axis=1)
        beside = self._table["idx_sha256"] ^ self._table["samples_npy_sha256"]
        sums[unknown] = beside[unknown]
        return hashlib.sha256(sums.tobytes().hex().encode()).hexdigest()[:16]

    @cached_property
    def shards(self) -> list[str]:
        """The names of the tars."""
        return [self._name(number) for number in range(len(self._table))]

    def _name(self, number: int) -> str:
        return self._table["name"][number].decode()

    @cached_property
    def keys(self) -> list[str]:
        """The key of each sample, by samples.csv."""
        return self._column("key")

    @cached_property
    def sources(self) -> list[str]:
        """The source file of each sample, by samples.csv."""
        return self._column("source")

    @cached_property
    def starts(self) -> list[float]:
        """Where each sample begins in its source, in seconds, by samples.csv."""
        return [float(start) for start in self._column("start")]

    def labels_of(self, index: int) -> dict[str, str]:
        """{column: text} of one sample; "" where it has no label."""
        tables = {column: self._coded(column) for column in self.label_names}
        return {
            column: classes[codes[index]] if codes[index] >= 0 else ""
            for column, (codes, classes) in tables.items()
        }

    def label(self, column: str) -> tuple[np.ndarray, list[str]]:
        """One label of every sample.

        Args:
            column: one of `label_names`.

        Returns:
            Codes int64 (N,), -1 where the sample has no label, and the sorted class names.

        Raises:
            UserError: for a column that is not there, or a table that cannot be read.
        """
        if column not in self.label_names:
            near = get_close_matches(column, self.label_names, n=1)
            known = (
                f"did you mean '{near[0]}'?" if near else f"it has: {', '.join(self.label_names)}"
            )
            if not self.label_names:
                known = "it has no labels; pack with --labels CSV"
            raise UserError(f"{self.root}: no label '{column}'; {known}")
        codes, classes = self._coded(column)
        return codes.copy(), list(classes)

    def _coded(self, column: str) -> tuple[np.ndarray, list[str]]:
        if column not in self._labels:
            number = self.label_names.index(column)
            self._labels[column] = read_label(self.files, number, self.manifest)
        return self._labels[column]

    def memberships(self, column: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """Every label of every sample: a cell that joins several by ";" gives several.

        Args:
            column: one of `label_names`.

        Returns:
            Samples int64 (M,) in rising order, codes int64 (M,), and the sorted class names.

        Raises:
            UserError: as of `label`.
        """
        if column not in self._memberships:
            self._memberships[column] = self._expand(column)
        samples, codes, classes = self._memberships[column]
        return samples.copy(), codes.copy(), list(classes)

    def _expand(self, column: str) -> tuple[np.ndarray, np.ndarray, list[str]]:
        codes, joined = self.label(column)
        samples = np.flatnonzero(codes >= 0)
        codes = codes[samples]
        parts = [sorted({part for part in name.split(LABEL_SEPARATOR) if part}) for name in joined]
        flat = [part for several in parts for part in several]
        classes = sorted(set(flat))
        code = {name: i for i, name in enumerate(classes)}
        every = np.array([code[part] for part in flat], dtype=np.int64)
        counts = np.array([len(several) for several in parts], dtype=np.int64)
        first, counts = (np.cumsum(counts) - counts)[codes], counts[codes]
        within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.repeat(samples, counts), every[np.repeat(first, counts) + within], classes
