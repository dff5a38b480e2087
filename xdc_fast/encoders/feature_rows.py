"""Features, in memory and on disk: a row for each clip or sample."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from xdc_fast import storage
from xdc_fast.errors import UserError
from xdc_fast.files import npz, read_arrays
from xdc_fast.ranks import Ranks
from xdc_fast.storage import Place


@dataclass(frozen=True)
class Features:
    """Features of M clips, or of M samples.

    arrays: {encoder: float32 or float16 (M, D)}, zeros where nothing could be read. valid: bool
    (M,), where something could.
    """

    arrays: dict[str, np.ndarray]
    valid: np.ndarray

    @classmethod
    def zeros(cls, count: int, widths: Mapping[str, int], kind: str = "float32") -> Features:
        """Room for `count` rows of a type, none of them valid."""
        arrays = {name: np.zeros((count, width), kind) for name, width in widths.items()}
        return cls(arrays, np.zeros(count, dtype=bool))

    @classmethod
    def join(cls, parts: Iterable[Features], widths: Mapping[str, int]) -> Features:
        """The rows of all parts, one part after the other."""
        every = [cls.zeros(0, widths), *parts]
        arrays = {name: np.concatenate([part.arrays[name] for part in every]) for name in widths}
        return cls(arrays, np.concatenate([part.valid for part in every]))

    @property
    def n_unreadable(self) -> int:
        """How many rows are not valid."""
        return len(self.valid) - int(self.valid.sum())

    def mean(self, clips: int) -> Features:
        """The mean over every `clips` neighbouring rows, of those that are valid."""
        valid: np.ndarray = self.valid.reshape(-1, clips)
        counts = np.maximum(valid.sum(axis=1), 1).astype(np.float32)[:, None]
        arrays = {
            name: array.reshape(len(valid), clips, -1).sum(axis=1) / counts
            for name, array in self.arrays.items()
        }
        return Features(arrays, np.any(valid, axis=1))

    def take(self, rows: slice | np.ndarray) -> Features:
        """Some of the rows."""
        return Features({name: a[rows] for name, a in self.arrays.items()}, self.valid[rows])

    def put(self, first: int, part: Features) -> None:
        """Writes the rows of a part from row `first` on."""
        rows = slice(first, first + len(part.valid))
        self.valid[rows] = part.valid
        for name, array in part.arrays.items():
            self.arrays[name][rows] = array


class FeatureFolder:
    """Features of the finished spans of a pass, FOLDER/FIRST.npz, by the number of its first row.

    made_by: what they depend on, as text. edges: int64 (spans + 1,), the rows where spans begin,
    and where the last one ends. widths: of the features, by encoder. precision: float32 or float16.
    """

    def __init__(
        self,
        folder: Place,
        made_by: str,
        edges: np.ndarray,
        widths: Mapping[str, int],
        precision: str = "float32",
    ):
        self.folder, self.made_by, self.edges = folder, made_by, edges
        self.widths, self.precision = widths, precision
        if isinstance(folder, Path):
            folder.mkdir(parents=True, exist_ok=True)

    def missing(self, ranks: Ranks) -> np.ndarray:
        """The numbers of the spans that are not there, int64, in rising order. Each rank looks at
        some."""
        # a shared folder may long deny a file that was asked for before it was there
        there = {found.name for found in storage.files_below(self.folder)}
        own = range(len(self.edges) - 1)[ranks.share(len(self.edges) - 1)]
        lacking = [n for n in own if self._path(n).name not in there or self._load(n) is None]
        return np.array(list(chain.from_iterable(ranks.gather(lacking))), np.int64)

    def save(self, span: int, features: Features) -> None:
        """Keeps the features of a span."""
        with np.errstate(over="ignore"):  # k-means refuses what is not finite
            arrays = {
                f"features_{name}": array.astype(self.precision)
                for name, array in features.arrays.items()
            }
        arrays |= {"made_by": np.array(self.made_by), "valid": features.valid}
        storage.write(self._path(span), npz(**arrays))

    def rows(self, rows: slice) -> Features:
        """Some rows of what `save` kept, of all spans; UserError where they are not there."""
        found = Features.zeros(rows.stop - rows.start, self.widths, self.precision)
        here = (self.edges[1:] > rows.start) & (self.edges[:-1] < rows.stop)
        for span in np.flatnonzero(here).tolist():
            part = self._load(span)
            if part is None:
                raise UserError(
                    f"{self._path(span)}: what another process has written cannot be read here; "
                    "give an out=FOLDER that all machines share"
                )
            before = int(self.edges[span])
            own = slice(max(rows.start - before, 0), rows.stop - before)
            found.put(max(before - rows.start, 0), part.take(own))
        return found

    def _load(self, span: int) -> Features | None:
        """What `save` kept; None where there is nothing of the same made_by, or it is damaged."""
        count = int(self.edges[span + 1] - self.edges[span])
        form: dict = {
            f"features_{name}": (np.dtype(self.precision), (count, width))
            for name, width in self.widths.items()
        }
        form |= {"made_by": (str, ()), "valid": (bool, (count,))}
        try:
            arrays = read_arrays(self._path(span), form, "")
        except UserError:
            return None
        if str(arrays.pop("made_by")) != self.made_by:
            return None
        valid = arrays.pop("valid")
        return Features({n.removeprefix("features_"): a for n, a in arrays.items()}, valid)

    def _path(self, span: int) -> Place:
        return self.folder / f"{self.edges[span]:012d}.npz"
