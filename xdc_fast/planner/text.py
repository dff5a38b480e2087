"""A plan in lines of text."""

from __future__ import annotations

from collections.abc import Iterator

from xdc_fast.planner.limits import Limit
from xdc_fast.planner.plan import Plan

SCALES = {
    "bytes": ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")),
    "seconds": ((86_400.0, "days"), (3600.0, "h"), (60.0, "min"), (1.0, "s"), (1e-3, "ms"),
                (1e-6, "us")),
}  # fmt: skip
WHOLE = ("GET", "prefixes", "groups", "samples", "pixels")


def describe_plan(plan: Plan) -> Iterator[str]:
    """Figures by part, limits, rates."""
    job, part = plan.job, ""
    yield (
        f"{job.videos:,.0f} videos of {job.seconds:g} s, packed at {job.fps:g} fps with a short "
        f"side of {job.short_side}"
    )
    yield (
        f"{job.gpus} GPUs in {job.nodes} nodes, which read JPEG packets; {job.cores:,.0f} cores "
        "pack; D features of a clustering"
    )
    if job.chosen:
        options = " ".join(f"--{name.replace('_', '-')}" for name in job.chosen)
        yield f"chosen for you: {options}"
    for figure in plan.figures:
        if figure.part != part:
            part = figure.part
            yield part
        yield f"  {figure.name:25}{amount(figure.value, figure.unit):>13}  {figure.formula}"
    if plan.unpriced:
        yield f"  not priced: {', '.join(plan.unpriced)}"
    yield "breaks first: need, of what there is; above 1 it breaks"
    for limit in plan.limits:
        yield f"  {limit.name:15}{limit.ratio:7.2f}  {describe_limit(limit, plan)}"
    yield "rates"
    for name, rate in plan.used_rates().items():
        yield f"  {name:14}{rate.value:>10.4g} {rate.unit}; {rate.kind}: {rate.source}"


def describe_limit(limit: Limit, plan: Plan) -> str:
    """What is needed of what there is, and the way out where it is not enough."""
    need, there = (amount(value, limit.unit) for value in (limit.need, limit.capacity))
    text = f"{need} of {there}, {limit.of}"
    if limit.grows == "videos":
        text += f"; full at {plan.job.videos / limit.ratio / 1e6:,.4g} million videos"
    if limit.grows == "gpus":
        text += f"; full at {plan.job.gpus / limit.ratio:,.0f} GPUs"
    return f"{text}; change: {limit.change}" if limit.ratio > 1 else text


def amount(value: float, unit: str) -> str:
    """A number with its unit, three significant digits at the least."""
    kind, _, per = unit.partition(" per ")
    if kind in WHOLE:
        return f"{value:,.0f}{'/s' if per else ''}"
    scales = SCALES.get(kind, ((1.0, ""),))
    scale, name = next((pair for pair in scales if value >= pair[0]), scales[-1])
    shown = value / scale
    digits = 2 if shown < 9.995 else 1 if shown < 99.95 else 0
    return f"{shown:,.{digits}f}{f' {name}' * bool(name)}{'/s' if per else ''}"
