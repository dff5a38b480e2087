"""`xdc plan`: what a recipe needs at some size, before it runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from xdc_fast.recipe import load_recipe
from xdc_fast.tools import PATH, Number, json_option, print_result

if TYPE_CHECKING:
    from xdc_fast.planner.plan import Limit, Plan

LARGE = Number(0, 1e15, min_open=True)
COUNT = click.IntRange(1, 1_000_000)
SCALES = {
    "bytes": ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1, "B")),
    "seconds": ((86_400, "days"), (3600, "h"), (60, "min"), (1, "s"), (1e-3, "ms"), (1e-6, "us")),
}


@click.command()
@click.argument("recipe", type=PATH)
@click.argument("settings", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--videos", default=65e6, show_default=True, type=LARGE, help="How many there are.")
@click.option("--seconds", default=15.0, show_default=True, type=LARGE, help="How long each is.")
@click.option(
    "--gpus",
    type=COUNT,
    help="GPUs of all nodes, a process each.  [default: one for each group of a batch, 64 at most]",
)
@click.option("--nodes", type=COUNT, help="Nodes that the GPUs are in.  [default: one for 8 GPUs]")
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
    help="Rates to take, from `xdc bench --save FILE` or written by hand; may be given again.",
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

    Neither its data nor a GPU need be there. Each figure comes with its formula, and with the
    rates it rests on: measured by `xdc bench --save`, from a file, or assumed. The plan names what
    breaks first, and what to change. KEY=VALUE changes a setting of the file, as in `xdc pretrain`.

    FILE of --prices is YAML with some of the keys gpu_hour, core_hour, tb_month, million_requests
    and tb_egress, each with a number. FILE of --rates is YAML with names of rates and numbers, and
    `about`, a text that says where they are from.
    """
    from xdc_fast.planner.plan import choose_job, make_plan
    from xdc_fast.planner.prices import read_prices
    from xdc_fast.planner.rates import read_rates
    from xdc_fast.report.plan import write_plan

    loaded = load_recipe(recipe, settings)
    known = read_rates(rates, loaded.train)
    costs = None if prices is None else read_prices(prices)
    made = make_plan(loaded, choose_job(loaded, **sizes), known, costs)
    if page is not None:
        write_plan(page, recipe.name, made, costs)
    print_result(made.as_dict(), describe_plan(made), as_json)


def describe_plan(plan: Plan) -> Iterator[str]:
    """A plan in lines."""
    job = plan.job
    yield (
        f"{job.videos:,.0f} videos of {job.seconds:g} s, packed at {job.fps:g} fps with a short "
        f"side of {job.short_side}"
    )
    yield f"{job.gpus} GPUs in {job.nodes} nodes; {job.cores:,.0f} cores pack"
    part = ""
    for figure in plan.figures:
        if figure.part != part:
            part = figure.part
            yield part
        yield f"  {figure.name:26}{amount(figure.value, figure.unit):>14}   {figure.formula}"
    if plan.unpriced:
        yield f"  not priced: {', '.join(plan.unpriced)}"
    yield "breaks first, above 1.00"
    for limit in plan.limits:
        yield f"  {limit.name:14}{limit.ratio:8.2f}   {describe_limit(limit, plan)}"
    yield "rates"
    used = {name for figure in plan.figures for name in figure.rates}
    used |= {limit.rate for limit in plan.limits}
    for name, rate in plan.rates.items():
        if name in used:
            number = f"{rate.value:,.4g}" if rate.value < 1e4 else f"{rate.value:.4g}"
            yield f"  {name:14}{number:>10} {rate.unit}"
            yield f"  {'':25}{rate.kind}: {rate.source}"


def describe_limit(limit: Limit, plan: Plan) -> str:
    """What is needed of what there is, and the way out where it is not enough."""
    unit = "bytes" if limit.unit.startswith("bytes") else limit.unit.split()[0]
    need, there = (amount(value, unit) for value in (limit.need, limit.capacity))
    text = f"{need} of {there} ({limit.unit})"
    if limit.ratio > 1:
        return f"{text}; change: {limit.change}"
    if limit.grows == "videos":
        return f"{text}; full at {plan.job.videos / limit.ratio:,.3g} videos"
    if limit.grows == "gpus":
        return f"{text}; full at {plan.job.gpus / limit.ratio:,.0f} GPUs"
    return text


def amount(value: float, unit: str) -> str:
    """A number with its unit, three significant digits."""
    kind, _, per = unit.partition(" per ")
    for scale, name in SCALES.get(kind, ()):
        if value >= scale:
            return f"{three(value / scale)} {name}{'/s' if per else ''}"
    return three(value) if kind != "bytes" else f"{three(value)} B"


def three(value: float) -> str:
    """A number with three significant digits at the least."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.{1 if value >= 10 else 2}f}"
