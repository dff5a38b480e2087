"""A plan from measured rates against what it plans: packing, and an iteration of 1 and 2 processes.

Each measurement lies between two benchmarks. Where these disagree, the machine itself has changed
its speed meanwhile, and the round says nothing.
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

VIDEOS, SECONDS, EPOCHS = 160, 3, 4
SETTINGS = ("device=cpu", "threads=1", "train.iterations=1", f"train.epochs={EPOCHS}",
            "train.batch=32", "train.group=16")  # fmt: skip
ROUNDS, ENOUGH = 5, 3  # tries, and how many of them have to be steady
STEADY = 1.2  # between two benchmarks of one thing
CLOSE = 0.25
POOLS = {f"{pool}_NUM_THREADS": "1" for pool in ("OMP", "NUMBA", "MKL")}
RANKS = ("torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("plan") / "videos"
    make_toy(folder, videos=VIDEOS, classes=4, seed=0)
    return folder


def xdc(world, *arguments):
    head = RANKS if world == 2 else ()
    line = [sys.executable, "-m", *head, "xdc_fast", *map(str, arguments)]
    subprocess.run(line, cwd=ROOT, env=os.environ | POOLS, check=True, capture_output=True)


def pack(videos, out):
    line = [sys.executable, "-c", "from xdc_fast.__main__ import xdc_shard; xdc_shard()", "pack",
            videos, out, "--short-side", "40", "--workers", "1", "--shard-mb", "1",
            "--json"]  # fmt: skip
    done = subprocess.run(line, env=os.environ | POOLS, check=True, capture_output=True)
    return json.loads(done.stdout)


def iterate(world, data, out):
    """The seconds of an iteration that a run measures."""
    xdc(world, "pretrain", ROOT / "recipes/toy.yaml", *SETTINGS, data, f"out={out}")
    (record,) = json.loads((out / "summary.json").read_text())["iterations"]
    clips = VIDEOS // 32 * EPOCHS * 32
    return (
        record["clusters"]["extract_seconds"]
        + record["clusters"]["cluster_seconds"]
        + clips / record["clips_per_second"]
    )


@pytest.mark.slow
@pytest.mark.parametrize("world", [1, 2])
def test_a_plan_predicts_a_run_within_a_quarter(videos, tmp_path, world, capsys):
    size = pack(videos, tmp_path / "set")["bytes"]
    data = f"data={tmp_path / 'set'}"
    recipe = load_recipe(ROOT / "recipes/toy.yaml", (*SETTINGS, data))
    job = choose_job(recipe, videos=VIDEOS, seconds=SECONDS, gpus=world, nodes=1, cores=1, fps=15)

    def plan(number):
        file = tmp_path / f"rates-{number}.json"
        sources = ("--sources", videos) if world == 1 else ()
        xdc(world, "bench", ROOT / "recipes/toy.yaml", *SETTINGS, data, "--seconds", 1,
            "--save", file, *sources)  # fmt: skip
        made = make_plan(recipe, job, read_rates((file,), recipe.train))
        assert {made.rates[name].kind for name in ("step", "feed", "encode")} == {"measured"}
        return {
            "iteration": made["time iteration"],
            "packing": made["packing jpeg, all cores"],
            "bytes": made["storage jpeg"],
        }

    ratios, plans, lines = {"iteration": [], "packing": []}, [plan(0)], []
    for number in range(1, ROUNDS + 1):
        out = tmp_path / f"run-{number}"
        real = {"iteration": iterate(world, data, out)}
        if world == 1:
            real["packing"] = pack(videos, out / "set")["seconds"]
        plans.append(plan(number))
        for part, measured in real.items():
            before, after = (made[part] for made in plans[-2:])
            planned = statistics.mean((before, after))
            steady = max(before, after) <= STEADY * min(before, after)
            lines.append(
                f"{world} processes, {part}: planned {planned:.2f} s, measured {measured:.2f} s"
                + " (the machine changed its speed)" * (not steady)
            )
            if steady:
                ratios[part].append(planned / measured)
        if all(len(ratios[part]) >= ENOUGH for part in real):
            break
    with capsys.disabled():
        print("", *lines, sep="\n")
    if world == 1:
        assert plans[0]["bytes"] == pytest.approx(size, rel=0.02)
    for part in real:
        if len(ratios[part]) < ENOUGH:
            pytest.skip(f"the machine is busy: of {ROUNDS} rounds {len(ratios[part])} were steady")
        assert abs(statistics.median(ratios[part]) - 1) <= CLOSE, (part, ratios[part])
