"""Every kind of fault, tried: a table of what was tried, what held and what failed."""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path

import click
import numpy as np

from tests.faults import inputs, own, processes, shards
from tests.faults.trials import Trial
from tests.faults.world import World, build

KINDS = {  # what is tried, and its number of draws
    "flipped bits in a set": (shards.flips, 40),
    "manifests of foreign paths and values": (shards.manifests, 10),
    "tables of a tar that lie": (shards.sidecars, 8),
    "damaged files of runs and features": (own.files, 5),
    "hostile media": (inputs.media, 12),
    "hostile tars": (inputs.tars, 10),
    "hostile recipes, settings and tables": (inputs.texts, 1),
    "names of files": (inputs.names, 1),
    "commands killed": (processes.kills, 6),
    "workers of pack killed": (processes.workers, 20),
    "commands interrupted": (processes.signals, 2),
    "a full disk": (processes.full_disk, 1),
}


def attempt(name: str, world: World, seed: int, count: int) -> list[Trial]:
    """The trials of a kind, a key of KINDS; a trial that cannot go on is one that failed."""
    trials: list[Trial] = []
    try:
        for trial in KINDS[name][0](world, np.random.default_rng(seed), count):
            trials.append(trial)
    except Exception as error:
        trials.append(Trial(name, f"{type(error).__name__}: {error}"))
    return trials


@click.command()
@click.option("--only", multiple=True, type=click.Choice([*KINDS]), help="A kind; all by default.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "to", type=click.Path(path_type=Path), help="Write the figures there.")
def main(only: tuple[str, ...], seed: int, to: Path | None) -> None:
    """Break the program on purpose; the exit status is 1 where it does not hold."""
    figures, failed = [], 0
    begun = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        world = build(Path(folder) / "world")
        click.echo(f"{'':40} {'tried':>6} {'held':>6} {'failed':>6}  seconds")
        for name in only or KINDS:
            start = time.monotonic()
            trials = attempt(name, world, seed, KINDS[name][1])
            wrong = [trial for trial in trials if trial.reason]
            failed += len(wrong)
            seconds = round(time.monotonic() - start, 1)
            held = len(trials) - len(wrong)
            click.echo(f"{name:40} {len(trials):6} {held:6} {len(wrong):6} {seconds:8.1f}")
            for trial in wrong[:20]:
                click.echo(f"    {trial.what}: {trial.reason}")
            counts = {"tried": len(trials), "held": held, "failed": len(wrong)}
            figures.append({"kind": name, **counts, "seconds": seconds})
    total = round(time.monotonic() - begun)
    click.echo(f"{sum(f['tried'] for f in figures)} tried, {failed} failed, {total} s")
    if to:
        machine = {"cores": os.cpu_count(), "python": sys.version.split()[0]}
        to.write_text(json.dumps({"seed": seed, **machine, "kinds": figures}, indent=1) + "\n")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
