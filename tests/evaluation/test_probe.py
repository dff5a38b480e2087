"""The probe: its split, its accuracy against scikit-learn, and its refusals."""

import json
import shutil

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score
from sklearn.preprocessing import StandardScaler

from tests.common.relabel import relabel
from xdc_fast.errors import UserError
from xdc_fast.evaluation.probe import (
    accuracy,
    both_features,
    divide,
    label_nmi,
    probe,
    run_features,
)
from xdc_fast.evaluation.svm import svm
from xdc_fast.models.load import load
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.pretraining.run import Run
from xdc_fast.recipe import Cluster, load_recipe

rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def run(toy_shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("probe") / "run"
    settings = ("video.encoder=r2plus1d_tiny", "video.crop=32", "audio.encoder=audio_tiny", "k=4",
                "train.iterations=1", "train.epochs=1", "train.batch=12")  # fmt: skip
    pretrain(load_recipe(None, (*settings, f"data={toy_shards.root}", f"out={out}")))
    return Run.open(out)


def test_the_result_keeps_its_contract_and_stays_with_the_run(run, toy_shards):
    result = probe(run, toy_shards, "class", clips=1)
    assert json.loads((run.root / "probes" / "class.json").read_text()) == result
    contract = ["label", "classes", "chance", "video", "audio", "train", "test"]
    options = ["data", "split", "test_share", "clips", "seed", "k", "finished"]
    assert list(result) == [*contract, "nmi", "nmi_random", *options]
    assert [result[key] for key in options] == [
        toy_shards.fingerprint, None, 0.3, 1, 0, 4, True
    ]  # fmt: skip
    assert (result["classes"], result["train"], result["test"]) == (4, 33, 15)
    assert result["chance"] == pytest.approx(4 / 15)  # 15 of 4 classes: one has 3, others 4
    for modality in ("video", "audio"):
        assert set(result[modality]) == {"pretrained", "random"}
        assert all(0 <= value <= 1 for value in result[modality].values())
        for nmi in (result["nmi"][modality], result["nmi_random"][modality]):
            assert set(nmi) == set(toy_shards.label_names)
            assert all(0 <= value <= 1 for value in nmi.values())
    assert result["nmi"] != result["nmi_random"]


def test_an_unfinished_run_is_told_apart_and_features_can_be_shared(run, toy_shards, tmp_path):
    shutil.copytree(run.root, tmp_path / "run")
    (tmp_path / "run" / "encoders.pt").unlink()
    early = Run.open(tmp_path / "run")
    features = both_features(early, toy_shards, 1)
    shared = probe(early, toy_shards, "class", clips=1, features=features, k=7)
    alone = probe(run, toy_shards, "class", clips=1, k=7)
    assert (shared.pop("finished"), alone.pop("finished")) == (False, True)
    assert shared == alone and shared["k"] == 7


def test_the_nmi_is_scikit_learns(toy_shards):
    codes, _ = toy_shards.label("class")
    features = 9 * np.eye(6)[codes] + rng.standard_normal((48, 6))
    seen = np.ones(48, dtype=bool)
    seen[5] = False
    columns = toy_shards.label_names
    found = label_nmi(features, seen, 4, Cluster(), 0, toy_shards, columns)
    clusters = KMeans(4, n_init=10, random_state=0).fit_predict(features[seen])
    for name in columns:
        expected = normalized_mutual_info_score(toy_shards.label(name)[0][seen], clusters)
        assert found[name] == pytest.approx(expected)
    assert found["class"] > 0.9


def test_few_or_like_features_make_fewer_clusters(toy_shards):
    features, seen = rng.standard_normal((48, 6)), np.ones(48, dtype=bool)
    many = label_nmi(features, seen, 40, Cluster(pca=20), 0, toy_shards, ["class"])
    assert many == label_nmi(features, seen, 12, Cluster(pca=6), 0, toy_shards, ["class"])
    collapsed = label_nmi(np.ones((48, 6)), seen, 4, Cluster(), 0, toy_shards, ["class"])
    assert collapsed["class"] == 0


def test_random_encoders_are_the_runs_own_start(run, toy_shards):
    random, seen = run_features(run, toy_shards, 1, trained=False)
    again, _ = run_features(run, toy_shards, 1, trained=False)
    trained, _ = run_features(run, toy_shards, 1, trained=True)
    assert seen.all()
    for modality in ("video", "audio"):
        assert np.array_equal(random[modality], again[modality])
        assert not np.allclose(random[modality], trained[modality])


def test_features_average_the_clips(run, toy_shards):
    from functools import partial

    import torch

    from xdc_fast.clips.host import HostLoader
    from xdc_fast.clips.sampler import EpochSampler
    from xdc_fast.clips.windows import fixed_windows
    from xdc_fast.encoders.build import build_encoders
    from xdc_fast.encoders.transform import ClipTransform

    features, _ = run_features(run, toy_shards, 3, trained=True)
    inputs = ClipTransform(run.recipe)
    encoder = build_encoders(run.recipe)["audio"].eval()
    encoder.load_state_dict(run.encoder_weights()["audio"])
    loader = HostLoader(toy_shards, inputs.shape)
    sampler = EpochSampler(np.array([48]), 48, shuffle=False)
    parts = []
    for clip in range(3):
        windows = partial(fixed_windows, shape=inputs.shape, position=clip / 2)
        with torch.no_grad():
            batch = next(loader.batches(sampler, windows))
            parts.append(encoder(inputs.of("audio", batch)).numpy())
    np.testing.assert_allclose(features["audio"], np.mean(parts, axis=0), atol=1e-4)


def test_accuracy_is_that_of_a_plain_logistic_regression():
    codes = rng.integers(0, 3, 300)
    features = np.eye(3)[codes] @ rng.standard_normal((3, 8)) + rng.standard_normal((300, 8))
    train, test = np.arange(200), np.arange(200, 300)
    scaler = StandardScaler().fit(features[train])
    plain = LogisticRegression(max_iter=2000).fit(scaler.transform(features[train]), codes[train])
    expected = plain.score(scaler.transform(features[test]), codes[test])
    assert accuracy(features, codes, train, test, seed=0) == pytest.approx(expected, abs=0.05)
    noise = rng.standard_normal((300, 8))
    assert accuracy(noise, codes, train, test, seed=0) < 0.5


def test_a_random_split_is_stratified_seeded_and_by_video(toy_shards):
    codes, classes = toy_shards.label("class")
    split = lambda seed: divide(toy_shards, "class", codes, classes, None, 0.25, seed)  # noqa: E731
    train, test = split(0)
    assert sorted([*train, *test]) == list(range(48))
    assert np.bincount(codes[test]).tolist() == [3, 3, 3, 3]
    assert np.array_equal(split(0)[1], test) and not np.array_equal(split(1)[1], test)


def test_a_split_column_is_followed(toy_shards, tmp_path):
    part = ["validation"] * 4 + ["test" if i % 4 == 0 else "train" for i in range(4, 48)]
    shards = relabel(toy_shards, tmp_path / "set", part=part)
    codes, classes = shards.label("drift")
    train, test = divide(shards, "drift", codes, classes, "part", 0.3, 0)
    assert test.tolist() == list(range(4, 48, 4))
    assert not {0, 1, 2, 3} & {*train}


def test_mistakes_are_refused(run, toy_shards, tmp_path):
    with pytest.raises(UserError, match="no label 'clas'; did you mean 'class'"):
        probe(run, toy_shards, "clas")
    lonely = [row["class"] for row in toy_shards.table()]
    lonely[7] = "9"
    shards = relabel(toy_shards, tmp_path / "set", part=["train"] * 48, **{"class": lonely})
    with pytest.raises(UserError, match=r"class '9' of 'class' has 1 training videos"):
        probe(run, shards, "class")
    with pytest.raises(UserError, match="column 'part' has no 'test'"):
        probe(run, shards, "class", split="part")


def test_a_supervised_run_is_not_probed_on_what_it_learned(run, toy_shards, tmp_path):
    part = ["test" if i // 4 % 3 == 0 else "train" for i in range(48)]
    shards = relabel(toy_shards, tmp_path / "set", part=part, other=part[1:] + part[:1])
    settings = ("video.encoder=r2plus1d_tiny", "video.crop=32", "audio.encoder=audio_tiny", "k=4",
                "train.iterations=1", "train.epochs=1", "train.batch=12", "method=supervised",
                "label=class", "split=part", f"data={shards.root}")  # fmt: skip
    pretrain(load_recipe(None, (*settings, f"out={tmp_path / 'run'}")))
    taught = Run.open(tmp_path / "run")
    assert probe(taught, shards, "class", split="part", clips=1)["test"] == 16
    for split in ("other", None):
        with pytest.raises(UserError, match=r"learned the label 'class' of \d+ test videos"):
            probe(taught, shards, "class", split=split, clips=1)
    with pytest.raises(UserError, match="test with --split COLUMN"):
        svm(load(taught.root), shards, "class", ("other",), windows=1)
    probe(taught, shards, "drift", split="other", clips=1)  # another label is no secret


def test_labels_that_are_joined_are_no_classes(run, toy_shards, tmp_path):
    shards = relabel(toy_shards, tmp_path / "set", tags=["a;b", "a", "b", "c"] * 12)
    with pytest.raises(UserError, match=r"'tags' gives samples several labels \('a;b'\)"):
        probe(run, shards, "tags", clips=1)


def test_weights_of_another_architecture_are_one_line(run, toy_shards, tmp_path):
    shutil.copytree(run.root, tmp_path / "run")
    path = tmp_path / "run" / "recipe.yaml"
    path.write_text(path.read_text().replace("audio_tiny", "audio_small"))
    with pytest.raises(UserError, match=r"another architecture than audio_small: .* set audio.enc"):
        probe(Run.open(tmp_path / "run"), toy_shards, "class", clips=1)
