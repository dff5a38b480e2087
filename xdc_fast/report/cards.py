"""The clusters of one clustering as cards: how large, how pure, and what lies at the centre."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from xdc_fast.kernels.labels import cluster_sizes, contingency, purity

PUREST, LARGEST = 3, 3  # cards of a clustering
NEAREST = 6  # samples of a card
TOP = 3  # labels of a cluster


@dataclass
class Card:
    """One cluster. labels: the commonest with their shares. nearest: samples by distance."""

    number: int
    size: int
    purity: float | None
    labels: list[tuple[str, float]]
    nearest: list[int]
    samples: list = field(default_factory=list)


@dataclass
class Deck:
    """The clusters of one clustering that the page shows.

    purest: by purity, among those of at least `least` samples; empty without labels. largest:
    the largest of the others. all: every cluster that is not empty, by purity, without samples.
    """

    name: str
    purest: list[Card]
    largest: list[Card]
    all: list[Card]
    least: int

    @property
    def cards(self) -> list[Card]:
        return self.purest + self.largest


def deal(
    name: str, arrays: dict[str, np.ndarray], codes: np.ndarray | None, classes: list[str]
) -> Deck:
    """The cards of a clustering.

    arrays: assignment (N,), centroids (k, D), distance (N,). codes: the label of each sample,
    int64 (N,), -1 without one; None for a set without labels. Shares and purity are of the
    labeled samples of a cluster.
    """
    assignment, k = arrays["assignment"], len(arrays["centroids"])
    sizes = cluster_sizes(assignment, k)
    table = None if codes is None else contingency(assignment, codes, k, len(classes))
    pure = np.full(k, np.nan) if table is None else purity(table)[0]
    kept = np.flatnonzero(sizes)
    # purest first; equal purity is worth more in a larger cluster; NaN last
    kept = kept[np.lexsort((kept, -sizes[kept], -np.nan_to_num(pure[kept], nan=-1.0)))]
    cards = [
        Card(
            number=int(c),
            size=int(sizes[c]),
            purity=None if np.isnan(pure[c]) else float(pure[c]),
            labels=[] if table is None else top_labels(table[c], classes),
            nearest=[],
        )
        for c in kept
    ]
    least = min(NEAREST, int(np.median(sizes[kept]))) if len(kept) else 0
    purest = [c for c in cards if c.purity is not None and c.size >= least][:PUREST]
    others = sorted((c for c in cards if c not in purest), key=lambda c: (-c.size, c.number))
    deck = Deck(name, purest, others[: PUREST + LARGEST - len(purest)], cards, least)
    for card in deck.cards:
        card.nearest = nearest(arrays, card.number)
    return deck


def top_labels(counts: np.ndarray, classes: list[str]) -> list[tuple[str, float]]:
    """The TOP commonest labels and their shares, from the counts of one cluster."""
    order = np.argsort(-counts, kind="stable")[:TOP]
    return [(classes[i], float(counts[i] / counts.sum())) for i in order if counts[i]]


def nearest(arrays: dict[str, np.ndarray], cluster: int) -> list[int]:
    """The NEAREST samples of a cluster by distance to its centroid."""
    members = np.flatnonzero(arrays["assignment"] == cluster)
    order = np.argsort(arrays["distance"][members], kind="stable")
    return [int(i) for i in members[order[:NEAREST]]]
