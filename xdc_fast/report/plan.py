"""The page of a plan: how time, bytes and cost grow with videos, clusters and GPUs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from xdc_fast.files import write
from xdc_fast.planner.plan import Plan, vary
from xdc_fast.planner.text import amount
from xdc_fast.report.charts import Series, growth_chart
from xdc_fast.report.template import render

FACTORS = [2.0**power for power in range(-6, 5)]  # of the videos that are planned
K = [4**power for power in range(2, 9)]
GPUS = [2**power for power in range(11)]
TIMES = {
    "training": ("time training", "video"),
    "features": ("time features", "audio"),
    "clustering": ("time clustering, at most", "joint"),
}
BYTES = {
    "storage": ("storage jpeg", "video"),
    "disk": ("disk at the most", "audio"),
    "host": ("memory host, first node", "joint"),
    "GPU": ("memory GPU, at the least", "classes"),
}
GPU_HOURS = {"a run": ("time run, all GPUs", "video")}
MONEY = {"GPUs": "video", "storage": "audio", "packing": "joint", "in all": "classes"}


def write_plan(
    path: Path, name: str, plan: Plan, prices: Mapping[str, float] | None = None
) -> None:
    """Writes the page of a plan to a file; it needs no other file.

    name: of the recipe. prices: those that the plan was made with.
    """
    job = plan.job
    videos = sorted({job.videos, *(factor * job.videos for factor in FACTORS)})
    sections = {
        "videos": ((x, vary(plan, prices, videos=x)) for x in videos),
        "clusters (k)": ((x, vary(plan, prices, k=x)) for x in sorted({plan.recipe.k, *K})),
        "GPUs": ((x, vary(plan, prices, gpus=x)) for x in sorted({job.gpus, *GPUS})),
    }
    here = (job.videos, plan.recipe.k, job.gpus)
    charts = {
        name: _charts(list(plans), place)
        for (name, plans), place in zip(sections.items(), here, strict=True)
    }
    page = render("plan.html", amount, name=name, plan=plan, sections=charts)
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, page)


def _charts(plans: list[tuple[float, Plan]], here: float) -> list[tuple[str, Markup]]:
    """The charts over one axis: (title, chart). plans: (x, plan), x rising."""

    def chart(title: str, lines: Mapping[str, tuple[str, str]], unit: float = 1) -> Markup:
        """lines: {name: (figure, kind of line)}."""
        x = [each for each, _ in plans]
        return growth_chart(
            title,
            [
                Series(name, kind, x, [plan[figure] / unit for _, plan in plans])
                for name, (figure, kind) in lines.items()
            ],
            here,
        )

    priced = {figure.name for figure in plans[0][1].figures if figure.part == "money"}
    money = {name: (f"money {name}", kind) for name, kind in MONEY.items() if name in priced}
    titles = {
        "Hours of an iteration": (TIMES, 3600),
        "Bytes": (BYTES, 1),
        **({"Money": (money, 1)} if money else {"GPU-hours": (GPU_HOURS, 3600)}),
    }
    return [(title, chart(title, lines, unit)) for title, (lines, unit) in titles.items()]
