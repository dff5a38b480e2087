"""`xdc-shard`: pack media files into shards, and check, list and index shards."""

from __future__ import annotations

import signal
import sys
from pathlib import Path

import click

from xdc_fast.errors import UserError
from xdc_fast.shards.convert import Settings
from xdc_fast.tools import Group

FOLDER = click.Path(path_type=Path)


@click.group(cls=Group)
@click.version_option(package_name="xdc_fast")
def main():
    """Pack raw videos into shards, and check, list and index shards."""


@main.command()
@click.argument("sources", metavar="SOURCE...", nargs=-1, required=True, type=FOLDER)
@click.argument("out", metavar="OUT", type=FOLDER)
@click.option("--labels", type=FOLDER, help="CSV with a file column; the others become labels.")
@click.option("--max-seconds", type=float, help="Cut longer videos to their first seconds.")
@click.option("--min-seconds", type=float, default=Settings.min_seconds, show_default=True)
@click.option("--fps", type=float, default=Settings.fps, show_default=True)
@click.option("--short-side", type=int, default=Settings.short_side, show_default=True)
@click.option(
    "--codec",
    type=click.Choice(["jpeg", "h264", "copy"]),
    default=Settings.codec,
    show_default=True,
    help="JPEG packets, H.264 with short GOPs, or the video stream as it is.",
)
@click.option("--audio-rate", type=int, default=Settings.audio_rate, show_default=True)
@click.option("--shard-mb", type=int, default=256, show_default=True)
@click.option("--workers", type=int, help="Processes; as many as cores unless given.")
@click.option("--time-limit", type=float, default=600, show_default=True, help="Seconds per file.")
@click.option("--json", "as_json", is_flag=True, help="End with a line of JSON.")
def pack(sources, out, labels, shard_mb, workers, time_limit, as_json, **options):
    """Pack SOURCE... (folders, files, or a CSV with a path column) into the folder OUT.

    Every input is packed or refused with a reason; OUT/refused.csv lists the refused. Run again
    after an interruption, it goes on.
    """
    from xdc_fast.shards import pack as packing
    from xdc_fast.shards.sources import collect

    settings = _check(Settings(**options), shard_mb, workers, time_limit)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    inputs = collect(list(sources), labels, out)
    for note in inputs.notes:
        click.echo(note, err=True)
    try:
        summary = packing.pack(
            inputs, out, settings, shard_mb=shard_mb, workers=workers, time_limit=time_limit
        )
    except KeyboardInterrupt:
        click.echo("xdc-shard: interrupted; run the same command again to go on", err=True)
        sys.exit(130)
    _say(summary, out)
    if as_json:
        click.echo(summary.as_json())
    if not summary.packed:
        raise UserError(f"{out}: nothing was packed; {out / 'refused.csv'} says why")


def _check(settings: Settings, shard_mb: int, workers: int | None, time_limit: float) -> Settings:
    """The settings, or UserError for one that makes no sense."""
    wrong = {
        "--fps must be above 0 and at most 240": not 0 < settings.fps <= 240,
        "--short-side must be even, 16 to 4096": settings.short_side not in range(16, 4097, 2),
        "--audio-rate must be 4000 to 192000": not 4000 <= settings.audio_rate <= 192000,
        "--min-seconds must be above 0": settings.min_seconds <= 0,
        "--max-seconds must not be below --min-seconds": settings.max_seconds is not None
        and settings.max_seconds < settings.min_seconds,
        "--shard-mb must be at least 1": shard_mb < 1,
        "--workers must be at least 1": workers is not None and workers < 1,
        "--time-limit must be above 0": time_limit <= 0,
    }
    for message, holds in wrong.items():
        if holds:
            raise UserError(message)
    return settings


def _say(summary, out: Path) -> None:
    """The summary for people."""
    if summary.already:
        click.echo(f"{out}: already packed with these inputs and settings")
    click.echo(
        f"{summary.inputs} inputs = {summary.packed} packed + {summary.refused} refused; "
        f"{summary.shards} shards, {summary.bytes / 1e6:.1f} MB, {summary.seconds:.1f} s"
    )
    for reason, count in sorted(summary.reasons.items(), key=lambda item: (-item[1], item[0])):
        click.echo(f"  refused {count:6d}  {reason}")
    if summary.cut:
        click.echo(f"  cut     {summary.cut:6d}  to --max-seconds")
