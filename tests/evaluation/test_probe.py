"""The probe: its split, its accuracy against scikit-learn, and its refusals."""

import hashlib
import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score
from sklearn.preprocessing import StandardScaler

from tests.common.relabel import relabel
from tests.common.runs import TINY
from tests.common.toy import pack_toy
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import fixed_windows
from xdc_fast.encoders.build import build_encoders
from xdc_fast.encoders.r2plus1d import r2plus1d_tiny
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.evaluation.probe import (
    ProbeSettings,
    classify,
    divide,
    label_nmi,
    probe,
    probe_labels,
)
from xdc_fast.evaluation.svm import svm
from xdc_fast.models import official
from xdc_fast.models.export import write_export
from xdc_fast.models.load import load
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.recipe import Cluster, load_recipe

ONE = ProbeSettings(clips=1)
rng = np.random.default_rng(0)


@pytest.fixture(scope="module")
def run(toy_shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("probe") / "run"
    settings = (*TINY, "train.iterations=1", "train.epochs=1", "train.batch=12")
    pretrain(load_recipe(None, (*settings, f"data={toy_shards.root}", f"out={out}")))
    return out


@pytest.fixture(scope="module")
def result(run, toy_shards):
    """The probe of the run's classes, one clip a video."""
    return probe(load(run), toy_shards, "class", ONE)


def kept(folder):
    """The results in a folder's probes."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("probes/*.json"))]


def test_the_result_keeps_its_contract_and_stays_with_the_run(run, result, toy_shards):
    assert result in kept(run)
    assert list(result)[:7] == ["label", "classes", "chance", "video", "audio", "train", "test"]
    about = {"where": str(run), "finished": True, "data": str(toy_shards.root)}
    about |= {"shards": toy_shards.fingerprint, "split": None, "test_share": 0.3, "clips": 1}
    about |= {"seed": 0, "k": 4}
    assert {key: result[key] for key in about} == about
    assert (result["classes"], result["train"], result["test"]) == (4, 33, 15)
    assert result["chance"] == pytest.approx(4 / 15)  # 15 of 4 classes: one has 3, others 4
    for modality in ("video", "audio"):
        assert set(result[modality]) == {"pretrained", "random"}
        assert all(0 <= value <= 1 for value in result[modality].values())
        for nmi in (result["nmi"][modality], result["nmi_random"][modality]):
            assert set(nmi) == set(toy_shards.label_names)
            assert all(0 <= value <= 1 for value in nmi.values())
    assert result["nmi"] != result["nmi_random"]


def test_the_result_says_the_predicted_class_of_each_test_video(result, toy_shards):
    codes, classes = toy_shards.label("class")
    test = divide(toy_shards, "class", codes, classes, ONE).test
    assert result["tested"] == test.tolist() and result["names"] == list(classes)
    for modality in ("video", "audio"):
        for key, accuracy in result[modality].items():
            found = np.array(result["predicted"][modality][key])
            assert found.shape == test.shape
            assert (found == codes[test]).mean() == pytest.approx(accuracy)


def figures(result):
    """What a result says of the encoders, whatever they are called."""
    return {key: result[key] for key in ("video", "audio", "nmi", "nmi_random") if key in result}


def test_a_checkpoint_and_an_export_are_probed_as_their_run(run, result, toy_shards, tmp_path):
    write_export(tmp_path / "export", load(run))
    for where in (run / "encoders.pt", run / "checkpoint.pt", tmp_path / "export"):
        found = probe(load(where), toy_shards, "class", ONE, out=tmp_path / "results")
        assert found["where"] == str(where) and found["finished"]
        assert figures(found) == figures(result)
    assert len(kept(tmp_path / "results")) == 1  # the same weights, the same file


def test_random_encoders_are_their_own_start(result, toy_shards, tmp_path):
    recipe = load_recipe(None, (*TINY, "train.batch=12"))
    found = probe(load("random", recipe=recipe), toy_shards, "class", ONE, out=tmp_path)
    for modality in ("video", "audio"):
        assert found[modality]["pretrained"] == found[modality]["random"]
        assert found[modality]["random"] == result[modality]["random"]
    assert found["nmi"] == found["nmi_random"] == result["nmi_random"]
    assert kept(tmp_path) == [found]


def test_the_authors_weights_are_probed_by_their_pictures(toy_shards, tmp_path, monkeypatch):
    monkeypatch.setattr(official, "ENCODER", "r2plus1d_tiny")  # theirs takes a minute
    torch.save(r2plus1d_tiny().state_dict(), tmp_path / "draft")
    digits = hashlib.sha256((tmp_path / "draft").read_bytes()).hexdigest()[:8]
    file = (tmp_path / "draft").rename(tmp_path / f"xdc-{digits}.pth")
    recipe = load_recipe(None, (*TINY, "train.batch=12"))
    found = probe(load(file, recipe=recipe), toy_shards, "class", ONE, out=tmp_path)
    assert "audio" not in found and set(found["video"]) == {"pretrained", "random"}
    assert found["nmi"].keys() == found["nmi_random"].keys() == {"video"}


def test_one_modality_and_a_set_of_one_track(run, result, toy_shards, toy_videos, tmp_path):
    found = probe(load(run), toy_shards, "class", ONE, modality="audio", out=tmp_path / "out")
    assert "video" not in found and found["audio"].keys() == {"pretrained", "random"}
    sound = pack_toy(toy_videos, tmp_path / "sound", tracks="audio")
    alone = probe(load(run), sound, "class", ONE, out=tmp_path / "out")
    assert alone["audio"].keys() == found["audio"].keys() and "video" not in alone
    assert len(kept(tmp_path / "out")) == 2
    with pytest.raises(UserError, match=r"sound holds audio, .* nothing to evaluate on video"):
        probe(load(run), sound, "class", ONE, modality="video")


def test_unfinished_runs_are_marked_and_keep_results_of_their_own(run, toy_shards, tmp_path):
    copy = shutil.copytree(run, tmp_path / "run")
    (copy / "encoders.pt").unlink()
    shutil.rmtree(copy / "probes", ignore_errors=True)
    found = probe(load(copy), toy_shards, "class", ONE, modality="audio")
    assert not found["finished"] and kept(copy) == [found]
    write_export(tmp_path / "export", load(copy))
    exported = probe(load(tmp_path / "export"), toy_shards, "class", ONE, modality="audio")
    assert not exported["finished"]


def test_results_of_labels_and_options_do_not_collide(run, toy_shards, tmp_path):
    codes = [row["class"] for row in toy_shards.table()]
    other = codes[4:] + codes[:4]
    shards = relabel(toy_shards, tmp_path / "set", **{"a/b": codes, "a_b": other})
    model = load(run)
    found = [
        probe(model, shards, label, settings, modality="audio", out=tmp_path / "out")
        for label, settings in (
            ("a/b", ONE), ("a_b", ONE), ("a_b", replace(ONE, seed=1)), ("a_b", replace(ONE, k=5)),
        )
    ]  # fmt: skip
    in_files = kept(tmp_path / "out")
    assert len(in_files) == 4 and all(result in in_files for result in found)


def test_a_run_of_a_gpu_is_probed_on_a_cpu(run, result, toy_shards, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    copy = shutil.copytree(run, tmp_path / "run")
    recipe = copy / "recipe.yaml"
    recipe.write_text(recipe.read_text().replace("device: cpu", "device: cuda"))
    with pytest.raises(UserError, match="device=cuda: no CUDA device is usable here"):
        load(copy)
    found = probe(load(copy, ("device=cpu",)), toy_shards, "class", ONE)
    assert figures(found) == figures(result)


def test_labels_share_their_features(run, toy_shards, tmp_path):
    how = {"modality": "audio", "out": tmp_path}
    both = probe_labels(load(run), toy_shards, ("drift", "class"), ONE, **how)
    assert [found["label"] for found in both] == ["drift", "class"]
    assert both[1] == probe(load(run), toy_shards, "class", ONE, **how)


def test_the_nmi_is_scikit_learns(toy_shards):
    codes, _ = toy_shards.label("class")
    features = 9 * np.eye(6)[codes] + rng.standard_normal((48, 6))
    valid = np.ones(48, dtype=bool)
    valid[5] = False
    columns = toy_shards.label_names
    found = label_nmi(features, valid, 4, Cluster(), 0, toy_shards, columns)
    clusters = KMeans(4, n_init=10, random_state=0).fit_predict(features[valid])
    for name in columns:
        expected = normalized_mutual_info_score(toy_shards.label(name)[0][valid], clusters)
        assert found[name] == pytest.approx(expected)
    assert found["class"] > 0.9


def test_few_or_like_features_make_fewer_clusters(toy_shards):
    features, valid = rng.standard_normal((48, 6)), np.ones(48, dtype=bool)
    many = label_nmi(features, valid, 40, Cluster(pca=20), 0, toy_shards, ["class"])
    assert many == label_nmi(features, valid, 12, Cluster(pca=6), 0, toy_shards, ["class"])
    collapsed = label_nmi(np.ones((48, 6)), valid, 4, Cluster(), 0, toy_shards, ["class"])
    assert collapsed["class"] == 0


def test_the_random_encoders_are_the_runs_own_start(run, result, toy_shards):
    """Its weights, its BatchNorm set to the mean over the set's clips."""
    recipe = load(run).recipe
    encoder = build_encoders(recipe)["audio"]
    inputs = ClipTransform(recipe)
    loader = HostLoader(toy_shards, inputs.shape)
    for module in encoder.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
            module.reset_running_stats()
    windows = partial(fixed_windows, shape=inputs.shape)
    sampler = EpochSampler(toy_shards.shard_sizes, 12, shuffle=False)
    with torch.no_grad():
        for batch in loader.batches(sampler, windows):
            encoder.train()(inputs.of("audio", batch))
        rows = [encoder.eval()(inputs.of("audio", b)) for b in loader.batches(sampler, windows)]
    codes, classes = toy_shards.label("class")
    train, test = divide(toy_shards, "class", codes, classes, ONE)[1:]
    found = classify(torch.cat(rows).numpy(), codes, train, test, 0)
    assert found.tolist() == result["predicted"]["audio"]["random"]


def test_the_classifier_is_a_plain_logistic_regression():
    codes = rng.integers(0, 3, 300)
    features = np.eye(3)[codes] @ rng.standard_normal((3, 8)) + rng.standard_normal((300, 8))
    train, test = np.arange(200), np.arange(200, 300)
    scaler = StandardScaler().fit(features[train])
    plain = LogisticRegression(max_iter=2000).fit(scaler.transform(features[train]), codes[train])
    expected = plain.score(scaler.transform(features[test]), codes[test])
    found = (classify(features, codes, train, test, seed=0) == codes[test]).mean()
    assert found == pytest.approx(expected, abs=0.05)
    noise = rng.standard_normal((300, 8))
    assert (classify(noise, codes, train, test, seed=0) == codes[test]).mean() < 0.5


def test_a_random_split_is_stratified_seeded_and_by_video(toy_shards):
    codes, classes = toy_shards.label("class")

    def split(seed):
        settings = ProbeSettings(test_share=0.25, seed=seed)
        return divide(toy_shards, "class", codes, classes, settings)[1:]

    train, test = split(0)
    assert sorted([*train, *test]) == list(range(48))
    assert np.bincount(codes[test]).tolist() == [3, 3, 3, 3]
    assert np.array_equal(split(0)[1], test) and not np.array_equal(split(1)[1], test)


def test_a_split_column_is_followed(toy_shards, tmp_path):
    part = ["validation"] * 4 + ["test" if i % 4 == 0 else "train" for i in range(4, 48)]
    shards = relabel(toy_shards, tmp_path / "set", part=part)
    codes, classes = shards.label("drift")
    train, test = divide(shards, "drift", codes, classes, ProbeSettings("part"))[1:]
    assert test.tolist() == list(range(4, 48, 4))
    assert not {0, 1, 2, 3} & {*train}


def test_mistakes_are_refused(run, toy_shards, tmp_path):
    with pytest.raises(UserError, match="no label 'clas'; did you mean 'class'"):
        probe(load(run), toy_shards, "clas")
    lonely = [row["class"] for row in toy_shards.table()]
    lonely[7] = "9"
    shards = relabel(toy_shards, tmp_path / "set", part=["train"] * 48, **{"class": lonely})
    with pytest.raises(UserError, match=r"class '9' of 'class' has 1 training videos"):
        probe(load(run), shards, "class")
    with pytest.raises(UserError, match="column 'part' has no 'test'"):
        probe(load(run), shards, "class", ProbeSettings("part"))


def test_a_supervised_run_is_not_probed_on_what_it_learned(run, toy_shards, tmp_path):
    """Nor on segments of the files whose other segments it learned: those of `fresh`."""
    parts = [i // 4 % 3 for i in range(48)]
    columns = {
        "part": [("test", "train", "")[k] for k in parts],
        "fresh": [("train", "", "test")[k] for k in parts],
    }
    columns["other"] = columns["part"][1:] + columns["part"][:1]
    source = [f"{i - 4 if k == 2 else i}.mp4" for i, k in enumerate(parts)]
    shards = relabel(toy_shards, tmp_path / "set", source=source, **columns)
    settings = ("video.encoder=r2plus1d_tiny", "video.crop=32", "audio.encoder=audio_tiny", "k=4",
                "train.iterations=1", "train.epochs=1", "train.batch=12", "method=supervised",
                "label=class", "split=part", f"data={shards.root}")  # fmt: skip
    pretrain(load_recipe(None, (*settings, f"out={tmp_path / 'run'}")))
    taught = load(tmp_path / "run")
    assert probe(taught, shards, "class", replace(ONE, split="part"))["test"] == 16
    for split in ("other", "fresh"):
        with pytest.raises(UserError, match=r"learned the label 'class' of \d+ test videos"):
            probe(taught, shards, "class", replace(ONE, split=split))
    with pytest.raises(UserError, match="test with --split COLUMN"):
        svm(taught, shards, "class", ("other",), clips=1)
    probe(taught, shards, "drift", replace(ONE, split="other"))  # another label is no secret


def test_labels_that_are_joined_are_no_classes(run, toy_shards, tmp_path):
    shards = relabel(toy_shards, tmp_path / "set", tags=["a;b", "a", "b", "c"] * 12)
    with pytest.raises(UserError, match=r"'tags' has several labels in a cell \('a;b'\)"):
        probe(load(run), shards, "tags", ONE)


def test_weights_of_another_architecture_are_one_line(run, tmp_path):
    shutil.copytree(run, tmp_path / "run")
    path = tmp_path / "run" / "recipe.yaml"
    path.write_text(path.read_text().replace("audio_tiny", "audio_small"))
    with pytest.raises(UserError, match=r"another architecture than audio_small: .* set audio.enc"):
        load(tmp_path / "run")


def test_results_do_not_go_into_a_shard_set(toy_shards):
    model = load("random", recipe=load_recipe(None, TINY))
    before = sorted(path.name for path in toy_shards.root.iterdir())
    with pytest.raises(UserError, match="holds a shard set; give another folder with --out"):
        probe(model, toy_shards, "class", ONE, out=toy_shards.root)
    assert sorted(path.name for path in toy_shards.root.iterdir()) == before
