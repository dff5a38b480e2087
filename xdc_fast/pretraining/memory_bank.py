"""Features gathered while training, so that the next clustering needs no pass of its own."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from xdc_fast.clusters.points import ROWS
from xdc_fast.encoders.feature_rows import Features
from xdc_fast.errors import UserError
from xdc_fast.files import damaged
from xdc_fast.ranks import ALONE, Ranks

SPANS = 256  # files at most; a process has its own open
PENDING = 32  # steps whose features wait on the device: fetching each one would stall it
HINT = "begin a new run in another folder"
Group = tuple[torch.Tensor, Mapping[str, torch.Tensor]]


class MemoryBank:
    """The newest features of every sample: a memory bank, as in DeepCluster-v2.

    It lies in FOLDER/FIRST.npy, a file for each span of samples, mapped into memory. A rank holds
    the spans of its part, ranks.share(M, bank.unit), and the ranks tell each other what they
    compute. No checkpoint holds it: a run that goes on from one takes the steps since then again,
    and they write the same rows again before a clustering reads them.

    samples: int64 (M,), in rising order: those that it has rows for. widths: {encoder: features
    per sample}. precision: float32 or float16. new: begins without any.
    Raises UserError where files that should be there are not, or are damaged.
    """

    def __init__(
        self,
        folder: Path,
        samples: np.ndarray,
        widths: Mapping[str, int],
        precision: str = "float32",
        *,
        new: bool,
        ranks: Ranks = ALONE,
    ):
        self._samples, self._widths, self._precision = samples, widths, precision
        self._ranks, self.unit = ranks, unit_of(len(samples))
        self._rows = ranks.share(len(samples), self.unit)
        self._pending: list[Sequence[Group]] = []
        folder.mkdir(parents=True, exist_ok=True)
        row = [("valid", np.bool_), *((n, precision, (width,)) for n, width in widths.items())]
        kind = np.dtype(row, align=True)
        self._spans = {}
        for first in range(self._rows.start, self._rows.stop, self.unit):
            count = min(self.unit, len(samples) - first)
            self._spans[first] = open_span(folder / f"{first:012d}.npy", kind, count, new)

    def add(self, groups: Sequence[Group]) -> None:
        """Keeps what a step computed of this rank's groups; all ranks call it after every step.

        groups: (index int64 (B,), on the host, {encoder: (B, D)}) of each.
        """
        self._pending.append(groups)
        if len(self._pending) == PENDING:
            self._fetch()

    def features(self) -> Features:
        """The newest features of the samples of this rank's part; one that no step has met is not
        valid."""
        self._fetch()
        found = Features.zeros(self._rows.stop - self._rows.start, self._widths, self._precision)
        for first, span in self._spans.items():
            arrays = {name: span[name] for name in self._widths}
            found.put(first - self._rows.start, Features(arrays, span["valid"]))
        return found

    def flush(self) -> None:
        """Returns when what all ranks have added is on the disk."""
        self._fetch()
        for span in self._spans.values():
            span.flush()
        self._ranks.barrier()

    def _fetch(self) -> None:
        own = [
            [
                (np.searchsorted(self._samples, index.numpy()),
                 {name: rows.float().cpu().numpy() for name, rows in features.items()})
                for index, features in groups
            ]
            for groups in self._pending
        ]  # fmt: skip
        self._pending.clear()
        for step in zip(*self._ranks.gather(own), strict=True):
            for groups in step:  # in the order of one process: of a sample, the last one stays
                for places, features in groups:
                    self._put(places, features)

    def _put(self, places: np.ndarray, features: Mapping[str, np.ndarray]) -> None:
        firsts = places // self.unit * self.unit
        for first in self._spans.keys() & set(firsts.tolist()):
            span, here = self._spans[first], firsts == first
            span["valid"][places[here] - first] = True
            with np.errstate(over="ignore"):  # k-means refuses what is not finite
                for name, rows in features.items():
                    span[name][places[here] - first] = rows[here]


def unit_of(samples: int) -> int:
    """The samples of a span: a multiple of ROWS, as k-means wants it."""
    return ROWS * max(-(-samples // (ROWS * SPANS)), 1)


def open_span(path: Path, kind: np.dtype, count: int, new: bool) -> np.memmap:
    """The rows (count,) of a file, to be written in place."""
    if new:
        return np.lib.format.open_memmap(path, "w+", kind, (count,))
    try:
        np.load(path, mmap_mode="r")  # "r+" makes a file that is cut short longer
        span = np.load(path, mmap_mode="r+")
    except (OSError, ValueError, EOFError) as error:
        raise UserError(f"{path}: cannot be read ({type(error).__name__}); {HINT}") from None
    if span.dtype != kind or span.shape != (count,):
        raise damaged(path, f"{span.shape} rows of another kind", HINT)
    return span
