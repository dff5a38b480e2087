"""A packing run: packs or refuses every input; interruptions do not change the bytes."""

from __future__ import annotations

import logging
import math
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from xdc_fast import progress
from xdc_fast.errors import UserError
from xdc_fast.files import locked, remove_leftovers
from xdc_fast.packing.convert import Outcome, convert_all
from xdc_fast.packing.encode import metadata
from xdc_fast.packing.journal import Journal
from xdc_fast.packing.media import Refusal
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import PackInputs, Source, by_file
from xdc_fast.packing.workers import Convert, FatalError, Job, run_jobs
from xdc_fast.shards.format import (
    FORMAT,
    MANIFEST,
    MISSING,
    MISSING_COLUMNS,
    REFUSED,
    REFUSED_COLUMNS,
    SAMPLE_COLUMNS,
    SAMPLES,
    sample_key,
    shard_name,
)
from xdc_fast.shards.scan import ScanError, scan
from xdc_fast.shards.tables import PAIRED, complete, read_manifest, write_csv, write_manifest
from xdc_fast.shards.tar import ShardWriter

log = logging.getLogger(__name__)

WORK = ".packing"  # inside OUT until the set is complete


@dataclass
class Summary:
    """The result of a packing run; inputs = packed + refused."""

    inputs: int
    packed: int
    reasons: dict[str, int]
    """Refused inputs by reason, a key of packing.media.REASONS."""
    shards: int
    bytes: int
    """Of all shards."""
    seconds: float
    """That this call took."""
    cut: int
    """Samples cut to max_seconds."""
    unpaired: dict
    """`samples` whose sources have one track alone for more than a second, and those `seconds`."""
    already: bool = False
    """The set was complete before."""

    @property
    def refused(self) -> int:
        return sum(self.reasons.values())

    def as_dict(self) -> dict:
        """The counts that other programs read."""
        keys = ("inputs", "packed", "refused", "reasons", "shards", "bytes", "seconds")
        return {key: getattr(self, key) for key in keys}


def pack(
    inputs: PackInputs,
    out: Path,
    settings: PackSettings,
    *,
    shard_mb: float = 256,
    workers: int | None = None,
    time_limit: float = 600.0,
    task: Convert = convert_all,
) -> Summary:
    """Pack `inputs` into the folder `out`, or continue a run that was interrupted there.

    shard_mb: size of a shard in MB, reached or passed by its last sample. workers: processes; by
    default as many as cores. time_limit: seconds for one file, or for a segment of it. task: what
    a worker does with a file; tests replace it by one that fails.
    Raises UserError when there is nothing to pack, when `out` holds anything else, and when the
    disk is full or a worker cannot start. Finished shards are kept.
    """
    begun = time.monotonic()
    if not inputs.sources:
        raise UserError("no inputs: the sources hold no files that could be media")
    if settings.codec == "copy" and any(source.span for source in inputs.sources):
        raise UserError(
            "codec=copy packs whole videos, and segments are listed; take another codec"
        )
    run = {
        "format": FORMAT,
        "settings": {**settings.as_dict(), "shard_mb": shard_mb},
        "inputs": {"count": len(inputs.sources), "sha256": inputs.fingerprint()},
        "packer": {name: version(name) for name in ("xdc_fast", "av")},
    }
    if (out / MANIFEST).exists():
        manifest = read_manifest(out)
        _check_same_run(out, manifest, {part: run[part] for part in run if part != "packer"})
        if (out / WORK).exists():
            with _claim(out):
                shutil.rmtree(out / WORK)
        log.info("%s: already packed with these inputs and settings", out)
        return summarize(manifest, begun, already=True)
    with _claim(out):
        try:
            journal = Journal(out / WORK / "journal.jsonl", run)
            _check_same_run(out, journal.head, run)
            _check_shards(out, journal)
            scratch = out / WORK / "scratch"
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            _pack_rest(inputs, out, settings, journal, scratch, shard_mb, workers, time_limit, task)
            manifest = _finish(inputs, out, run, journal)
        except (OSError, FatalError, ScanError) as error:
            raise UserError(
                f"{out}: packing stopped: {error}; what is finished is kept, run the same command "
                "again to continue"
            ) from None
    return summarize(manifest, begun)


