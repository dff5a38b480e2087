"""The figures of a run as tiles and charts."""

from __future__ import annotations

import math

import numpy as np
from markupsafe import Markup

from xdc_fast.encoders.build import MODALITIES, TWIN, modality_of
from xdc_fast.kernels.labels import cluster_sizes
from xdc_fast.pretraining.methods import heads_of
from xdc_fast.pretraining.run import Run
from xdc_fast.report.charts import Series, bar_chart, line_chart
from xdc_fast.report.matching import chance_nmi
from xdc_fast.shards.dataset import ShardSet

# in the order of the page
CLUSTERINGS = ("video", "video_twin", "audio", "audio_twin", "joint", "label")
METHODS = {"same": "Same-modality control", "supervised": "Supervised"}  # the others are acronyms


def method_name(method: str) -> str:
    return METHODS.get(method, method.upper())


def words(name: str) -> str:
    """The name of a head or a clustering, as it is read."""
    return name.replace("_", " ")


def heading(clustering: str) -> str:
    return "Classes" if clustering == "label" else f"{words(clustering).capitalize()} clusters"


def kind(encoder: str) -> str:
    """The style of an encoder or its clustering: its modality's colour; a twin is dashed."""
    if encoder == "label":
        return "classes"
    return modality_of(encoder) + " twin" * encoder.endswith(TWIN)


def make_tiles(records: list, probes: list, chance: float | None) -> list[dict]:
    """The headline figures: value, name, note, kind (a modality's colour, or nothing)."""
    tiles = []
    for modality in MODALITIES if probes else ():
        probe = probes[0]
        random, least = share(probe[modality]["random"]), share(probe["chance"])
        tiles.append(
            {
                "value": share(probe[modality]["pretrained"]),
                "name": f"{modality} probe",
                "note": f"{probe['label']}; random {random}, chance {least}",
                "kind": modality,
            }
        )
    if chance is not None:
        agreement = records[-1]["nmi_audio_video"]
        note = f"chance {chance:.3f}"
        tiles.append({"value": f"{agreement:.3f}", "name": "NMI(audio, video)", "note": note})
    speed, waiting = (
        sum(record[key] for record in records) / len(records)
        for key in ("clips_per_second", "data_wait_share")
    )
    tiles += [
        {"value": f"{speed:,.0f}", "name": "clips per second", "note": "while training"},
        {"value": share(waiting), "name": "waiting for data", "note": "of the training time"},
    ]
    return tiles


def unread_note(records: list[dict]) -> str:
    """What could not be read, in words; empty when all went well."""
    unread, replaced = records[-1]["clusters"]["n_unreadable"], records[-1]["unreadable"]
    parts = []
    if unread:
        parts.append(f"{unread} samples could not be read and have no cluster")
    if replaced:
        reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(replaced.items()))
        parts.append(f"{sum(replaced.values())} clips were replaced ({reasons})")
    return "; ".join(parts)


def training_curves(summary: dict, chance: float | None) -> list[dict]:
    """Charts over iterations of losses, accuracies and what the clusters do."""
    records = summary["iterations"]
    x = [record["iteration"] + 1 for record in records]

    def by_modality(key: str) -> list[Series]:
        return [Series(m, m, x, [record[f"{m}_{key}"] for record in records]) for m in MODALITIES]

    def chart(title: str, series: list[Series], note: str, level: float | None = None) -> dict:
        return {"title": title, "chart": line_chart(title, series, chance=level), "note": note}

    supervised = summary["method"] == "supervised"
    labels = "labels" if supervised else "pseudo-labels"
    heads = sum(head.encoder == "video" for head in heads_of(summary["method"]))
    guess = "ln k" if heads == 1 else f"{heads} ln k"
    stability = [
        Series(words(c), kind(c), x, [record["clusters"][c]["nmi_previous"] for record in records])
        for c in CLUSTERINGS
        if c in records[-1]["clusters"]
    ]
    charts = [
        chart(
            "Loss",
            by_modality("loss"),
            f"Mean cross-entropy against the {labels}. The dotted line is {guess}, a random guess.",
            heads * math.log(summary["k"]),
        ),
        chart(
            "Accuracy" if supervised else "Pseudo-label accuracy",
            by_modality("accuracy"),
            f"Share of training clips whose {'label' if supervised else 'cluster'} the head "
            "predicts.",
        ),
    ]
    if not supervised:
        note = "NMI of each clustering with the one of the iteration before."
        charts.append(chart("Stability", stability, note))
    if chance is not None:
        agreement = Series("NMI", "joint", x, [record["nmi_audio_video"] for record in records])
        note = "NMI of audio and video clusters. The dotted line is that of shuffled samples."
        charts.append(chart("Agreement of audio and video", [agreement], note, chance))
    return charts


