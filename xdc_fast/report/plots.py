"""The plots of a sweep: a line over a numeric axis, or a strip of dots per row of its table."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from markupsafe import Markup, escape

from xdc_fast.report.charts import LETTER, frame, nice_ticks, spread, svg, text_at

ROW = 17  # pixels from one strip to the next


class Strip(NamedTuple):
    """The values of all seeds as dots. kind: video or audio. text: at the right."""

    kind: str
    values: list[float]
    text: str
    hollow: bool


@dataclass(frozen=True)
class Dots:
    """The values of all seeds, 0 to 1, at each place of the x axis."""

    name: str
    kind: str  # its colour: video or audio
    x: list[float]
    y: list[list[float]]


def trend(
    title: str, axis: str, series: list[Dots], levels: dict[str, float], chance: float
) -> Markup:
    """A line through the means of each series, every seed a dot, in %.

    axis: what x is. levels: {kind: value} drawn dashed, the encoders before training. chance:
    dotted.
    """
    width, height, left = 440, 240, 38
    places = sorted({x for s in series for x in s.x})
    steps = powers(places)
    at_x = math.log2 if steps else float
    ticks = nice_ticks(0, 100 * max(v for s in series for values in s.y for v in values))
    ends = [f"{s.name} {100 * np.mean(s.y[-1]):.1f}" for s in series]
    right = width - 14 - LETTER * max(map(len, ends))
    low, high = at_x(places[0]), at_x(places[-1])

    def at(x: float) -> float:
        share = 0.5 if low == high else (at_x(x) - low) / (high - low)
        return left + 12 + (right - left - 24) * share

    def up(y: float) -> float:
        return height - 38 - 100 * y / ticks[-1] * (height - 48)

    parts = [frame(ticks, lambda tick: up(tick / 100), left, right)]
    parts += [text_at(at(x), height - 22, f"{x:,.10g}", "middle") for x in places]
    parts.append(text_at((left + right) / 2, height - 5, axis, "middle"))
    parts.append(f'<path class="chance" d="M{left} {up(chance):.1f}H{right:.1f}"/>')
    for kind, level in levels.items():
        parts.append(
            f'<g class="{kind}"><path class="line dashed" d="M{left} {up(level):.1f}H{right:.1f}">'
            f"<title>{kind}, before training: {level:.1%}</title></path></g>"
        )
    for s in series:
        middles = [float(np.mean(values)) for values in s.y]
        path = "L".join(f"{at(x):.1f} {up(y):.1f}" for x, y in zip(s.x, middles, strict=True))
        parts.append(f'<g class="{s.kind}"><path class="line" d="M{path}"/>')
        parts += [
            f'<circle cx="{at(x):.1f}" cy="{up(y):.1f}" r="2.8" fill-opacity="0.65">'
            f"<title>{escape(s.name)}, {escape(axis)} {x:,.10g}: {y:.1%}</title></circle>"
            for x, values in zip(s.x, s.y, strict=True)
            for y in values
        ]
        parts.append("</g>")
    heights = spread([up(float(np.mean(s.y[-1]))) for s in series], 8, height - 40)
    for s, end, y in zip(series, ends, heights, strict=True):
        parts.append(text_at(right + 8, y + 4, end, kind=f"label {s.kind}"))
    return svg(title, width, height, parts)


def powers(places: list[float]) -> bool:
    """Whether each place is the first times a power of two, within a few %."""
    if len(places) < 2 or places[0] <= 0:
        return False
    exponents = [math.log2(place / places[0]) for place in places]
    return all(abs(exponent - round(exponent)) < 0.05 for exponent in exponents)


def strips(
    title: str, rows: list[tuple[str, list[Strip]]], top: float, chance: float | None
) -> Markup:
    """Dots of every seed, the mean an upright bar, a block of strips per row.

    top: end of the x axis, in the unit of the values; chance: dotted.
    """
    width = 560
    left = 16 + LETTER * max(len(name) for name, _ in rows)
    right = width - 16 - LETTER * max(len(text) for _, s in rows for _, _, text, _ in s)
    height = 34 + sum(ROW * len(block) + 9 for _, block in rows)

    def at(value: float) -> float:
        return left + (right - left) * value / top

    parts = []
    for tick in nice_ticks(0, top):
        if tick <= top * 1.0001:
            shown = f"{tick:g}" if chance is None else f"{tick:.0%}"
            parts.append(f'<path class="grid" d="M{at(tick):.1f} 4V{height - 24}"/>')
            parts.append(text_at(at(tick), height - 8, shown, "middle"))
    if chance is not None:
        parts.append(f'<path class="chance" d="M{at(chance):.1f} 4V{height - 24}"/>')
    y = 16
    for name, block in rows:
        parts.append(text_at(0, y + ROW * (len(block) - 1) / 2 + 4, name, kind="strong"))
        for kind, values, text, hollow in block:
            style = ' class="hollow"' if hollow else ' fill-opacity="0.65"'
            mean = at(float(np.mean(values)))
            parts.append(
                f'<g class="{kind}"><path class="line" d="M{mean:.1f} {y - 6}V{y + 6}"/>'
                + "".join(
                    f'<circle cx="{at(v):.1f}" cy="{y}" r="3.2"{style}>'
                    f"<title>{escape(name)}, {kind}: {v:.3f}</title></circle>"
                    for v in values
                )
                + "</g>"
            )
            parts.append(text_at(width, y + 4, text, "end"))
            y += ROW
        y += 9
    return svg(title, width, height, parts)
