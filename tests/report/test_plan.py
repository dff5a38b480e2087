"""The page of a plan."""

import re
from itertools import pairwise

from xdc_fast.planner.job import choose_job
from xdc_fast.planner.plan import make_plan
from xdc_fast.planner.rates import assumed_rates
from xdc_fast.recipe import load_recipe
from xdc_fast.report.charts import Series, compact, growth_chart
from xdc_fast.report.plan import write_plan

SETTINGS = ("video.encoder=r2plus1d_tiny", "audio.encoder=audio_tiny", "train.batch=256",
            "train.group=16")  # fmt: skip


def page(tmp_path, name="a.yaml", prices=None):
    recipe = load_recipe(None, SETTINGS)
    plan = make_plan(recipe, choose_job(recipe), assumed_rates(recipe.train), prices)
    write_plan(tmp_path / "new/plan.html", name, plan, prices)
    return plan, (tmp_path / "new/plan.html").read_text()


def test_it_has_every_figure_limit_and_rate_and_needs_no_other_file(tmp_path):
    plan, text = page(tmp_path)
    for figure in plan.figures:
        assert figure.name in text
    for limit in plan.limits:
        assert limit.name in text
    for name, rate in plan.used_rates().items():
        assert f">{name}<" in text and rate.source.split(" (")[0] in text
    assert not re.search(r'(?:src|href)="|https?:', text)
    assert text.count("<svg") == 9 and "Money" not in text


def test_money_is_charted_where_there_are_prices(tmp_path):
    _, text = page(tmp_path, "<b>.yaml", {"gpu_hour": 2.0})
    assert text.count("<h3>Money</h3>") == 3 and "Not priced: core_hour" in text
    assert "<b>.yaml" not in text and "&lt;b&gt;.yaml" in text


def test_lines_over_logarithmic_axes_are_straight_where_growth_is_a_power():
    x = [10.0**power for power in range(4)]
    text = growth_chart("t", [Series("n", "video", x, [0.01 * each**2 for each in x])], 100)
    (path,) = re.findall(r'class="line video" d="M([^"]+)"', text)
    points = [tuple(map(float, point.split())) for point in path.split("L")]
    steps = {(round(c - a), round(d - b)) for (a, b), (c, d) in pairwise(points)}
    assert len(steps) == 1 and next(iter(steps))[1] < 0  # up is down
    (rule,) = re.findall(r'class="chance" d="M([\d.]+) ', text)
    assert float(rule) == points[2][0]
    assert "n 10k" in text
    assert "nothing" in growth_chart("t", [Series("n", "video", x, [0.0] * 4)], 100)


def test_numbers_are_short():
    found = [compact(value) for value in (0.001234, 1, 999.6, 65e6, 1.5e12, 2e15)]
    assert found == ["0.00123", "1", "1k", "65M", "1.5T", "2P"]