def step_curve(run: Run) -> Markup | None:
    """Loss of every logged step, a line per head; None when no step was logged."""
    lines = [line for line in run.metrics() if "step" in line]
    if not lines:
        return None
    steps = max(line["step"] for line in lines)
    x = [line["iteration"] * steps + line["step"] for line in lines]
    heads = heads_of(run.recipe.method)
    first = {head.encoder: head for head in reversed(heads)}
    series = [
        Series(
            words(head.name),
            kind(head.encoder),
            x,
            [line[f"{head.name}_loss"] for line in lines],
            dashed=head is not first[head.encoder],
        )
        for head in heads
    ]
    iterations = sorted({line["iteration"] for line in lines})
    word = "iteration " if len(iterations) <= 6 else ""
    shown = iterations[:: math.ceil(len(iterations) / 20)]
    edges = [(i * steps, f"{word}{i + 1}") for i in shown]
    return line_chart("Loss by step", series, edges=edges, zero=False, width=1160, height=240)


def label_curves(
    records: list[dict], clusters: dict, shards: ShardSet, labels: list[str]
) -> list[dict]:
    """A chart per label: NMI of each clustering with it, and what shuffled labels would give."""
    x = [record["iteration"] + 1 for record in records]
    charts = []
    for label in labels:
        samples, codes, classes = shards.memberships(label)
        series = [
            Series(
                words(c), kind(c), x, [r["clusters"][c]["labels"][label]["nmi"] for r in records]
            )
            for c in clusters
        ]
        level = np.mean(
            [
                chance_nmi(a["assignment"][samples], codes, len(a["centroids"]), len(classes))
                for a in clusters.values()
            ]
        )
        charts.append({"title": label, "classes": len(classes), "series": series, "level": level})
    tops = [y for chart in charts for s in chart["series"] for y in s.y]
    for chart in charts:
        chart["chart"] = line_chart(
            f"NMI with {chart['title']}",
            chart.pop("series"),
            chance=float(chart.pop("level")),
            top=max(tops),
        )
    return charts


def size_charts(clusters: dict, record: dict) -> list[dict]:
    """Sorted cluster sizes of the last iteration, with their figures and the largest share."""
    counts = {
        name: cluster_sizes(arrays["assignment"], len(arrays["centroids"]))
        for name, arrays in clusters.items()
    }
    top = int(max(count.max() for count in counts.values()))
    return [
        {
            "name": name,
            "figures": record["clusters"][name]["sizes"],
            "largest": float(count.max() / max(count.sum(), 1)),
            "chart": bar_chart(f"Sizes of {words(name)} clusters", count, kind(name), top),
        }
        for name, count in counts.items()
    ]


def seconds(value: float) -> str:
    """As hours and minutes, or minutes and seconds."""
    whole = round(value)
    if whole >= 3600:
        return f"{whole // 3600} h {whole % 3600 // 60} min"
    return f"{whole // 60} min {whole % 60} s" if whole >= 60 else f"{whole} s"


def thousandths(value: float | None) -> str:
    """A figure with three digits, a dash without one; never minus zero."""
    if value is None:
        return "\N{EN DASH}"
    return f"{round(value, 3) + 0.0:.3f}".replace("-", "\N{MINUS SIGN}")


def share(value: float) -> str:
    return f"{100 * value:.1f}\N{NARROW NO-BREAK SPACE}%"
