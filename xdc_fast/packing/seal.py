"""The end of a packing run: parts that are done become a set."""

from __future__ import annotations

import shutil
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xdc_fast import progress
from xdc_fast.errors import UserError
from xdc_fast.files import locked, write
from xdc_fast.packing.parts import WORK, Records, check_tar
from xdc_fast.shards.format import LOCK, MANIFEST, MISSING, SAMPLES
from xdc_fast.shards.tables import PAIRED, REASON, SetWriter, read_manifest

NAMED = 8  # missing parts in a message
HOUR = 3600.0  # seconds, over which the rate is told


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


def summarize(manifest: dict, begun: float, already: bool = False) -> Summary:
    seconds = round(time.monotonic() - begun, 2)
    count, reasons = manifest["inputs"]["count"], manifest["refused"]
    cut, unpaired = manifest["cut"], manifest.get("unpaired", PAIRED)
    shards, size = manifest["shards"], manifest["bytes"]
    return Summary(
        count, manifest["samples"], reasons, shards, size, seconds, cut, unpaired, already
    )


def join(parts: list[dict]) -> dict:
    """The counts of some parts, by their records, as of a manifest."""
    shards = [shard for part in parts for shard in part["shards"]]
    reasons = Counter(row[REASON] for part in parts for row in part["refused"])
    alone = [seconds for part in parts for seconds in part["unpaired"]]
    samples = sum(shard["samples"] for shard in shards)
    return {
        "inputs": {"count": samples + reasons.total()},
        "samples": samples,
        "refused": dict(reasons),
        "shards": len(shards),
        "bytes": sum(shard["bytes"] for shard in shards),
        "cut": sum(part["cut"] for part in parts),
        "unpaired": count_unpaired(alone),
    }


def count_unpaired(alone: list[float]) -> dict:
    """As of a manifest; alone: the seconds of each sample with one track alone."""
    return {"samples": len(alone), "seconds": round(sum(alone), 3)}


def seal(out: Path, begun: float | None = None) -> Summary:
    """Make a set of the parts that were packed into a folder.

    begun: when the run began, for the summary. Without a sample there is no set, but refused.csv.
    Raises UserError, which names what is missing, unless all parts are done.
    """
    begun = time.monotonic() if begun is None else begun
    if not (out / MANIFEST).exists():
        if not Records(out).path.exists():
            raise UserError(f"{out}: nothing was packed there; run `xdc-shard pack` first")
        with locked(out / LOCK):
            if not (out / MANIFEST).exists():
                manifest = _seal(out)
                remove_work(out)
                return summarize(manifest, begun)
    manifest = read_manifest(out)
    remove_work(out)
    return summarize(manifest, begun, already=True)


def _seal(out: Path) -> dict:
    records = Records(out)
    run, done = records.run(), records.done()
    count = len(run["firsts"])
    if missing := [number for number in range(count) if number not in done]:
        named = ", ".join(map(str, missing[:NAMED])) + (", ..." if missing[NAMED:] else "")
        raise UserError(
            f"{out}: {len(missing)} of {count} parts are missing: {named}; pack them first "
            f"(`xdc-shard status {out}` says how far packing is)"
        )
    cut, alone, names = 0, [], set()
    with SetWriter(out, run["labels"]) as tables:
        for number in progress.bar(range(count), unit="part", desc="sealing"):
            record = records.part(number)
            for shard in record["shards"]:
                check_tar(out, shard)
                rows = shard.pop("rows")
                tables.add(shard, rows)
                names.add(shard["name"])
            tables.refuse(record["refused"])
            cut += record["cut"]
            alone += record["unpaired"]
    for tar in out.glob("*.tar"):
        if tar.name not in names:  # of a process that another one was faster than
            tar.unlink()
    head = {key: run[key] for key in ("format", "settings", "inputs", "packer")}
    refused = tables.refused.total()
    head["inputs"] = {**head["inputs"], "count": tables.samples + refused}
    unpaired = count_unpaired(alone)
    if not tables.samples:
        (out / SAMPLES).unlink()
        counts = {"samples": 0, "shards": 0, "bytes": 0, "cut": cut, "unpaired": unpaired}
        return {**head, **counts, "refused": dict(sorted(tables.refused.items()))}
    if (missing_list := out / WORK / MISSING).exists():
        write(out / MISSING, missing_list.read_bytes())
    return tables.finish(head, cut, unpaired)


def remove_work(out: Path) -> None:
    """Remove what packing has left; what says whose it was goes last."""
    run = Records(out).path
    with suppress(FileNotFoundError):
        for path in (out / WORK).iterdir():
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            elif path != run:
                path.unlink(missing_ok=True)
    run.unlink(missing_ok=True)
    shutil.rmtree(out / WORK, ignore_errors=True)


@dataclass
class Status:
    """How far packing is, over all that pack.

    parts, videos: of the run; done_parts, done_videos: of these. missing: numbers of parts that are
    not done. rate: videos a second over the last hour, or since the run began. left: seconds to the
    end at this rate; None where it is 0. sealed: the set is complete.
    """

    parts: int
    done_parts: int
    videos: int
    done_videos: int
    missing: list[int]
    rate: float
    left: float | None
    sealed: bool = False


def status(out: Path, now: float | None = None) -> Status:
    """How far packing into a folder is; raises UserError where nothing is packed."""
    if (out / MANIFEST).exists():
        count = read_manifest(out)["inputs"]["count"]
        return Status(0, 0, count, count, [], 0.0, 0.0, sealed=True)
    records = Records(out)
    if not records.path.exists():
        raise UserError(f"{out}: nothing is being packed there; give the OUT of `xdc-shard pack`")
    run, done = records.run(), records.done()
    firsts = [*run["firsts"], run["inputs"]["count"]]
    events = [(when, firsts[n + 1] - firsts[n]) for n, when in done.items()]
    for part in records.begun():
        if part not in done:
            before = firsts[part]
            for record, when in records.dated_shards(part):
                events.append((when, record["next"] - before))
                before = record["next"]
    now = time.time() if now is None else now
    since = max(now - HOUR, records.path.stat().st_mtime)
    count, total = sum(videos for _, videos in events), firsts[-1]
    recent = sum(videos for when, videos in events if when >= since)
    rate = recent / max(now - since, 1e-3)
    missing = [number for number in range(len(firsts) - 1) if number not in done]
    left = (total - count) / rate if rate else None
    return Status(len(firsts) - 1, len(done), total, count, missing, rate, left)
