"""`xdc sweep`: a recipe over several settings, and the table of what came of it."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import click

from xdc_fast.tools import after_a_signal


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE[,VALUE]...]...")
@click.option(
    "--eval", "data", type=click.Path(path_type=Path), help="a shard set to probe every run on"
)
@click.option(
    "--label", "labels", multiple=True, help="a label column to predict; may be given several times"
)
@click.option("--split", help="a label column of train and test; otherwise at random, by class")
@click.option("--clips", default=3, show_default=True, type=click.IntRange(1), help="per video")
@click.option("--json", "as_json", is_flag=True, help="print the table as one JSON line")
def sweep(recipe, settings, data, labels, split, clips, as_json) -> None:
    """Run RECIPE once for every combination of settings, probe the runs, and tabulate them.

    \b
    xdc sweep recipes/toy.yaml out=runs/sweep data=shards/train \\
        method=sdc,xdc k=64,128,256 seed=0,1,2 --eval shards/test --label class

    KEY=VALUE,VALUE is an axis; commas within [] do not split, nor those of out and label. data=A,B
    is an axis when every part is a folder. method=supervised needs label=COLUMN, whose number of
    classes becomes its k.

    Each run is the folder out/NAME, named by method, k, the other keys with several values, and
    seed: method=xdc,k=64,seed=0. Runs that are there already are gone on with or left alone, and so
    are their probes. Several sweeps, at the same time too, may share a folder.

    Writes sweep.csv (every run), sweep.json, sweep.md, sweep.html and, of runs that are probed,
    sweep.svg into `out`, anew after each run.
    Exit status 2 when a run was refused; the others are made all the same.
    """
    from xdc_fast.errors import UserError
    from xdc_fast.evaluation.sweep import Test, figures_of, plan, run_trial, tabulate
    from xdc_fast.files import Busy, locked
    from xdc_fast.report.sweep import one_line, write_sweep
    from xdc_fast.shards.dataset import ShardSet

    if (data is None) == bool(labels):
        raise UserError("--eval and --label belong together: a set to probe on, and what to tell")
    trials = plan(recipe, settings)
    test = Test(ShardSet(data), labels, clips, split) if labels else None
    folder = Path(trials[0].recipe.out).parent
    options = [f"--eval={data}", *(f"--label={label}" for label in labels)] if labels else []
    options += [f"--split={split}"] if split else []
    options += [f"--clips={clips}"] if labels else []
    command = shlex.join(["xdc", "sweep", str(recipe), *settings, *options])
    after_a_signal(f"the same command goes on with {folder}")
    reasons: dict[str, str] = {}
    refused = 0
    for number, trial in enumerate(trials, 1):
        try:
            run_trial(trial, test)
            figures = figures_of(trial, test)
            line = one_line(figures, labels) if figures else "probed anew by another sweep"
        except Busy:
            line = reasons[trial.name] = "left out, another process is at work on it"
        except UserError as error:
            refused += 1
            line = reasons[trial.name] = str(error)
        click.echo(f"[{number}/{len(trials)}] {trial.name}: {line}", err=as_json)
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):  # another sweep may share it
            table = tabulate(trials, test, reasons)
            write_sweep(folder, table, command)
    if as_json:
        click.echo(json.dumps({"command": command, **table}))
    else:
        click.echo(folder / "sweep.html")
    if refused:
        click.echo(f"xdc: {refused} of {len(trials)} runs were refused", err=True)
        sys.exit(2)
