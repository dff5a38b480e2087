"""`xdc-shard`: pack media files into shards, and check, list and index shards."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, fields
from datetime import datetime, timedelta
from pathlib import Path

import click
import numpy as np

from xdc_fast.errors import UserError
from xdc_fast.packing.datasets.collect import READERS, SHORTEST
from xdc_fast.packing.seal import Status, Summary
from xdc_fast.packing.settings import PackSettings
from xdc_fast.storage import Place
from xdc_fast.tools import PATH, PLACE, SEED, Group, after_a_signal, json_option, print_result


@click.group(name="xdc-shard", cls=Group)
@click.version_option(package_name="xdc_fast")
def main() -> None:
    """Pack raw videos into shards, and check, list and index shards."""


def settings_options(command: Callable) -> Callable:
    """An option for each field of PackSettings; None where it is not given."""
    kinds = {"codec": str, "fps": float, "short_side": int, "audio_rate": int, "tracks": str}
    for known in reversed(fields(PackSettings)):
        choices = known.metadata.get("choices")
        command = click.option(
            "--" + known.name.replace("_", "-"),
            type=click.Choice(choices) if choices else kinds.get(known.name, float),
            help=known.metadata["text"],
            show_default=False if known.default is None else str(known.default),
        )(command)
    return command


@main.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=PLACE)
@click.argument("out", metavar="OUT", type=PLACE)
@click.option(
    "--labels",
    type=PATH,
    metavar="CSV",
    help="A CSV file with a file column. Its other columns become labels; a cell may hold several, "
    "joined by ';'.",
)
@click.option(
    "--dataset",
    type=click.Choice(sorted(READERS)),
    help="SOURCE is a folder with this data set and its official lists, which bring the labels "
    f"and splits. It sets --tracks, and --min-seconds to {SHORTEST}.",
)
@settings_options
@click.option(
    "--shard-mb",
    type=int,
    help="Megabytes of a shard. By default it has 256, and 100 samples, but 4096 at most.",
)
@click.option("--workers", type=int, help="Processes. By default there are as many as cores.")
@click.option(
    "--time-limit",
    type=float,
    default=600,
    show_default=True,
    help="Seconds that a file, or a segment of one, may take. It is refused after that.",
)
@click.option(
    "--part",
    metavar="I/N",
    help="Pack every N-th part of the inputs, from part I on, counted from 0. For several machines "
    "that see the same OUT, such as one on storage; `seal` makes the set.",
)
@click.option(
    "--engine",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    show_default=True,
    help="Processes of this machine, or tasks of a Ray cluster (pip install xdc_fast[ray]).",
)
@click.option("--address", help="Of the Ray cluster. By default one is started on this machine.")
@json_option
def pack(
    sources: tuple[Place, ...],
    out: Place,
    labels: Path | None,
    dataset: str | None,
    shard_mb: int | None,
    workers: int | None,
    time_limit: float,
    part: str | None,
    engine: str,
    address: str | None,
    as_json: bool,
    **settings: object,
) -> None:
    """Pack SOURCE... into shards in the folder OUT.

    A SOURCE is a folder, a media file, or a CSV file with a path column; its columns start and end,
    in seconds, name segments of files. SOURCE and OUT may be URLs on storage. Every input is
    packed, or refused with a reason that OUT/refused.csv names. Files that the lists of a --dataset
    name and that SOURCE lacks are in OUT/missing.csv. The same command continues an interrupted
    run.
    """
    from xdc_fast.api import pack

    after_a_signal("run the same command again to continue")
    given = {name: value for name, value in settings.items() if value is not None}
    summary = pack(
        sources, out, labels, dataset,
        workers=workers, shard_mb=shard_mb, time_limit=time_limit, part=part,
        engine=engine, address=address, **given,
    )  # fmt: skip
    print_result(summary.as_dict(), describe_packing(summary), as_json)
    if not summary.packed and part is None:
        raise UserError(f"{out}: nothing was packed; {out / 'refused.csv'} says why")


@main.command()
@click.argument("out", type=PLACE)
@json_option
def seal(out: Place, as_json: bool) -> None:
    """Make a set of the parts that `pack --part` has packed into OUT.

    All of them must be done. What is missing is named.
    """
    from xdc_fast.packing.seal import seal

    summary = seal(out)
    print_result(summary.as_dict(), describe_packing(summary), as_json)
    if not summary.packed:
        raise UserError(f"{out}: nothing was packed; {out / 'refused.csv'} says why")


@main.command()
@click.argument("out", type=PLACE)
@json_option
def status(out: Place, as_json: bool) -> None:
    """Show how far packing into OUT is, over all machines, and when it may end."""
    from xdc_fast.packing.seal import status

    found = status(out)
    print_result(asdict(found), describe_status(out, found), as_json)


def describe_status(out: Place, found: Status) -> Iterator[str]:
    """How far packing is, in lines."""
    if found.sealed:
        yield f"{out}: a complete set of {found.videos} inputs"
        return
    yield (
        f"{out}: {found.done_parts} of {found.parts} parts and {found.done_videos} of "
        f"{found.videos} videos are done, {found.rate:.2f} videos/s"
    )
    if not found.missing:
        yield f"all parts are done; run `xdc-shard seal {out}`"
        return
    named = ", ".join(map(str, found.missing[:12])) + (", ..." if found.missing[12:] else "")
    yield f"missing parts: {named}"
    if found.left is not None:
        end = datetime.now() + timedelta(seconds=found.left)
        hours, minutes = divmod(round(found.left / 60), 60)
        yield f"{hours} h {minutes:02d} min are left at this rate, until {end:%Y-%m-%d %H:%M}"
    else:
        yield "nothing was finished within the last hour"


def describe_packing(summary: Summary) -> Iterator[str]:
    """A summary in lines."""
    from xdc_fast.packing.media import REASONS

    yield (
        f"{summary.inputs} inputs = {summary.packed} packed + {summary.refused} refused; "
        f"{summary.shards} shards, {summary.bytes / 1e6:.1f} MB, {summary.seconds:.1f} s"
    )
    for reason, count in sorted(summary.reasons.items(), key=lambda item: (-item[1], item[0])):
        yield f"  refused {count:6d}  {reason}: {REASONS[reason]}"
    if summary.cut:
        yield f"  cut     {summary.cut:6d}  to --max-seconds"
    if summary.unpaired["samples"]:
        seconds = summary.unpaired["seconds"]
        yield f"  alone   {summary.unpaired['samples']:6d}  {seconds:g} s of one track are left out"


@main.command()
@click.argument("shards", type=PLACE)
@click.option(
    "--decode", is_flag=True, help="Also decode every frame, all sound, and windows at random."
)
@json_option
def verify(shards: Place, decode: bool, as_json: bool) -> None:
    """Check that the shards in SHARDS are what the manifest and the tables say.

    SHARDS is a folder, or a URL on storage; the shards there are fetched a few at a time.
    The exit status is 1 when anything is damaged.
    """
    from xdc_fast.shards.verify import verify

    result = verify(shards, decode)
    damaged = result["damaged"]
    lines = []
    for damage in damaged:
        sample = f" {damage['sample']}:" if damage["sample"] else ""
        lines.append(f"{damage['shard']}:{sample} {damage['what']}")
    state = f"{len(damaged)} damages" if damaged else "no damage"
    lines.append(f"{shards}: {result['shards']} shards, {result['samples']} samples, {state}")
    if unknown := result["unknown"]:
        lines.append(
            f"{unknown} of the shards have no known checksum: their bytes were not compared"
        )
    print_result(result, lines, as_json)
    sys.exit(1 if damaged else 0)


@main.command()
@click.argument("shards", type=PLACE)
@json_option
def ls(shards: Place, as_json: bool) -> None:
    """Show what SHARDS, a folder or a URL, holds: settings, counts, labels, shards."""
    from xdc_fast.shards.dataset import ShardSet

    opened = ShardSet(shards)
    classes: dict[str, dict[str, int]] = {}
    for name in opened.label_names:
        codes, names = opened.label(name)
        counts = np.bincount(codes[codes >= 0], minlength=len(names))
        classes[name] = dict(zip(names, counts.tolist(), strict=True))
    records = map(opened.record, opened.shards)
    if as_json:
        print_result({**opened.manifest, "labels": classes, "shards": [*records]}, (), as_json)
    else:
        print_result({}, describe_set(opened.manifest, classes, records), as_json)


def describe_set(
    manifest: dict, classes: dict[str, dict[str, int]], shards: Iterable[dict]
) -> Iterator[str]:
    """A manifest, how many samples each class of each label has, and the shards, in lines."""
    yield "  ".join(f"{key}={value}" for key, value in manifest["settings"].items())
    yield (
        f"{manifest['samples']} samples, {manifest['frames']} frames, "
        f"{manifest['seconds'] / 3600:.2f} h, {manifest['bytes'] / 1e6:.1f} MB; "
        f"refused: {sum(manifest['refused'].values())}"
    )
    for name, counts in classes.items():
        most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{known} {count}" for known, count in most[:12])
        rest = f", and {len(most) - 12} more" if len(most) > 12 else ""
        yield f"label {name}: {len(most)} classes: {shown}{rest}"
    for shard in shards:
        last = shard["first"] + shard["samples"] - 1
        yield (
            f"{shard['name']}  {shard['samples']:7d} samples ({shard['first']} to {last})  "
            f"{shard['bytes'] / 1e6:9.1f} MB  {(shard['sha256'] or 'not known')[:12]}"
        )


@main.command()
@click.argument("shards", type=PLACE)
@json_option
def index(shards: Place, as_json: bool) -> None:
    """Rebuild the index files and the manifest of SHARDS, a folder or a URL on storage.

    SHARDS may hold any audio-video WebDataset, not only what `xdc-shard pack` wrote. On storage,
    no more of the tars is fetched than the tables need. Samples that
    cannot be used are left out, and SHARDS/refused.csv lists them. With --json the manifest is
    printed.
    """
    from xdc_fast.shards.index import index

    manifest = index(shards)
    lines = [f"{shards}: indexed {manifest['samples']} samples in {manifest['shards']} shards"]
    if refused := manifest["refused"]:
        why = ", ".join(f"{count} {reason}" for reason, count in refused.items())
        lines.append(f"  left out: {why}; {shards / 'refused.csv'} lists them")
    print_result(manifest, lines, as_json)


@main.command()
@click.argument("shards", type=PATH)
@click.option("--labels", type=PATH, required=True, help="CSV with a file column and the labels.")
@json_option
def label(shards: Path, labels: Path, as_json: bool) -> None:
    """Give the samples in SHARDS the labels of a CSV, as `pack --labels` takes it.

    Its columns are added to samples.csv, or take the place of those of the same name. A sample that
    no line names keeps what it has. The tars are not touched.
    """
    from xdc_fast.packing.relabel import relabel

    result = relabel(shards, labels)
    line = (
        f"{shards}: {result['labeled']} of {result['samples']} samples have labels of "
        f"{', '.join(result['columns'])}; {result['unused_lines']} lines name no sample"
    )
    print_result(result, [line], as_json)


@main.command()
@click.argument("out", type=PATH)
@click.option("--videos", type=click.IntRange(1, 10_000_000), default=600, show_default=True)
@click.option("--classes", type=click.IntRange(2), default=10, show_default=True)
@click.option("--seed", type=SEED, default=0, show_default=True)
@click.option(
    "--workers",
    type=click.IntRange(1, 1024),
    help="Processes. By default there are as many as cores.",
)
@json_option
def toy(
    out: Path, videos: int, classes: int, seed: int, workers: int | None, as_json: bool
) -> None:
    """Make a small audio-visual world with a known answer: mp4 files and labels.csv in OUT."""
    from xdc_fast.packing.toy import make_toy

    make_toy(out, videos=videos, classes=classes, seed=seed, workers=workers)
    labels = out / "labels.csv"
    made = {"out": str(out), "videos": videos, "classes": classes, "labels": str(labels)}
    text = f"{out}: {videos} videos of {classes} classes, labels in {labels}"
    print_result(made, [text], as_json)
