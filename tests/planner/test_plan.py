"""A plan: its figures against the table of docs/scale.md and by hand, and what breaks first."""

import json
import re
from dataclasses import replace

import pytest

from tests.docs.pages import ROOT, table
from xdc_fast.encoders.build import build_encoders
from xdc_fast.errors import UserError
from xdc_fast.planner.job import choose_job
from xdc_fast.planner.plan import make_plan, vary
from xdc_fast.planner.rates import assumed_rates
from xdc_fast.planner.text import amount
from xdc_fast.planner.work import work_of
from xdc_fast.pretraining.check import clustering_bytes
from xdc_fast.recipe import load_recipe

SCALE = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
RECIPE = ROOT / "recipes/ig-kinetics.yaml"
TINY = ("video.encoder=r2plus1d_tiny", "audio.encoder=audio_tiny", "video.crop=32", "k=16")


def plan(*settings, recipe=RECIPE, prices=None, change=None, **sizes):
    loaded = load_recipe(recipe, settings)
    rates = assumed_rates(loaded.train)
    for name, value in (change or {}).items():
        rates[name] = replace(rates[name], value=value)
    return make_plan(loaded, choose_job(loaded, **sizes), rates, prices)


def size_of(text):
    """Bytes as a table writes them: 4.2 GB, 2 x 0.35 GB."""
    times, number, unit = re.fullmatch(r"(?:(\d) x )?([\d.]+) (\w+)", text).groups()
    return int(times or 1) * float(number) * SCALE[unit]


def test_figures_are_those_of_the_page():
    """Its table is of 65 million videos on 64 ranks of 8 nodes."""
    made = plan(gpus=64, nodes=8)
    rows = {row[0]: row[2] for row in table(ROOT / "docs/scale.md", "modality.")[1:]}
    figures = {
        "features, 2 x 512 in float32": "memory host, features",
        "features on disk while a pass goes on": "disk features of a pass",
        "k-means: the points; twice that with a PCA or centring": "memory host, points",
        "k-means, a round": "network k-means, a round",
        "assignments, two clusterings, and those before them": "memory host, assignments",
        "gradients, a step": "network gradients, a step",
        "checkpoint": "disk checkpoints",
    }
    for row, figure in figures.items():
        assert made[figure] == pytest.approx(size_of(rows[row]), rel=0.05), row
    each = made["disk clusterings"] / 8
    assert size_of(rows["a clustering on disk"]) == pytest.approx(each, rel=0.05)


def test_time_follows_from_the_rates():
    job = {"videos": 1000, "seconds": 10, "gpus": 1, "nodes": 1, "fps": 15, "short_side": 40}
    settings = (*TINY, "train.batch=10", "train.epochs=2", "train.iterations=3")
    made = plan(*settings, recipe=None, change={"aspect": 1.0, "feed": 1e9, "step": 1e9}, **job)
    work = work_of(load_recipe(None, settings))
    assert made["feed clips a GPU takes"] == 1e9 / work.step
    assert made["feed clips a GPU gets"] == 1e9 / (8 * 40 * 40)
    assert made["time step"] == pytest.approx(10 * work.step / 1e9)
    assert made["time training"] == pytest.approx(200 * made["time step"])
    parts = ("training", "features", "clustering, at most")
    assert made["time iteration"] == pytest.approx(sum(made[f"time {part}"] for part in parts))
    assert made["time run"] == pytest.approx(3 * made["time iteration"])
    assert made["packing jpeg, one core"] == pytest.approx(
        1000 * 10 * 15 * 1600 / made.rates["jpeg_pack"].value
    )


def test_a_slow_loader_sets_the_time():
    quick, slow = plan(), plan(change={"feed": 1e8})
    assert slow["feed clips a GPU gets"] < quick["feed clips a GPU takes"]
    assert slow["time training"] > 1.9 * quick["time training"]
    (feed,) = [limit for limit in slow.limits if limit.name == "feed"]
    assert feed.ratio > 2 and "cores" in feed.change
    tall = plan(change={"feed": 1e8}, short_side=512)
    assert "--short-side 256" in next(x.change for x in tall.limits if x.name == "feed")


def test_operations_and_weights_are_those_of_the_encoders():
    settings = ("video.encoder=r2plus1d_tiny", "audio.encoder=audio_tiny", "k=16")
    recipe = load_recipe(None, settings)
    work = work_of(recipe)
    heads = sum((width + 1) * 16 for width in work.widths.values())
    encoders = build_encoders(recipe)
    counted = sum(p.numel() for e in encoders.values() for p in e.parameters())
    assert work.weights == counted + heads
    assert 2.5 * work.encode < work.step < 3.5 * work.encode
    assert work_of(replace(recipe, k=32)).encode == work.encode
    twice = work_of(load_recipe(None, (*settings, "video.frames=16")))
    assert 1.5 * work.encode < twice.encode < 2 * work.encode + 1


@pytest.mark.parametrize(
    ("name", "sizes", "settings", "change", "grows"),
    [
        ("requests", {}, (), {}, "gpus"),
        ("GPU memory", {}, (), {"device_memory": 1e9}, ""),
        ("host memory", {}, (), {"host_memory": 1e10}, "videos"),
        ("disk", {}, (), {"disk": 1e9}, "videos"),
        ("storage", {"nodes": 1}, (), {"storage": 1e8}, ""),
        ("groups", {"gpus": 1024}, (), {"prefixes": 100}, "gpus"),
        ("network", {}, (), {"network": 1e8}, ""),
        ("exact sums", {"videos": 6e9}, (), {"host_memory": 1e15, "prefixes": 9}, "videos"),
    ],
)
def test_what_breaks_first_is_named_with_what_to_change(name, sizes, settings, change, grows):
    first = plan(*settings, change=change, **sizes).limits[0]
    assert (first.name, first.grows) == (name, grows)
    assert first.ratio > 1 and first.change


