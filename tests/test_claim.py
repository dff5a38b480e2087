"""The paper's claim at the scale of a laptop; minutes, so `make test-slow` runs it."""

from pathlib import Path

import pytest

from tests.common.toy import pack_toy
from xdc_fast.evaluation.probe import probe
from xdc_fast.models.load import load
from xdc_fast.packing.toy import make_toy
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.recipe import load_recipe

TOY = Path(__file__).parent.parent / "recipes" / "toy.yaml"


@pytest.mark.slow
def test_each_modality_teaches_the_other_the_class_they_share(tmp_path):
    """Probes gain at least 15 points, and clusters turn from the distractor to the class."""
    sets = {}
    for name, videos, seed in (("train", 1500, 11), ("probe", 600, 12)):
        make_toy(tmp_path / name, videos=videos, seed=seed)
        sets[name] = pack_toy(tmp_path / name, tmp_path / f"shards-{name}")
    out = tmp_path / "run"
    recipe = load_recipe(TOY, (f"data={sets['train'].root}", f"out={out}", "seed=3"))
    first, *_, last = pretrain(recipe)["iterations"]
    result = probe(load(out), sets["probe"], "class")
    for modality in ("video", "audio"):
        assert result[modality]["pretrained"] > result[modality]["random"] + 0.15
    labels = [record["clusters"]["video"]["labels"] for record in (first, last)]
    assert labels[0]["background_hue"]["nmi"] > labels[0]["class"]["nmi"]
    assert labels[1]["background_hue"]["nmi"] < 0.2 * labels[1]["class"]["nmi"]
