"""Own files that are damaged: one line that names the file and the way out, and status 2."""

import json
import shutil
from itertools import islice

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.common.damage import damages, wrong_values
from xdc_fast.pretraining.run import Run
from xdc_fast.tools.xdc import main


def xdc(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def assert_refused(result, path, what=""):
    assert result.exit_code == 2, (what, result.output, result.exception)
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"xdc: {path}: "), (what, result.stderr)
    assert "; " in lines[0], (what, lines)


FINETUNE = ("--label", "class", "--clips", 1, "--epochs", 1, "--only-head", "--modality", "audio")
EXTRACT = ("--stride", 9, "--modality", "audio")


@pytest.fixture(scope="module")
def whole(finished, toy_shards, tmp_path_factory):
    """A run with results, its features and its export: what is copied, and damaged."""
    folder = tmp_path_factory.mktemp("damage") / "whole"
    run = shutil.copytree(finished[0].root, folder / "run")
    for command in (
        ("probe", run, "--data", toy_shards.root, "--label", "class", "--clips", 1),
        ("finetune", run, "--data", toy_shards.root, *FINETUNE),
        ("extract", run, folder / "features", "--data", toy_shards.root, *EXTRACT),
        ("export", run, folder / "export"),
    ):
        result = xdc(*command)
        assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def copied(whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # a pickle that runs would leave a file here
    yield shutil.copytree(whole, tmp_path / "copy")
    assert not (tmp_path / "called").exists()


def commands(copied, shards):
    """{name: the arguments of a command that reads files of `copied`}."""
    run = copied / "run"
    return {
        "report": ("report", run, "--data", shards.root),
        "resume": ("pretrain", run / "recipe.yaml", f"out={run}"),
        "retrieve": ("retrieve", run, "--data", shards.root, "--clips", 1),
        "finetune": ("finetune", run, "--data", shards.root, *FINETUNE),
        "export": ("export", run, copied / "out"),
        "extract": ("extract", run, copied / "features", "--data", shards.root, *EXTRACT),
        "again": ("export", copied / "export", copied / "out"),
    }


@pytest.mark.parametrize(
    ("pattern", "names"),
    [
        ("run/recipe.yaml", ("report", "export")),
        ("run/summary.json", ("report", "retrieve")),
        ("run/shards.json", ("report", "resume")),
        ("run/metrics.jsonl", ("report", "resume")),
        ("run/checkpoint.pt", ("resume",)),
        ("run/encoders.pt", ("export",)),
        ("run/heads.pt", ("export",)),
        ("run/iterations/001/video.npz", ("report", "retrieve")),
        ("run/iterations/001/video.npy", ("report", "retrieve")),
        ("run/probes/*.json", ("report",)),
        ("run/finetune/*.json", ("finetune",)),
        ("features/extract.json", ("extract",)),
        ("features/*.npz", ("extract",)),
        ("export/config.yaml", ("again",)),
        ("export/video.safetensors", ("again",)),
        ("export/heads.safetensors", ("again",)),
    ],
)
def test_what_is_damaged_is_named(copied, toy_shards, pattern, names):
    path = next(copied.glob(pattern))
    content = path.read_bytes()
    for what, damaged in damages(content).items():
        if path.name == "metrics.jsonl" and what in ("empty", "half"):
            continue  # as a crash leaves it: a last line without its end is dropped
        path.write_bytes(damaged)
        for name in names:
            assert_refused(xdc(*commands(copied, toy_shards)[name]), path, (name, what))


def test_a_last_line_of_metrics_that_a_crash_cut_is_dropped(copied, toy_shards):
    path = copied / "run/metrics.jsonl"
    lines = path.read_bytes()
    path.write_bytes(lines[:-9])
    assert Run.open(copied / "run").metrics() == [json.loads(x) for x in lines.splitlines()[:-1]]
    assert xdc(*commands(copied, toy_shards)["report"]).exit_code == 0
    assert xdc(*commands(copied, toy_shards)["resume"]).exit_code == 0
    assert path.read_bytes() == b"".join(lines.splitlines(keepends=True)[:-1])


@pytest.mark.parametrize(
    ("pattern", "name", "every"),
    [
        ("run/summary.json", "report", 25),
        ("run/probes/*.json", "report", 23),
        pytest.param("run/summary.json", "report", 1, marks=pytest.mark.slow),
        pytest.param("run/probes/*.json", "report", 1, marks=pytest.mark.slow),
        pytest.param("run/finetune/*.json", "finetune", 1, marks=pytest.mark.slow),
    ],
)
def test_values_of_another_kind_are_named_or_not_needed(copied, toy_shards, pattern, name, every):
    path, refused = next(copied.glob(pattern)), 0
    for what, changed in islice(wrong_values(json.loads(path.read_text())), None, None, every):
        path.write_text(json.dumps(changed))
        result = xdc(*commands(copied, toy_shards)[name])
        if result.exit_code:
            assert_refused(result, path, what)
            refused += 1
    assert refused > 5


def others(array):
    """Arrays that a reader does not expect in the place of this one."""
    for kind in (np.float64, np.int64, np.float16, array.dtype.newbyteorder(), "U3"):
        if kind != array.dtype:
            yield array.astype(kind)
    yield array[None]
    if array.ndim:
        yield from (array[:-1], array[:0])
    yield from [array * np.float32("nan")] if array.dtype.kind == "f" else [array + 999]


@pytest.mark.parametrize(
    ("pattern", "name"),
    [("run/iterations/001/video.npz", "report"), ("features/*.npz", "extract")],
)
def test_arrays_of_another_kind_are_named(copied, toy_shards, pattern, name):
    path = min(copied.glob(pattern))
    with np.load(path) as content:
        whole = dict(content)
    for key, array in whole.items():
        without = {name: other for name, other in whole.items() if name != key}
        for changed in [without, *({**whole, key: other} for other in others(array))]:
            np.savez(path, **changed)
            assert_refused(xdc(*commands(copied, toy_shards)[name]), path, key)


def test_tensors_of_another_kind_are_named(copied, toy_shards):
    call = commands(copied, toy_shards)
    for file, name in (
        ("heads.pt", "export"),
        ("encoders.pt", "export"),
        ("checkpoint.pt", "resume"),
    ):
        path = copied / "run" / file
        whole = torch.load(path)
        inner = whole["encoders"] if file == "checkpoint.pt" else whole
        group = next(iter(inner))
        key, tensor = next(iter(inner[group].items()))
        for other in (tensor[:1], tensor.double(), tensor * float("nan"), tensor.tolist(), None):
            torch.save(nested(whole, file, group, {**inner[group], key: other}), path)
            assert_refused(xdc(*call[name]), path)
        torch.save(nested(whole, file, group, {"more": tensor, **inner[group]}), path)
        assert_refused(xdc(*call[name]), path)


def nested(whole, file, group, weights):
    if file == "checkpoint.pt":
        return {**whole, "encoders": {**whole["encoders"], group: weights}}
    return {**whole, group: weights}


def test_a_bit_that_flips_in_weights_is_found(copied, toy_shards):
    path = copied / "run/encoders.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    assert_refused(xdc(*commands(copied, toy_shards)["export"]), path)


def test_a_sweep_names_the_damaged_run_and_makes_the_others(copied, finished, tmp_path):
    trials = [tmp_path / "sweep" / f"method=xdc,k=6,seed={seed}" for seed in (0, 1)]
    for seed, trial in enumerate(trials):
        shutil.copytree(finished[0].root, trial)
        recipe = trial / "recipe.yaml"
        recipe.write_text(recipe.read_text().replace("seed: 0", f"seed: {seed}"))
    (trials[0] / "summary.json").write_text("{}")
    recipe = finished[0].root / "recipe.yaml"
    result = xdc("sweep", recipe, f"out={tmp_path / 'sweep'}", "seed=0,1", "--json")
    assert result.exit_code == 2, result.output
    assert f"{trials[0] / 'summary.json'}: damaged: " in result.stderr
    assert "Traceback" not in result.stderr and "1 of 2 runs were refused" in result.stderr
    (row,) = json.loads(result.stdout)["rows"]
    assert row["seeds"] == ["1"]
