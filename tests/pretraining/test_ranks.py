"""Training on several ranks follows the path of one process; runs are killed, and go on."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.common.pretraining import SETTINGS, weights
from tests.common.ranks import in_ranks
from xdc_fast.clips.batch import Batch
from xdc_fast.encoders.build import build_encoders, modality_of
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.pretraining import learner as module
from xdc_fast.pretraining.learner import Learner
from xdc_fast.pretraining.methods import clustering_name, clusterings_of, encoders_of
from xdc_fast.pretraining.run import Run
from xdc_fast.recipe import load_recipe
from xdc_fast.tools.xdc import main as xdc_group

SAMPLES, GROUPS = 48, 4
BIN = Path(sys.executable).parent


def groups_of(recipe, step):
    """The groups of a step, random clips; all of them, whatever the rank."""
    shape, rng = ClipTransform(recipe).shape, np.random.default_rng(step)
    size = (recipe.train.group, shape.frames, shape.crop, shape.crop, 3)
    return [
        Batch(
            torch.from_numpy(rng.integers(256, size=size, dtype=np.uint8)),
            torch.from_numpy(rng.integers(-9999, 9999, (size[0], shape.samples), dtype=np.int16)),
            torch.from_numpy(rng.integers(SAMPLES, size=size[0])),
        )
        for _ in range(GROUPS)
    ]


def make_learner(ranks, method, *more):
    batch = ("train.batch=24", "train.group=6")
    recipe = load_recipe(None, (*SETTINGS, f"method={method}", *batch, *more))
    rng = np.random.default_rng(7)
    labels = {
        clustering_name(clustering): rng.integers(-1, recipe.k, SAMPLES).astype(np.int32)
        for clustering in clusterings_of(method)
    }
    encoders = build_encoders(recipe, names=encoders_of(method))
    inputs = ClipTransform(recipe)
    return recipe, Learner(
        encoders, inputs, labels, method, recipe.k, recipe.train, seed=3, ranks=ranks
    )


def first_gradients(ranks, methods, *more):
    """{(method, parameter): gradient} of the first step."""
    found = {}
    for method in methods:
        recipe, learner = make_learner(ranks, method, *more)
        each = GROUPS // ranks.world
        learner.step(groups_of(recipe, 0)[ranks.rank * each :][:each], 0, 0.0)
        for name, parameter in learner.models.named_parameters():
            found[method, name] = parameter.grad.numpy()
    return found


@pytest.mark.parametrize("world", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_the_first_gradients_are_those_of_one_process(world):
    methods = ("xdc", "sdc", "mdc")
    (alone,) = in_ranks(1, first_gradients, methods)
    for found in in_ranks(world, first_gradients, methods):
        for name, gradient in alone.items():
            off = np.abs(found[name] - gradient).max() / np.abs(gradient).max()
            assert off < 1e-6 or np.abs(gradient).max() < 1e-7, (name, off)


@pytest.mark.slow
def test_gradients_in_bfloat16_differ_by_its_rounding():
    (alone,) = in_ranks(1, first_gradients, ["xdc"])
    first, other = in_ranks(2, first_gradients, ["xdc"], "train.all_reduce=bfloat16")
    for name, gradient in alone.items():
        assert np.array_equal(first[name], other[name])
        off = np.abs(first[name] - gradient).max() / np.abs(gradient).max()
        assert 0 < off < 2**-6 or np.abs(gradient).max() < 1e-7, (name, off)


def forward_in_float64(encoders, inputs, batch, epoch=None):
    return {
        name: encoder(inputs.of(modality_of(name), batch, epoch).double())
        for name, encoder in encoders.items()
    }


def path_in_float64(ranks, steps):
    """Losses of some steps, and all weights and statistics after them, float64."""
    kept = module.forward, torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    module.forward = forward_in_float64
    recipe, learner = make_learner(ranks, "xdc")
    each = GROUPS // ranks.world
    losses = []
    for step in range(steps):
        own = groups_of(recipe, step)[ranks.rank * each :][:each]
        losses.append([float(value) for value in learner.step(own, 0, 0.05).values()])
    learner.average_statistics()
    module.forward, dtype = kept
    torch.set_default_dtype(dtype)
    state = {n: t.numpy() for n, t in learner.models.state_dict().items() if t.is_floating_point()}
    return np.array(losses), state


@pytest.mark.parametrize(
    "world, steps", [(2, 5), *(pytest.param(w, 20, marks=pytest.mark.slow) for w in (2, 4))]
)
def test_steps_in_float64_end_where_one_process_ends(world, steps):
    (losses, state), *_ = in_ranks(1, path_in_float64, steps)
    assert steps < 20 or losses[-1][0] < losses[0][0]
    for others, found in in_ranks(world, path_in_float64, steps):
        np.testing.assert_allclose(others, losses, rtol=1e-10)
        for name, values in state.items():
            np.testing.assert_allclose(found[name], values, rtol=0, atol=1e-10, err_msg=name)


def test_groups_of_one_process_move_the_statistics_by_their_mean():
    from xdc_fast.ranks import ALONE

    recipe, learner = make_learner(ALONE, "xdc")
    stem = learner.encoders["audio"].get_submodule("stem.1")
    before = stem.running_mean.clone()
    means = []
    stem.register_forward_hook(lambda _m, inputs, _o: means.append(inputs[0].mean(dim=(0, 2, 3))))
    learner.step(groups_of(recipe, 0), 0, 0.0)
    expected = 0.9 * before + 0.1 * torch.stack(means).mean(dim=0)
    torch.testing.assert_close(stem.running_mean, expected.detach())


def spawn(*line):
    return subprocess.Popen(
        [*map(str, line)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def start(world, out, shards, *settings):
    recipe = out.parent / "recipe.yaml"
    recipe.write_text("method: xdc\n")
    wanted = (*SETTINGS, "train.group=6", "threads=1", f"data={shards.root}", f"out={out}")
    torchrun = (
        [BIN / "torchrun", "--standalone", "--nproc-per-node", world, "--no-python"]
        if world > 1
        else []
    )
    return spawn(*torchrun, BIN / "xdc", "pretrain", recipe, *wanted, *settings)


def finish(process, status=0):
    out, err = process.communicate(timeout=120)
    assert process.returncode == status, err
    return out, err


@pytest.fixture(scope="module")
def alone(toy_shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("alone") / "run"
    finish(start(1, out, toy_shards))
    return Run.open(out)


def assert_same_run(out, alone):
    run = Run.open(out)
    for number in range(2):
        for name, arrays in alone.clusters(number, 48).items():
            assert np.array_equal(run.assignments(number, [name], 48)[name], arrays["assignment"])
    ours, theirs = run.summary()["iterations"], alone.summary()["iterations"]
    for mine, other in zip(ours, theirs, strict=True):
        for key in ("video_loss", "audio_loss", "nmi_audio_video"):
            assert mine[key] == pytest.approx(other[key], rel=1e-3)
    trained = weights(run)
    for name, tensor in weights(alone).items():
        if tensor.is_floating_point():
            torch.testing.assert_close(trained[name], tensor, rtol=0, atol=2e-2)


def test_a_run_on_two_ranks_is_the_run_of_one(toy_shards, tmp_path, alone):
    out, err = finish(start(2, tmp_path / "run", toy_shards))
    assert len(out.splitlines()) == 1 and out.startswith(f"{tmp_path / 'run'}: xdc, k=6, 48 ")
    assert err.count("iteration 2 · ") == 1  # one rank tells
    assert_same_run(tmp_path / "run", alone)
    assert not (tmp_path / "run" / "features").exists()


def test_a_mistake_is_told_once(toy_shards, tmp_path):
    _, err = finish(start(2, tmp_path / "run", toy_shards, "train.group=12"), status=1)
    told = [line for line in err.splitlines() if line.startswith("xdc: ")]
    assert len(told) == 1 and "train.batch=12, train.group=12" in told[0]
    assert "xdc_fast" not in err and not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["export", "report", "sweep"])
def test_other_commands_run_in_one_process(command, monkeypatch, capsys):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["xdc", command, "run"])
    with pytest.raises(SystemExit, match="2"):
        xdc_group.main(prog_name="xdc")
    line = f"xdc: {command} runs in one process; start it without torchrun\n"
    assert capsys.readouterr().err == line


@pytest.mark.slow
def test_a_memory_bank_on_two_ranks_goes_on_with_one(toy_shards, tmp_path):
    banked = ("cluster.features=training", "train.checkpoint_steps=3")
    whole, out = tmp_path / "whole", tmp_path / "run"
    finish(start(1, whole, toy_shards, *banked))
    process = start(2, out, toy_shards, *banked)
    metrics = out / "metrics.jsonl"
    while not metrics.is_file() or len(metrics.read_text().splitlines()) < 5:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    assert not (out / "encoders.pt").exists()
    finish(start(1, out, toy_shards, *banked))
    assert_same_run(out, Run.open(whole))
    assert not (out / "bank").exists()


DYING = """
import os, signal, sys
from pathlib import Path
from xdc_fast.clusters import kmeans
from xdc_fast.encoders.feature_rows import FeatureFolder
from xdc_fast.pretraining.learner import Learner
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.pretraining.run import Run
from xdc_fast.recipe import load_recipe
from xdc_fast.tools.xdc import main as xdc_group

