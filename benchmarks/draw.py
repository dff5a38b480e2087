"""Draw the tables and the chart of README.md and docs/ from benchmarks/results.

The text between `<!-- draw: NAME -->` and `<!-- end -->` on a page is replaced. NAME is a stage,
for its tables, or `summary`. Stages have the order of docs/performance.md.
"""

from __future__ import annotations

import json
import math
import re
import sys
import textwrap
from collections.abc import Callable
from itertools import groupby
from operator import itemgetter
from pathlib import Path

from markupsafe import escape

from xdc_fast.report.charts import text_at

BLOCK = re.compile(r"(<!-- draw: (\w+) -->\n)(?:(?!<!-- draw: ).)*?(?=<!-- end -->)", re.DOTALL)
NOTHING = "Not measured yet."
LEFT, RIGHT, WIDTH = 368, 596, 800  # the axis, in a picture so wide
STYLE = """
svg { --paper: #fff; --ink: #1f2328; --muted: #66696f; --hair: #e3e4e7;
  --faster: #0068a8; --slower: #c4560a; }
@media (prefers-color-scheme: dark) { svg { --paper: #141518; --ink: #e9e7e3; --muted: #9b9ba3;
  --hair: #2e3036; --faster: #5db1ea; --slower: #f29a52; } }
text { font: 12px system-ui, "Segoe UI", Roboto, "Liberation Sans", Arial, sans-serif;
  fill: var(--muted); }
.case { fill: var(--ink); }
.stage { font-size: 14px; font-weight: 650; fill: var(--ink); }
.ratio { font-weight: 650; fill: var(--ink); }
.paper { fill: var(--paper); }
.grid { stroke: var(--hair); }
.one { stroke: var(--muted); stroke-width: 1.5; }
.faster { fill: var(--faster); }
.slower { fill: var(--slower); }
.limit { fill: var(--ink); stroke: var(--paper); stroke-width: 1.5; }
"""


def main() -> None:
    for path, text in draw(Path(__file__).parents[1]).items():
        path.write_text(text, encoding="utf-8")


def draw(root: Path) -> dict[Path, str]:
    """What the files drawn from the results under `root` should hold."""
    readme, page = root / "README.md", root / "docs/performance.md"
    texts = {path: path.read_text(encoding="utf-8") for path in (readme, page)}
    places = [name for _, name in BLOCK.findall(texts[page])]
    stages: dict[str, list[dict]] = {name: [] for name in places}
    for item in read_results(root / "benchmarks/results"):
        if item["stage"] not in stages:
            sys.exit(f"{page}: no `<!-- draw: {item['stage']} -->` ... `<!-- end -->`")
        stages[item["stage"]].append(item)
    blocks = {name: table_stage(items) for name, items in stages.items() if items}
    blocks["summary"] = summarize(stages)

    def fill(match: re.Match) -> str:
        return f"{match[1]}\n{blocks.get(match[2], NOTHING)}\n\n"

    drawn = {path: BLOCK.sub(fill, text) for path, text in texts.items()}
    return drawn | {root / "docs/performance.svg": chart(stages)}


def read_results(folder: Path) -> list[dict]:
    """All items, by file name; exits at an item that is not a result to show."""
    items = []
    for path in sorted(folder.glob("*/*.json")):
        for item in json.loads(path.read_text(encoding="utf-8")):
            if item["quick"] or "failed" in item:
                why = item.get("failed", "measured with --quick")
                sys.exit(f"{path}: {item['case']}: {why}; measure it again")
            items.append(item)
    return items


def by_device(items: list[dict]) -> list[tuple[str, list[dict]]]:
    devices = sorted(items, key=itemgetter("device"))  # stable
    return [(name, list(group)) for name, group in groupby(devices, itemgetter("device"))]


def ratio(item: dict) -> float | None:
    """Ours over the best peer; None for values that are not rates, where more may be worse."""
    return item["ratio_best_peer"] if item["unit"].endswith("per second") else None


