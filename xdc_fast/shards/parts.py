"""The values of a split column: the parts of a set, or the numbers of folds."""

from __future__ import annotations

import re

TRAIN, TEST, VALIDATION, EVALUATION = "train", "test", "validation", "evaluation"
SPELLINGS = {
    **dict.fromkeys(("train", "training", "tr"), TRAIN),
    **dict.fromkeys(("test", "testing", "tst", "te"), TEST),
    **dict.fromkeys(("val", "valid", "validate", "validation", "dev", "development"), VALIDATION),
    **dict.fromkeys(("eval", "evaluate", "evaluation"), EVALUATION),
}
FOLD = re.compile(r"(?:fold|cv|split)?[ _-]*(\d{1,4})", re.IGNORECASE | re.ASCII)


def part_of(value: str) -> str | None:
    """The part that a value of a split column means; None for another value."""
    return SPELLINGS.get(value.strip().lower())


def fold_of(value: str) -> int | None:
    """The number of the fold that a value means, as 3, fold3, fold_03; None for another value."""
    found = FOLD.fullmatch(value.strip())
    return int(found[1]) if found else None
