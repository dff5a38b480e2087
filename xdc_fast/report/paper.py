"""What the paper reports, to lay beside a sweep of the same question.

Alwassel et al., Self-Supervised Learning by Cross-Modal Audio-Video Clustering, NeurIPS 2020.
Nobody has checked these numbers against its pages: each table says how far it is to be trusted.
"""

from __future__ import annotations

from dataclasses import dataclass

COLUMNS = ("UCF101", "HMDB51", "ESC50")
CAVEAT = (
    "The figures are accuracies in % of encoders that were pretrained on other data (Kinetics "
    "unless named) and fine-tuned as a whole on UCF101, HMDB51 and ESC50. They are no linear "
    "probes on this set, so only their order can be compared."
)


@dataclass(frozen=True)
class PaperTable:
    """rows: the first column's text, then accuracies in %, None where there is none."""

    title: str
    grade: str
    first: str
    rows: tuple[tuple, ...]


TABLES: dict[str, PaperTable] = {  # by the axis of a sweep that asks the same
    "method": PaperTable(
        "Table 1: one or both modalities",
        "recalled, not confirmed (high for Scratch, Superv and XDC; medium for SDC, MDC, CDC)",
        "method",
        (
            ("Scratch", 54.5, 24.1, 54.3),
            ("Superv", 90.9, 58.0, 82.3),
            ("SDC", 61.8, 31.4, 66.5),
            ("MDC", 68.4, 37.1, 70.3),
            ("CDC", 72.9, 37.5, 74.8),
            ("XDC", 74.2, 39.0, 78.0),
        ),
    ),
    "k": PaperTable(
        "Table 2: the number of clusters",
        "recalled, not confirmed (medium)",
        "k",
        (
            ("64", 73.8, 36.5, 78.0),
            ("128", 73.1, 39.0, 76.3),
            ("256", 74.2, 38.3, 75.0),
            ("512", 74.0, 37.7, 74.5),
            ("1024", 72.6, 37.7, 71.5),
        ),
    ),
    "data": PaperTable(
        "Table 3: kind and size of the pretraining data",
        "recalled, not confirmed (medium to high)",
        "method, data, size",
        (
            ("Scratch", 54.5, 24.1, 54.3),
            ("Superv, ImageNet, 1.2M", 79.9, 44.5, None),
            ("Superv, Kinetics, 240K", 90.9, 58.0, 82.3),
            ("Superv, AudioSet-240K, 240K", 76.6, 40.8, 78.3),
            ("Superv, AudioSet, 2M", 84.0, 53.5, 90.3),
            ("XDC, Kinetics, 240K", 74.2, 39.0, 78.0),
            ("XDC, AudioSet-240K, 240K", 77.4, 42.6, 78.5),
            ("XDC, AudioSet, 2M", 84.9, 48.8, 84.3),
            ("XDC, IG-Random, 65M", 88.8, 61.2, 86.3),
            ("XDC, IG-Kinetics, 65M", 91.5, 63.1, 84.8),
        ),
    ),
}
