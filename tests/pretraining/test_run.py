"""The run folder and its checkpoint: what is refused, and why."""

import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.common.pretraining import Stop, dies_at_step, recipe
from xdc_fast.errors import UserError
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.pretraining.run import Run
from xdc_fast.recipe import Recipe, override


def test_mistakes_are_refused_before_anything_is_written(toy_shards, toy_h264, finished, tmp_path):
    out = tmp_path / "run"
    for more, message in (
        (("method=moco",), "method=moco: known are xdc"),
        (("train.batch=64",), "48 samples do not fill one step of 64"),
        (("k=49",), "k=49 clusters of 48 samples"),
        (("data=",), "give data=FOLDER"),
        (("train.precision=bfloat16", "device=cpu"), "set train.precision=float32"),
        (("data=/nowhere",), "/nowhere: no manifest.json"),
    ):
        with pytest.raises(UserError, match=message):
            pretrain(recipe(toy_shards, out, *more))
        assert not out.exists()
    with pytest.raises(UserError, match="40x40 pixels, the recipe crops 64"):
        pretrain(recipe(toy_shards, out, "video.crop=64"))
    pretrain(recipe(toy_shards, out, "train.iterations=1"))  # mended in the same folder
    run, _ = finished
    with pytest.raises(UserError, match=r"another recipe: k=7 \(was 6\)"):
        pretrain(recipe(toy_shards, run.root, "k=7"))
    kept = (run.root / "recipe.yaml").read_text()
    with pytest.raises(UserError, match="was started on other shards"):
        pretrain(recipe(toy_h264, run.root))
    assert (run.root / "recipe.yaml").read_text() == kept
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(UserError, match="not empty, and not a run"):
        pretrain(recipe(toy_shards, tmp_path / "photos"))


def test_a_run_goes_on_with_other_settings_of_the_machine(finished, toy_shards, tmp_path):
    """Of all top-level settings, those that no weight depends on."""
    other = {"threads": 1, "loader": "host", "device": "cpu", "decoder_load": 1.0}
    other |= {"read": "ranges", "cache": str(tmp_path), "cache_gb": 2.0, "max_unreadable": 0.5}
    result = {"method", "label", "split", "k", "seed", "data", "out"}
    single = {f.name for f in fields(Recipe)} - {"video", "audio", "cluster", "train"}
    assert single == other.keys() | result
    root = tmp_path / "run"
    shutil.copytree(finished[0].root, root)
    Run.start(override(finished[0].recipe, {"out": str(root), **other}), toy_shards.fingerprint)


def test_two_processes_do_not_share_a_run(finished, toy_shards, tmp_path):
    chosen = recipe(toy_shards, tmp_path / "run")
    with (
        Run.start(chosen, toy_shards.fingerprint).hold(),
        pytest.raises(UserError, match="another process is at work there"),
    ):
        pretrain(chosen)


def test_a_run_knows_its_shards_without_a_checkpoint(finished, toy_shards, tmp_path):
    for name in ("recipe.yaml", "shards.json"):
        (tmp_path / name).write_bytes((finished[0].root / name).read_bytes())
    assert Run.open(tmp_path).trained_on == toy_shards.fingerprint == finished[1]["data"]
    (tmp_path / "shards.json").write_text("{")
    with pytest.raises(UserError, match=r"shards\.json: damaged: not valid JSON"):
        Run.open(tmp_path)


def test_damaged_files_of_a_run_are_named(finished, tmp_path):
    shutil.copytree(finished[0].root, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    for name, read in (
        ("encoders.pt", run.encoder_weights),
        ("checkpoint.pt", lambda: run.read_state({}, 8)),
        ("iterations/001/video.npz", lambda: run.clusters(1, 48)),
        ("iterations/001/audio.npy", lambda: run.clusters(1, 48)),
        ("summary.json", run.summary),
    ):
        path = run.root / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match=f"{path}: "):
            read()


def test_assignments_of_older_runs_are_read(finished, tmp_path):
    shutil.copytree(finished[0].root, tmp_path / "run")
    run, path = Run.open(tmp_path / "run"), tmp_path / "run/iterations/001/video.npz"
    wanted = run.clusters(1, 48)["video"]
    np.savez(path, **wanted)
    path.with_suffix(".npy").unlink()
    for name, array in run.clusters(1, 48)["video"].items():
        assert np.array_equal(array, wanted[name])
    np.savez(path, **{**wanted, "assignment": wanted["assignment"] + 6})
    with pytest.raises(UserError, match=f"{path}: damaged: clusters outside -1 to 5"):
        run.assignments(1, ["video"], 48)


def test_a_run_whose_clusterings_are_gone_does_not_go_on(toy_shards, tmp_path, monkeypatch):
    chosen = recipe(toy_shards, tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        dies_at_step(patch, 1)
        pretrain(chosen)
    gone = tmp_path / "run/iterations/000/audio.npy"
    gone.unlink()
    with pytest.raises(UserError, match=f"{gone}: cannot be read .*; mend it, put back a copy"):
        pretrain(chosen)


def test_checkpoints_that_do_not_fit_are_one_line(finished, toy_shards, tmp_path):
    run, _ = finished
    for change, match in (
        (lambda saved: saved.pop("format"), "checkpoint of format None, and this .* reads 1; "),
        (lambda saved: saved.update(format=2), "checkpoint of format 2, and this .* reads 1; "),
        (lambda saved: saved.pop("sums"), "not a checkpoint of this format: no 'sums'; remove it"),
        (lambda saved: saved.update(more=1), "not a checkpoint of this format: unknown 'more'"),
        (lambda saved: saved.update(step="1"), "not a checkpoint .*: 'step' is of type str"),
        (lambda saved: saved.update(encoders={}), "holds other things than weights"),
        (lambda saved: saved["encoders"]["audio"].pop("stem.0.weight"),
         "weights of another architecture than audio_tiny: no stem.0.weight"),
    ):  # fmt: skip
        root = Path(shutil.copytree(run.root, tmp_path / "run"))
        saved = torch.load(root / "checkpoint.pt")
        change(saved)
        torch.save(saved, root / "checkpoint.pt")
        with pytest.raises(UserError, match=f"{root / 'checkpoint.pt'}: {match}"):
            pretrain(recipe(toy_shards, root))
        shutil.rmtree(root)
