"""Samples that cannot be read: replaced in their batch, counted by reason."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import torch

from xdc_fast.errors import UserError
from xdc_fast.shards.sample import SampleError


class NothingRead(UserError):
    """No sample of a batch can be read. `errors` says why, one for each of its clips."""

    def __init__(self, root: Path, errors: list[SampleError]):
        super().__init__(
            f"no sample of a whole batch can be read: {errors[0]}; run `xdc-shard verify {root}`"
        )
        self.errors = errors


class Failures:
    """What could not be read.

    counts: clips by reason. examples: the first message of each reason.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.examples: dict[str, str] = {}

    def add(self, errors: list[SampleError]) -> None:
        for error in errors:
            self.counts[error.reason] += 1
            self.examples.setdefault(error.reason, str(error))


def replace_unreadable(
    errors: dict[int, SampleError], root: Path, *parts: torch.Tensor | np.ndarray | list | None
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
