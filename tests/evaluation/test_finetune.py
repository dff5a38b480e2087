"""Fine-tuning: what it changes, what it counts, and that a seed settles it."""

import json

import numpy as np
import pytest
import torch

from tests.common.relabel import relabel
from xdc_fast.errors import UserError
from xdc_fast.evaluation.evaluator import Evaluator
from xdc_fast.evaluation.finetune import (
    FOLLOW_UPS,
    METRICS,
    FinetuneSettings,
    finetune,
    score,
    train,
)
from xdc_fast.evaluation.splits import splits_of
from xdc_fast.models.load import load
from xdc_fast.pretraining.folder import Folder
from xdc_fast.pretraining.run import Run
from xdc_fast.recipe import load_recipe

TINY = load_recipe(None, ("video.encoder=r2plus1d_tiny", "video.crop=32", "train.batch=20",
                          "audio.encoder=audio_tiny", "audio.frames=60"))  # fmt: skip
SHORT = FinetuneSettings(epochs=2, batch=12, clips=2)


@pytest.fixture(scope="module")
def model():
    return load("random", recipe=TINY)


def test_scores_are_those_of_a_plain_recount():
    rng = np.random.default_rng(0)
    logits = 3 * rng.standard_normal((30, 4, 7)).astype(np.float32)
    codes = rng.integers(0, 7, 30)
    seen = rng.random((30, 4)) < 0.8
    seen[3] = False
    clips, first, five = [], [], []
    for i in range(30):
        total = np.zeros(7)
        for clip in np.flatnonzero(seen[i]):
            weights = np.exp(logits[i, clip].astype(np.float64))
            total += weights / weights.sum()
            clips.append(weights.argmax() == codes[i])
        if seen[i].any():
            first.append(total.argmax() == codes[i])
            five.append((total > total[codes[i]]).sum() < 5)
    assert score(logits, seen, codes) == pytest.approx(
        {"n_unreadable": int((~seen.any(axis=1)).sum()), "clip@1": np.mean(clips),
         "video@1": np.mean(first), "video@5": np.mean(five)}
    )  # fmt: skip
    assert score(logits[:, :, :5], seen, codes % 5)["video@5"] is None


def test_the_head_alone_leaves_the_encoder_as_it_is(model, toy_shards):
    evaluator = Evaluator(model, toy_shards, "audio")
    codes, classes = toy_shards.label("class")
    (split,) = splits_of(toy_shards, "class", codes, classes)
    before = {k: v.clone() for k, v in model.encoders["audio"].state_dict().items()}
    common = (evaluator, "audio", codes, classes, split)
    only_head, full = train(*common, True, SHORT, 0), train(*common, False, SHORT, 0)
    assert not only_head.training and not full.training
    frozen, whole = only_head.encoder, full.encoder
    for name, value in before.items():
        assert torch.equal(frozen.state_dict()[name], value), name
        assert torch.equal(model.encoders["audio"].state_dict()[name], value), name
        assert not torch.equal(whole.state_dict()[name], value), name
    assert only_head.head.bias.all()  # of a fresh head: zeros


def test_learning_beats_chance_and_a_seed_settles_it(model, toy_shards):
    settings = FinetuneSettings(epochs=15, batch=16, clips=2)
    results = [
        finetune(model, toy_shards, "class", modality="video", settings=settings) for _ in range(2)
    ]
    assert results[0] == results[1]
    assert list(results[0]) == ["video"]
    assert results[0]["video"]["mean"]["video@1"] > 0.4  # chance is 4 of 15
    other = finetune(model, toy_shards, "class", modality="video", settings=SHORT, seed=1)
    assert other["video"]["splits"] != results[0]["video"]["splits"]


