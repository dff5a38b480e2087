"""`xdc bench`: the parts of a run measured, and a bottleneck that is the one that was made."""

import json
import time

import pytest
import torch

from xdc_fast.clips.host import HostLoader
from xdc_fast.encoders.r2plus1d import R2Plus1D
from xdc_fast.errors import UserError
from xdc_fast.planner.advice import advise
from xdc_fast.planner.bench import PARTS, measure_speed
from xdc_fast.recipe import load_recipe

SETTINGS = (
    "k=6", "video.encoder=r2plus1d_tiny", "video.crop=32", "audio.encoder=audio_tiny",
    "train.batch=12", "train.epochs=2", "threads=1",
)  # fmt: skip


def recipe(shards, *more):
    return load_recipe(None, (*SETTINGS, f"data={shards.root}", *more))


def slower(monkeypatch, owner, name, seconds):
    """Makes a function take longer."""
    before = getattr(owner, name)

    def wait(*arguments, **named):
        time.sleep(seconds)
        return before(*arguments, **named)

    monkeypatch.setattr(owner, name, wait)


def test_every_part_is_measured_and_nothing_is_written(toy_shards):
    files = sorted(toy_shards.root.iterdir())
    result = measure_speed(recipe(toy_shards), seconds=0.1)
    assert result["rates"].keys() == PARTS.keys()
    assert all(rate > 0 for rate in result["rates"].values())
    assert result["iteration"].keys() == {"features", "clustering", "training"}
    assert result["iteration"]["training"] == pytest.approx(2 * 48 / result["rates"]["training"])
    assert 0 <= result["wait"] <= 1
    assert sorted(toy_shards.root.iterdir()) == files


def test_a_slow_loader_is_named(toy_shards, monkeypatch):
    slower(monkeypatch, HostLoader, "read", 0.5)
    result = measure_speed(recipe(toy_shards), seconds=1)  # the first batches lie ready
    assert result["verdict"].startswith("the loader") and result["wait"] > 0.1
    assert result["rates"]["clips"] < 12 / 0.5 + 5


def test_slow_encoders_are_named(toy_shards, monkeypatch):
    slower(monkeypatch, R2Plus1D, "forward", 0.3)
    result = measure_speed(recipe(toy_shards), seconds=0.1)
    assert result["verdict"].startswith("the encoders") and result["wait"] < 0.05
    assert any("GPU" in line for line in result["advice"])


def test_the_advice_fits_the_set(toy_shards, toy_h264):
    cpu, rates = torch.device("cpu"), {"clips": 10.0, "step": 100.0}
    iteration = {"features": 1.0, "clustering": 1.0, "training": 9.0}

    def advice(shards, *more):
        return " ".join(advise(recipe(shards, *more), shards, cpu, rates, 0.9, iteration)[1])

    assert "--codec jpeg" in advice(toy_h264) and "--codec" not in advice(toy_shards)
    assert "--short-side 18" in advice(toy_shards, "video.crop=16")
    assert "--short-side" not in advice(toy_shards)
    slow = advise(recipe(toy_shards), toy_shards, cpu, rates, 0.0, iteration | {"clustering": 99.0})
    assert slow[0].startswith("k-means") and "cluster.max_samples=" in slow[1][0]


def test_a_trace_holds_training_steps_and_names_the_dearest_operations(toy_shards, tmp_path):
    result = measure_speed(recipe(toy_shards), seconds=0.1, trace=tmp_path / "new/trace.json")
    names = {event.get("name") for event in json.loads((tmp_path / "new/trace.json").read_text())
             ["traceEvents"]}  # fmt: skip
    assert any("conv" in name for name, _ in result["operations"])
    assert {name for name, _ in result["operations"]} <= names
    shares = [share for _, share in result["operations"]]
    assert shares == sorted(shares, reverse=True) and 0.5 < sum(shares) <= 1


@pytest.mark.parametrize("place", ["", "file/trace.json", "/dev/full"])
def test_a_trace_that_cannot_be_written_is_refused_ahead(toy_shards, tmp_path, place, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.delattr("xdc_fast.planner.bench.calls_per_second")
    with pytest.raises(UserError, match=f"^{tmp_path}|^/dev/full: a folder or a device"):
        measure_speed(recipe(toy_shards), trace=tmp_path / place)
