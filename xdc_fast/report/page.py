"""The report: one self-contained page of a run, from its folder and its shards alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from xdc_fast.encoders.build import MODALITIES
from xdc_fast.encoders.inputs import Inputs
from xdc_fast.errors import UserError
from xdc_fast.files import replacing
from xdc_fast.pretrain.run import Run, fingerprint
from xdc_fast.recipe import dump_recipe
from xdc_fast.report.cards import NEAREST, Deck, deal
from xdc_fast.report.charts import heat_map, probe_chart
from xdc_fast.report.figures import (
    CLUSTERINGS,
    label_curves,
    make_tiles,
    seconds,
    share,
    size_charts,
    step_curve,
    training_curves,
    unread_note,
)
from xdc_fast.report.matching import SHOWN, chance_nmi, match
from xdc_fast.report.pictures import choose_stretch, mel_range, paint, show_sample
from xdc_fast.shards.dataset import ShardSet


def write_report(run: Run, shards: ShardSet) -> Path:
    """Writes RUN/report.html and returns its path; the same run gives the same bytes.

    Raises UserError when the run has no finished iteration or `shards` are not its own.
    """
    summary = run.summary()
    check_shards(run, summary, shards)
    records = summary["iterations"]
    found = run.clusters(records[-1]["iteration"])
    clusters = {name: found[name] for name in CLUSTERINGS if name in found}
    label, codes, classes = choose_label(shards)
    probes = read_probes(run, label)
    matching = chance = None
    if all(m in clusters for m in MODALITIES):
        audio, video = clusters["audio"]["assignment"], clusters["video"]["assignment"]
        matching = match(audio, video, summary["k"])
        chance = chance_nmi(audio, video, summary["k"], summary["k"])
    decks = [deal(name, arrays, codes, classes) for name, arrays in clusters.items()]
    stretch, low, high = show_samples(decks, Inputs(run.recipe), shards)
    folder = Path(__file__).parent
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"seconds": seconds, "share": share}
    template = environment.from_string((folder / "page.html").read_text())
    page = template.render(
        name=run.root.resolve().name,
        summary=summary,
        recipe=dump_recipe(run.recipe),
        mels=run.recipe.audio.mels,
        style=Markup((folder / "page.css").read_text()),
        script=Markup((folder / "page.js").read_text()),
        tiles=make_tiles(records, probes, chance),
        unread=unread_note(records),
        probes=probes and probe_chart("Linear probes", probes),
        curves=training_curves(summary, chance),
        steps=step_curve(run),
        labels=label_curves(records, clusters, shards),
        sizes=size_charts(clusters, records[-1]),
        matching=matching,
        heat=matching and heat_map("Samples that audio and video clusters share", matching),
        most=SHOWN,
        decks=decks,
        label=label,
        truth=None if codes is None else [classes[c] if c >= 0 else None for c in codes],
        nearest=NEAREST,
        stretch=stretch,
        paint=lambda sample: paint(sample.mel, low, high),
    )
    path = run.root / "report.html"
    with replacing(path, encoding="utf-8") as file:
        file.write(page)
    return path


def check_shards(run: Run, summary: dict, shards: ShardSet) -> None:
    """Raises UserError unless these are the shards that the run was made of."""
    if summary["data"] != fingerprint(shards):
        raise UserError(
            f"{run.root}: was made from other shards than {shards.root} holds "
            f"({summary['samples']} samples, {len(shards)} there); give its own with --data"
        )


def choose_label(shards: ShardSet) -> tuple[str | None, np.ndarray | None, list[str]]:
    """The label that clusters are described by: `class`, or the first one that says anything."""
    for name in sorted(shards.label_names, key=lambda name: name != "class"):
        codes, classes = shards.label(name)
        if classes:
            return name, codes, classes
    return None, None, []


def read_probes(run: Run, label: str | None) -> list[dict]:
    """What `xdc probe` found, the page's label first."""
    found = [json.loads(path.read_text()) for path in sorted(run.root.glob("probes/*.json"))]
    return sorted(found, key=lambda probe: probe["label"] != label)


def show_samples(decks: list[Deck], inputs: Inputs, shards: ShardSet):
    """Fills the cards with their samples; returns the stretch shown and the range of colours."""
    cards = [card for deck in decks for card in deck.cards]
    stretch = choose_stretch(shards, inputs.shape, [i for card in cards for i in card.nearest])
    for card in cards:
        card.samples = [show_sample(shards, inputs, stretch, index) for index in card.nearest]
    return stretch, *mel_range([sample for card in cards for sample in card.samples])
