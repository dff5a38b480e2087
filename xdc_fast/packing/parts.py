"""The parts of a set: what is finished of them, and one that is being packed.

A part is a fixed run of inputs. What is finished is told by records, which are made once and never
changed: one for each tar of a part, and in their place one for the whole part when it is done. No
process owns a part: several may pack the same one, and the first one's record counts.

    OUT/.packing/run.json           what is packed, how, and where parts begin
    OUT/.packing/parts/000012.json  a part that is done
    OUT/.packing/000012/00003.json  tar 3 of a part that is not

OUT may be on storage. What a process is making lies in a folder of its own: in
OUT/.packing/scratch-..., or for storage below TMPDIR.
"""

from __future__ import annotations

import json
import math
import os
import re
import secrets
import shutil
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import gettempdir

import numpy as np

from xdc_fast import storage
from xdc_fast.errors import UserError
from xdc_fast.files import damaged, misfit, move_new, read_json
from xdc_fast.packing.encode import metadata
from xdc_fast.packing.media import Refusal
from xdc_fast.packing.settings import PackSettings, ShardLimit
from xdc_fast.packing.sources import Source, by_file
from xdc_fast.packing.tracks import Outcome
from xdc_fast.packing.workers import Job, Made
from xdc_fast.shards.format import SAMPLE, SAMPLE_COLUMNS, sample_key, shard_name
from xdc_fast.shards.scan import Scan, moved
from xdc_fast.shards.shard_table import SIDECARS
from xdc_fast.shards.tar import Entry, ShardWriter, checksum, dali_index
from xdc_fast.storage import Place

WORK = ".packing"  # inside OUT until the set is complete
RUN = {
    "format": int, "settings": dict, "inputs": {"count": int}, "packer": dict, "labels": [str],
    "firsts": [int],
}  # fmt: skip
ROW = {
    "key": str, "shard": str, "source": str, "start": float, "seconds": float, "frames": int,
}  # fmt: skip
SHARD = {
    "name": str, "samples": int, "bytes": int, "sha256": str,
    "sidecars": dict.fromkeys(SIDECARS, str), "rows": [list],
}  # fmt: skip
TOLD = {"refused": [[str]], "cut": int, "unpaired": [float]}
OF_SHARD = {**TOLD, "next": int, "told": int, "shard": (SHARD, None)}
OF_PART = {**TOLD, "shards": [SHARD]}
LISTS = ("refused", "unpaired")
RECORD = re.compile(r"\d+\.json")  # the name of one, in its folder
SHARD_COLUMN = SAMPLE_COLUMNS.index("shard") - 1


class Records:
    """What is finished in a folder."""

    def __init__(self, out: Place):
        self.out, self.work = out, out / WORK

    def begin(self, run: dict) -> dict:
        """Note what is packed here, of the form RUN; returns what was noted first."""
        if isinstance(self.work, Path):
            (self.work / "parts").mkdir(parents=True, exist_ok=True)
        if not self.path.is_file():
            self._write_new(self.path, run)
        return self.run()

    @property
    def path(self) -> Place:
        return self.work / "run.json"

    def run(self) -> dict:
        """What is packed here, of the form RUN."""
        return read_json(self.path, RUN, self._hint)

    def done(self) -> set[int]:
        """The parts that are done."""
        found = storage.files_below(self.work / "parts")
        return {int(file.name[:-5]) for file in found if RECORD.fullmatch(file.name)}

    def written(self) -> tuple[float, dict[tuple[int, int | None], float]]:
        """When the run was noted, and when each record was written, by part and tar.

        In seconds since the epoch. No tar: the record of a whole part. One listing of the folder.
        """
        began = 0.0
        times: dict[tuple[int, int | None], float] = {}
        for file in storage.files_below(self.work):
            if file.name == self.path.name:
                began = file.time
            folder, _, name = file.name.partition("/")
            if not RECORD.fullmatch(name):
                continue
            number = int(name[:-5])
            key = (number, None) if folder == "parts" else (int(folder), number)
            times[key] = file.time
        return began, times

    def is_done(self, part: int) -> bool:
        return self._part(part).is_file()

    def part(self, part: int) -> dict:
        """The record of a part, of the form OF_PART."""
        return self._read(self._part(part), OF_PART)

    def shards(self, part: int) -> list[dict]:
        """The records, of the form OF_SHARD, of the tars of a part that is not done."""
        found: list[dict] = []
        with suppress(FileNotFoundError):  # there is no other, or the part has just been done
            while True:
                found.append(self._read(self._shard(part, len(found)), OF_SHARD))
        return found

    def add_shard(self, part: int, number: int, record: dict) -> bool:
        """Note a tar; whether there is no other record of it."""
        path = self._shard(part, number)
        try:
            if isinstance(path, Path):
                path.parent.mkdir(exist_ok=True)
            return self._write_new(path, record) or self._read(path, OF_SHARD) == record
        except FileNotFoundError:
            if self.is_done(part):  # since a moment
                return False
            raise

    def add_part(self, part: int, record: dict) -> None:
        """Note that a part is done, unless that is noted."""
        self._write_new(self._part(part), record)
        storage.delete_below(self.work / f"{part:06d}")

    def _part(self, part: int) -> Place:
        return self.work / "parts" / f"{part:06d}.json"

    def _shard(self, part: int, number: int) -> Place:
        return self.work / f"{part:06d}" / f"{number:05d}.json"

    def _write_new(self, path: Place, record: dict) -> bool:
        return storage.write_new(path, json.dumps(record, separators=(",", ":")).encode())

    def _read(self, path: Place, form: dict) -> dict:
        record = read_json(path, form, self._hint)
        shards = record["shards"] if "shards" in record else [record["shard"]]
        for shard in filter(None, shards):
            rows = [dict(zip(SAMPLE_COLUMNS[1:], row, strict=False)) for row in shard["rows"]]
            if fault := misfit(rows, [ROW]):
                raise damaged(path, fault, self._hint)
        return record

    @property
    def _hint(self) -> str:
        return f"remove {self.out} and pack anew"


