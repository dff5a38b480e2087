"""A run that was stopped continues, and ends as if it had not been stopped."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.common.pretraining import (
    SETTINGS,
    Stop,
    dies_at_step,
    recipe,
    same,
    weights,
)
from xdc_fast.clips.reader import SampleReader
from xdc_fast.encoders.feature_rows import FeatureFolder
from xdc_fast.pretraining import loop
from xdc_fast.pretraining.learner import Learner
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.pretraining.run import Run


@pytest.mark.parametrize(
    "at", [4, 9, *(pytest.param(n, marks=pytest.mark.slow) for n in (1, 5, 8, 13))]
)
def test_killed_at_any_step_and_resumed_the_weights_are_the_same(
    at, finished, toy_shards, tmp_path, monkeypatch
):
    chosen = recipe(toy_shards, tmp_path / "run", "train.checkpoint_steps=3")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        dies_at_step(patch, at)
        pretrain(chosen)
    resumed = pretrain(chosen)
    whole, summary = finished
    run = Run.open(tmp_path / "run")
    assert same(weights(run), weights(whole))
    for ours, theirs in zip(resumed["iterations"], summary["iterations"], strict=True):
        for key in ("video_loss", "audio_loss", "nmi_previous_video", "nmi_audio_video"):
            assert ours[key] == theirs[key]
    steps_of = [[line for line in r.metrics() if "step" in line] for r in (run, whole)]
    assert steps_of[0] == steps_of[1]


def test_an_iteration_may_be_counted_in_steps(finished, toy_shards, tmp_path, monkeypatch):
    pretrain(recipe(toy_shards, tmp_path / "equal", "train.steps=8"))
    assert same(weights(Run.open(tmp_path / "equal")), weights(finished[0]))

    # 6 steps of epochs of 4: the second epoch is cut short, the next iteration begins a third
    cut = ("train.steps=6", "train.checkpoint_steps=5")
    seen, step = [], Learner.step

    def noting(self, groups, epoch, rate):
        seen.append((epoch, tuple(groups[0].index.tolist())))
        return step(self, groups, epoch, rate)

    with monkeypatch.context() as patch:
        patch.setattr(Learner, "step", noting)
        pretrain(recipe(toy_shards, tmp_path / "whole", *cut))
    assert [epoch for epoch, _ in seen] == [0] * 4 + [1] * 2 + [2] * 4 + [3] * 2
    assert sorted(i for _, index in seen[:4] for i in index) == list(range(48))
    assert len(set(seen)) == 12

    with monkeypatch.context() as patch, pytest.raises(Stop):
        dies_at_step(patch, 12)
        pretrain(recipe(toy_shards, tmp_path / "killed", *cut))
    pretrain(recipe(toy_shards, tmp_path / "killed", *cut))
    runs = (Run.open(tmp_path / name) for name in ("killed", "whole"))
    assert same(*map(weights, runs))


def test_an_interrupted_feature_pass_reads_no_span_twice(
    finished, toy_shards, tmp_path, monkeypatch
):
    chosen, root = recipe(toy_shards, tmp_path / "run"), tmp_path / "run"
    save, read, cluster = FeatureFolder.save, SampleReader.read_waveform, loop.make_clusters
    seen, passes = [], []

    def dying(self, *arguments):
        save(self, *arguments)
        raise Stop

    def noting(self, name, row, start, out):
        seen.append(self.shards.index_of(name, row))
        return read(self, name, row, start, out)

    def clustering(*arguments, **more):
        passes.append(sorted(seen))
        return cluster(*arguments, **more)

    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(FeatureFolder, "save", dying)
        pretrain(chosen)
    assert len([*(root / "features/000").iterdir()]) == 1
    monkeypatch.setattr(SampleReader, "read_waveform", noting)
    monkeypatch.setattr(loop, "make_clusters", clustering)
    pretrain(chosen)
    assert passes[0] == list(range(chosen.train.batch, 48))
    assert same(weights(Run.open(root)), weights(finished[0]))
    assert not (root / "features").exists()


def test_a_damaged_checkpoint_gives_way_to_the_one_before_it(
    finished, toy_shards, tmp_path, monkeypatch, caplog
):
    chosen, root = (
        recipe(toy_shards, tmp_path / "run", "train.checkpoint_steps=3"),
        tmp_path / "run",
    )
    with monkeypatch.context() as patch, pytest.raises(Stop):
        dies_at_step(patch, 13)
        pretrain(chosen)
    newest = root / "checkpoint.pt"
    assert newest.read_bytes() != (root / "checkpoint.before.pt").read_bytes()
    newest.write_bytes(newest.read_bytes()[:1000])
    pretrain(chosen)
    (line,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert line.startswith(f"{newest}: ") and line.endswith(f"from {root / 'checkpoint.before.pt'}")
    assert same(weights(Run.open(root)), weights(finished[0]))
    assert not (root / "checkpoint.before.pt").exists()


@pytest.mark.parametrize("where", ["save_clusters", "save_summary", "save_encoders"])
def test_killed_while_writing_and_resumed_the_run_is_whole(
    where, finished, toy_shards, tmp_path, monkeypatch
):
    def dying(*_):
        raise Stop

    chosen = recipe(toy_shards, tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Run, where, dying)
        pretrain(chosen)
    resumed = pretrain(chosen)
    assert len(resumed["iterations"]) == 2
    assert same(weights(Run.open(tmp_path / "run")), weights(finished[0]))


def test_a_signal_stops_with_a_checkpoint_and_the_same_command_goes_on(
    finished, toy_shards, tmp_path
):
    path = tmp_path / "recipe.yaml"
    path.write_text("")
    command = [
        str(Path(sys.executable).with_name("xdc")), "pretrain", str(path), *SETTINGS,
        f"data={toy_shards.root}", f"out={tmp_path / 'run'}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "run the same command again to continue" in stderr and "Traceback" not in stderr
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert same(weights(Run.open(tmp_path / "run")), weights(finished[0]))


def test_a_finished_run_is_not_run_again(finished, toy_shards):
    run, summary = finished
    before = (run.root / "checkpoint.pt").stat().st_mtime_ns
    assert pretrain(run.recipe) == summary
    assert (run.root / "checkpoint.pt").stat().st_mtime_ns == before


@pytest.mark.parametrize("at", [9, *(pytest.param(n, marks=pytest.mark.slow) for n in (5, 13))])
def test_a_memory_bank_survives_a_kill(at, toy_shards, tmp_path, monkeypatch):
    banked = ("cluster.features=training", "train.checkpoint_steps=3")
    summary = pretrain(recipe(toy_shards, tmp_path / "whole", *banked))
    chosen = recipe(toy_shards, tmp_path / "run", *banked)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        dies_at_step(patch, at)
        pretrain(chosen)
    assert pretrain(chosen)["iterations"][1]["video_loss"] == summary["iterations"][1]["video_loss"]
    assert same(weights(Run.open(tmp_path / "run")), weights(Run.open(tmp_path / "whole")))
