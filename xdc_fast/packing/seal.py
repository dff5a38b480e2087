"""The end of a packing run: parts that are done become a set."""

from __future__ import annotations

import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from xdc_fast import progress, storage
from xdc_fast.errors import UserError
from xdc_fast.files import locked, write
from xdc_fast.packing.parts import WORK, Records, check_tar
from xdc_fast.shards.format import LOCK, MANIFEST, MISSING, SAMPLES
from xdc_fast.shards.tables import PAIRED, REASON, SetWriter, read_manifest
from xdc_fast.shards.verify import in_order
from xdc_fast.storage import Place, written_here

NAMED = 8  # missing parts in a message
HOUR = 3600.0  # seconds, over which the rate is told
AT_ONCE = 16  # records that are read


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


def seal(out: Place, begun: float | None = None) -> Summary:
    """Make a set of the parts that were packed into a folder.

    begun: when the run began, for the summary. Without a sample there is no set, but refused.csv.
    Raises UserError, which names what is missing, unless all parts are done.
    """
    begun = time.monotonic() if begun is None else begun
    if not (out / MANIFEST).is_file():
        if not Records(out).path.is_file():
            raise UserError(f"{out}: nothing was packed there; run `xdc-shard pack` first")
        with _alone(out):
            try:
                if not (out / MANIFEST).is_file():
                    manifest = _seal(out)
                    remove_work(out)
                    return summarize(manifest, begun)
            except FileNotFoundError:
                if not (out / MANIFEST).is_file():  # which another process has just written
                    raise
    return already_sealed(out, read_manifest(out), begun)


def already_sealed(out: Place, manifest: dict, begun: float) -> Summary:
    """The summary of a set that is complete; what a process that was killed has left is removed."""
    with _alone(out):
        remove_work(out)
    return summarize(manifest, begun, already=True)


def _alone(out: Place) -> AbstractContextManager:
    """One process at a time; on storage, without locks, all that seal a set write the same."""
    return locked(out / LOCK) if isinstance(out, Path) else nullcontext()


def _seal(out: Place) -> dict:
    records = Records(out)
    run, done = records.run(), records.done()
    count = len(run["firsts"])
    if missing := [number for number in range(count) if number not in done]:
        named = ", ".join(map(str, missing[:NAMED])) + (", ..." if missing[NAMED:] else "")
        raise UserError(
            f"{out}: {len(missing)} of {count} parts are missing: {named}; pack them first "
            f"(`xdc-shard status {out}` says how far packing is)"
        )
    sizes = {file.name: file.size for file in storage.files_below(out)}
    with written_here(out, MANIFEST) as here:
        return _write_tables(out, here, records, count, run, sizes)


def _write_tables(
    out: Place, here: Path, records: Records, count: int, run: dict, sizes: dict[str, int]
) -> dict:
    """Write the tables and the manifest of a set into a local folder; returns the manifest.

    count: of parts. sizes: bytes of the files in OUT.
    """
    cut, alone, names = 0, [], set()
    with SetWriter(here, run["labels"]) as tables, ThreadPoolExecutor(AT_ONCE) as pool:
        parts = in_order(pool, records.part, range(count), 2 * AT_ONCE)
        for record in progress.bar(parts, total=count, unit="part", desc="sealing"):
            for shard in record["shards"]:
                check_tar(out, shard, sizes)
                rows = shard.pop("rows")
                tables.add(shard, rows)
                names.add(shard["name"])
            tables.refuse(record["refused"])
            cut += record["cut"]
            alone += record["unpaired"]
    for name in sizes:
        if name.endswith(".tar") and "/" not in name and name not in names:
            storage.delete(out / name)  # of a process that another one was faster than
    head = {key: run[key] for key in ("format", "settings", "inputs", "packer")}
    refused = tables.refused.total()
    head["inputs"] = {**head["inputs"], "count": tables.samples + refused}
    unpaired = count_unpaired(alone)
    if not tables.samples:
        (here / SAMPLES).unlink()
        counts = {"samples": 0, "shards": 0, "bytes": 0, "cut": cut, "unpaired": unpaired}
        return {**head, **counts, "refused": dict(sorted(tables.refused.items()))}
    if (missing_list := out / WORK / MISSING).is_file():
        write(here / MISSING, missing_list.read_bytes())
    return tables.finish(head, cut, unpaired)


def remove_work(out: Place) -> None:
    """Remove what packing has left; what says whose it was goes last."""
    run, work = Records(out).path, out / WORK
    tops = {file.name.partition("/")[0] for file in storage.files_below(work)}
    for name in tops - {run.name}:
        if (work / name).is_file():
            storage.delete(work / name)
        else:
            storage.delete_below(work / name)
    storage.delete(run)
    storage.delete_below(work)


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


def status(out: Place, now: float | None = None) -> Status:
    """How far packing into a folder is; raises UserError where nothing is packed."""
    if (out / MANIFEST).is_file():
        count = read_manifest(out)["inputs"]["count"]
        return Status(0, 0, count, count, [], 0.0, 0.0, sealed=True)
    records = Records(out)
    if not records.path.is_file():
        raise UserError(f"{out}: nothing is being packed there; give the OUT of `xdc-shard pack`")
    run, (began, written) = records.run(), records.written()
    firsts = [*run["firsts"], run["inputs"]["count"]]
    done = {part for part, tar in written if tar is None}
    events = [(written[n, None], firsts[n + 1] - firsts[n]) for n in done]
    for part in {part for part, _ in written} - done:
        before = firsts[part]
        for tar, record in enumerate(records.shards(part)):
            events.append((written.get((part, tar), 0.0), record["next"] - before))
            before = record["next"]
    now = time.time() if now is None else now
    since = max(now - HOUR, began)
    count, total = sum(videos for _, videos in events), firsts[-1]
    recent = sum(videos for when, videos in events if when >= since)
    rate = recent / max(now - since, 1e-3)
    missing = [number for number in range(len(firsts) - 1) if number not in done]
    left = (total - count) / rate if rate else None
    return Status(len(firsts) - 1, len(done), total, count, missing, rate, left)