@contextmanager
def scratch_folder(out: Place) -> Iterator[Path]:
    """A folder of this process in OUT, or below TMPDIR where OUT is on storage.

    Those of processes that have died on this host are removed. Whoever seals the set removes the
    others in OUT.
    """
    host = "".join(c if c.isalnum() else "-" for c in socket.gethostname())
    if isinstance(out, Path):
        within, name = out / WORK, f"scratch-{host}"
    else:
        within, name = Path(gettempdir()), f"xdc-packing-{host}"
    for folder in within.glob(f"{name}.*"):
        if not _lives(folder.name.split(".")[1]):
            shutil.rmtree(folder, ignore_errors=True)
    folder = within / f"{name}.{os.getpid()}.{secrets.token_hex(4)}"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _lives(process: str) -> bool:
    try:
        os.kill(int(process), 0)
    except ProcessLookupError:
        return False
    except (PermissionError, ValueError, OverflowError):
        pass
    return True


@dataclass
class OpenPart:
    """A part that is being packed, from where its records end.

    first: the number of its first input. sources: its inputs, those of a file together. columns:
    of labels. scratch: a folder, in the file system of a set that is not on storage. lost: another
    process has written another record of a tar, or of the part: what is in here does not count.
    """

    records: Records
    number: int
    first: int
    sources: list[Source]
    columns: list[str]
    settings: PackSettings
    limit: ShardLimit
    scratch: Path
    lost: bool = field(default=False, init=False)

    def __post_init__(self) -> None:
        self._done = self.records.shards(self.number)
        for record in self._done:
            if shard := record["shard"]:
                out, name = self.records.out, shard["name"]
                known = {name: storage.size(out / name)} if (out / name).is_file() else {}
                check_tar(out, shard, known)
        last = self._done[-1] if self._done else {"next": self.first, "told": 0}
        self.reached, self.told = last["next"], last["told"]
        self._end = self.first + len(self.sources)
        self._shard = OpenShard()

    def jobs(self) -> list[Job]:
        """What is left to do."""
        jobs: list[Job] = []
        number = self.first
        for group in by_file(self.sources):
            if number >= self.reached:
                spans = [source.span for source in group]
                skip = self.told if number == self.reached else 0
                jobs.append(Job(self, number, group[0].path, spans, skip))
            number += len(group)
        return jobs

    def ends_with(self, job: Job) -> bool:
        """Whether a job is the last one."""
        return job.number + len(job.spans) == self._end

    def add(self, job: Job, outcome: Outcome, made: Made | None) -> None:
        """A sample, or a refusal, of a job."""
        self._close_full()
        self.reached, self.told = job.number, self.told + 1
        shard, number = self._shard, job.number + outcome.place
        source, span = self.sources[number - self.first], outcome.span
        if isinstance(outcome.answer, Refusal) or made is None:
            refusal = outcome.answer
            assert isinstance(refusal, Refusal)
            edges = [str(time) if math.isfinite(time) else "" for time in span or [math.inf] * 2]
            shard.refused.append([source.name, refusal.reason, refusal.detail, *edges])
            return
        labels = {name: source.labels.get(name, "") for name in self.columns}
        facts = {**outcome.answer, "source": source.name, "labels": labels}
        if span is not None:
            facts["span"] = [time if math.isfinite(time) else None for time in span]
        shard.cut += facts.pop("cut")
        if unpaired := facts.pop("unpaired"):
            shard.unpaired.append(unpaired)
        tracks = {"video": ("mp4", made.video), "audio": ("wav", made.audio)}
        files: dict[str, bytes | Path] = dict(tracks[m] for m in self.settings.modalities)
        key = sample_key(number, outcome.segment)
        if shard.tar is None:
            name = shard_name(self.number, len(self._done))
            shard.tar = ShardWriter(self.scratch / f"{name}.tar")
        shard.add(shard.tar.add(key, {**files, "json": metadata(facts)}), made)
        for file in (made.video, made.audio):
            file.unlink(missing_ok=True)
        start = span[0] if span else 0.0
        row = [key, "", source.name, start, facts["seconds"], facts["frames"]]
        shard.rows.append(row + list(labels.values()))

    def end_job(self, job: Job) -> None:
        """There is no more of a job."""
        self.reached, self.told = job.number + len(job.spans), 0
        self._close_full()

    def finish(self) -> None:
        """Note that the part is done; there are no more jobs."""
        if self._shard.tar or self._shard.refused:
            self._close()
        if not self.lost:
            told = {name: [each for r in self._done for each in r[name]] for name in LISTS}
            shards = [record["shard"] for record in self._done if record["shard"]]
            cut = sum(record["cut"] for record in self._done)
            self.records.add_part(self.number, {**told, "cut": cut, "shards": shards})
        self.abandon()

    def abandon(self) -> None:
        """Leave the tar that is being written."""
        if self._shard.tar:
            self._shard.tar.abandon()

    def _close_full(self) -> None:
        tar = self._shard.tar
        if tar and self.limit.is_full(len(self._shard.rows), tar.bytes):
            self._close()

    def _close(self) -> None:
        """Put the tar into its place, and record it."""
        shard = self._shard
        record = {"refused": shard.refused, "cut": shard.cut, "unpaired": shard.unpaired}
        record |= {"next": self.reached, "told": self.told}
        record["shard"] = shard.place(self.records.out, self.settings.audio_rate)
        self.lost = not self.records.add_shard(self.number, len(self._done), record)
        self.lost |= self.records.is_done(self.number)
        self._done.append(record)
        self._shard = OpenShard()


