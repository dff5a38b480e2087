"""The tables of a sweep: CSV, JSON, Markdown, a plot, and a page."""

from __future__ import annotations

import csv
import re
from pathlib import Path

from markupsafe import Markup, escape

from xdc_fast.encoders.build import MODALITIES
from xdc_fast.evaluation.sweep import SCRATCH
from xdc_fast.files import FOR_EYES, replacing, to_json, write
from xdc_fast.report.charts import nice_ticks, text_at
from xdc_fast.report.paper import CAVEAT, COLUMNS, TABLES
from xdc_fast.report.plots import Dots, Strip, strips, trend
from xdc_fast.report.tables import text
from xdc_fast.report.template import page_style, render
from xdc_fast.report.wording import seconds

NONE = "\N{EN DASH}"
FORMS = {"percent": (100, ".1f"), "nmi": (1, ".2f"), "whole": (1, ",.0f")}
FONT = '"Liberation Sans", Arial, sans-serif'
PANEL = 560  # width of sweep.svg


def write_sweep(folder: Path, table: dict, command: str) -> None:
    """Write sweep.csv, .json, .md, .html and, where runs were probed, .svg into a folder.

    table: as of evaluation.sweep.tabulate. command: the command line, shown on top.
    """
    folder.mkdir(parents=True, exist_ok=True)

    def write_as(kind: str, text: str) -> None:
        write(folder / f"sweep.{kind}", text)

    write_as("json", to_json({"command": command, **table}, 2) + "\n")
    columns = list(dict.fromkeys(key for run in table["runs"] for key in run))
    with replacing(folder / "sweep.csv", encoding="utf-8", errors=FOR_EYES, newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(map(text, columns))
        for run in table["runs"]:
            cells = map(run.get, columns)
            writer.writerow([text(c) if isinstance(c, str) else c for c in cells])
    panels = draw(table)
    content = {
        "name": folder.resolve().name,
        "command": command,
        "test": table["eval"],
        "labels": table["labels"],
        "keys": len(table["keys"]),
        "means": mean_table(table),
        "seeds": seed_table(table),
        "reports": [report_of(folder, run["name"]) for run in table["runs"]],
        "missing": [run for run in table["runs"] if run["reason"]],
        "papers": [TABLES[key] for key in table["axes"] if key in TABLES],
        "columns": COLUMNS,
        "caveat": CAVEAT,
    }
    write_as("html", render("sweep.html", **content, panels=panels))
    write_as("md", markdown(content))
    if panels:
        write_as("svg", stack(panels, page_style()))
    else:
        (folder / "sweep.svg").unlink(missing_ok=True)


def report_of(folder: Path, name: str) -> str:
    """Where the report of a run is, from its sweep's folder; "" when there is none."""
    return f"{name}/report.html" if name and (folder / name / "report.html").is_file() else ""


def one_line(metrics: dict, labels: tuple[str, ...]) -> str:
    """A finished run in one line."""
    parts = [seconds(metrics["seconds"])]
    for label in labels:
        shown = (f"{m} {100 * metrics[f'{label}_{m}_accuracy']:.1f} %" for m in MODALITIES)
        parts.append(f"{label} " + " ".join(shown))
    return " · ".join(parts)


def columns_of(table: dict) -> list[tuple[str, str, str]]:
    """(title, metric, form) of the columns that hold metrics."""
    columns = []
    for label in table["labels"]:
        for m in MODALITIES:
            key = f"{label}_{m}"
            columns.append((f"{label} {m} %", f"{key}_accuracy", "percent"))
            columns.append((f"NMI {m}, {label}", f"{key}_nmi", "nmi"))
            columns.append((f"NMI {m}, other", f"{key}_other_nmi", "nmi"))
    columns.append(("NMI(audio, video)", "nmi_audio_video", "nmi"))
    return [*columns, ("samples", "samples", "whole"), ("seconds", "seconds", "whole")]


def mean_table(table: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows: mean and standard deviation over seeds."""
    columns = columns_of(table)
    rows = []
    for row in table["rows"]:
        cells = [
            show(row["mean"].get(metric), row["spread"].get(metric), form)
            for _, metric, form in columns
        ]
        rows.append([*row["values"].values(), str(len(row["seeds"])), *cells])
    return [*table["keys"], "seeds", *(title for title, *_ in columns)], rows


def seed_table(table: dict) -> tuple[list[str], list[list[str]]]:
    """Header and rows: every run."""
    columns = columns_of(table)
    rows = []
    for run in table["runs"]:
        cells = [show(run.get(metric), None, form) for _, metric, form in columns]
        for place, (_, metric, _) in enumerate(columns):
            if other := run.get(metric.removesuffix("_nmi")) if "_other_" in metric else None:
                cells[place] += f" ({other})"
        rows.append([*(run[key] for key in table["keys"]), run["seed"], *cells])
    return [*table["keys"], "seed", *(title for title, *_ in columns)], rows


def show(mean: float | None, deviation: float | None, form: str) -> str:
    """A cell of a table; form: a key of FORMS."""
    scale, digits = FORMS[form]
    if mean is None:
        return NONE
    shown = format(scale * mean, digits)
    if deviation is None or form == "whole":
        return shown
    return f"{shown} ± {format(scale * deviation, digits)}"


def draw(table: dict) -> list[tuple[str, Markup]]:
    """(title, chart) of each label: over the first numeric axis, or a strip for every row."""
    if not table["labels"] or not table["rows"]:
        return []
    axis = next((key for key, values in table["axes"].items() if numeric(key, values)), None)
    panels = []
    for label in table["labels"]:
        chance = next(r[f"{label}_chance"] for r in table["runs"] if f"{label}_chance" in r)
        panels += (
            draw_trends(table, label, axis, chance) if axis else draw_strips(table, label, chance)
        )
    return panels


def numeric(key: str, values: list[str]) -> bool:
    """Whether an axis has places on a scale; sets of samples have, by their sizes."""
    return key == "data" or all(re.fullmatch(r"[\d.]+(e[+-]?\d+)?", value) for value in values)


def values_of(table: dict, row: dict, metric: str) -> list[float]:
    """A metric of every seed of a row."""
    return [
        run[metric]
        for run in table["runs"]
        if not run["reason"] and all(run[key] == value for key, value in row["values"].items())
    ]


def draw_trends(table: dict, label: str, axis: str, chance: float) -> list[tuple[str, Markup]]:
    """A chart for every choice of the other keys that has two places or more."""
    start: list[dict] = []
    groups: dict[tuple[str, ...], list[dict]] = {}
    for row in table["rows"]:
        others = tuple(v for k, v in row["values"].items() if k != axis and k in table["axes"])
        (start if row["values"]["method"] == SCRATCH else groups.setdefault(others, [])).append(row)
    panels = []
    for others, rows in groups.items():
        if len(rows) < 2:
            continue
        place = {
            id(row): row["mean"]["samples"] if axis == "data" else float(row["values"][axis])
            for row in rows
        }
        rows = sorted(rows, key=lambda row: place[id(row)])
        metric = {m: f"{label}_{m}_accuracy" for m in MODALITIES}
        series = [
            Dots(m, m, [place[id(r)] for r in rows], [values_of(table, r, metric[m]) for r in rows])
            for m in MODALITIES
        ]
        levels = {m: start[0]["mean"][metric[m]] for m in MODALITIES} if len(start) == 1 else {}
        title = ", ".join([f"Linear probe of {label}, %", *others])
        words = "samples" if axis == "data" else axis
        panels.append((title, trend(title, words, series, levels, chance)))
    return panels


def draw_strips(table: dict, label: str, chance: float) -> list[tuple[str, Markup]]:
    """The accuracies and the NMIs of every row as strips of dots."""
    keys = list(table["axes"]) or ["method"]
    accuracy, agreement = [], []
    for row in table["rows"]:
        scratch = row["values"]["method"] == SCRATCH
        shown = [row["values"][key] for key in keys if not (scratch and key == "k")]
        name = ", ".join(value for value in shown if value)
        strip: list[Strip] = []
        nmis: list[Strip] = []
        for m in MODALITIES:
            for block, metric, form, hollow in (
                (strip, "accuracy", "percent", False),
                (nmis, "nmi", "nmi", False),
                (nmis, "other_nmi", "nmi", True),
            ):
                key = f"{label}_{m}_{metric}"
                if row["mean"].get(key) is not None:
                    text = show(row["mean"][key], row["spread"][key], form)
                    block.append(Strip(m, values_of(table, row, key), text, hollow))
        accuracy.append((name, strip))
        agreement.append((name, nmis))
    return [
        (title, strips(title, rows, top_of(rows), level))
        for title, rows, level in (
            (f"Linear probe of {label}, %", accuracy, chance),
            (f"NMI of clusters with {label} (hollow: with any other label)", agreement, None),
        )
    ]


def top_of(rows: list[tuple[str, list[Strip]]]) -> float:
    """The end of an x axis that holds every value."""
    return nice_ticks(0, max(v for _, block in rows for strip in block for v in strip.values))[-1]


def stack(panels: list[tuple[str, Markup]], style: str) -> str:
    """The charts as one SVG file, one below the other."""
    parts, y = [], 0.0
    for title, chart in panels:
        height = float(re.findall(r'^<svg viewBox="0 0 \S+ (\S+)"', chart)[0])
        inner = re.sub(r"^<svg[^>]*>|</svg>$", "", chart)
        key = [
            text_at(PANEL - 45 * i, 18, m, "end", f"label {m}") for i, m in enumerate(MODALITIES)
        ]
        head = "".join([text_at(0, 18, title, kind="strong"), *key])
        parts.append(f'<g transform="translate(0 {y:g})">{head}')
        parts.append(f'<g transform="translate(0 30)">{inner}</g></g>')
        y += height + 54
    size = f"svg {{ width: {PANEL}px; height: {y:g}px; font-family: {FONT}; }}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-10 0 {PANEL + 20} {y:g}" '
        f'width="{PANEL}" height="{y:g}"><style>{escape(style)}{escape(size)}</style>'
        f'<rect x="-10" width="100%" height="100%" fill="var(--paper)"/>{"".join(parts)}</svg>\n'
    )


def markdown(content: dict) -> str:
    """The tables as Markdown, with the command on top."""

    def lay(header: list[str], rows: list[list[str]]) -> list[str]:
        cells = [header, ["---"] * len(header), *rows]
        return ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in cells]

    lines = [f"# {content['name']}", "", "```", content["command"], "```", ""]
    lines += ["Mean and standard deviation over seeds:", "", *lay(*content["means"]), ""]
    lines += ["Every seed:", "", *lay(*content["seeds"]), ""]
    for run in content["missing"]:
        lines += [f"- {run['name']}: {run['reason']}"]
    for paper in content["papers"]:
        lines += ["", f"The paper's {paper.title}; {paper.grade}. {CAVEAT}", ""]
        rows = [[row[0], *(show(v, None, "nmi") if v is None else f"{v:.1f}" for v in row[1:])]
                for row in paper.rows]  # fmt: skip
        lines += lay([paper.first, *COLUMNS], rows)
    return "\n".join(lines) + "\n"
