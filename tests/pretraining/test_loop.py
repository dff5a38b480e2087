"""What a run leaves behind, of every method."""

import json

import numpy as np
import pytest
import torch
from sklearn.metrics import normalized_mutual_info_score

from tests.common.pretraining import Stop, recipe, same
from tests.common.pretraining import weights as weights_of
from tests.common.relabel import relabel
from xdc_fast.clips.host import HostLoader
from xdc_fast.encoders.build import build_encoders
from xdc_fast.encoders.features import compute_features
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.models.load import load
from xdc_fast.pretraining.learner import Learner
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.pretraining.methods import METHODS, clusterings_of
from xdc_fast.pretraining.run import Run


def test_the_summary_keeps_its_contract(finished, toy_shards):
    run, summary = finished
    assert json.loads((run.root / "summary.json").read_text()) == summary
    assert (summary["method"], summary["k"], summary["samples"]) == ("xdc", 6, 48)
    assert len(summary["iterations"]) == 2 and summary["seconds"] > 0
    for number, record in enumerate(summary["iterations"]):
        assert record["iteration"] == number
        assert 0 < record["video_loss"] < 5 and 0 < record["audio_loss"] < 5
        assert (record["nmi_previous_video"] is None) == (number == 0)
        assert 0 <= record["nmi_audio_video"] <= 1
        assert record["clips_per_second"] > 0
        assert 0 <= record["data_wait_share"] <= 1


def test_recorded_agreements_are_those_of_the_kept_assignments(finished, toy_shards):
    run, summary = finished
    first, second = run.clusters(0, 48), run.clusters(1, 48)
    record = summary["iterations"][1]
    nmi = normalized_mutual_info_score
    for modality in ("video", "audio"):
        a, b = first[modality]["assignment"], second[modality]["assignment"]
        assert record[f"nmi_previous_{modality}"] == pytest.approx(nmi(a, b))
        truth = [row["class"] for row in toy_shards.table()]
        labels = record["clusters"][modality]["labels"]
        assert labels["class"]["nmi"] == pytest.approx(nmi(truth, b))
        sizes = np.bincount(b, minlength=6)
        assert record["clusters"][modality]["sizes"]["max"] == sizes.max()
    both = nmi(second["video"]["assignment"], second["audio"]["assignment"])
    assert record["nmi_audio_video"] == pytest.approx(both)


def test_metrics_are_lines_of_every_logged_step_and_iteration(finished):
    run, _ = finished
    lines = run.metrics()
    steps = [(line["iteration"], line["step"]) for line in lines if "step" in line]
    assert steps == [(i, s) for i in range(2) for s in range(1, 9)]
    assert sum("clusters" in line for line in lines) == 2
    assert list((run.root / "tensorboard").iterdir())


def test_dali_trains_as_the_host_path_does(finished, toy_shards, tmp_path):
    summary = pretrain(recipe(toy_shards, tmp_path / "run", "loader=dali"))
    ours, theirs = (s["iterations"][0] for s in (summary, finished[1]))
    for key in ("video_loss", "audio_loss"):
        assert ours[key] == pytest.approx(theirs[key], rel=0.05)


@pytest.mark.gpu
@pytest.mark.parametrize(
    "settings",
    [
        ("loader=dali",),
        ("loader=host",),
        ("train.precision=bfloat16",),
        ("train.compile=true", "train.precision=bfloat16"),
        ("cluster.features=training",),
    ],
    ids=" ".join,
)
def test_the_loop_runs_on_a_gpu(settings, finished, toy_shards, tmp_path):
    chosen = recipe(toy_shards, tmp_path / "run", "device=cuda", *settings)
    first, last = pretrain(chosen)["iterations"]
    expected = finished[1]["iterations"][0]
    for name in ("video_loss", "audio_loss"):
        assert first[name] == pytest.approx(expected[name], rel=0.2)
        assert 0 < last[name] < 5
    for weights in Run.open(tmp_path / "run").encoder_weights().values():
        assert all(bool(torch.isfinite(tensor).all()) for tensor in weights.values())


