"""A packing run: packs or refuses every input; interruptions do not change the bytes."""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from typing import NamedTuple

from xdc_fast import progress, storage
from xdc_fast.errors import UserError
from xdc_fast.files import remove_leftovers
from xdc_fast.packing.cluster import pack_on_ray
from xdc_fast.packing.convert import convert_all
from xdc_fast.packing.parts import WORK, OpenPart, Records, scratch_folder
from xdc_fast.packing.seal import Summary, already_sealed, join, seal, summarize
from xdc_fast.packing.settings import PackSettings, ShardLimit
from xdc_fast.packing.sources import PackInputs, Source
from xdc_fast.packing.workers import Convert, FatalError, Job, run_jobs
from xdc_fast.shards.format import FORMAT, LOCK, MANIFEST, MISSING, MISSING_COLUMNS, REFUSED
from xdc_fast.shards.tables import csv_lines, read_manifest
from xdc_fast.storage import URL, Place

log = logging.getLogger(__name__)

PART = 1024  # inputs
ENGINES = ("processes", "ray")


class Share(NamedTuple):
    """Every `of`-th part, from part `number` on."""

    number: int = 0
    of: int = 1

    @classmethod
    def parse(cls, text: str) -> Share:
        """Of I/N; raises UserError."""
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and int(number) < int(of)):
            raise UserError(f"part={text}: must be I/N, with I from 0 to N-1, such as 0/8")
        return cls(int(number), int(of))


@dataclass(frozen=True)
class Task:
    """One part to be packed, wherever.

    first: the number of its first input. sources: its inputs.
    """

    number: int
    first: int
    sources: list[Source]


@dataclass(frozen=True)
class How:
    """How parts are packed.

    columns: of labels. workers: processes. time_limit: seconds for one file, or for a segment of
    it. convert: what a worker does with a file.
    """

    settings: PackSettings
    limit: ShardLimit
    columns: list[str]
    workers: int
    time_limit: float
    convert: Convert = convert_all


def pack(
    inputs: PackInputs,
    out: Place,
    settings: PackSettings,
    *,
    shard_mb: float | None = None,
    workers: int | None = None,
    time_limit: float = 600.0,
    share: Share | None = None,
    part: int = PART,
    engine: str = "processes",
    address: str | None = None,
    task: Convert = convert_all,
) -> Summary:
    """Pack `inputs` into the folder `out`, or continue what was begun there.

    shard_mb: size of a tar in MB, reached or passed by its last sample; None: see ShardLimit.
    workers: processes; by default as many as cores. time_limit: seconds for one file, or for a
    segment of it. share: pack these parts alone, and leave the set to `seal`. part: inputs of a
    part. engine: one of ENGINES; with ray, `workers` are those of a part, by default one, and
    address is that of the cluster. task: what a worker does with a file; tests replace it by one
    that fails.
    Raises UserError when there is nothing to pack, when `out` holds anything else, and when the
    disk is full or a worker cannot start. What is finished is kept.
    """
    begun = time.monotonic()
    if not inputs.sources:
        raise UserError("no inputs: the sources hold no files that could be media")
    firsts, total = plan(inputs, settings, part)
    run = {
        "format": FORMAT,
        "settings": {**settings.as_dict(), "shard_mb": shard_mb, "part": part},
        "inputs": {"count": len(inputs.sources), "sha256": total},
        "packer": {name: version(name) for name in ("xdc_fast", "av")},
    }
    if isinstance(out, URL):
        storage.check_writable(out)
    if (out / MANIFEST).is_file():
        return _already(out, run, begun)
    _claim(out)
    records = Records(out)
    try:
        check_same_run(out, records.begin({**run, "labels": inputs.columns, "firsts": firsts}), run)
        if inputs.missing:
            storage.write(out / WORK / MISSING, csv_lines([MISSING_COLUMNS, *inputs.missing]))
        workers = workers or (1 if engine == "ray" else len(os.sched_getaffinity(0)))
        how = How(settings, ShardLimit(shard_mb), inputs.columns, workers, time_limit, task)
        number, of = share or Share()
        wanted = range(number, len(firsts), of)
        ends = [*firsts[1:], len(inputs.sources)]
        total_inputs = sum(ends[n] - firsts[n] for n in wanted)
        bar = progress.bar(total=total_inputs, unit="video", desc="packing", leave=True)
        while left := sorted({*wanted} - records.done()):
            bar.n = total_inputs - sum(ends[n] - firsts[n] for n in left)
            bar.refresh()
            tasks = (Task(n, firsts[n], [*inputs.sources[firsts[n] : ends[n]]]) for n in left)
            if engine == "ray":
                pack_on_ray(tasks, out, how, address, bar.update)
            else:
                pack_parts(tasks, out, how, bar.update)
        bar.close()
        if share is None:
            return seal(out, begun)
        return summarize(join([records.part(n) for n in wanted]), begun)
    except (OSError, FatalError) as error:
        if (out / MANIFEST).is_file():  # another process was faster
            return _already(out, run, begun)
        raise UserError(
            f"{out}: packing stopped: {error}; what is finished is kept, run the same command "
            "again to continue"
        ) from None


