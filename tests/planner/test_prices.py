"""Prices from a file, and what is refused."""

import pytest

from xdc_fast.errors import UserError
from xdc_fast.planner.prices import PRICES, read_prices


def test_some_prices_or_all(tmp_path):
    file = tmp_path / "prices.yaml"
    file.write_text("".join(f"{name}: {number}\n" for number, name in enumerate(PRICES)))
    assert read_prices(file) == {name: number for number, name in enumerate(PRICES)}
    file.write_text("gpu_hour: 2.5  # a month's contract\n")
    assert read_prices(file) == {"gpu_hour": 2.5}
    file.write_text("")
    assert read_prices(file) == {}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu_hours: 1", "no 'gpu_hours'; did you mean 'gpu_hour'?"),
        ("rent: 1", "no 'rent'; known: gpu_hour, core_hour"),
        ("gpu_hour: -1", "gpu_hour: '-1' is not a number of 0 or more"),
        ("gpu_hour: 2 EUR", "gpu_hour: '2 EUR' is not a number of 0 or more"),
        ("gpu_hour:", "gpu_hour: '' is not a number of 0 or more"),
        ("gpu_hour: nan", "gpu_hour: 'nan' is not a number of 0 or more"),
        ("gpu_hour: 1\ngpu_hour: 2", "not valid YAML: 'gpu_hour' is given twice"),
        ("5", "a prices file has these keys"),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path, text, message):
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    with pytest.raises(UserError) as caught:
        read_prices(file)
    assert str(caught.value).startswith(f"{file}: {message}") and "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.yaml: No such file"):
        read_prices(tmp_path / "none.yaml")
