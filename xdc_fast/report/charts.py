"""Charts as inline SVG, coloured by the classes of the page's style sheet."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup, escape

from xdc_fast.encoders.build import MODALITIES
from xdc_fast.report.matching import Matching

LETTER = 6.3  # mean width of a character at the charts' 11 px
GAP = 13  # between labels that would touch


@dataclass(frozen=True)
class Series:
    """A line of a chart. kind: its CSS classes, as of wording.kind. y may hold None."""

    name: str
    kind: str
    x: Sequence[float]
    y: Sequence[float | None]
    dashed: bool = False


def line_chart(
    title: str,
    series: list[Series],
    *,
    chance: float | None = None,
    top: float | None = None,
    edges: Sequence[tuple[float, str]] = (),
    zero: bool = True,
    width: int = 290,
    height: int = 170,
) -> Markup:
    """Lines, each with its name and last value at its end.

    chance: a dotted level. top: the y axis ends there or above. edges: (x, text) of vertical rules,
    in place of ticks at whole numbers. zero: the y axis begins at 0.
    """
    drawn = [(s, [(x, y) for x, y in zip(s.x, s.y, strict=True) if y is not None]) for s in series]
    drawn = [(s, points) for s, points in drawn if points]
    if not drawn:
        return Markup(f'<p class="none">{escape(title)}: nothing yet.</p>')
    values = [y for _, points in drawn for _, y in points] + ([chance] if chance else [])
    ends = [f"{s.name} {number(points[-1][1])}" for s, points in drawn]
    ticks = nice_ticks(0 if zero else min(values), max([*values, top or 0]))
    left, right = 34, width - 14 - LETTER * max(map(len, ends))
    places = [x for s in series for x in s.x] + [x for x, _ in edges]
    first, last = min(places), max(places)

    def at(x: float) -> float:
        return left + (right - left) * (0.5 if last == first else (x - first) / (last - first))

    def up(y: float) -> float:
        share = (y - ticks[0]) / (ticks[-1] - ticks[0])
        return height - 22 - share * (height - 32)

    parts = [frame(ticks, up, left, right)]
    if edges:
        for x, text in edges:
            parts.append(f'<path class="edge" d="M{at(x):.1f} 10V{height - 22}"/>')
            parts.append(text_at(at(x) + 3, height - 8, text))
    else:
        step = max(1, math.ceil((last - first) / 7))
        for x in range(int(first), int(last) + 1, step):
            parts.append(text_at(at(x), height - 8, str(x), "middle"))
    if chance is not None:
        parts.append(f'<path class="chance" d="M{left} {up(chance):.1f}H{right:.1f}"/>')
    for s, points in drawn:
        path = "L".join(f"{at(x):.1f} {up(y):.1f}" for x, y in points)
        dash = " dashed" if s.dashed else ""
        parts.append(f'<path class="line {s.kind}{dash}" d="M{path}"/>')
        if not edges:
            parts += [
                f'<g class="{s.kind}"><circle cx="{at(x):.1f}" cy="{up(y):.1f}" r="2.6"/>'
                f'<circle class="hit" cx="{at(x):.1f}" cy="{up(y):.1f}" r="9">'
                f"<title>{escape(s.name)}, iteration {x:g}: {number(y)}</title></circle></g>"
                for x, y in points
            ]
    parts += names_at_ends(drawn, ends, up, right, height)
    return svg(title, width, height, parts)


def names_at_ends(
    drawn: Sequence[tuple[Series, Sequence[tuple[float, float]]]],
    ends: Sequence[str],
    up: Callable[[float], float],
    right: float,
    height: int,
) -> list[str]:
    """A text beside the last point of each line, above one another where they would meet."""
    heights = spread([up(points[-1][1]) for _, points in drawn], 8, height - 20)
    return [
        text_at(right + 8, y + 4, end, kind=f"label {s.kind}")
        for (s, _), end, y in zip(drawn, ends, heights, strict=True)
    ]


def growth_chart(title: str, series: list[Series], here: float) -> Markup:
    """Lines over logarithmic axes, each with its name and last value at its end.

    here: the x of a vertical rule. Values of 0 are left out.
    """
    width, height, left = 400, 240, 40
    drawn = [(s, [(x, y) for x, y in zip(s.x, s.y, strict=True) if y]) for s in series]
    drawn = [(s, points) for s, points in drawn if points]
    if not drawn:
        return Markup(f'<p class="none">{escape(title)}: nothing.</p>')
    ends = [f"{s.name} {compact(points[-1][1])}" for s, points in drawn]
    right = width - 14 - LETTER * max(map(len, ends))
    values = [y for _, points in drawn for _, y in points]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    places = [x for s in series for x in s.x]
    first, last = math.log10(min(places)), math.log10(max(places))

    def at(x: float) -> float:
        return left + (right - left) * (math.log10(x) - first) / (last - first)

    def up(y: float) -> float:
        return height - 22 - (math.log10(y) - low) / (high - low) * (height - 32)

    parts = []
    for power in range(low, high + 1, max(1, (high - low) // 5)):
        y = up(10.0**power)
        parts.append(f'<path class="grid" d="M{left} {y:.1f}H{right:.1f}"/>')
        parts.append(text_at(left - 6, y + 4, compact(10.0**power), "end"))
    xs = sorted(set(places))
    for x in xs[:: max(1, math.ceil(len(xs) * 34 / (right - left)))]:
        parts.append(text_at(at(x), height - 8, compact(x), "middle"))
    parts.append(f'<path class="chance" d="M{at(here):.1f} 10V{height - 22}"/>')
    for s, points in drawn:
        path = "L".join(f"{at(x):.1f} {up(y):.1f}" for x, y in points)
        parts.append(f'<path class="line {s.kind}{" dashed" * s.dashed}" d="M{path}"/>')
        parts += [
            f'<g class="{s.kind}"><circle class="hit" cx="{at(x):.1f}" cy="{up(y):.1f}" r="9">'
            f"<title>{escape(s.name)}, {compact(x)}: {compact(y)}</title></circle></g>"
            for x, y in points
        ]
    parts += names_at_ends(drawn, ends, up, right, height)
    return svg(title, width, height, parts)


def bar_chart(title: str, counts: np.ndarray, kind: str, top: int) -> Markup:
    """Cluster sizes, largest first; dotted, the size if all were equal. top: of the y axis."""
    width, height, left = 520, 190, 38
    counts = np.sort(counts)[::-1]
    ticks = nice_ticks(0, top)
    step = (width - 4 - left) / len(counts)
    gap = 1.5 if step > 5 else 0.3 if step > 2 else 0

    def up(y: float) -> float:
        return height - 22 - y / ticks[-1] * (height - 32)

    parts = [frame(ticks, up, left, width - 4), f'<g class="bars {kind}">']
    for i, count in enumerate(counts):
        parts.append(
            f'<rect x="{left + i * step:.2f}" y="{up(count):.1f}" width="{step - gap:.2f}" '
            f'height="{height - 22 - up(count):.1f}"><title>{count} samples</title></rect>'
        )
    parts.append(f'</g><path class="chance" d="M{left} {up(counts.mean()):.1f}H{width - 4}"/>')
    parts.append(text_at(left, height - 7, "largest cluster"))
    parts.append(text_at(width - 4, height - 7, "smallest", "end"))
    return svg(title, width, height, parts)


def heat_map(title: str, matching: Matching) -> Markup:
    """Audio clusters down, video clusters across, stronger where they share more samples."""
    n = len(matching.rows)
    left, side = 34, 560
    cell = side / n
    strongest = max(float(matching.overlap.max()), 1e-9)
    parts = [f'<rect class="field" x="{left}" y="{left}" width="{side}" height="{side}"/>']
    parts.append('<g class="heat">')
    for i, j in zip(*np.nonzero(matching.counts), strict=True):
        share = matching.overlap[i, j]
        parts.append(
            f'<rect x="{left + j * cell:.1f}" y="{left + i * cell:.1f}" width="{cell - 0.6:.1f}" '
            f'height="{cell - 0.6:.1f}" fill-opacity="{share / strongest:.2f}"><title>'
            f"audio {matching.rows[i]}, video {matching.columns[j]}: "
            f"{matching.counts[i, j]} samples in common ({share:.0%} of either)</title></rect>"
        )
    parts.append("</g>")
    if n <= 24:
        for i in range(n):
            middle = left + (i + 0.5) * cell
            parts.append(text_at(left - 5, middle + 4, str(matching.rows[i]), "end"))
            parts.append(text_at(middle, left - 6, str(matching.columns[i]), "middle"))
    else:
        parts.append(text_at(left, left - 8, "video clusters →", kind="label video"))
        parts.append(
            f'<text class="label audio" text-anchor="end" '
            f'transform="translate({left - 8} {left}) rotate(-90)">← audio clusters</text>'
        )
    return svg(title, left + side, left + side, parts)


def encoders_of(probe: dict) -> list[str]:
    """The modalities that a probe was made of."""
    return [modality for modality in MODALITIES if modality in probe]


def probe_chart(title: str, probes: list[dict]) -> Markup:
    """Accuracy of linear probes, a row each: from random initialisation to pretrained."""
    width, row, left, right = 560, 24, 52, 450
    height = 30 + sum((1 + len(encoders_of(probe))) * row + 8 for probe in probes)

    def at(share: float) -> float:
        return left + (right - left) * share

    parts = []
    for tick in (0, 0.25, 0.5, 0.75, 1):
        parts.append(f'<path class="grid" d="M{at(tick):.1f} 4V{height - 24}"/>')
        parts.append(text_at(at(tick), height - 8, f"{tick:.0%}", "middle"))
    y = 16
    for probe in probes:
        name = probe["label"] if probe["finished"] else f"{probe['label']} (unfinished)"
        parts.append(text_at(0, y, name, kind="strong"))
        encoders, y = encoders_of(probe), y + row
        low, high = y - 8, y + (len(encoders) - 1) * row + 8
        parts.append(f'<path class="level" d="M{at(probe["chance"]):.1f} {low}V{high}"/>')
        for modality in encoders:
            ours, random = probe[modality]["pretrained"], probe[modality]["random"]
            parts.append(text_at(0, y + 4, modality, kind=f"label {modality}"))
            parts.append(
                f'<g class="{modality}">'
                f'<path class="line" d="M{at(random):.1f} {y}H{at(ours):.1f}"/>'
                f'<circle class="hollow" cx="{at(random):.1f}" cy="{y}" r="4.5">'
                f"<title>random: {random:.1%}</title></circle>"
                f'<circle cx="{at(ours):.1f}" cy="{y}" r="5">'
                f"<title>pretrained: {ours:.1%}</title></circle></g>"
            )
            gain = f"{100 * (ours - random):+.1f}".replace("-", "\N{MINUS SIGN}")
            parts.append(text_at(width, y + 4, f"{ours:.1%} ({gain})", "end"))
            y += row
        y += 8
    return svg(title, width, height, parts)


def frame(ticks: list[float], up: Callable[[float], float], left: float, right: float) -> str:
    """Horizontal rules with their numbers; up: a value's place on the y axis."""
    return "".join(
        f'<path class="grid" d="M{left} {up(t):.1f}H{right:.1f}"/>'
        + text_at(left - 6, up(t) + 4, f"{t:,.10g}", "end")
        for t in ticks
    )


