"""One number of threads: what the user says holds, whatever kernels have run."""

import os
import subprocess
import sys

import pytest

from tests.common.scripts import run_script

FIRST_BATCH = """
import sys
import numpy as np
import torch
from threadpoolctl import threadpool_info
from xdc_fast.clips.batch import Batch
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.kernels import contingency
from xdc_fast.recipe import Recipe

def counts():
    return {torch.get_num_threads(), *(pool["num_threads"] for pool in threadpool_info())}

torch.ones(300, 300) @ torch.ones(300, 300)
before = counts()
transform = ClipTransform(Recipe())
sound = torch.zeros(8, transform.shape.samples, dtype=torch.int16)
transform.of("audio", Batch(None, sound, torch.arange(8)))
labels = np.zeros(100_000, np.int32)
contingency(labels, labels, 3, 3, threads=torch.get_num_threads())
assert counts() == before, (before, threadpool_info())
print(*before)
"""


@pytest.mark.parametrize("given", ["1", "2"])
def test_kernels_leave_the_number_of_threads_alone(given):
    assert run_script(FIRST_BATCH, OMP_NUM_THREADS=given).strip() == given


def test_without_a_limit_there_are_as_many_threads_as_cores():
    unset = "import os; os.environ.pop('OMP_NUM_THREADS', None)\n"
    assert int(run_script(unset + FIRST_BATCH)) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    ("given", "expected"),
    [({}, "2000"), ({"GOMP_SPINCOUNT": "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_commands_tell_idle_threads_not_to_spin_unless_the_user_has(given, expected):
    shown = """
import os, sys
for name in {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} - {*sys.argv[1:]}:
    os.environ.pop(name, None)
from xdc_fast.__main__ import share_cores
assert "torch" not in sys.modules
share_cores()
print(os.environ.get("GOMP_SPINCOUNT"))
"""
    script = shown.replace("{*sys.argv[1:]}", repr({*given}))
    assert run_script(script, **given).strip() == expected


TRAIN = """
import os, sys
if cores := sys.argv[2:]:
    os.sched_setaffinity(0, {int(core) for core in cores})
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.recipe import load_recipe
pretrain(load_recipe(sys.argv[1]))
"""


@pytest.mark.slow
def test_two_runs_of_one_thread_side_by_side_lose_less_than_a_fifth(toy_shards, tmp_path):
    """Against two that are bound to a core each, which cannot get into each other's way."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        pytest.skip("needs two cores")

    def rate(name: str, *places) -> float:
        """Clips per second of two runs at a time, from their summaries."""
        running = []
        for number, place in enumerate(places):
            out = tmp_path / f"{name}-{number}"
            recipe = tmp_path / f"{out.name}.yaml"
            recipe.write_text(
                f"data: {toy_shards.root}\nout: {out}\nk: 4\nseed: {number}\nthreads: 1\n"
                "video: {encoder: r2plus1d_small, crop: 32}\naudio: {encoder: audio_small}\n"
                "train: {iterations: 2, steps: 20, batch: 16}\n"
            )
            command = [sys.executable, "-c", TRAIN, recipe, *map(str, place)]
            environment = os.environ | {"OMP_NUM_THREADS": "1"}
            running.append(subprocess.Popen(command, env=environment))
        assert not any(process.wait() for process in running)
        from xdc_fast.pretraining.run import Run

        summaries = [Run.open(tmp_path / f"{name}-{n}").summary() for n in range(len(places))]
        return sum(record["clips_per_second"] for s in summaries for record in s["iterations"])

    bound = rate("bound", [cores[0]], [cores[1]])
    free = rate("free", [], [])
    assert free > 0.8 * bound
