"""Evaluations on several ranks find what one process finds, and write it once."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.common.ranks import in_ranks
from xdc_fast.evaluation import extract_media as module
from xdc_fast.evaluation.extract import extract_features
from xdc_fast.evaluation.extract_media import extract_media
from xdc_fast.evaluation.finetune import FinetuneSettings, finetune
from xdc_fast.evaluation.probe import ProbeSettings, probe
from xdc_fast.evaluation.retrieve import retrieve
from xdc_fast.evaluation.svm import svm
from xdc_fast.models.load import load
from xdc_fast.shards.dataset import ShardSet

PROBE = ProbeSettings(clips=2, k=4)
SHORT = FinetuneSettings(epochs=1, batch=16, clips=3)
BIN = Path(sys.executable).parent


def evaluate(ranks, run, root, out):
    """{command: result} of this rank."""
    shards, how = ShardSet(root), {"out": out, "ranks": ranks, "modality": "audio"}

    def model():
        return load(run, ("threads=1", "train.group=5"))

    return {
        "probe": probe(model(), shards, "class", PROBE, **how),
        "svm": svm(model(), shards, "class", clips=1, **how),
        "retrieve": retrieve(model(), shards, "class", clips=1, **how),
        "finetune": finetune(model(), shards, "class", settings=SHORT, **how),
    }


def test_results_are_those_of_one_process(finished, toy_shards, tmp_path):
    arguments = (finished[0].root, toy_shards.root)
    (alone,) = in_ranks(1, evaluate, *arguments, tmp_path / "alone")
    first, other = in_ranks(2, evaluate, *arguments, tmp_path / "both")
    assert first == alone and not any(other.values())
    kept = [sorted(p.relative_to(tmp_path / w) for p in (tmp_path / w).rglob("*.json"))
            for w in ("alone", "both")]  # fmt: skip
    assert kept[0] == kept[1] and len(kept[0]) == 4


def extract_each(ranks, run, root, videos, out):
    module.FILES = 2
    model = load(run, ("threads=1",))
    found = [extract_features(model, ShardSet(root), out / "set", 2.0, ranks=ranks)]
    found.append(extract_features(model, ShardSet(root), out / "set", 2.0, ranks=ranks))
    return [*found, extract_media(model, videos, out / "media", 0.9, ranks=ranks)]


def arrays_in(folder):
    return {
        str(path.relative_to(folder)): dict(np.load(path)) for path in sorted(folder.rglob("*.npz"))
    }


@pytest.fixture
def few_files(toy_videos, tmp_path):
    folder = tmp_path / "files"
    folder.mkdir()
    for path in sorted(toy_videos.glob("*.mp4"))[:7]:
        (folder / path.name).symlink_to(path)
    return folder


def test_extracted_files_are_those_of_one_process(finished, toy_shards, few_files, tmp_path):
    arguments = (finished[0].root, toy_shards.root, few_files)
    (alone,) = in_ranks(1, extract_each, *arguments, tmp_path / "alone")
    told = in_ranks(2, extract_each, *arguments, tmp_path / "both")
    assert told[0] == alone and alone[2]["clips"] > 7
    whole, parts = arrays_in(tmp_path / "alone"), arrays_in(tmp_path / "both")
    assert whole.keys() == parts.keys() and "media/media-000003.npz" in whole
    for name, arrays in whole.items():
        for key, array in arrays.items():
            assert np.array_equal(parts[name][key], array), (name, key)
    assert not [*(tmp_path / "both").rglob(".*")]


def xdc(*arguments):
    """What `xdc` says under torchrun: exit status of each rank's process apart, (status, output,
    lines of errors)."""
    line = (BIN / "torchrun", "--standalone", "--nproc-per-node", "2", "--no-python", BIN / "xdc")
    done = subprocess.run([*map(str, (*line, *arguments))], capture_output=True, text=True,
                          timeout=120, env=os.environ | {"OMP_NUM_THREADS": "1"})  # fmt: skip
    told = [text for text in done.stderr.splitlines() if text.startswith("xdc: ")]
    return done.returncode, done.stdout, told, done.stderr


@pytest.mark.slow
def test_a_command_prints_once(finished, toy_shards, tmp_path):
    status, out, told, err = xdc(
        "svm", finished[0].root, "--data", toy_shards.root, "--label", "class", "--clips", "1",
        "--out", tmp_path, "threads=1", "--json",
    )  # fmt: skip
    assert status == 0 and not told, err
    assert json.loads(out) in [json.loads(path.read_text()) for path in tmp_path.rglob("*.json")]


@pytest.mark.slow
def test_a_mistake_is_told_once_with_status_2(finished, toy_shards, tmp_path):
    (tmp_path / "other").write_text("not features")
    status, out, told, err = xdc(
        "extract", finished[0].root, tmp_path, "--data", toy_shards.root, "threads=1"
    )
    assert (status, out) == (1, "") and len(told) == 1, err  # torchrun's own status
    assert "not empty, and not from `xdc extract`" in told[0]
    assert "exitcode  : 2" in err and "xdc_fast/" not in err