def best_peer(item: dict) -> str:
    return max(item["peers"], key=item["peers"].get)


def table_stage(items: list[dict]) -> str:
    """For each device a table, the peers that were missing, and the machine."""
    parts = []
    for device, group in by_device(items):
        missing = dict(sorted(pair for item in group for pair in item["missing"].items()))
        machines = dict.fromkeys(describe(item["machine"]) for item in group)
        parts += [f"**{device}**", table([row(item) for item in group])]
        parts += [f"Not measured: {name} ({why})." for name, why in missing.items()]
        parts += [f"<sub>{machine}</sub>" for machine in machines]
    return "\n\n".join(parts)


def row(item: dict) -> dict[str, str]:
    """The cells of an item by column."""
    times, limit, share = ratio(item), item["limit"], item["share_of_limit"]
    named = [best_peer(item)] if times else item["peers"]
    return {
        "case": item["case"],
        "threads": str(item["threads"]),
        "unit": item["unit"],
        "ours": rounded(item["ours"]),
        "best peer": ", ".join(f"{name} {rounded(item['peers'][name])}" for name in named),
        "ratio": f"**{rounded(times)}×**" if times else "",
        "limit": f"{limit['name']} {rounded(limit['value'])}" if limit else "",
        "of the limit": f"{rounded(100 * share)} %" if share else "",
    }


def table(rows: list[dict[str, str]]) -> str:
    """Markdown, without the columns that are empty in every row."""
    columns = [name for name in rows[0] if any(cells[name] for cells in rows)]
    rules = ["---:" if name in ("threads", "ours", "ratio") else "---" for name in columns]
    cells = [[cells[name].replace("|", r"\|") or "–" for name in columns] for cells in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, rules, *cells))


def describe(machine: dict) -> str:
    """A machine and its software in one line."""
    gpu = [f"{machine['gpu']}, driver {machine['driver']}"] if machine["gpu"] else []
    system = [f"{machine['memory_gib']:.3g} GiB", machine["system"], f"Python {machine['python']}"]
    libraries = [f"{name} {version}" for name, version in machine["libraries"].items()]
    head = [machine["cpu"], f"{machine['cores']} cores", *gpu, *system]
    return ", ".join([*head, *libraries, f"commit {machine['commit']}"])


def summarize(stages: dict[str, list[dict]]) -> str:
    """The chart, and for each stage its lowest and highest ratio on each device."""
    rated = [item for items in stages.values() for item in items if ratio(item)]
    devices = sorted({item["device"] for item in rated})
    rows = []
    for stage, group in groupby(rated, itemgetter("stage")):
        spans = {device: span(items) for device, items in by_device(list(group))}
        rows.append({"ours against the best peer": stage} | {d: spans.get(d, "") for d in devices})
    picture = "![Ours against the best peer, by stage](docs/performance.svg)"
    return f"{picture}\n\n{table(rows)}" if rows else NOTHING


def span(items: list[dict]) -> str:
    """The lowest and the highest ratio, with the peers."""
    low, high = min(items, key=ratio), max(items, key=ratio)
    ends = [(f"{rounded(ratio(item))}×", best_peer(item)) for item in (low, high)]
    if ends[0] == ends[1]:
        return " ".join(ends[0])
    if ends[0][1] == ends[1][1]:
        return f"{ends[0][0]} to {' '.join(ends[1])}"
    return " to ".join(" ".join(end) for end in ends)