@dataclass
class OpenShard:
    """The tar that is being written, and what the tables will say; None before its first sample."""

    tar: ShardWriter | None = None
    rows: list[list] = field(default_factory=list)
    refused: list[list[str]] = field(default_factory=list)
    unpaired: list[float] = field(default_factory=list)
    cut: int = 0
    entries: list[Entry] = field(default_factory=list)
    samples: list[np.ndarray] = field(default_factory=list)
    packets: list[np.ndarray] = field(default_factory=list)
    places: int = 0

    def add(self, entry: Entry, made: Made) -> None:
        """A sample; entry: its files in the tar."""
        self.samples.append(moved(made.row, len(self.samples), self.places, entry))
        self.packets.append(made.packets)
        self.entries.append(entry)
        self.places += len(made.packets)

    def place(self, out: Place, rate: int) -> dict | None:
        """Put the tar into its place, with its sidecars; what records say of it, of the form SHARD.

        rate: of the sound, Hz.
        """
        if self.tar is None:
            return None
        total, size = self.tar.close(), self.tar.bytes
        path = place_tar(self.tar.path, out, total)
        for row in self.rows:
            row[SHARD_COLUMN] = path.name
        samples, packets = np.array(self.samples, SAMPLE), np.concatenate(self.packets)
        tables = Scan(samples, packets, dali_index(self.entries), [], [], rate, [])
        about = {"name": path.name, "samples": len(samples), "bytes": size, "sha256": total}
        return {**about, "sidecars": tables.write(out, path.name), "rows": self.rows}


def place_tar(tar: Path, out: Place, total: str) -> Place:
    """Move a tar into the folder of its set; returns where it is.

    total: its SHA-256. Where another process has left another tar of this name, as when files were
    refused for want of time, it gets a name of its own: records say which one counts.
    """
    for name in (tar.name, f"{tar.stem}-{total[:8]}.tar"):
        if _place(tar, out, name, total):
            tar.unlink(missing_ok=True)
            return out / name
    raise UserError(f"{out / name}: has other bytes than were written; remove it")


def _place(tar: Path, out: Place, name: str, total: str) -> bool:
    """Whether a tar is in a set under a name now, as no other bytes are."""
    if isinstance(out, Path):
        return move_new(tar, out / name) or checksum(out / name) == total
    # who comes first says which bytes have this name; the same ones may be uploaded twice
    claim = out / WORK / "tars" / name
    if not storage.write_new(claim, total.encode()) and claim.read_bytes() != total.encode():
        return False
    storage.upload(tar, out / name)
    return True


def check_tar(out: Place, shard: dict, sizes: Mapping[str, int]) -> None:
    """Raises UserError when a finished tar is gone or has another size than its record says.

    sizes: bytes of the files in OUT.
    """
    name = shard["name"]
    if sizes.get(name) != shard["bytes"]:
        raise UserError(
            f"{out / name}: a finished shard is gone or changed; put it back or pack elsewhere"
        )
