"""`xdc sweep`: a recipe over several settings, and the table of what came of it."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import click

from xdc_fast.storage import Place
from xdc_fast.tools import PATH, PLACE, after_a_signal, json_option, print_result
from xdc_fast.tools.evaluate import clips_option, random_split_options


@click.command()
@click.argument("recipe", type=PATH)
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE[,VALUE]...]...")
@click.option(
    "--data",
    type=PLACE,
    metavar="SHARDS",
    help="Probe every run on this set. The set to train on is the setting data=SHARDS.",
)
@click.option(
    "--label",
    "labels",
    multiple=True,
    metavar="COLUMN",
    help="Predict this label column. May be given several times.",
)
@click.option(
    "--split",
    metavar="COLUMN",
    help="Use this label column of train and test. Otherwise the test part is drawn at random, by "
    "class.",
)
@random_split_options[0]
@random_split_options[1]
@clips_option(3)
@json_option
def sweep(
    recipe: Path,
    settings: tuple[str, ...],
    data: Place | None,
    labels: tuple[str, ...],
    split: str | None,
    test_share: float,
    seed: int,
    clips: int,
    as_json: bool,
) -> None:
    """Run RECIPE for every combination of settings, probe the runs, and write tables of them.

    \b
    xdc sweep recipes/toy.yaml out=runs/sweep data=shards/train \\
        method=sdc,xdc k=64,128,256 seed=0,1,2 --data shards/test --label class

    A key with several values, KEY=VALUE,VALUE, is an axis. Commas within [] do not separate values,
    and neither do commas in out and label. data=A,B is an axis if every part is a folder.
    method=supervised needs label=COLUMN, and its k is the number of classes of that label.

    Each run is a folder in `out`. It is named by method, k, the other axes, and seed:
    method=xdc,k=64,seed=0. A run or a probe that is finished is left alone, and one that was
    interrupted is continued. Several sweeps may share a folder, at the same time too, and probe its
    runs in different ways.

    After each run the command writes sweep.csv (every run), sweep.json, sweep.md, sweep.html and,
    if runs are probed, sweep.svg into `out`. When a run is refused, the others are made, and the
    exit status is 2.
    """
    from xdc_fast.errors import UserError
    from xdc_fast.evaluation.probe import ProbeSettings
    from xdc_fast.evaluation.sweep import ProbeTask, metrics_of, run_trial, tabulate
    from xdc_fast.evaluation.trials import plan
    from xdc_fast.files import Busy, locked
    from xdc_fast.report.sweep import one_line, write_sweep
    from xdc_fast.shards.dataset import ShardSet

    if (data is None) == bool(labels):
        raise UserError(
            "--data and --label belong together; give both, the set to probe on and its column"
        )
    trials = plan(recipe, settings)
    task, options = None, []
    if data is not None:
        task = ProbeTask(ShardSet(data), labels, ProbeSettings(split, test_share, clips, seed))
        options = [f"--data={data}", *(f"--label={label}" for label in labels)]
        options += [f"--split={split}"] if split else []
        options += [f"--test-share={test_share}"] if test_share != ProbeSettings.test_share else []
        options += [f"--seed={seed}"] if seed else []
        options += [f"--clips={clips}"]
    folder = Path(trials[0].recipe.out).parent
    command = shlex.join(["xdc", "sweep", str(recipe), *settings, *options])
    after_a_signal(f"run the same command again to continue {folder}")
    reasons: dict[str, str] = {}
    refused = 0
    for number, trial in enumerate(trials, 1):
        try:
            run_trial(trial, task)
            metrics = metrics_of(trial, task)
            line = one_line(metrics, labels) if metrics else "changed by another process"
        except Busy:
            line = reasons[trial.name] = "left out, another process is at work on it"
        except UserError as error:
            refused += 1
            line = reasons[trial.name] = str(error)
        click.echo(f"[{number}/{len(trials)}] {trial.name}: {line}", err=as_json)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):  # another sweep may share it
            table = tabulate(trials, task, reasons)
            write_sweep(folder, table, command)
    print_result({"command": command, **table}, [str(folder / "sweep.html")], as_json)
    if refused:
        click.echo(f"xdc: {refused} of {len(trials)} runs were refused", err=True)
        sys.exit(2)
