"""The clusters of one clustering as cards: size, purity, labels and the samples nearest to it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from xdc_fast.kernels.labels import cluster_sizes, entropy, purity
from xdc_fast.report.pictures import Exhibit

PUREST, LEAST_PURE, CARDS = 2, 2, 6  # with pictures; the rest of the cards are the largest
LINES = 5  # of either end of the ranking
NEAREST = 6  # samples of a card
TOP = 3  # labels of a cluster


@dataclass
class Card:
    """One cluster. purity, entropy: of its labels, None without any; entropy in nats.

    rank: by purity from 1, None for a cluster that is not ranked. labels: the commonest with
    their shares. nearest: samples by distance, of cards with pictures.
    """

    number: int
    size: int
    purity: float | None
    entropy: float | None
    labels: list[tuple[str, float]]
    rank: int | None = None
    nearest: list[int] = field(default_factory=list)
    samples: list[Exhibit] = field(default_factory=list)


@dataclass
class Deck:
    """The clusters of one clustering.

    all: by number. ranked: those of at least `least` samples, the purest first; empty without
    labels. groups: (title, cards) of those shown with pictures.
    """

    name: str
    all: list[Card]
    ranked: list[Card]
    least: int
    groups: list[tuple[str, list[Card]]]

    @property
    def ends(self) -> list[tuple[str, list[Card]]]:
        """Both ends of the ranking, at most LINES each; no card is in both."""
        half = (len(self.ranked) + 1) // 2
        top, bottom = self.ranked[:half][:LINES], self.ranked[half:][-LINES:]
        return [(title, end) for title, end in (("top", top), ("bottom", bottom)) if end]

    @property
    def by_purity(self) -> list[Card]:
        """Every cluster that is not empty, the ranked ones first."""
        rest = [card for card in self.all if card.rank is None and card.size]
        return self.ranked + sorted(rest, key=purest_first)

    @property
    def cards(self) -> list[Card]:
        return [card for _, cards in self.groups for card in cards]


def deal(
    name: str, arrays: dict[str, np.ndarray], table: np.ndarray | None, classes: list[str]
) -> Deck:
    """The cards of a clustering.

    arrays: assignment (N,), centroids (k, D), distance (N,). table: how often each
    cluster's samples bear each label, int (k, classes); None for a set without labels. Shares,
    purity and entropy are of the labels of a cluster.
    """
    assignment, k = arrays["assignment"], len(arrays["centroids"])
    sizes = cluster_sizes(assignment, k)
    if table is None:
        table = np.zeros((k, 1), int)
    cards = [
        Card(
            number=number,
            size=int(sizes[number]),
            purity=float(pure) if counts.any() else None,
            entropy=entropy(counts) if counts.any() else None,
            labels=top_labels(counts, classes),
        )
        for number, (counts, pure) in enumerate(zip(table, purity(table)[0], strict=True))
    ]
    filled = [card for card in cards if card.size]
    least = min(NEAREST, int(np.median([card.size for card in filled]))) if filled else 0
    ranked = [card for card in filled if card.purity is not None and card.size >= least]
    ranked.sort(key=purest_first)
    for rank, card in enumerate(ranked, 1):
        card.rank = rank
    purest, rest = ranked[:PUREST], ranked[PUREST:]
    pictured = {card.number for card in purest + rest[-LEAST_PURE:]}
    others = [card for card in filled if card.number not in pictured]
    others.sort(key=lambda card: (-card.size, card.number))
    groups = [
        ("purest", purest),
        ("least pure", rest[-LEAST_PURE:]),
        ("largest", others[: CARDS - len(pictured)]),
    ]
    deck = Deck(name, cards, ranked, least, [group for group in groups if group[1]])
    for card in deck.cards:
        card.nearest = nearest(arrays, card.number)
    return deck


def purest_first(card: Card) -> tuple[float, int, int]:
    """Sort key: by purity, then by size; clusters without labels come last."""
    return -(card.purity or 0), -card.size, card.number


def top_labels(counts: np.ndarray, classes: list[str]) -> list[tuple[str, float]]:
    """The TOP commonest labels and their shares, from the counts of one cluster."""
    order = np.argsort(-counts, kind="stable")[:TOP]
    return [(classes[i], float(counts[i] / counts.sum())) for i in order if counts[i]]


def nearest(arrays: dict[str, np.ndarray], cluster: int) -> list[int]:
    """The NEAREST samples of a cluster by distance to its centroid."""
    members = np.flatnonzero(arrays["assignment"] == cluster)
    order = np.argsort(arrays["distance"][members], kind="stable")
    return [int(i) for i in members[order[:NEAREST]]]
