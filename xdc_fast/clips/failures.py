"""Samples that cannot be read: replaced in their batch, counted by reason."""

from __future__ import annotations

from collections import Counter

import numpy as np
import torch

from xdc_fast.errors import UserError
from xdc_fast.shards.sample import UNREADABLE_FILE, SampleError
from xdc_fast.storage import Place


class NothingRead(UserError):
    """No sample of a batch can be read. `errors` says why, one for each of its clips."""

    def __init__(self, root: Place, errors: list[SampleError]):
        super().__init__(
            f"no sample of a whole batch can be read: {errors[0]}; run `xdc-shard verify {root}`"
        )
        self.errors = errors


class TooManyUnreadable(UserError):
    """More clips of a pass are unreadable than the recipe allows."""


class Failures:
    """What could not be read.

    counts: clips by reason. examples: the first message of each reason. allowed: the share of the
    clips of a pass that may be unreadable.
    """

    def __init__(self, allowed: float = 1.0) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.allowed = allowed
        self._clips = self._unreadable = 0

    def begin(self, clips: int, anew: bool = True) -> None:
        """A pass over so many clips begins, or goes on."""
        self._clips = clips
        if anew:
            self._unreadable = 0

    def add(self, errors: list[SampleError]) -> None:
        """Counts what was replaced; raises TooManyUnreadable."""
        for error in errors:
            self.counts[error.reason] += 1
            self.examples.setdefault(error.reason, str(error))
            self._unreadable += error.reason == UNREADABLE_FILE
        if self._unreadable > self.allowed * self._clips:
            raise TooManyUnreadable(
                f"{self._unreadable} of {self._clips} clips cannot be read, the last one: "
                f"{errors[-1]}; more than max_unreadable={self.allowed:g} allows: mend the set, or "
                "allow more"
            )


def replace_unreadable(
    errors: dict[int, SampleError], root: Place, *parts: torch.Tensor | np.ndarray | list | None
) -> None:
    """Fills the slots of a batch that have an error with readable ones.

    parts: what the batch holds, one entry per slot each; None where it lacks one.
    Raises NothingRead when all slots have an error.
    """
    if not errors:
        return
    present = [part for part in parts if part is not None]
    good = [slot for slot in range(len(present[0])) if slot not in errors]
    if not good:
        raise NothingRead(root, list(errors.values()))
    for slot in errors:
        for part in present:
            part[slot] = part[good[slot % len(good)]]