def summarize(manifest: dict, begun: float, already: bool = False) -> Summary:
    seconds = round(time.monotonic() - begun, 2)
    count, reasons = manifest["inputs"]["count"], manifest["refused"]
    shards, size = len(manifest["shards"]), manifest["bytes"]
    cut, unpaired = manifest["cut"], manifest.get("unpaired", PAIRED)
    return Summary(
        count, manifest["samples"], reasons, shards, size, seconds, cut, unpaired, already
    )


def _check_same_run(out: Path, old: dict, new: dict) -> None:
    """Raises UserError unless `old` has the inputs, settings and versions of `new`."""
    for part in new:
        was, now = old.get(part), new[part]
        if was == now or (part == "inputs" and (was or {}).get("sha256") == now["sha256"]):
            continue  # what is counted in the end are samples, of which a file may hold many
        if isinstance(was, dict) and isinstance(now, dict):
            names = [k for k in {**was, **now} if was.get(k) != now.get(k)]
            said = ", ".join(f"{k} was {was.get(k)}, now {now.get(k)}" for k in names)
        else:
            said = f"was {was}, now {now}"
        if part == "inputs":
            count = (was or {}).get("count")
            said = f"{count} then, {now['count']} now, or other labels or segments"
        raise UserError(
            f"{out}: holds a set that was packed with other {part} ({said}); choose another folder"
        )


@contextmanager
def _claim(out: Path) -> Iterator[None]:
    """Lock OUT for this run; raises UserError where it holds other files or is locked."""
    if not (out / WORK).exists():
        if out.exists() and not out.is_dir():
            raise UserError(f"{out}: is a file; choose a folder")
        if out.exists() and {p.name for p in out.iterdir()} - {REFUSED}:
            raise UserError(
                f"{out}: is not an empty folder and holds no packed set; choose another folder"
            )
        try:
            (out / WORK).mkdir(parents=True)
        except OSError as error:
            raise UserError(f"{out}: {error.strerror}; choose another folder") from None
    with locked(out / WORK / "lock", f"{out}: another run is packing there; wait for it"):
        remove_leftovers(out)
        yield


def _check_shards(out: Path, journal: Journal) -> None:
    """Raises UserError when a finished shard is gone or has another size than the journal says."""
    for record in journal.records:
        shard = record["shard"]
        path = out / shard["name"] if shard else None
        if path and not (path.is_file() and path.stat().st_size == shard["bytes"]):
            raise UserError(
                f"{path}: a finished shard is gone or changed; put it back or pack elsewhere"
            )


def _pack_rest(
    inputs: PackInputs,
    out: Path,
    settings: PackSettings,
    journal: Journal,
    scratch: Path,
    shard_mb: float,
    workers: int | None,
    time_limit: float,
    task: Convert,
) -> None:
    """Convert the inputs that the journal lacks, and record every finished shard."""
    (start, told), index = journal.reached, journal.next_index
    sources: list[Source] = []
    jobs: list[Job] = []
    for group in by_file(inputs.sources):
        number = len(sources)
        sources += group
        if number >= start:
            spans = [source.span for source in group]
            jobs.append(Job(number, group[0].path, spans, told if number == start else 0))
    workers = workers or len(os.sched_getaffinity(0))
    bar = progress.bar(
        total=len(inputs.sources), initial=start, unit="video", desc="packing", leave=True
    )
    shard = OpenShard(out, journal.shards, index, settings)
    outcomes = run_jobs(jobs, settings, scratch, workers, time_limit, task)
    try:
        for job, outcome, files in outcomes:
            if outcome is None:
                start, told = job.number + len(job.spans), 0
                for file in scratch.glob(f"{job.number}-*"):
                    file.unlink()
                bar.update(len(job.spans))
            if shard.rows and shard.writer.bytes >= shard_mb * 1_000_000:
                journal.append(shard.finish(start, told))
                shard = OpenShard(out, journal.shards, journal.next_index, settings)
            if outcome is not None:
                shard.add(sources[job.number + outcome.place], outcome, inputs.columns, *files)
                start, told = job.number, told + 1
        if shard.rows or shard.refused:
            journal.append(shard.finish(start, told))
    finally:
        outcomes.close()
        shard.writer.abandon()
        bar.close()


