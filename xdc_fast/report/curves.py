"""The metrics of a run as charts."""

from __future__ import annotations

import math

import numpy as np
from markupsafe import Markup

from xdc_fast.encoders.build import MODALITIES
from xdc_fast.kernels.labels import cluster_sizes
from xdc_fast.pretraining.methods import heads_of
from xdc_fast.pretraining.run import Run
from xdc_fast.report.charts import Series, bar_chart, line_chart
from xdc_fast.report.matching import chance_nmi
from xdc_fast.report.wording import CLUSTERINGS, kind, words
from xdc_fast.shards.dataset import ShardSet

Clusters = dict[str, dict[str, np.ndarray]]  # {clustering: its arrays}, as of Run.clusters


def training_curves(summary: dict, chance: float | None) -> list[dict]:
    """Charts over iterations: loss, accuracy, and the stability and agreement of the clusters."""
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
    records: list[dict], clusters: Clusters, shards: ShardSet, labels: list[str]
) -> list[dict]:
    """A chart per label: NMI of each clustering with it, and what shuffled labels would give.

    Labels that the set has got since it was trained on are left out.
    """
    known = [record["clusters"][c]["labels"] for record in records for c in clusters]
    labels = [label for label in labels if all(label in found for found in known)]
    x = [record["iteration"] + 1 for record in records]
    series = {
        label: [
            Series(
                words(c), kind(c), x, [r["clusters"][c]["labels"][label]["nmi"] for r in records]
            )
            for c in clusters
        ]
        for label in labels
    }
    values = [y for several in series.values() for s in several for y in s.y if y is not None]
    charts = []
    for label in labels:
        samples, codes, classes = shards.memberships(label)
        chances = [
            chance_nmi(a["assignment"][samples], codes, len(a["centroids"]), len(classes))
            for a in clusters.values()
        ]
        level = float(np.mean(chances))
        chart = line_chart(f"NMI with {label}", series[label], chance=level, top=max(values))
        charts.append({"title": label, "classes": len(classes), "chart": chart})
    return charts


def size_charts(clusters: Clusters, record: dict) -> list[dict]:
    """Sorted cluster sizes of the last iteration, with their summary and the largest share."""
    counts = {
        name: cluster_sizes(arrays["assignment"], len(arrays["centroids"]))
        for name, arrays in clusters.items()
    }
    top = int(max(count.max() for count in counts.values()))
    return [
        {
            "name": name,
            "sizes": record["clusters"][name]["sizes"],
            "largest": float(count.max() / max(count.sum(), 1)),
            "chart": bar_chart(f"Sizes of {words(name)} clusters", count, kind(name), top),
        }
        for name, count in counts.items()
    ]