def test_limits_grow_as_they_say():
    made = plan()
    more = {"videos": vary(made, videos=2 * made.job.videos), "gpus": vary(made, gpus=64)}
    for axis, other in more.items():
        ratios = {limit.name: limit.ratio for limit in other.limits}
        for limit in made.limits:
            if limit.grows == axis:
                assert ratios[limit.name] == pytest.approx(2 * limit.ratio, rel=1e-2), limit.name


def test_gpus_beyond_the_groups_of_a_batch_are_named_and_save_no_time():
    made, few = plan(gpus=64, nodes=8), plan(gpus=32, nodes=4)
    groups = next(limit for limit in made.limits if limit.name == "groups")
    assert groups.ratio == 2 and "train.batch=2048" in groups.change
    assert made["time training"] == pytest.approx(few["time training"], rel=0.02)
    fits = plan("train.batch=2048", gpus=64, nodes=8)
    assert next(limit for limit in fits.limits if limit.name == "groups").ratio == 1


def test_gradients_in_bfloat16_halve_the_traffic():
    names = ("network gradients, a step", "network gradients, sent by a GPU")
    whole, half = plan(), plan("train.all_reduce=bfloat16")
    assert [half[name] for name in names] == [whole[name] / 2 for name in names]
    assert half["time step"] < whole["time step"]


def test_money_is_what_has_a_price():
    prices = {"gpu_hour": 2.0, "tb_month": 20.0}
    made = plan(prices=prices)
    assert made["money GPUs"] == pytest.approx(2 * 32 * made["time run"] / 3600)
    months = (made["time run"] + made["packing jpeg, all cores"]) / (30 * 86400)
    assert made["money storage"] == pytest.approx(20 * made["storage jpeg"] / 1e12 * months)
    assert made["money in all"] == pytest.approx(made["money GPUs"] + made["money storage"])
    assert made.unpriced == ("core_hour", "million_requests", "tb_egress")
    assert not any(figure.part == "money" for figure in plan().figures)


def test_every_method_and_the_memory_bank_have_a_plan():
    for method in ("xdc", "sdc", "mdc", "cdc", "same"):
        made = plan(*TINY, f"method={method}", recipe=None)
        assert made["time clustering, at most"] > 0
    assert plan(*TINY, "method=supervised", "label=x", recipe=None)["disk clusterings"] == 0
    bank = ("cluster.features=training", "train.iterations=4")
    made, passes = (plan(*TINY, *more, recipe=None, gpus=1) for more in (bank, bank[1:]))
    assert made["time run"] < passes["time run"]
    assert made["disk at the most"] > passes["disk at the most"]


@pytest.mark.parametrize(
    "settings",
    [(), ("cluster.normalize=centered-l2",), ("cluster.precision=float16", "method=cdc")],
)
def test_memory_of_a_process_is_what_a_run_asks_for(settings):
    recipe = load_recipe(None, (*TINY, *settings))
    made = plan(*TINY, *settings, recipe=None, videos=64_000, gpus=4)
    asked = clustering_bytes(recipe, 16_000, 64_000)
    assert made["memory host, a process"] == pytest.approx(asked)


def test_every_figure_rests_on_rates_that_the_plan_lists_and_is_json():
    made = json.loads(json.dumps(plan(prices={"gpu_hour": 1}).as_dict()))
    for figure in made["figures"]:
        assert figure["formula"] and set(figure["rates"]) <= made["rates"].keys()
    assert {"measured", "file", "assumed"} >= {rate["kind"] for rate in made["rates"].values()}
    assert made["limits"][0]["ratio"] >= made["limits"][1]["ratio"]


def test_sizes_that_follow_from_the_recipe():
    job = choose_job(load_recipe(RECIPE))
    assert (job.videos, job.seconds, job.fps, job.short_side) == (65e6, 15, 30, 256)
    assert (job.gpus, job.nodes, job.cores) == (32, 4, 256)
    assert "gpus" in job.chosen and "gpus" not in choose_job(load_recipe(RECIPE), gpus=8).chosen
    assert choose_job(load_recipe(ROOT / "recipes/toy.yaml")).gpus == 1


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"gpus": 2, "nodes": 4}, "--nodes 4: more than --gpus 2"),
        ({"videos": 500}, "--videos 500: fewer than k=1024"),
        ({"short_side": 200}, "--short-side 200: smaller than video.crop=224"),
    ],
)
def test_sizes_that_no_run_can_have(sizes, message):
    with pytest.raises(UserError, match=message):
        plan(**sizes)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [(602e12, "bytes", "602 TB"), (1.5e3, "bytes", "1.50 kB"), (0.2, "bytes", "0.20 B"),
     (90_000, "seconds", "1.04 days"), (0.0145, "seconds", "14.5 ms"), (2.5e9, "bytes per second",
     "2.50 GB/s"), (14_162.4, "GET per second", "14,162/s"), (3, "prefixes", "3"),
     (99.96, "bytes", "100 B"), (1234.5, "money", "1,234")],
)  # fmt: skip
def test_amounts_have_three_digits(value, unit, text):
    assert amount(value, unit) == text