place, rank, at, mark, *settings = sys.argv[1:]
owner, name = {"features": (FeatureFolder, "save"), "k-means": (kmeans, "lloyd"),
               "training": (Learner, "step"), "checkpoint": (Run, "write_state")}[place]
calls, function = [], getattr(owner, name)

def dying(*arguments):
    calls.append(1)
    if os.environ.get("RANK", "0") == rank and len(calls) == int(at) and not Path(mark).exists():
        Path(mark).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments)

setattr(owner, name, dying)
pretrain(load_recipe(None, settings))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "place, rank, at",
    [
        ("training", 1, 10), ("features", 1, 2), ("features", 0, 2), ("k-means", 1, 2),
        ("k-means", 0, 3), ("training", 0, 3), ("checkpoint", 0, 3), ("checkpoint", 0, 5),
    ],
)  # fmt: skip
def test_a_rank_is_killed_and_the_run_brings_itself_back(
    place, rank, at, toy_shards, tmp_path, alone
):
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    settings = (*SETTINGS, "train.group=6", "threads=1", "train.checkpoint_steps=3",
                f"data={toy_shards.root}", f"out={tmp_path / 'run'}")  # fmt: skip
    torchrun = (BIN / "torchrun", "--standalone", "--nproc-per-node", 2, "--max-restarts", 1)
    finish(spawn(*torchrun, script, place, rank, at, tmp_path / "mark", *settings))
    assert (tmp_path / "mark").exists()
    assert_same_run(tmp_path / "run", alone)


@pytest.mark.parametrize("first, second", [(2, 1), pytest.param(1, 2, marks=pytest.mark.slow)])
def test_a_stopped_run_goes_on_with_another_number_of_ranks(
    first, second, toy_shards, tmp_path, alone
):
    out, metrics = tmp_path / "run", tmp_path / "run" / "metrics.jsonl"
    process = start(first, out, toy_shards)
    while not metrics.is_file() or not metrics.read_text():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode, err
    told = [line for line in err.splitlines() if line.startswith("xdc: ")]
    assert told == [f"xdc: stopped by SIGTERM; run the same command again to continue {out}"]
    done = len(metrics.read_text().splitlines())
    assert not (out / "encoders.pt").exists()
    finish(start(second, out, toy_shards))
    assert_same_run(out, alone)
    assert done < len(metrics.read_text().splitlines()) == 18
