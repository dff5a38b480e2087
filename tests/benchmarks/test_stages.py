"""The benchmark suite: its stages run, and no number comes from a peer that computes otherwise."""

import json
import subprocess
import sys
from functools import cache
from importlib.metadata import version
from pathlib import Path

import av
import pytest

from benchmarks import __main__ as suite
from benchmarks import harness, media
from benchmarks.ffmpeg import link_ffmpeg
from benchmarks.harness import Case, Figure, measure
from benchmarks.stages import feed, load_stage, stage_names
from benchmarks.worker import line
from xdc_fast.clips.host import HostLoader

ROOT = Path(__file__).parents[2]
SLOW = (  # ten seconds and more
    *("beside", "compile", "iteration", "kmeans", "model", "parts", "ranks", "remote", "sass"),
    "startup",
)
FORM = {
    *("stage", "case", "device", "threads", "unit", "ours", "peers", "missing", "limit"),
    *("ratio_best_peer", "share_of_limit", "runs", "quartiles", "quick", "machine"),
}


@cache
def run_quick(stage):
    """The items of a stage, one run each."""
    return [measure(case, 1, 0) for case in load_stage(stage).cases(quick=True, threads=1)]


def check_item(item):
    """What `measure` gives for a case that worked."""
    contestants = {"ours": item["ours"]} | item["peers"]
    if item["limit"]:
        contestants["limit"] = item["limit"]["value"]
        assert item["limit"]["name"]
        assert item["share_of_limit"] == pytest.approx(item["ours"] / item["limit"]["value"])
    else:
        assert item["share_of_limit"] is None
    assert item["quartiles"].keys() == contestants.keys()
    for name, value in contestants.items():
        low, high = item["quartiles"][name]
        assert 0 < low <= value <= high
    best = max(item["peers"].values(), default=None)
    assert item["ratio_best_peer"] == (best and pytest.approx(item["ours"] / best))
    assert not item["peers"].keys() & item["missing"].keys()


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the webdataset library leaves files open
@pytest.mark.parametrize(
    "stage",
    [
        pytest.param(name, marks=pytest.mark.slow) if name in SLOW else name
        for name in stage_names()
    ],
)
def test_stage(stage):
    items = run_quick(stage)
    assert items
    for item in items:
        assert "failed" not in item, item
        check_item(item)
        assert item["case"] and item["unit"]
        # machine code and Python's lock have none
        assert (
            item["peers"]
            or stage in ("sass", "ranks", "metadata", "parts")
            or "lock" in item["case"]
        )
    assert len({item["case"] for item in items}) == len(items)


def test_codecs_can_be_true():
    size, quality, *_ = run_quick("codecs")
    assert size["peers"]["h264"] > size["ours"]
    assert all(30 < value < 60 for value in (quality["ours"], quality["peers"]["h264"]))


def test_command(tmp_path):
    command = [sys.executable, "-m", "benchmarks", "labels", "--quick", "--json", tmp_path / "r"]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    items = json.loads((tmp_path / "r").read_text())
    assert {item["stage"] for item in items} == {"labels"}
    assert items[0]["threads"] == 1
    for item in items:
        assert item.keys() == FORM
        assert item["runs"] >= 5 and item["quick"]
        assert item["case"] in done.stdout
        assert item["machine"]["cpu"] in item["device"]
        assert item["machine"]["libraries"]["numba"] == version("numba")
        check_item(item)


