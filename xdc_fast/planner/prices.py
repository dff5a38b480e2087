"""What things cost: a YAML file of prices, all in one currency."""

from __future__ import annotations

from pathlib import Path

from xdc_fast.planner.numbers import check_names, read_numbers
from xdc_fast.recipe import read_yaml

PRICES = {
    "gpu_hour": "of a GPU for an hour, with its share of the node",
    "core_hour": "of a core that packs for an hour",
    "tb_month": "of 10^12 bytes in storage for 30 days",
    "million_requests": "of a million GET requests",
    "tb_egress": "of 10^12 bytes that leave the storage",
}
SHAPE = f"a prices file has these keys, each with a number, or some of them: {', '.join(PRICES)}"


def read_prices(path: Path) -> dict[str, float]:
    """The prices that a file holds, by name as in PRICES; what it lacks is not priced.

    Raises UserError for names that are not known, and for what is no number of 0 or more.
    """
    values = read_yaml(path, SHAPE)
    check_names(path, values, PRICES)
    return read_numbers(path, values, zero=True)
