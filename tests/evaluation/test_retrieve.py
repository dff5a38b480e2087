"""Retrieval against a search by hand, and scikit-learn's nearest neighbours."""

import json

import numpy as np
import pytest
import torch
from scipy.stats import hypergeom
from sklearn.neighbors import KNeighborsClassifier

from tests.common.relabel import relabel
from xdc_fast.errors import UserError
from xdc_fast.evaluation import neighbours
from xdc_fast.evaluation.evaluator import Evaluator
from xdc_fast.evaluation.neighbours import class_recall, instance_recall
from xdc_fast.evaluation.retrieve import retrieve
from xdc_fast.models.load import load
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.recipe import load_recipe

SETTINGS = ("video.encoder=r2plus1d_tiny", "video.crop=32", "audio.encoder=audio_tiny", "k=4",
            "train.iterations=2", "train.epochs=1", "train.batch=12")  # fmt: skip


def unit(*shape, seed=0):
    points = np.random.default_rng(seed).standard_normal(shape).astype(np.float32)
    return points / np.linalg.norm(points, axis=1, keepdims=True)


def test_neighbours_against_a_search_by_hand(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 1000)  # several blocks
    points, codes = unit(60, 6), np.random.default_rng(1).integers(0, 4, 60)
    groups = np.arange(60)
    groups[:6], groups[50] = groups[6:12], -1  # pairs of one recording, and an unknown one
    every = np.arange(60)
    found = class_recall(points, points, codes, every, every, [every, groups])
    hits, chance = {k: [] for k in (1, 5, 10)}, {k: [] for k in (1, 5, 10)}
    votes = {k: [] for k in (5, 10, 20)}
    for i in range(60):
        others = [j for j in range(60) if j != i and (groups[j] != groups[i] or groups[i] < 0)]
        order = sorted(others, key=lambda j: -float(points[i] @ points[j]))
        same = sum(codes[j] == codes[i] for j in others)
        for k in hits:
            hits[k].append(codes[i] in codes[order[:k]])
            chance[k].append(1 - hypergeom(len(others), same, k).pmf(0))
        for k in votes:
            votes[k].append(np.bincount(codes[order[:k]]).argmax() == codes[i])
    expected = {f"R@{k}": np.mean(v) for k, v in hits.items()}
    expected |= {f"NN@{k}": np.mean(v) for k, v in votes.items()}
    expected |= {f"chance R@{k}": np.mean(v) for k, v in chance.items()}
    assert found == pytest.approx(expected)


def test_votes_are_those_of_scikit_learn():
    points, codes = unit(90, 5), np.random.default_rng(1).integers(0, 3, 90)
    train, test = np.arange(30, 90), np.arange(30)
    found = class_recall(points[test], points[train], codes, test, train, [np.arange(90)])
    for k in (5, 10, 20):
        plain = KNeighborsClassifier(k, metric="cosine").fit(points[train], codes[train])
        assert found[f"NN@{k}"] == pytest.approx(plain.score(points[test], codes[test]))


def test_own_track_against_a_sort_by_hand(monkeypatch):
    monkeypatch.setattr(neighbours, "BLOCK", 100)
    queries, gallery = unit(40, 3), unit(40, 3, seed=1)
    order = np.argsort(-queries @ gallery.T, axis=1)
    ranks = (order == np.arange(40)[:, None]).argmax(axis=1)
    expected = {f"R@{k}": (ranks < k).mean() for k in (1, 5, 10)}
    assert instance_recall(queries, gallery) == pytest.approx(
        expected | {"chance R@1": 1 / 40, "chance R@5": 1 / 8, "chance R@10": 1 / 4}
    )
    collapsed = np.ones((40, 3), np.float32) / 3**0.5
    assert instance_recall(collapsed, collapsed)["R@10"] == 0  # ties count against


@pytest.fixture(scope="module")
def model(toy_shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("retrieve") / "run"
    pretrain(load_recipe(None, (*SETTINGS, f"data={toy_shards.root}", f"out={out}")))
    model = load(out)
    generator = torch.Generator().manual_seed(0)
    for name in ("video_from_audio", "audio_from_video"):
        model.heads[name] = torch.nn.Linear(48, 4)
        with torch.no_grad():
            model.heads[name].weight.normal_(0, 1, generator=generator)
    return model


def test_across_modalities_against_the_definition(model, toy_shards):
    result = retrieve(model, toy_shards, "class", clips=2)
    (kept,) = (model.run.root / "retrieve").glob(f"{toy_shards.root.name}-class-*.json")
    assert json.loads(kept.read_text()) == result
    found = Evaluator(model, toy_shards).features("video", "audio", clips=2)
    assert found.valid.all()
    features = found.arrays
    coefficient = np.zeros((48, 48))  # video by audio
    for ours, other in (("video", "audio"), ("audio", "video")):
        f = torch.from_numpy(features[ours])
        predicted = torch.softmax(model.heads[f"{ours}_from_{other}"](f), 1).detach().numpy()
        centroids = model.run.clusters(1, len(toy_shards))[other]["centroids"].astype(np.float64)
        square = ((features[other][:, None].astype(np.float64) - centroids) ** 2).sum(axis=2)
        weights = np.exp(-square / square.min(axis=1).mean())
        weights /= weights.sum(axis=1, keepdims=True)
        by = np.sqrt(predicted[:, None] * weights[None]).sum(axis=2) / 2  # predicting by clustered
        coefficient += by if ours == "video" else by.T
    for name, table in (("video->audio", coefficient), ("audio->video", coefficient.T)):
        ranks = (table > np.diag(table)[:, None]).sum(axis=1)
        for k in (1, 5, 10):
            assert result["across"][name]["own"][f"R@{k}"] == pytest.approx((ranks < k).mean())
        assert 0 <= result["across"][name]["class"]["R@1"] <= 1
    assert set(result["within"]) == {"video", "audio"}


def test_splits_search_the_training_part(model, toy_shards, tmp_path):
    fold = [str(i // 4 % 3 + 1) for i in range(48)]
    shards = relabel(toy_shards, tmp_path / "set", fold=fold)
    result = retrieve(model, shards, "class", ("fold",), clips=1)
    rows = result["within"]["audio"]["splits"]
    assert [(r["split"], r["queries"], r["gallery"]) for r in rows] == [
        (f"fold={n}", 16, 32) for n in (1, 2, 3)
    ]
    assert result["within"]["audio"]["mean"]["NN@5"] == pytest.approx(
        np.mean([r["NN@5"] for r in rows])
    )


def test_what_cannot_be_compared_is_said(model, toy_shards):
    random = load("random", recipe=load_recipe(None, SETTINGS))
    result = retrieve(random, toy_shards, clips=1)
    assert (result["within"], result["across"]) == ({}, {})
    assert "a run's heads and clusters" in result["note"]
    del random.encoders["video"]
    result = retrieve(random, toy_shards, "class", clips=1)
    assert "audio only" in result["note"] and list(result["within"]) == ["audio"]
    with pytest.raises(UserError, match="did you mean 'class'"):
        retrieve(random, toy_shards, "klass", clips=1)


def test_a_label_of_one_video_is_refused_before_features(toy_shards, tmp_path, monkeypatch):
    rare = ["a", *[""] * (len(toy_shards) - 1)]
    shards = relabel(toy_shards, tmp_path / "one", rare=rare)
    monkeypatch.delattr(Evaluator, "features")
    model = load("random", recipe=load_recipe(None, SETTINGS))
    with pytest.raises(UserError, match="1 videos have the label 'rare'; 2 are needed"):
        retrieve(model, shards, "rare", clips=1)