def chart(stages: dict[str, list[dict]]) -> str:
    """SVG: a bar per rate, its length the ratio, on one logarithmic axis with the limits."""
    rated = [item for items in stages.values() for item in items if ratio(item)]
    ends = [1.0, *map(ratio, rated), *(bound(item) for item in rated if item["limit"])]
    ticks = spread_ticks(min(ends), max(ends))

    def at(x: float) -> float:
        return LEFT + (RIGHT - LEFT) * math.log(x / ticks[0]) / math.log(ticks[-1] / ticks[0])

    bars, y = [], 66
    for stage, group in groupby(rated, itemgetter("stage")):
        for device, items in by_device(list(group)):
            bars.append(text_at(16, y + 12, stage, kind="stage"))
            bars.append(text_at(WIDTH - 16, y + 12, device, "end"))
            y += 24
            for case in dict.fromkeys(item["case"] for item in items):
                same = [item for item in items if item["case"] == case]
                lines = textwrap.wrap(case, 42)
                for i, line in enumerate(lines):
                    bars.append(text_at(16, y + 11 + 14 * i, line, kind="case"))
                for i, item in enumerate(same):
                    bars.append(bar(item, at, y + 16 * i))
                y += max(14 * len(lines), 16 * len(same)) + 8
            y += 10
    grid = []
    for tick in ticks:
        kind = "one" if tick == 1 else "grid"
        grid.append(f'<path class="{kind}" d="M{at(tick):.1f} 58V{y}"/>')
        label = f"{tick:g}×" if tick < 1000 else f"{tick / 1000:g}k×"
        grid += [text_at(at(tick), place, label, "middle") for place in (52, y + 14)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y + 26}" '
        f'viewBox="0 0 {WIDTH} {y + 26}" role="img" aria-label="Ours against the best peer">'
        f'<style>{STYLE}</style><rect class="paper" width="{WIDTH}" height="{y + 26}" rx="8"/>\n'
        + "\n".join([*legend(), *grid, *bars])
        + "\n</svg>\n"
    )


def legend() -> list[str]:
    return [
        text_at(16, 26, "Our rate over the best peer's", kind="stage"),
        '<rect class="limit" x="369" y="14" width="3.5" height="15"/>',
        text_at(380, 26, "the limit that the stage's table names"),
    ]


def bar(item: dict, at: Callable[[float], float], y: float) -> str:
    """The ratio of an item from the line of 1, the mark of its limit, and the two in words."""
    times, peer, threads = ratio(item), best_peer(item), item["threads"]
    start, end = sorted((at(1), at(times)))
    kind = "faster" if times >= 1 else "slower"
    parts = [
        text_at(LEFT - 10, y + 11, f"{threads} thread{'s' * (threads > 1)}", "end"),
        f'<rect class="{kind}" x="{start:.1f}" y="{y + 1:.1f}" width="{end - start:.1f}" '
        'height="12"/>',
    ]
    if item["limit"]:
        parts.append(
            f'<rect class="limit" x="{at(bound(item)) - 1.75:.1f}" y="{y - 0.5:.1f}" width="3.5" '
            f'height="15"><title>{escape(item["limit"]["name"])}</title></rect>'
        )
    parts.append(text_at(RIGHT + 50, y + 11, f"{rounded(times)}×", "end", "ratio"))
    name = peer if len(peer) <= 22 else peer[:21] + "…"
    parts.append(text_at(RIGHT + 56, y + 11, name))
    return "".join(parts)


def bound(item: dict) -> float:
    """The limit over the best peer."""
    return item["limit"]["value"] / item["peers"][best_peer(item)]


def spread_ticks(low: float, high: float) -> list[float]:
    """Round numbers, about evenly apart on a logarithmic axis, from below `low` to above `high`."""
    for steps in ((1, 2, 5), (1,)):
        ticks = [s * 10.0**p for p in range(-9, 10) for s in steps]
        first = max(i for i, tick in enumerate(ticks) if tick <= low)
        last = min(i for i, tick in enumerate(ticks) if tick > high)
        if last - first < 8:
            break
    return ticks[first : last + 1]


def rounded(value: float) -> str:
    """Three significant digits, in full."""
    value = float(f"{value:.3g}")
    places = 2 - math.floor(math.log10(abs(value))) if value else 0
    return f"{value:,.{max(places, 0)}f}"


if __name__ == "__main__":
    main()
