"""The SVM on frozen features, against scikit-learn used plainly on the same ones."""

import json
from functools import partial

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.svm import LinearSVC

from tests.common.relabel import relabel
from tests.common.toy import pack_toy
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.reader import SampleReader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import fixed_windows
from xdc_fast.errors import UserError
from xdc_fast.evaluation.svm import STRENGTHS, fit, predict, svm
from xdc_fast.models.load import load
from xdc_fast.recipe import load_recipe

rng = np.random.default_rng(0)
TINY = load_recipe(None, ("video.encoder=r2plus1d_tiny", "video.crop=32", "train.batch=20",
                          "audio.encoder=audio_tiny", "audio.frames=60"))  # fmt: skip


@pytest.fixture(scope="module")
def folds(toy_shards, tmp_path_factory):
    fold = [str(i // 4 % 3 + 1) for i in range(48)]
    return relabel(toy_shards, tmp_path_factory.mktemp("svm") / "set", fold=fold)


def test_official_folds_against_scikit_learn(folds):
    model = load("random", recipe=TINY)
    result = svm(model, folds, "class", ("fold",), clips=3)
    assert [row["split"] for row in result["splits"]] == ["fold=1", "fold=2", "fold=3"]
    # the same features by the loader alone
    loader = HostLoader(folds, model.inputs.shape)
    sampler = EpochSampler(np.array([48]), 48, shuffle=False)
    parts = []
    for clip in range(3):
        windows = partial(audio_windows, shape=model.inputs.shape, position=clip / 2)
        batch = next(loader.batches(sampler, windows))
        parts.append(model.encoders["audio"](model.inputs.of("audio", batch)).detach().numpy())
    features = np.stack(parts, axis=1)
    features /= np.linalg.norm(features, axis=2, keepdims=True)
    codes, _ = folds.label("class")
    fold = np.arange(48) // 4 % 3
    for number, row in enumerate(result["splits"]):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        plain = LinearSVC(C=row["c"], max_iter=10_000, random_state=0)
        plain.fit(features[train].reshape(-1, 48), np.repeat(codes[train], 3))
        scores = np.mean([plain.decision_function(features[test, w]) for w in range(3)], axis=0)
        assert row["accuracy"] == pytest.approx((scores.argmax(axis=1) == codes[test]).mean())
        assert (row["train"], row["test"], row["n_unreadable"]) == (32, 16, 0)
    found = [row["accuracy"] for row in result["splits"]]
    assert result["mean"]["accuracy"] == pytest.approx(np.mean(found))
    assert result["spread"]["accuracy"] == pytest.approx(np.std(found, ddof=1))
    json.dumps(result)


def audio_windows(indices, rows, shape, position):
    rows = rows.copy()
    rows["video"] = -1  # placed as if there were no pictures
    return fixed_windows(indices, rows, shape, position)


def drawn(count, classes=3, windows=4, noise=1.2):
    codes = np.arange(count) % classes
    rng = np.random.default_rng(1)
    centres = 2 * np.random.default_rng(2).standard_normal((classes, 8))
    recording = centres[codes] + noise * rng.standard_normal((count, 8))
    units = recording[:, None] + noise * rng.standard_normal((count, windows, 8))
    return units / np.linalg.norm(units, axis=2, keepdims=True), codes


def test_the_strength_is_about_the_best_by_other_grouped_folds():
    units, codes = drawn(90)
    machine = fit(units, codes, seed=0)
    assert machine.C in STRENGTHS
    means = {
        c: cross_val_score(
            LinearSVC(C=c, max_iter=10_000, random_state=0), units.reshape(-1, 8),
            np.repeat(codes, 4), groups=np.repeat(np.arange(90), 4), cv=GroupKFold(5),
        ).mean()
        for c in STRENGTHS
    }  # fmt: skip
    assert means[machine.C] > max(means.values()) - 0.02


def test_two_classes_and_averaged_scores():
    units, codes = drawn(60, classes=2)
    machine = fit(units[:40], codes[:40], seed=0)
    scores = machine.decision_function(units[40:].reshape(-1, 8)).reshape(20, 4).mean(axis=1)
    assert np.array_equal(predict(machine, units[40:]), (scores > 0).astype(int))


def test_longer_windows_and_refusals(folds):
    model = load("random", ("audio.frames=200",), recipe=TINY)
    result = svm(model, folds, "class", clips=2)
    assert result["clip"]["audio"]["frames"] == 200 and result["splits"][0]["split"] == "random"
    with pytest.raises(UserError, match="no label 'clas'; did you mean 'class'"):
        svm(model, folds, "clas")
    del model.encoders["audio"]
    with pytest.raises(UserError, match="random encodes video: nothing to evaluate on audio"):
        svm(model, folds, "class")


def test_of_a_set_with_pictures_only_the_sound_is_read(toy_shards, monkeypatch):
    monkeypatch.setattr(SampleReader, "read_frames", None)
    result = svm(load("random", recipe=TINY), toy_shards, "class", clips=1)
    assert result["modality"] == "audio" and result["splits"][0]["n_unreadable"] == 0


def test_a_set_of_sound_alone(toy_videos, tmp_path):
    model, shards = (
        load("random", recipe=TINY),
        pack_toy(toy_videos, tmp_path / "a", tracks="audio"),
    )
    assert svm(model, shards, "class", clips=3)["mean"]["accuracy"] > 4 / 15
    with pytest.raises(UserError, match="a holds audio, random encodes video and audio: nothing"):
        svm(model, shards, "class", modality="video")
