"""The cluster analysis as tables: on the page, and beside it as CSV.

RUN/clusters.csv     a line per clustering and cluster, by the label that describes them on the page
RUN/quality.csv      a line per clustering and label: METRICS, and how the sizes are spread
RUN/assignments.csv  a line per sample: its cluster in each clustering, -1 where it has none
All are of the last iteration.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from pathlib import Path

import numpy as np

from xdc_fast.clusters.quality import METRICS, label_counts, metrics
from xdc_fast.kernels.labels import cluster_sizes, effective_clusters
from xdc_fast.report.cards import TOP, Deck
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.tables import write_csv

TOPS = tuple(chain.from_iterable((f"top{i}", f"share{i}") for i in range(1, TOP + 1)))
CLUSTERS = ("clustering", "cluster", "samples", "label", "purity", "entropy", *TOPS)
SPREAD = ("k", "empty", "largest_share", "effective")
BLOCK = 65_536
QUALITY = ("clustering", "label", "classes", *SPREAD, *METRICS)


def spread(arrays: dict[str, np.ndarray]) -> dict[str, float]:
    """How a clustering's samples are spread over its clusters: SPREAD."""
    counts = cluster_sizes(arrays["assignment"], len(arrays["centroids"]))
    return {
        "k": len(counts),
        "empty": int((counts == 0).sum()),
        "largest_share": float(counts.max() / max(counts.sum(), 1)),
        "effective": float(effective_clusters(counts)),
    }


def label_table(clusters: dict[str, dict], shards: ShardSet, label: str) -> dict:
    """The METRICS of each clustering against one label.

    Returns {title, classes, commonest, lines}: the number of classes, the share of the commonest
    one, and {clustering: metrics}.
    """
    _, codes, classes = shards.memberships(label)
    counts = cluster_sizes(codes, len(classes))
    lines = {}
    for name, arrays in clusters.items():
        k = len(arrays["centroids"])
        lines[name] = metrics(label_counts(arrays["assignment"], k, shards, label)[0])
    commonest = float(counts.max() / counts.sum())
    return {"title": label, "classes": len(classes), "commonest": commonest, "lines": lines}


def write_tables(
    root: Path,
    clusters: dict[str, dict],
    decks: list[Deck],
    label: str | None,
    tables: list[dict],
    sources: list[str],
) -> None:
    """Write the CSV files of a run into its folder.

    label: of the decks. tables: of label_table. sources: of every sample.
    """
    write_csv(root / "clusters.csv", CLUSTERS, [
        [deck.name, c.number, c.size, label and text(label), rounded(c.purity), rounded(c.entropy)]
        + [cell for title, part in c.labels for cell in (text(title), rounded(part))]
        + [None] * (2 * (TOP - len(c.labels)))
        for deck in decks
        for c in deck.all
    ])  # fmt: skip
    spreads = {name: spread(arrays) for name, arrays in clusters.items()}
    write_csv(root / "quality.csv", QUALITY, [
        [name, text(table["title"]), table["classes"], *map(rounded, spreads[name].values())]
        + [rounded(line[metric]) for metric in METRICS]
        for table in tables
        for name, line in table["lines"].items()
    ])  # fmt: skip
    columns = [one_by_one(arrays["assignment"]) for arrays in clusters.values()]
    rows = zip(range(len(sources)), map(text, sources), *columns, strict=True)
    write_csv(root / "assignments.csv", ("index", "source", *clusters), rows)


def one_by_one(numbers: np.ndarray) -> Iterator[int]:
    """The numbers (N,); a list of all would take nine times their memory."""
    for first in range(0, len(numbers), BLOCK):
        yield from numbers[first : first + BLOCK].tolist()


def text(cell: str) -> str:
    """A cell that a spreadsheet does not take for a formula: an apostrophe goes before it.

    A `-` begins many names, and counts where the rest could call something.
    """
    formula = cell.startswith(("=", "+", "@", "\t", "\r"))
    return f"'{cell}" if formula or (cell.startswith("-") and set(cell) & set("(|!")) else cell


def rounded(value: float | None) -> float | None:
    """Six digits after the point: a CSV is also read by people."""
    return None if value is None else round(value, 6)
