"""A plan: what a recipe needs of storage, time, memory and money at some size, before it runs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from xdc_fast.planner.job import Job
from xdc_fast.planner.limits import Limit, find_limits
from xdc_fast.planner.rates import Rate
from xdc_fast.planner.sheet import Figure, Sheet
from xdc_fast.recipe import Recipe


@dataclass(frozen=True)
class Plan:
    """figures: part by part. limits: the tightest first. rates: those that it was made with, by
    name. unpriced: names of PRICES that have no price, where any has."""

    recipe: Recipe
    job: Job
    rates: Mapping[str, Rate]
    figures: tuple[Figure, ...]
    limits: tuple[Limit, ...]
    unpriced: tuple[str, ...] = ()

    def __getitem__(self, name: str) -> float:
        """The value of a figure, by "PART NAME"."""
        return next(f.value for f in self.figures if f"{f.part} {f.name}" == name)

    def used_rates(self) -> dict[str, Rate]:
        """The rates that figures and limits rest on."""
        used = {name for figure in self.figures for name in figure.rates}
        used |= {name for limit in self.limits for name in limit.rates}
        return {name: rate for name, rate in self.rates.items() if name in used}

    def as_dict(self) -> dict:
        """For JSON."""
        return {
            "job": vars(self.job),
            "figures": [vars(figure) for figure in self.figures],
            "limits": [vars(limit) | {"ratio": limit.ratio} for limit in self.limits],
            "unpriced": self.unpriced,
            "rates": {name: vars(rate) for name, rate in self.used_rates().items()},
        }


def make_plan(
    recipe: Recipe, job: Job, rates: Mapping[str, Rate], prices: Mapping[str, float] | None = None
) -> Plan:
    """The plan of a recipe; its data need not exist.

    prices: by name as of prices.PRICES; without them, there is no figure of money.
    """
    sheet = Sheet(recipe, job, {name: rate.value for name, rate in rates.items()})
    for part in (sheet.storage, sheet.packing, sheet.feed, sheet.network, sheet.time, sheet.memory,
                 sheet.disk, sheet.requests):  # fmt: skip
        part()
    unpriced = () if prices is None else sheet.money(prices)
    return Plan(recipe, job, rates, tuple(sheet.figures), find_limits(sheet), unpriced)


def vary(
    plan: Plan,
    prices: Mapping[str, float] | None = None,
    *,
    videos: float | None = None,
    k: int | None = None,
    gpus: int | None = None,
) -> Plan:
    """The plan of more or fewer videos, clusters, or GPUs, with as many of them in a node."""
    job, recipe = plan.job, replace(plan.recipe, k=k or plan.recipe.k)
    nodes = math.ceil((gpus or job.gpus) * job.nodes / job.gpus)
    job = replace(job, videos=videos or job.videos, gpus=gpus or job.gpus, nodes=nodes)
    return make_plan(recipe, job, plan.rates, prices)