def plan(inputs: PackInputs, settings: PackSettings, size: int) -> tuple[list[int], str]:
    """Where parts of `size` inputs begin, by the number of their first input, and a hash.

    A part has all inputs of its files. The hash is over names, sizes, labels and segments; it does
    not depend on the machine or the path.
    Raises UserError for segments that settings.codec cannot cut.
    """
    firsts, before = [0], None
    total = hashlib.sha256()
    for number, source in enumerate(inputs.known()):
        if number - firsts[-1] >= size and source.path != before:
            firsts.append(number)
        before = source.path
        total.update(source.identity)
        if source.span and settings.codec == "copy":
            raise UserError(
                "codec=copy packs whole videos, and segments are listed; take another codec"
            )
    return firsts, total.hexdigest()


def pack_parts(tasks: Iterable[Task], out: Place, how: How, tell: Callable[[int], object]) -> None:
    """Pack parts, one file after the other, and record them; those that are done are passed over.

    tell: is told how many inputs are through. A part of which another process has written other
    records is left. Raises FatalError, and OSError when `out` cannot be written.
    """
    records = Records(out)
    opened: dict[int, OpenPart] = {}

    def jobs() -> Iterator[Job]:
        for task in tasks:
            if records.is_done(task.number):
                tell(len(task.sources))
                continue
            part = OpenPart(
                records, task.number, task.first, task.sources, how.columns, how.settings,
                how.limit, scratch,
            )  # fmt: skip
            opened[task.number] = part
            left = part.jobs()
            tell(len(task.sources) - sum(len(job.spans) for job in left))
            if not left:
                opened.pop(task.number).finish()
            for job in left:
                if part.lost:
                    break
                yield job

    with scratch_folder(out) as scratch:
        outcomes = run_jobs(jobs(), how.settings, scratch, how.workers, how.time_limit, how.convert)
        try:
            for job, outcome, made in outcomes:
                part = job.part
                if outcome is not None:
                    if not part.lost:
                        part.add(job, outcome, made)
                    continue
                for name in os.listdir(scratch):  # a glob would compile a pattern for each job
                    if name.startswith(f"{job.number}-"):
                        (scratch / name).unlink()
                tell(len(job.spans))
                if not part.lost:
                    part.end_job(job)
                if part.ends_with(job):
                    opened.pop(part.number).finish()
        finally:
            outcomes.close()
            for part in opened.values():
                part.abandon()


def _already(out: Place, run: dict, begun: float) -> Summary:
    """The summary of a set that is complete; raises UserError where it is another one."""
    manifest = read_manifest(out)
    check_same_run(out, manifest, {name: run[name] for name in run if name != "packer"})
    log.info("%s: already packed with these inputs and settings", out)
    return already_sealed(out, manifest, begun)


def check_same_run(out: Place, old: dict, new: dict) -> None:
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


def _claim(out: Place) -> None:
    """Make OUT a folder for a set; raises UserError where it holds other files."""
    if isinstance(out, URL):
        found = (file.name.partition("/")[0] for file in storage.files_below(out))
        if not Records(out).path.is_file() and {*found} - {REFUSED, WORK}:
            raise UserError(f"{out}: is not empty and holds no packed set; choose another folder")
        return
    if not (out / WORK).exists():
        if out.exists() and not out.is_dir():
            raise UserError(f"{out}: is a file; choose a folder")
        if out.exists() and {p.name for p in out.iterdir()} - {REFUSED, LOCK}:
            raise UserError(
                f"{out}: is not an empty folder and holds no packed set; choose another folder"
            )
        try:
            (out / WORK).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"{out}: {error.strerror}; choose another folder") from None
    remove_leftovers(out)
