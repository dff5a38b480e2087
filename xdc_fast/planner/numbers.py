"""Files of named numbers that a user writes, as YAML."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path

from xdc_fast.errors import UserError


def check_names(path: Path, names: Iterable[object], known: Iterable[str]) -> None:
    """UserError for the first name that is not known, with the closest one that is."""
    known = list(known)
    for name in map(str, names):
        if name not in known:
            near = get_close_matches(name[:60], known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            raise UserError(f"{path}: no '{name[:60]}'; {hint}")


def read_numbers(path: Path, values: Mapping[str, object], *, zero: bool) -> dict[str, float]:
    """The numbers that texts mean; UserError for one that is none, or below 0.

    zero: whether 0 is fine.
    """
    found = {}
    for name, text in values.items():
        try:
            number = float(str(text))
        except ValueError:
            number = math.nan
        if not math.isfinite(number) or number < 0 or (number == 0 and not zero):
            least = "a number of 0 or more" if zero else "a number above 0"
            raise UserError(f"{path}: {name}: {str(text)[:60]!r} is not {least}")
        found[name] = number
    return found