class OpenShard:
    """The shard that is being written, and its rows of the set's tables."""

    def __init__(self, out: Path, number: int, first: int, settings: PackSettings):
        self.out, self.name, self.first = out, shard_name(number), first
        self.settings = settings
        self.writer = ShardWriter(out / WORK / f"{self.name}.tar")
        self.rows: list[list] = []
        self.refused: list[list[str]] = []
        self.cut = 0
        self.unpaired: list[float] = []

    def add(
        self, source: Source, outcome: Outcome, columns: list[str], video: Path, audio: Path
    ) -> None:
        """Append a sample whose tracks were written to `video` and `audio`, or its refusal."""
        span, facts = outcome.span, outcome.answer
        if isinstance(facts, Refusal):
            edges = [str(time) if math.isfinite(time) else "" for time in span or [math.inf] * 2]
            self.refused.append([source.name, facts.reason, facts.detail, *edges])
            return
        index = self.first + len(self.rows)
        labels = {name: source.labels.get(name, "") for name in columns}
        facts = {**facts, "index": index, "source": source.name, "labels": labels}
        if span is not None:
            facts["span"] = [time if math.isfinite(time) else None for time in span]
        self.cut += facts.pop("cut")
        if unpaired := facts.pop("unpaired"):
            self.unpaired.append(unpaired)
        tracks = {"video": ("mp4", video), "audio": ("wav", audio)}
        files: dict[str, bytes | Path] = dict(tracks[m] for m in self.settings.modalities)
        self.writer.add(index, {**files, "json": metadata(facts)})
        for file in (video, audio):
            file.unlink(missing_ok=True)
        key, shard, start = sample_key(index), f"{self.name}.tar", span[0] if span else 0.0
        row = [index, key, shard, source.name, start, facts["seconds"], facts["frames"]]
        self.rows.append(row + list(labels.values()))

    def finish(self, next_input: int, told: int) -> dict:
        """Close the tar, put it in its place with its sidecars, and return its journal record.

        told: outcomes of the file of `next_input` that are in this shard or an earlier one.
        """
        record: dict = {"next_input": next_input, "told": told, "rows": self.rows}
        record["refused"] = self.refused
        record["cut"], record["unpaired"] = self.cut, self.unpaired
        if not self.rows:
            return {**record, "shard": None}
        total = self.writer.close()
        tar = self.out / f"{self.name}.tar"
        os.replace(self.writer.path, tar)
        found = scan(tar, self.first, self.settings.audio_rate, self.settings.modalities)
        if found.refused:
            raise ScanError(tar, f"sample {': '.join(found.refused[0])}")
        shard = {"name": tar.name, "samples": len(self.rows), "first": self.first}
        shard |= {"bytes": self.writer.bytes, "sha256": total}
        return {**record, "shard": {**shard, "sidecars": found.write(self.out / self.name)}}


def _finish(inputs: PackInputs, out: Path, run: dict, journal: Journal) -> dict:
    """Write the tables and, last, the manifest; a set without samples gets no manifest."""
    rows = [row for record in journal.records for row in record["rows"]]
    refused = [row for record in journal.records for row in record["refused"]]
    shards = [record["shard"] for record in journal.records if record["shard"]]
    write_csv(out / REFUSED, REFUSED_COLUMNS, refused)
    cut = sum(record["cut"] for record in journal.records)
    alone = [seconds for record in journal.records for seconds in record["unpaired"]]
    unpaired = {"samples": len(alone), "seconds": round(sum(alone), 3)}
    run = {**run, "inputs": {**run["inputs"], "count": len(rows) + len(refused)}}
    reasons = [row[1] for row in refused]
    manifest = complete(run, rows, inputs.columns, cut, unpaired, reasons, shards)
    if rows:
        write_csv(out / SAMPLES, (*SAMPLE_COLUMNS, *inputs.columns), rows)
        if inputs.missing:
            write_csv(out / MISSING, MISSING_COLUMNS, inputs.missing)
        manifest = write_manifest(out, manifest)
    shutil.rmtree(out / WORK)
    return manifest