def test_threads_are_bound():
    script = """
import os
from benchmarks.worker import bind
bind(1)
import torch
assert torch.get_num_threads() == len(os.sched_getaffinity(0)) == 1
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)


@pytest.mark.parametrize("pipelines", [1, 3])
def test_dali_pipelines_side_by_side_take_the_same_clips(pipelines, tmp_path):
    _, videos = media.find_videos(tmp_path, 8)
    shards = media.pack_videos(videos, tmp_path / "set")
    sampler = feed.Passes(shards, 2, 2)
    ours = feed.deliver(HostLoader(shards, feed.SHAPE), sampler)
    other = feed.through_dali(shards, sampler, 2, "cpu", pipelines)()
    feed.assert_same(ours, other, pictures=8, sound=1e-3)


class Clock:
    """A clock that only contestants move."""

    def __init__(self, monkeypatch):
        self.now, self.calls = 0.0, []
        monkeypatch.setattr(harness.time, "perf_counter", lambda: self.now)

    def contestant(self, name, seconds, output=0):
        def call():
            self.now += seconds
            self.calls.append(name)
            return output

        return call


def assert_equal(a, b):
    if a != b:  # pytest would add to what `assert` says
        raise AssertionError(f"{b} is not {a}")


def test_rates_and_turns(monkeypatch):
    clock = Clock(monkeypatch)
    peers = {"slow": lambda: clock.contestant("slow", 6.0)}
    limit = ("nothing but it", clock.contestant("limit", 1.0))
    ours = clock.contestant("ours", 2.0)
    item = measure(Case("work", "units per second", 12, ours, peers, assert_equal, limit), 5, 4)
    assert (item["ours"], item["peers"], item["limit"]["value"]) == (6, {"slow": 2}, 12)
    assert (item["ratio_best_peer"], item["share_of_limit"], item["runs"]) == (3, 0.5, 5)
    compared, tried, turns = ["ours", "slow"], ["ours", "slow", "limit"], clock.calls[5:]
    assert clock.calls[:5] == compared + tried
    forth, back = ["ours"] * 2 + ["slow"] + ["limit"] * 4, ["limit"] * 4 + ["slow"] + ["ours"] * 2
    assert turns == (forth + back) * 2 + forth
    check_item(item)


def test_median_and_quartiles():
    item = measure(Figure("size", "seconds per MB", [5, 1, 3, 2, 4], {"other": [1.0]}), 5)
    assert item["ours"] == 3 and item["quartiles"]["ours"] == [2, 4]
    assert item["ratio_best_peer"] == 3 and item["limit"] is None


def test_another_output_fails_the_case(monkeypatch):
    clock = Clock(monkeypatch)
    peers = {
        "right": lambda: clock.contestant("right", 1),
        "wrong": lambda: clock.contestant("wrong", 1, output=7),
    }
    item = measure(Case("work", "u", 1, clock.contestant("ours", 1), peers, assert_equal), 5)
    assert item["failed"] == "wrong: 7 is not 0"
    assert item["ours"] is None and item["peers"] == {} and item["ratio_best_peer"] is None
    assert clock.calls == ["ours", "right", "wrong"]  # nothing was timed
    head = {"stage": "toy", "threads": 1}
    assert "FAILED wrong: 7 is not 0" in line(head | item)

    monkeypatch.setattr(suite, "measure_apart", lambda *_: ([head | item], 0))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "labels"])
    with pytest.raises(SystemExit, match="toy: work: wrong: 7 is not 0"):
        suite.main()


def test_a_crash_is_no_success(monkeypatch):
    monkeypatch.setattr(suite, "measure_apart", lambda *_: ([], -11))
    monkeypatch.setattr(sys, "argv", ["benchmarks", "labels"])
    with pytest.raises(SystemExit, match="labels, cpu, 1 threads: exit status -11"):
        suite.main()


def test_a_missing_peer_is_named(monkeypatch):
    clock = Clock(monkeypatch)

    def prepare():
        import no_such_library_at_all

        return no_such_library_at_all.run

    peers = {"absent": prepare, "there": lambda: clock.contestant("there", 1)}
    item = measure(Case("work", "u", 1, clock.contestant("ours", 1), peers, assert_equal), 5)
    assert item["missing"] == {"absent": "No module named 'no_such_library_at_all'"}
    assert item["peers"] == {"there": 1}
    assert "missing: No module named" in line({"stage": "toy", "threads": 1} | item)


def test_videos_without_grid(monkeypatch, tmp_path):
    monkeypatch.setattr(media, "GRID", tmp_path / "absent")
    what, videos = media.find_videos(tmp_path, 2)
    assert what == "toy world" and len(videos) == 2
    assert len(media.pack_videos(videos, tmp_path / "set", codec="jpeg")) == 2


def test_ffmpeg_of_pyav_is_linked(tmp_path):
    if not (Path(av.__file__).parents[1] / "av.libs").is_dir():
        pytest.skip("PyAV is built against the system's FFmpeg")
    link_ffmpeg(tmp_path)
    major = av.library_versions["libavcodec"][0]
    assert (tmp_path / f"libavcodec.so.{major}").resolve().name.startswith("libavcodec-")
