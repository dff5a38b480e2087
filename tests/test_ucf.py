"""What docs/results.md says of real videos, on two seeds; minutes, so `make test-slow` runs it."""

from pathlib import Path

import numpy as np
import pytest

import xdc_fast
from xdc_fast.evaluation.probe import ProbeSettings, probe
from xdc_fast.evaluation.retrieve import retrieve
from xdc_fast.recipe import load_recipe

DATA = Path(__file__).parents[2] / "shared" / "data"
RECIPE = Path(__file__).parents[1] / "recipes" / "ucf.yaml"
SEEDS = (0, 1)


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    """The audible clips of the classes of UCF101 that lie beside the repository."""
    if not (DATA / "ucf9").is_dir():
        pytest.skip(f"needs {DATA / 'ucf9'}")
    source = tmp_path_factory.mktemp("ucf")
    (source / "videos").symlink_to(DATA / "ucf9")
    (source / "lists").symlink_to(DATA / "lists/ucfTrainTestlist")
    out = tmp_path_factory.mktemp("shards") / "ucf"
    xdc_fast.pack(source, out, dataset="ucf101", tracks="both", short_side=80)
    return xdc_fast.ShardSet(out)


@pytest.mark.slow
def test_sound_teaches_the_video_encoder_what_clips_show(shards, tmp_path):
    """On videos that pretraining has not seen: neighbours of the same class, and clusters."""
    assert len(shards) == 520
    gains, nmis = [], []
    for seed in SEEDS:
        out = tmp_path / str(seed)
        settings = (f"data={shards.root}", f"out={out}", "split=split1", f"seed={seed}")
        recipe = load_recipe(RECIPE, settings)
        assert xdc_fast.pretrain(recipe)["learned"] == 383
        model, start = xdc_fast.load(out), xdc_fast.load("random", recipe=recipe)
        ours, theirs = (
            retrieve(m, shards, "class", ("split1",), clips=3)["within"]["video"]["mean"]["R@1"]
            for m in (model, start)
        )
        gains.append(ours - theirs)
        found = probe(model, shards, "class", ProbeSettings(split="split1"), modality="video")
        nmis.append(found["nmi"]["video"]["class"] - found["nmi_random"]["video"]["class"])
    assert np.mean(gains) > 0.08 and np.mean(nmis) > 0.1
