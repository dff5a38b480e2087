"""`xdc`: pretrain encoders, probe them, report on a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

from xdc_fast import progress
from xdc_fast.errors import UserError
from xdc_fast.recipe import describe, load_recipe
from xdc_fast.storage import Place, place_of
from xdc_fast.tools import PATH, PLACE, Group, Number, after_a_signal, json_option, print_result
from xdc_fast.tools.evaluate import extract, finetune, probe, retrieve, svm
from xdc_fast.tools.export import export
from xdc_fast.tools.plan import plan
from xdc_fast.tools.sweep import sweep


@click.group(cls=Group, name="xdc")
@click.version_option(package_name="xdc_fast")
def main() -> None:
    """Cross-Modal Deep Clustering: from shards of unlabeled videos to encoders."""


@main.command(epilog="\b\nSettings and defaults:\n" + describe())
@click.argument("recipe", type=PATH)
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@json_option
def pretrain(recipe: Path, settings: tuple[str, ...], as_json: bool) -> None:
    """Run RECIPE, a YAML file, or continue the run that its folder `out` holds.

    KEY=VALUE changes a setting of the file: data=shards/mine out=runs/mine k=64 train.lr=0.05.
    With --json the content of summary.json is printed.
    """
    from xdc_fast.pretraining.loop import pretrain

    loaded = load_recipe(recipe, settings)
    after_a_signal(f"run the same command again to continue {loaded.out}")
    summary = pretrain(loaded)
    text = (
        f"{loaded.out}: {summary['method']}, k={summary['k']}, {summary['samples']} samples, "
        f"{len(summary['iterations'])} iterations in {summary['seconds']:.0f} s"
    )
    print_result(summary, [text], as_json)


@main.command()
@click.argument("run", type=PLACE)
@click.option(
    "--data", metavar="SHARDS", type=PLACE, help="The shard set of the run, where it has moved."
)
@json_option
def report(run: Place, data: Place | None, as_json: bool) -> None:
    """Write RUN/report.html, which shows what was clustered, in pictures and sound."""
    from xdc_fast.pretraining.run import Run
    from xdc_fast.report.page import write_report
    from xdc_fast.shards.dataset import ShardSet

    opened = Run.open(run)
    recipe = opened.recipe
    where = data or place_of(recipe.data)
    if data is None and isinstance(where, Path) and not where.is_dir():
        raise UserError(
            f"{run}: its shard set is not at {recipe.data}, seen from here; give it with "
            "--data SHARDS"
        )
    page = write_report(opened, ShardSet(where, recipe.cache, recipe.cache_gb))
    print_result({"run": str(run), "report": str(page)}, [str(page)], as_json)


@main.command()
@click.argument("recipe", type=PATH)
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option(
    "--seconds",
    default=5.0,
    show_default=True,
    type=Number(0.1, 3600),
    help="How long each part is measured.",
)
@click.option(
    "--trace", type=PATH, metavar="OUT", help="Write PyTorch's profile of some steps to this file."
)
@click.option(
    "--save",
    type=PATH,
    metavar="FILE",
    help="Write the rates to this JSON file, for `xdc plan --rates FILE`.",
)
@click.option(
    "--sources",
    type=PATH,
    metavar="FOLDER",
    help="Videos, to measure how fast a core packs them, with each codec.",
)
@json_option
def bench(
    recipe: Path,
    settings: tuple[str, ...],
    seconds: float,
    trace: Path | None,
    save: Path | None,
    sources: Path | None,
    as_json: bool,
) -> None:
    """Measure how fast RECIPE runs on its shards.

    It measures each part alone, names the bottleneck, and says what to change. KEY=VALUE changes a
    setting of the file, as in `xdc pretrain`. Nothing is written but the files that are asked for.

    Under torchrun, all processes of the machine work side by side, and the rates are those of one
    of them.
    """
    from xdc_fast.planner.bench import measure_speed
    from xdc_fast.planner.rates import check_saving, save_rates

    if save is not None:
        check_saving(save)
    result = measure_speed(load_recipe(recipe, settings), seconds, trace, sources)
    if save is not None and not progress.is_silent():
        save_rates(save, result["about"], result["planning"])
    print_result(result, describe_speed(result), as_json)


def describe_speed(result: dict) -> Iterator[str]:
    """What measure_speed found, in lines."""
    from xdc_fast.planner.bench import PARTS

    yield f"{result['about']}"
    yield f"on {result['device']}, clips per second"
    for part, meaning in PARTS.items():
        yield f"  {part:10}{result['rates'][part]:12,.0f}   {meaning}"
    total = sum(result["iteration"].values())
    yield f"one iteration, {total:,.0f} s by these rates"
    for part, spent in result["iteration"].items():
        yield f"  {part:10}{spent:12,.1f} s {spent / total:5.0%}"
    yield f"bottleneck: {result['verdict']}"
    for line in result["advice"]:
        yield f"  change: {line}"
    for name, share in result.get("operations", ()):
        yield f"  {name:40}{share:6.1%} of the time in operations"


@main.command()
@click.option(
    "--check", is_flag=True, help="Compare every kernel and path with an independent reference."
)
@json_option
def doctor(check: bool, as_json: bool) -> None:
    """Say what this machine offers, which path each stage will take, and why.

    With --check, kernels, loaders, k-means and encoders compute small examples, on the CPU and on
    a GPU where there is one, and are compared with torchaudio, scikit-learn, PyAV, NumPy and
    PyTorch in float64. It takes about a minute. Exit status 1 when a comparison fails.
    """
    from xdc_fast.tools.doctor import describe_report, examine

    if not check:
        found = examine()
        print_result(found, describe_report(found), as_json)
        return
    from xdc_fast.tools.check import check_machine

    checks = []
    for result in check_machine():
        checks.append(result)
        click.echo(result, err=as_json)
    print_result([result.as_dict() for result in checks], (), as_json)
    sys.exit(0 if all(result.holds for result in checks) else 1)


for command in (plan, probe, finetune, svm, retrieve, extract, export, sweep):
    main.add_command(command)
