"""`xdc`: pretrain encoders, probe them, report on a run."""

from __future__ import annotations

import json
from pathlib import Path

import click

from xdc_fast.recipe import describe, load_recipe
from xdc_fast.tools import Group, after_a_signal
from xdc_fast.tools.evaluate import extract, finetune, probe, retrieve, svm
from xdc_fast.tools.export import export
from xdc_fast.tools.sweep import sweep


@click.group(cls=Group, name="xdc")
def main() -> None:
    """Cross-Modal Deep Clustering: from shards of unlabeled videos to encoders."""


@main.command(epilog="\b\nSettings and defaults:\n" + describe())
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
def pretrain(recipe: Path, settings: tuple[str, ...]) -> None:
    """Run RECIPE (a YAML file), or go on with the run that its folder `out` holds.

    KEY=VALUE overrides the file: data=shards/mine out=runs/mine k=64 train.lr=0.05
    """
    from xdc_fast.pretraining.loop import pretrain

    loaded = load_recipe(recipe, settings)
    after_a_signal(f"the same command goes on with {loaded.out}")
    summary = pretrain(loaded)
    click.echo(
        f"{loaded.out}: {summary['method']}, k={summary['k']}, {summary['samples']} samples, "
        f"{len(summary['iterations'])} iterations in {summary['seconds']:.0f} s"
    )


@main.command()
@click.argument("run", type=click.Path(path_type=Path))
@click.option(
    "--data", type=click.Path(path_type=Path), help="the run's shard set, if it has moved"
)
def report(run, data) -> None:
    """Write RUN/report.html: what was clustered, in pictures and sound."""
    from xdc_fast.pretraining.run import Run
    from xdc_fast.report.page import write_report
    from xdc_fast.shards.dataset import ShardSet

    opened = Run.open(run)
    click.echo(write_report(opened, ShardSet(data or opened.recipe.data)))


@main.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--seconds", default=5.0, show_default=True, type=click.FloatRange(0.1), help="for each part"
)
@click.option(
    "--trace", type=click.Path(path_type=Path), help="write PyTorch's profile of some steps here"
)
@click.option("--json", "as_json", is_flag=True, help="print the result as one JSON line")
def bench(recipe, settings, seconds, trace, as_json) -> None:
    """How fast RECIPE runs on its shards: each part alone, the bottleneck, and what to change.

    KEY=VALUE overrides the file, as for `xdc pretrain`. Nothing is written but the trace.
    """
    from xdc_fast.planner.bench import PARTS, measure_speed

    loaded = load_recipe(recipe, settings)
    result = measure_speed(loaded, seconds, trace)
    if as_json:
        click.echo(json.dumps(result))
        return
    click.echo(f"on {result['device']}, clips per second")
    for part, meaning in PARTS.items():
        click.echo(f"  {part:10}{result['rates'][part]:12,.0f}   {meaning}")
    total = sum(result["iteration"].values())
    click.echo(f"one iteration, {total:,.0f} s by these rates")
    for part, spent in result["iteration"].items():
        click.echo(f"  {part:10}{spent:12,.1f} s {spent / total:5.0%}")
    click.echo(f"bottleneck: {result['verdict']}")
    for line in result["advice"]:
        click.echo(f"  change: {line}")
    for name, share in result.get("operations", ()):
        click.echo(f"  {name:40}{share:6.1%} of the time in operations")


@main.command()
def doctor() -> None:
    """Say what this machine offers and which path each stage will take, and why."""
    from xdc_fast.tools.doctor import examine

    click.echo(examine())


for command in (probe, finetune, svm, retrieve, extract, export, sweep):
    main.add_command(command)