@pytest.mark.parametrize("method", sorted(METHODS))
def test_every_method_trains_the_heads_of_its_table(method, toy_shards, tmp_path):
    labeled = ("label=class", "k=4") if method == "supervised" else ()
    chosen = recipe(
        toy_shards, tmp_path / method, f"method={method}", "train.iterations=1", *labeled
    )
    summary = pretrain(chosen)
    record = summary["iterations"][0]
    assert record["video_loss"] > 0 and record["audio_loss"] > 0
    names = {"+".join(c) for c in clusterings_of(method)}
    kept = set(Run.open(tmp_path / method).clusters(0, 48))
    assert {"joint" if "+" in name else name for name in names} == kept
    encoders = {head.encoder for head in METHODS[method]}
    saved = torch.load(tmp_path / method / "checkpoint.pt")
    assert set(saved["encoders"]) == encoders
    assert set(load(tmp_path / method).heads) == {head.name for head in METHODS[method]}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [((), True), (("train.heads=new",), False), (("cluster.warm_start=false",), False)],
)
def test_heads_go_on_where_their_clusters_do(settings, kept, toy_shards, tmp_path, monkeypatch):
    begun, start = [], Learner.__init__

    def noting(self, *arguments, **more):
        start(self, *arguments, **more)
        begun.append({name: head.weight.detach().clone() for name, head in self.heads.items()})

    def dying(*_):
        raise Stop

    monkeypatch.setattr(Learner, "__init__", noting)
    chosen = recipe(toy_shards, tmp_path / "run", "train.epochs=1", *settings)
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Run, "save_summary", dying)
        pretrain(chosen)
    ended = torch.load(tmp_path / "run" / "heads.pt")
    pretrain(chosen)
    for name, weight in begun[-1].items():
        assert torch.equal(weight, ended[name]["weight"]) == kept
        assert not torch.equal(weight, begun[0][name])


@pytest.fixture
def diverging(monkeypatch):
    """A learning rate above all that a recipe permits: the first step overflows."""
    monkeypatch.setattr(f"{pretrain.__module__}.learning_rate", lambda *_: 1e30)


@pytest.mark.parametrize("often", [500, 1])
@pytest.mark.usefixtures("diverging")
def test_a_diverging_run_stops_with_the_last_good_checkpoint(often, toy_shards, tmp_path):
    wild = (f"train.checkpoint_steps={often}",)
    with pytest.raises(UserError, match=r"(loss is (nan|inf) at|not finite after) iteration 1, st"):
        pretrain(recipe(toy_shards, tmp_path / "run", *wild))
    assert_sound(tmp_path / "run", toy_shards)


@pytest.mark.usefixtures("diverging")
def test_a_run_that_diverges_in_its_last_step_is_not_finished(toy_shards, tmp_path):
    wild = ("train.steps=1", "train.iterations=1")
    with pytest.raises(UserError, match="not finite after iteration 1, step 1; the checkpoint bef"):
        pretrain(recipe(toy_shards, tmp_path / "run", *wild))
    assert not (tmp_path / "run" / "encoders.pt").exists()
    assert_sound(tmp_path / "run", toy_shards)


def assert_sound(root, shards):
    """The weights of a run's checkpoint give finite features."""
    chosen = Run.open(root).recipe
    encoders, inputs = build_encoders(chosen), ClipTransform(chosen)
    Run.open(root).read_state(encoders, 8)
    found = compute_features(encoders, HostLoader(shards, inputs.shape), inputs, 12)
    assert all(np.isfinite(values).all() for values in found.arrays.values())


@pytest.mark.parametrize("gathered", ["pass", "training"])
def test_a_run_with_a_split_never_reads_its_test_part(toy_shards, tmp_path, gathered):
    part = np.array(["test" if i // 4 % 3 == 0 else "train" for i in range(48)])
    held = relabel(toy_shards, tmp_path / "set", part=part.tolist())
    whole = pretrain(recipe(held, tmp_path / "whole", "split=part", f"cluster.features={gathered}"))
    run = Run.open(tmp_path / "whole")
    for number in range(2):
        for clusters in run.clusters(number, 48).values():
            assert (clusters["assignment"][part == "test"] == -1).all()
            assert np.isinf(clusters["distance"][part == "test"]).all()
    assert whole["iterations"][0]["clusters"]["n_unreadable"] == 0
    steps = [line["step"] for line in run.metrics() if "step" in line]
    assert max(steps) == 2 * (32 // 12)
    assert (whole["samples"], whole["learned"]) == (48, 32)

    # the test part's pictures and sound are destroyed, and the weights are the same
    for name in held.shards:
        content = bytearray((held.root / name).read_bytes())
        for i, (line, row) in enumerate(zip(held.table(), held.rows(), strict=True)):
            if line["shard"] == name and part[i] == "test":
                for track in ("video", "audio"):
                    content[row[track] : row[track] + 500] = bytes(500)
        (held.root / name).unlink()
        (held.root / name).write_bytes(content)
    pretrain(recipe(held, tmp_path / "damaged", "split=part", f"cluster.features={gathered}"))
    assert same(weights_of(run), weights_of(Run.open(tmp_path / "damaged")))