def test_results_hold_every_split_and_stay_with_the_run(toy_shards, tmp_path):
    fold = [str(i // 4 % 3 + 1) for i in range(48)]
    shards = relabel(toy_shards, tmp_path / "set", fold=fold)
    model = load("random", ("video.frames=4",), recipe=TINY)
    model.run = Run(Folder(tmp_path / "run"), TINY)
    model.run.root.mkdir()
    results = finetune(model, shards, "class", ("fold",), only_head=True, settings=SHORT)
    assert list(results) == ["video", "audio"]
    for modality in ("video", "audio"):
        (file,) = (model.run.root / "finetune").glob(f"set-class-fold-{modality}-head-*.json")
        kept, rows = json.loads(file.read_text()), results[modality]["splits"]
        assert (kept["mean"], kept["splits"]) == (results[modality]["mean"], rows)
        assert [(row["split"], row["train"], row["test"]) for row in rows] == [
            (f"fold={n}", 32, 16) for n in (1, 2, 3)
        ]
        for figure in METRICS[:2]:
            values = [row[figure] for row in rows]
            assert all(0 <= value <= 1 for value in values)
            assert results[modality]["mean"][figure] == pytest.approx(np.mean(values))
    assert len([*(model.run.root / "finetune").iterdir()]) == 2
    # other settings and encoders of no run: a file of their own
    how = {"only_head": True, "modality": "audio", "out": model.run.root}
    finetune(load("random", recipe=TINY), shards, "class", settings=SHORT, **how)
    finetune(load("random", recipe=TINY), shards, "class", settings=SHORT, seed=1, **how)
    finetune(load("random", ("audio.frames=70",), recipe=TINY), shards, "class", settings=SHORT,
             **how)  # fmt: skip
    assert len([*(model.run.root / "finetune").iterdir()]) == 5


def test_splits_that_are_done_are_not_made_again(toy_shards, tmp_path, monkeypatch):
    fold = [str(i // 4 % 3 + 1) for i in range(48)]
    shards = relabel(toy_shards, tmp_path / "set", fold=fold)
    common = (shards, "class", ("fold",))
    how = {"modality": "audio", "only_head": True, "settings": SHORT}
    whole = finetune(load("random", recipe=TINY), *common, **how)
    done = []

    def dying(evaluator, name, codes, classes, split, *more):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(split.name)
        return train(evaluator, name, codes, classes, split, *more)

    def begin():
        model = load("random", recipe=TINY)
        model.run = Run(Folder(tmp_path / "run"), TINY)
        model.run.root.mkdir(exist_ok=True)
        return model

    monkeypatch.setattr("xdc_fast.evaluation.finetune.train", dying)
    with pytest.raises(KeyboardInterrupt):
        finetune(begin(), *common, **how)
    assert done == ["fold=1", "fold=2"]
    done.clear()
    assert finetune(begin(), *common, **how) == whole
    assert done == ["fold=3"]
    assert finetune(begin(), *common, **how) == whole  # nothing is left to do
    assert done == ["fold=3"]
    other = begin()  # other weights: all anew
    next(other.encoders["audio"].parameters()).data.mul_(2)
    done.pop()
    with pytest.raises(KeyboardInterrupt):
        finetune(other, *common, **how)
    assert done == ["fold=1", "fold=2"]


def test_learning_rates_rise_and_fall():
    scales = [FOLLOW_UPS.scale(epoch / 12) for epoch in range(13)]
    assert scales[:3] == [0, 0.5, 1]
    assert scales[5:7] == [1, 0.05] and scales[9:] == pytest.approx([0.05, *[0.0025] * 3])


def test_mistakes_are_refused(model, toy_shards):
    wild = FinetuneSettings(epochs=3, batch=16, clips=1, lr=1e30, head_lr=1e30, warmup=0)
    with pytest.raises(UserError, match=r"audio on split 'random', epoch 1, step \d.* lower --lr"):
        finetune(model, toy_shards, "class", modality="audio", settings=wild)
    with pytest.raises(UserError, match="did you mean 'class'"):
        finetune(model, toy_shards, "clas", settings=SHORT)
