"""docs/scale.md shows the plan that the command prints, and files that it takes."""

import shlex

from click.testing import CliRunner

from tests.docs.pages import ROOT, blocks
from xdc_fast.planner.prices import PRICES, read_prices
from xdc_fast.planner.rates import read_rates
from xdc_fast.recipe import Train
from xdc_fast.tools.xdc import main

PAGE = ROOT / "docs/scale.md"


def test_the_plan_on_the_page_is_what_the_command_prints(monkeypatch):
    monkeypatch.chdir(ROOT)
    (shown,) = [block for block in blocks(PAGE, "text") if block.text.startswith("65,000,000")]
    (block,) = [b for b in blocks(PAGE, "sh") if b.text.startswith("xdc plan")]
    _, *arguments = shlex.split(block.text.splitlines()[0])
    done = CliRunner().invoke(main, arguments)
    assert done.stdout == shown.text


def test_the_files_on_the_page_are_read(tmp_path):
    files = {}
    for block in blocks(PAGE, "yaml"):
        files[block.text.split(":")[0]] = path = tmp_path / f"{block.line}.yaml"
        path.write_text(block.text)
    assert read_prices(files["gpu_hour"]).keys() == PRICES.keys()
    rates = read_rates((files["about"],), Train())
    assert rates["step"].value == 1.5e14 and "an example" in rates["step"].source
