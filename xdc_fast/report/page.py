"""The report: one self-contained page of a run, from its folder and its shards alone."""

from __future__ import annotations

import numpy as np
from markupsafe import Markup

from xdc_fast.clusters.quality import class_columns, label_counts
from xdc_fast.encoders.build import MODALITIES
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.evaluation.results import read_probe
from xdc_fast.files import damaged, locked, write
from xdc_fast.pretraining.run import ANEW, Run
from xdc_fast.recipe import dump_recipe
from xdc_fast.report.cards import LINES, NEAREST, Deck, deal
from xdc_fast.report.charts import heat_map, probe_chart
from xdc_fast.report.curves import label_curves, size_charts, step_curve, training_curves
from xdc_fast.report.matching import SHOWN, chance_nmi, match
from xdc_fast.report.pictures import Stretch, choose_stretch, mel_range, paint, show_sample
from xdc_fast.report.tables import label_table, write_tables
from xdc_fast.report.template import HERE, render
from xdc_fast.report.tiles import make_tiles, unreadable_note
from xdc_fast.report.wording import (
    CLUSTERINGS,
    heading,
    kind,
    method_name,
    seconds,
    share,
    thousandths,
    words,
)
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.storage import Place


def write_report(run: Run, shards: ShardSet) -> Place:
    """Write RUN/report.html and the tables beside it; returns the path of the page.

    The same run gives the same bytes. Raises UserError when the run has no finished iteration, was
    made from other shards, or has a damaged file, and Busy when another process writes the page.
    """
    busy = f"{run.place}: another process is writing its report; wait for it"
    with locked(run.root / ".report.lock", busy):
        return _write(run, shards)


def _write(run: Run, shards: ShardSet) -> Place:
    summary = run.summary()
    check_shards(run, summary, shards)
    records = summary["iterations"]
    found = run.clusters(records[-1]["iteration"], len(shards))
    clusters = {name: found[name] for name in CLUSTERINGS if name in found}
    if clusters.keys() - records[-1]["clusters"].keys() or not clusters:
        folder = run.iteration(records[-1]["iteration"])
        raise damaged(folder, f"not the clusterings of method={summary['method']}", ANEW)
    labels = choose_labels(shards)
    label = labels[0] if labels else None
    codes, names = shards.label(label) if label else (None, [])

    def truth(index: int) -> str | None:
        return None if codes is None or codes[index] < 0 else names[codes[index]]

    probes = read_probes(run, label)
    matching = chance = None
    if all(m in clusters for m in MODALITIES):
        audio, video = clusters["audio"]["assignment"], clusters["video"]["assignment"]
        matching = match(audio, video, summary["k"])
        chance = chance_nmi(audio, video, summary["k"], summary["k"])
    decks = []
    for name, arrays in clusters.items():
        table: np.ndarray | None = None
        classes: list[str] = []
        if label:
            k = len(arrays["centroids"])
            table, classes = label_counts(arrays["assignment"], k, shards, label)
        decks.append(deal(name, arrays, table, classes))
    tables = [label_table(clusters, shards, name) for name in labels]
    stretch, low, high = show_samples(decks, ClipTransform(run.recipe), shards)
    page = render(
        "page.html",
        *(heading, kind, method_name, seconds, share, thousandths, words),
        name=run.place.resolve().name,
        summary=summary,
        recipe=dump_recipe(run.recipe),
        training_label=run.recipe.label if summary["method"] == "supervised" else None,
        mels=run.recipe.audio.n_mels,
        script=Markup((HERE / "page.js").read_text("utf-8")),
        tiles=make_tiles(records, probes, chance),
        unreadable=unreadable_note(records),
        probes=probes and probe_chart("Linear probes", probes),
        curves=training_curves(summary, chance),
        steps=step_curve(run),
        labels=label_curves(records, clusters, shards, labels),
        tables=tables,
        sizes=size_charts(clusters, records[-1]),
        matching=matching,
        heat=matching and heat_map("Samples that audio and video clusters share", matching),
        most=SHOWN,
        decks=decks,
        label=label,
        truth=truth,
        nearest=NEAREST,
        ends=LINES,
        stretch=stretch,
        paint=lambda sample: paint(sample.mel, low, high),
    )
    write_tables(run.root, clusters, decks, label, tables, shards.sources)
    write(run.root / "report.html", page)
    run.folder.publish()
    return run.place / "report.html"


def check_shards(run: Run, summary: dict, shards: ShardSet) -> None:
    """Raises UserError unless the run was made from these shards."""
    if (summary["data"], summary["samples"]) != (shards.fingerprint, len(shards)):
        raise UserError(
            f"{run.place}: was trained on other shards than those in {shards.root} "
            f"({summary['samples']} samples, {len(shards)} there); give its own with --data"
        )


def choose_labels(shards: ShardSet) -> list[str]:
    """The label columns to compare with, `class` first; the first describes the clusters."""
    return sorted(class_columns(shards), key=lambda name: name != "class")


def read_probes(run: Run, label: str | None) -> list[dict]:
    """The newest result of `xdc probe` for each label, that of `label` first."""
    names = [name for name in run.folder.names("probes") if name.endswith(".json")]
    files = sorted(map(run.folder.file, names), key=lambda path: path.stat().st_mtime_ns)
    found = {result["label"]: result for result in map(read_probe, files)}
    return sorted(found.values(), key=lambda probe: (probe["label"] != label, probe["label"]))


def show_samples(
    decks: list[Deck], inputs: ClipTransform, shards: ShardSet
) -> tuple[Stretch, float, float]:
    """Fill the cards with their samples; returns the stretch shown and the range of colours."""
    cards = [card for deck in decks for card in deck.cards]
    stretch = choose_stretch(shards, inputs.shape, [i for card in cards for i in card.nearest])
    for card in cards:
        card.samples = [show_sample(shards, inputs, stretch, index) for index in card.nearest]
    return stretch, *mel_range([sample for card in cards for sample in card.samples])