def text_at(x: float, y: float, text: str, anchor: str = "start", kind: str = "") -> str:
    side = "" if anchor == "start" else f' text-anchor="{anchor}"'
    style = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.1f}" y="{y:.1f}"{side}{style}>{escape(text)}</text>'


def svg(title: str, width: float, height: float, parts: list[str]) -> Markup:
    return Markup(
        f'<svg viewBox="0 0 {width:g} {height:g}" role="img" aria-label="{escape(title)}">'
        f"{''.join(parts)}</svg>"
    )


def nice_ticks(low: float, high: float) -> list[float]:
    """Three to six round numbers from below `low` to above `high`."""
    high = high if high > low else low + 1
    rough = (high - low) / 4
    power = 10 ** math.floor(math.log10(rough))
    step = next(power * m for m in (1, 2, 2.5, 5, 10) if power * m >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 10) for i in range(first, last + 1)]


def spread(heights: list[float], low: float, high: float) -> list[float]:
    """The heights, at least GAP apart, in the same order, within low to high."""
    order = sorted(range(len(heights)), key=heights.__getitem__)
    out = [0.0] * len(heights)
    for place, i in enumerate(order):
        above = out[order[place - 1]] + GAP if place else low
        out[i] = max(heights[i], above)
    over = max(out[order[-1]] - high, 0)
    for place in range(len(order) - 1, -1, -1):
        i = order[place]
        below = high if place == len(order) - 1 else out[order[place + 1]] - GAP
        out[i] = min(out[i], below) if over else out[i]
    return out


def compact(value: float) -> str:
    """Three significant digits at the most, and a letter for thousands: 1.5k, 65M."""
    for scale, letter in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= scale * 0.9995:
            return f"{value / scale:.3g}{letter}"
    return f"{value:.3g}"


def number(value: float) -> str:
    """Three significant digits."""
    return f"{value:.0f}" if abs(value) >= 100 else f"{value:.{1 if abs(value) >= 10 else 2}f}"
