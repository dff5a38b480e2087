"""`xdc plan`: what a recipe needs at some size, before it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from xdc_fast.recipe import load_recipe
from xdc_fast.tools import PATH, Number, json_option, print_result

LARGE = Number(0, 1e15, min_open=True)
COUNT = click.IntRange(1, 1_000_000)


@click.command()
@click.argument("recipe", type=PATH)
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--videos", type=LARGE, help="How many there are.  [default: 65 million]")
@click.option("--seconds", type=LARGE, help="How long each is.  [default: 15]")
@click.option(
    "--gpus",
    type=COUNT,
    help="GPUs of all nodes, a process each.  [default: one for each group of a batch, at most 64]",
)
@click.option("--nodes", type=COUNT, help="Nodes that hold the GPUs.  [default: one for 8 GPUs]")
@click.option("--cores", type=LARGE, help="Cores that pack.  [default: 64 for each node]")
@click.option("--fps", type=LARGE, help="Of the packed videos.  [default: video.fps]")
@click.option(
    "--short-side", type=COUNT, help="Of the packed pictures.  [default: 8/7 of video.crop]"
)
@click.option(
    "--rates",
    multiple=True,
    metavar="FILE",
    type=PATH,
    help="Rates, from `xdc bench --save FILE` or written by hand; the last file counts.",
)
@click.option("--prices", metavar="FILE", type=PATH, help="Prices, so that the plan has money.")
@click.option("--page", metavar="FILE", type=PATH, help="Write a page that shows how cost grows.")
@json_option
def plan(
    recipe: Path,
    settings: tuple[str, ...],
    rates: tuple[Path, ...],
    prices: Path | None,
    page: Path | None,
    as_json: bool,
    **sizes: Any,
) -> None:
    """Say what RECIPE needs at some size: storage, time, memory, network, money.

    Neither its data nor a GPU need be there. Each figure comes with its formula and the rates it
    rests on: measured by `xdc bench --save`, from a file, or assumed. The plan names what breaks
    first, and what to change. KEY=VALUE changes a setting of the file, as in `xdc pretrain`.

    The file of --prices is YAML with some of the keys gpu_hour, core_hour, tb_month,
    million_requests and tb_egress, each with a number. That of --rates is YAML with names as the
    plan prints them, each with a number, and `about`, a text that says where they are from.
    """
    from xdc_fast.planner.job import choose_job
    from xdc_fast.planner.plan import make_plan
    from xdc_fast.planner.prices import read_prices
    from xdc_fast.planner.rates import read_rates
    from xdc_fast.planner.text import describe_plan
    from xdc_fast.report.plan import write_plan

    loaded = load_recipe(recipe, settings)
    known = read_rates(rates, loaded.train)
    costs = None if prices is None else read_prices(prices)
    made = make_plan(loaded, choose_job(loaded, **sizes), known, costs)
    if page is not None:
        write_plan(page, recipe.name, made, costs)
    print_result(made.as_dict(), describe_plan(made), as_json)
