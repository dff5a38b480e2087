"""`xdc-shard`: pack media files into shards, and check, list and index shards."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click
import numpy as np
from click.core import ParameterSource

from xdc_fast.errors import UserError
from xdc_fast.packing.convert import PackSettings
from xdc_fast.packing.datasets.collect import READERS, collect_dataset, write_missing
from xdc_fast.tools import Group, after_a_signal

FOLDER = click.Path(path_type=Path)
SHORTEST = 0.1  # seconds of a listed video; HMDB51 has some below 1
LONGEST = 86_400  # seconds of a video, or to wait for one


@click.group(name="xdc-shard", cls=Group)
@click.version_option(package_name="xdc_fast")
def main():
    """Pack raw videos into shards, and check, list and index shards."""


@main.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=FOLDER)
@click.argument("out", metavar="OUT", type=FOLDER)
@click.option(
    "--labels",
    type=FOLDER,
    help="CSV with a file column; the others become labels, several in a cell joined by ;",
)
@click.option(
    "--dataset",
    type=click.Choice(sorted(READERS)),
    help="SOURCE holds this data set and its official lists: labels and splits come from them.",
)
@click.option("--max-seconds", type=float, help="Cut longer videos to their first seconds.")
@click.option(
    "--min-seconds",
    type=float,
    default=PackSettings.min_seconds,
    show_default=True,
    help=f"Refuse shorter inputs. With --dataset it is {SHORTEST}, as official splits are whole.",
)
@click.option("--fps", type=float, default=PackSettings.fps, show_default=True)
@click.option("--short-side", type=int, default=PackSettings.short_side, show_default=True)
@click.option(
    "--codec",
    type=click.Choice(["jpeg", "h264", "copy"]),
    default=PackSettings.codec,
    show_default=True,
    help="JPEG packets, H.264 with short GOPs, or the video stream as it is.",
)
@click.option("--audio-rate", type=int, default=PackSettings.audio_rate, show_default=True)
@click.option(
    "--tracks",
    type=click.Choice(["both", "video", "audio"]),
    default=PackSettings.tracks,
    show_default=True,
    help="What is packed; one track alone need not have the other. --dataset has its own default.",
)
@click.option("--shard-mb", type=int, default=256, show_default=True)
@click.option("--workers", type=int, help="Processes; as many as cores unless given.")
@click.option("--time-limit", type=float, default=600, show_default=True, help="Seconds per file.")
@click.option("--json", "as_json", is_flag=True, help="End with a line of JSON.")
def pack(sources, out, labels, dataset, shard_mb, workers, time_limit, as_json, **options):
    """Pack SOURCE... (folders, files, or a CSV with a path column) into the folder OUT.

    Every input is packed or refused with a reason; OUT/refused.csv lists the refused. What the
    lists of a --dataset name and SOURCE has not is in OUT/missing.csv. Run again after an
    interruption, it goes on.
    """
    from xdc_fast.packing import pack as packing
    from xdc_fast.packing.sources import collect

    if dataset and (len(sources) > 1 or labels):
        raise UserError("--dataset takes one folder and no --labels; its lists bring the labels")
    own = {"tracks": READERS[dataset].tracks, "min_seconds": SHORTEST} if dataset else {}
    given = click.get_current_context().get_parameter_source
    options |= {key: own[key] for key in own if given(key) == ParameterSource.DEFAULT}
    settings = _check(PackSettings(**options), shard_mb, workers, time_limit)
    after_a_signal("run the same command again to go on")
    inputs = (
        collect_dataset(dataset, sources[0], out)
        if dataset
        else collect(list(sources), labels, out)
    )
    for note in inputs.notes:
        click.echo(note, err=True)
    summary = packing.pack(
        inputs, out, settings, shard_mb=shard_mb, workers=workers, time_limit=time_limit
    )
    if summary.packed:
        write_missing(out, inputs)
    _say(summary, out)
    if as_json:
        click.echo(summary.as_json())
    if not summary.packed:
        raise UserError(f"{out}: nothing was packed; {out / 'refused.csv'} says why")


def _check(
    settings: PackSettings, shard_mb: int, workers: int | None, time_limit: float
) -> PackSettings:
    """The settings, or UserError for one that makes no sense."""
    wrong = {
        "--fps must be 0.1 to 240": not 0.1 <= settings.fps <= 240,
        "--short-side must be even, 16 to 4096": settings.short_side not in range(16, 4097, 2),
        "--audio-rate must be 4000 to 192000": not 4000 <= settings.audio_rate <= 192000,
        f"--min-seconds must be above 0, at most {LONGEST}": not (
            0 < settings.min_seconds <= LONGEST
        ),
        f"--max-seconds must be from --min-seconds to {LONGEST}": settings.max_seconds is not None
        and not settings.min_seconds <= settings.max_seconds <= LONGEST,
        "--codec copy packs whole videos: leave --max-seconds away": settings.codec == "copy"
        and settings.max_seconds is not None,
        "--shard-mb must be at least 1": shard_mb < 1,
        "--workers must be at least 1": workers is not None and workers < 1,
        f"--time-limit must be above 0, at most {LONGEST}": not 0 < time_limit <= LONGEST,
    }
    for message, holds in wrong.items():
        if holds:
            raise UserError(message)
    return settings


def _say(summary, out: Path) -> None:
    """The summary for people."""
    from xdc_fast.packing.media import REASONS

    if summary.already:
        click.echo(f"{out}: already packed with these inputs and settings")
    click.echo(
        f"{summary.inputs} inputs = {summary.packed} packed + {summary.refused} refused; "
        f"{summary.shards} shards, {summary.bytes / 1e6:.1f} MB, {summary.seconds:.1f} s"
    )
    for reason, count in sorted(summary.reasons.items(), key=lambda item: (-item[1], item[0])):
        click.echo(f"  refused {count:6d}  {reason}: {REASONS[reason]}")
    if summary.cut:
        click.echo(f"  cut     {summary.cut:6d}  to --max-seconds")


@main.command()
@click.argument("out", type=FOLDER)
@click.option("--decode", is_flag=True, help="Also decode every frame and all sound.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def verify(out, decode, as_json):
    """Check shards against the manifest, the sidecars and themselves.

    Exit status 1 when anything is damaged.
    """
    from xdc_fast.shards.verify import verify as check

    result = check(out, decode)
    if as_json:
        click.echo(json.dumps(result))
    else:
        for damage in result["damaged"]:
            sample = f" {damage['sample']}:" if damage["sample"] else ""
            click.echo(f"{damage['shard']}:{sample} {damage['what']}")
        state = f"{len(result['damaged'])} damages" if result["damaged"] else "all sound"
        click.echo(f"{out}: {result['shards']} shards, {result['samples']} samples, {state}")
    sys.exit(1 if result["damaged"] else 0)


@main.command()
@click.argument("out", type=FOLDER)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of lines.")
def ls(out, as_json):
    """Show what a set holds: settings, counts, labels, shards."""
    from xdc_fast.shards.dataset import ShardSet

    shards = ShardSet(out)
    manifest = shards.manifest
    classes = {}
    for name in shards.label_names:
        codes, names = shards.label(name)
        counts = np.bincount(codes[codes >= 0], minlength=len(names))
        classes[name] = dict(zip(names, counts.tolist(), strict=True))
    if as_json:
        click.echo(json.dumps({**manifest, "labels": classes}))
        return
    click.echo("  ".join(f"{key}={value}" for key, value in manifest["settings"].items()))
    click.echo(
        f"{len(shards)} samples, {manifest['frames']} frames, {manifest['seconds'] / 3600:.2f} h, "
        f"{manifest['bytes'] / 1e6:.1f} MB; refused: {sum(manifest['refused'].values())}"
    )
    for name, counts in classes.items():
        most = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        shown = ", ".join(f"{known} {count}" for known, count in most[:12])
        rest = f", and {len(most) - 12} more" if len(most) > 12 else ""
        click.echo(f"label {name}: {len(most)} classes: {shown}{rest}")
    for shard in manifest["shards"]:
        last = shard["first"] + shard["samples"] - 1
        click.echo(
            f"{shard['name']}  {shard['samples']:7d} samples ({shard['first']} to {last})  "
            f"{shard['bytes'] / 1e6:9.1f} MB  {shard['sha256'][:12]}"
        )


@main.command()
@click.argument("out", type=FOLDER)
def index(out):
    """Rebuild the index files and the manifest of any audio-video WebDataset in OUT."""
    from xdc_fast.shards.index import index as rebuild

    manifest = rebuild(out)
    click.echo(f"{out}: indexed {manifest['samples']} samples in {len(manifest['shards'])} shards")


@main.command()
@click.argument("out", type=FOLDER)
@click.option("--videos", type=click.IntRange(1), default=600, show_default=True)
@click.option("--classes", type=click.IntRange(2), default=10, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--workers", type=click.IntRange(1), help="Processes; as many as cores unless given.")
def toy(out, videos, classes, seed, workers):
    """Make a small audio-visual world with a known answer: mp4 files and labels.csv."""
    from xdc_fast.packing.toy import make_toy

    make_toy(out, videos=videos, classes=classes, seed=seed, workers=workers)
    click.echo(f"{out}: {videos} videos of {classes} classes, labels in {out / 'labels.csv'}")
