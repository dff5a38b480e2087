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
FOLD = re.compile(r"(?:fold|cv|split)?[ _-]*\d{1,4}", re.IGNORECASE)


def part_of(value: str) -> str | None:
    """The part that a value of a split column means; None for another value."""
    return SPELLINGS.get(value.strip().lower())


def is_fold(value: str) -> bool:
    """Whether a value is the number of a fold: 3, fold3, fold_03."""
    return FOLD.fullmatch(value.strip()) is not None
