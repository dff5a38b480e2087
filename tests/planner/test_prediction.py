"""A plan from measured rates against what it plans: packing, and an iteration of 1 and 2 processes.

Seconds of a core do not depend on what else the machine does. Those of a clock do: each measured
iteration lies between two benchmarks, and where these disagree, the machine has changed its speed
meanwhile, and the round says nothing.
"""

import json
import os
import statistics
import subprocess
import sys

import pytest

from tests.docs.pages import ROOT
from xdc_fast.packing.toy import make_toy
from xdc_fast.planner.job import choose_job
from xdc_fast.planner.plan import make_plan
from xdc_fast.planner.rates import read_rates
from xdc_fast.recipe import load_recipe

VIDEOS, FEW, SECONDS, EPOCHS = 160, 32, 3, 4
RECIPE = ROOT / "recipes/toy.yaml"
SETTINGS = ("device=cpu", "threads=1", "train.iterations=1", f"train.epochs={EPOCHS}",
            "train.batch=32", "train.group=16")  # fmt: skip
ROUNDS, ENOUGH = 6, 3  # tries, and how many of them have to be steady
STEADY = 1.2  # between two benchmarks of one thing
CLOSE = 0.25
POOLS = {f"{pool}_NUM_THREADS": "1" for pool in ("OMP", "NUMBA", "MKL")}
RANKS = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
# the seconds of cores that a command takes, with all processes that it starts
CORE_SECONDS = """
import ctypes, os, resource, subprocess, sys
ctypes.CDLL(None).prctl(36, 1)  # PR_SET_CHILD_SUBREAPER: orphans are ours
done = subprocess.run([sys.executable, "-c", sys.argv[1], *sys.argv[2:]], stdout=sys.stderr)
try:
    while True:
        os.wait()
except ChildProcessError:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
sys.exit(done.returncode)
"""
PACK = "from xdc_fast.__main__ import xdc_shard; xdc_shard()"


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan") / "videos"
    make_toy(folder, videos=VIDEOS, classes=4, seed=0)
    return folder


def run(*line):
    done = subprocess.run(
        [sys.executable, *map(str, line)], cwd=ROOT, env=os.environ | POOLS, check=False,
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def xdc(world, *arguments):
    run("-m", *(RANKS if world == 2 else ()), "xdc_fast", *arguments)


def pack(sources, out):
    """Packs videos; returns the seconds of cores that it took."""
    return float(run("-c", CORE_SECONDS, PACK, "pack", *sources, out, "--short-side", 40,
                     "--workers", 1, "--shard-mb", 1))  # fmt: skip


def bench(world, shards, file, *more):
    """The plan of the toy set by rates that are measured now."""
    recipe = load_recipe(RECIPE, SETTINGS)
    xdc(world, "bench", RECIPE, *SETTINGS, f"data={shards}", "--seconds", 1, "--save", file, *more)
    job = choose_job(recipe, videos=VIDEOS, seconds=SECONDS, gpus=world, nodes=1, cores=1, fps=15,
                     short_side=40)  # fmt: skip
    made = make_plan(recipe, job, read_rates((file,), recipe.train))
    assert {made.rates[name].kind for name in ("step", "feed", "encode")} == {"measured"}
    return made


def iterate(world, shards, out):
    """The seconds of an iteration that a run measures."""
    xdc(world, "pretrain", RECIPE, *SETTINGS, f"data={shards}", f"out={out}")
    (record,) = json.loads((out / "summary.json").read_text())["iterations"]
    return (
        record["clusters"]["extract_seconds"]
        + record["clusters"]["cluster_seconds"]
        + VIDEOS // 32 * EPOCHS * 32 / record["clips_per_second"]
    )


@pytest.mark.slow
def test_packing_is_predicted_within_a_quarter(videos, tmp_path, capsys):
    """What all take more than a few, so that the start of the command does not count."""
    paths = sorted(videos.glob("*.mp4"))
    start, whole = pack(paths[:FEW], tmp_path / "few"), pack(paths, tmp_path / "set")
    made = bench(1, tmp_path / "set", tmp_path / "rates.json", "--sources", videos)
    assert made.rates["jpeg_pack"].kind == "measured"
    planned = made["packing jpeg, one core"] * (VIDEOS - FEW) / VIDEOS
    size = sum(path.stat().st_size for path in (tmp_path / "set").glob("part-*"))
    with capsys.disabled():
        print(f"\npacking: planned {planned:.2f} s, measured {whole - start:.2f} s of a core")
        print(f"shards: planned {made['storage jpeg']:,.0f} bytes, measured {size:,}")
    assert planned == pytest.approx(whole - start, rel=CLOSE)
    assert made["storage jpeg"] == pytest.approx(size, rel=0.02)


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_an_iteration_is_predicted_within_a_quarter(videos, tmp_path, world, capsys):
    pack([videos], tmp_path / "set")

    def plan(number):
        return bench(world, tmp_path / "set", tmp_path / f"{number}.json")["time iteration"]

    ratios, plans = [], [plan(0)]
    for number in range(1, ROUNDS + 1):
        measured = iterate(world, tmp_path / "set", tmp_path / f"run-{number}")
        plans.append(plan(number))
        planned, steady = statistics.mean(plans[-2:]), max(plans[-2:]) <= STEADY * min(plans[-2:])
        with capsys.disabled():
            print(
                f"\n{world} processes, an iteration: planned {planned:.2f} s, measured "
                f"{measured:.2f} s{'' if steady else ' (the machine changed its speed)'}"
            )
        if steady:
            ratios.append(planned / measured)
        if len(ratios) == ENOUGH:
            break
    else:
        pytest.skip(f"the machine is busy: {len(ratios)} of {ROUNDS} rounds were steady")
    assert statistics.median(ratios) == pytest.approx(1, abs=CLOSE), ratios
