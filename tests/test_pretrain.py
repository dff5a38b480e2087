"""The loop: what a run leaves behind, and that stopping and resuming changes nothing."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from relabel import relabel
from sklearn.metrics import normalized_mutual_info_score

from xdc_fast.clips.host import HostFeed
from xdc_fast.clips.plan import EpochPlan
from xdc_fast.clips.windows import fixed_windows
from xdc_fast.encoders.build import build_encoders, modality_of
from xdc_fast.encoders.features import extract
from xdc_fast.encoders.inputs import Inputs
from xdc_fast.errors import UserError
from xdc_fast.evaluate.model import load
from xdc_fast.pretrain.bank import Bank
from xdc_fast.pretrain.learner import Learner, even_weights
from xdc_fast.pretrain.loop import pretrain
from xdc_fast.pretrain.methods import METHODS, clusterings_of, encoders_of
from xdc_fast.pretrain.run import Run
from xdc_fast.recipe import load_recipe

SETTINGS = (
    "k=6",
    "video.encoder=r2plus1d_tiny",
    "video.crop=32",
    "video.flip=false",
    "video.jitter=0.15",
    "audio.encoder=audio_tiny",
    "audio.jitter=0.15",
    "cluster.normalize=centered-l2",
    "train.iterations=2",
    "train.epochs=2",
    "train.batch=12",
    "train.lr=0.05",
    "train.warmup=3",
)  # 48 videos: 4 steps an epoch, 8 an iteration


def recipe(shards, out, *more):
    return load_recipe(None, (*SETTINGS, f"data={shards.root}", f"out={out}", *more))


@pytest.fixture(scope="module")
def finished(toy_shards, tmp_path_factory):
    """A whole run, and its summary."""
    out = tmp_path_factory.mktemp("run") / "xdc"
    summary = pretrain(recipe(toy_shards, out))
    return Run.open(out), summary


def weights(run):
    return {
        f"{modality}.{name}": tensor
        for modality, state in run.encoder_weights().items()
        for name, tensor in state.items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


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
    first, second = run.clusters(0), run.clusters(1)
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


def test_training_fits_the_labels(toy_shards):
    chosen = recipe(toy_shards, "")
    inputs = Inputs(chosen)
    feed = HostFeed(toy_shards, inputs.shape)
    plan = EpochPlan(toy_shards.shard_sizes, 12, shuffle=False)
    batch = next(feed.batches(plan, partial(fixed_windows, shape=inputs.shape)))
    labels = np.arange(48, dtype=np.int32) % 6
    learner = Learner(
        chosen, build_encoders(chosen), inputs, {"video": labels, "audio": labels}, iteration=0
    )
    losses = [learner.step(batch, 0, 0.05) for _ in range(40)]
    for name in ("video_from_audio_loss", "audio_from_video_loss"):
        assert losses[0][name].item() == pytest.approx(np.log(6), abs=0.1)
        assert losses[-1][name] < 0.5 * losses[0][name]


class Stop(Exception):
    """Stands for a process killed without warning."""


@pytest.mark.parametrize("at", [1, 4, 5, 8, 9, 13])
def test_killed_at_any_step_and_resumed_the_weights_are_the_same(
    at, finished, toy_shards, tmp_path, monkeypatch
):
    steps = iter(range(1, 100))
    step = Learner.step

    def dying(self, *arguments):
        if next(steps) == at:
            raise Stop
        return step(self, *arguments)

    chosen = recipe(toy_shards, tmp_path / "run", "train.checkpoint_steps=3")
    monkeypatch.setattr(Learner, "step", dying)
    with pytest.raises(Stop):
        pretrain(chosen)
    monkeypatch.setattr(Learner, "step", step)
    resumed = pretrain(chosen)
    whole, summary = finished
    run = Run.open(tmp_path / "run")
    assert same(weights(run), weights(whole))
    for ours, theirs in zip(resumed["iterations"], summary["iterations"], strict=True):
        for key in ("video_loss", "audio_loss", "nmi_previous_video", "nmi_audio_video"):
            assert ours[key] == theirs[key]
    steps_of = [[line for line in r.metrics() if "step" in line] for r in (run, whole)]
    assert steps_of[0] == steps_of[1]


def test_an_iteration_may_be_counted_in_steps(finished, toy_shards, tmp_path, monkeypatch):
    pretrain(recipe(toy_shards, tmp_path / "equal", "train.steps=8"))
    assert same(weights(Run.open(tmp_path / "equal")), weights(finished[0]))

    # 6 steps of epochs of 4: the second epoch is cut short, the next iteration begins a third
    cut = ("train.steps=6", "train.checkpoint_steps=5")
    seen, step = [], Learner.step

    def noting(self, batch, epoch, rate):
        seen.append((epoch, tuple(batch.index.tolist())))
        return step(self, batch, epoch, rate)

    monkeypatch.setattr(Learner, "step", noting)
    pretrain(recipe(toy_shards, tmp_path / "whole", *cut))
    assert [epoch for epoch, _ in seen] == [0] * 4 + [1] * 2 + [2] * 4 + [3] * 2
    assert sorted(i for _, index in seen[:4] for i in index) == list(range(48))
    assert len(set(seen)) == 12

    steps = iter(range(1, 100))

    def dying(self, *arguments):
        if next(steps) == 12:
            raise Stop
        return step(self, *arguments)

    monkeypatch.setattr(Learner, "step", dying)
    with pytest.raises(Stop):
        pretrain(recipe(toy_shards, tmp_path / "killed", *cut))
    monkeypatch.setattr(Learner, "step", step)
    pretrain(recipe(toy_shards, tmp_path / "killed", *cut))
    runs = (Run.open(tmp_path / name) for name in ("killed", "whole"))
    assert same(*map(weights, runs))


@pytest.mark.parametrize("where", ["save_clusters", "save_summary", "save_encoders"])
def test_killed_while_writing_and_resumed_the_run_is_whole(
    where, finished, toy_shards, tmp_path, monkeypatch
):
    def dying(*_):
        raise Stop

    chosen = recipe(toy_shards, tmp_path / "run")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        patch.setattr(Run, where, dying)
        pretrain(chosen)
    resumed = pretrain(chosen)
    assert len(resumed["iterations"]) == 2
    assert same(weights(Run.open(tmp_path / "run")), weights(finished[0]))


def test_two_processes_do_not_share_a_run(finished, toy_shards, tmp_path):
    chosen = recipe(toy_shards, tmp_path / "run")
    with (
        Run.start(chosen).hold(),
        pytest.raises(UserError, match="another process is at work there"),
    ):
        pretrain(chosen)


def test_dali_trains_as_the_host_path_does(finished, toy_shards, tmp_path):
    summary = pretrain(recipe(toy_shards, tmp_path / "run", "loader=dali"))
    ours, theirs = (s["iterations"][0] for s in (summary, finished[1]))
    for key in ("video_loss", "audio_loss"):
        assert ours[key] == pytest.approx(theirs[key], rel=0.05)


def test_damaged_files_of_a_run_are_named(finished, tmp_path):
    shutil.copytree(finished[0].root, tmp_path / "run")
    run = Run.open(tmp_path / "run")
    for name, read in (
        ("encoders.pt", run.encoder_weights),
        ("checkpoint.pt", run.checkpoint),
        ("iterations/001/video.npz", lambda: run.clusters(1)),
        ("summary.json", run.summary),
    ):
        path = run.root / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match=f"{path}: "):
            read()


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


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_step_on_a_gpu_waits_for_nothing(toy_shards):
    chosen = recipe(toy_shards, "", "device=cuda", "train.precision=bfloat16", "method=mdc")
    device, inputs = torch.device("cuda"), Inputs(chosen)
    rng = np.random.default_rng(0)
    labels = {m: rng.integers(6, size=48).astype(np.int32) for m in ("video", "audio")}
    learner = Learner(chosen, build_encoders(chosen, device), inputs, labels, 0)
    plan = EpochPlan(toy_shards.shard_sizes, 12, shuffle=False)
    feed = HostFeed(toy_shards, inputs.shape, device="cuda")
    batch = next(feed.batches(plan, partial(fixed_windows, shape=inputs.shape)))
    learner.step(batch, 0, 0.1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.step(batch, 0, 0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_signal_stops_with_a_checkpoint_and_the_same_command_goes_on(
    finished, toy_shards, tmp_path
):
    path = tmp_path / "recipe.yaml"
    path.write_text("")
    command = [
        str(Path(sys.executable).with_name("xdc")), "pretrain", str(path), *SETTINGS,
        f"data={toy_shards.root}", f"out={tmp_path / 'run'}",
    ]  # fmt: skip
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    while not (metrics.is_file() and metrics.stat().st_size):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM
    assert "the same command goes on" in stderr and "Traceback" not in stderr
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    subprocess.run(command, check=True, capture_output=True, env=environment)
    assert same(weights(Run.open(tmp_path / "run")), weights(finished[0]))


def test_a_finished_run_is_not_run_again(finished, toy_shards):
    run, summary = finished
    before = (run.root / "checkpoint.pt").stat().st_mtime_ns
    assert pretrain(run.recipe) == summary
    assert (run.root / "checkpoint.pt").stat().st_mtime_ns == before


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
    kept = set(Run.open(tmp_path / method).clusters(0))
    assert {"joint" if "+" in name else name for name in names} == kept
    encoders = {head.encoder for head in METHODS[method]}
    assert set(Run.open(tmp_path / method).checkpoint()["encoders"]) == encoders
    assert set(load(tmp_path / method).heads) == {head.name for head in METHODS[method]}


@pytest.mark.parametrize(
    ("settings", "kept"),
    [((), True), (("train.heads=new",), False), (("cluster.warm=false",), False)],
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


def test_supervised_pretraining_learns_the_labels_and_no_clusters(toy_shards, tmp_path):
    chosen = recipe(
        toy_shards, tmp_path / "run", "method=supervised", "label=class", "k=4",
        "train.iterations=1", "train.epochs=8",
    )  # fmt: skip
    record = pretrain(chosen)["iterations"][0]
    codes, _ = toy_shards.label("class")
    kept = Run.open(tmp_path / "run").clusters(0)["label"]
    assert np.array_equal(kept["assignment"], codes)
    own = np.array([kept["distance"][codes == c].mean() for c in range(4)])
    assert (own > 0).all() and record["clusters"]["label"]["inertia"] == pytest.approx(
        kept["distance"].mean(), rel=1e-5
    )
    # of unit vectors, the mean squared distance to their mean m is 1 - |m|^2
    length = np.linalg.norm(kept["centroids"], axis=1) ** 2
    np.testing.assert_allclose(own, 1 - length, atol=1e-4)
    assert record["clusters"]["label"]["labels"]["class"]["nmi"] == pytest.approx(1)
    lines = [line for line in Run.open(tmp_path / "run").metrics() if "step" in line]
    first, last = lines[:4], lines[-4:]
    for name in ("video_from_label_loss", "audio_from_label_loss"):
        assert sum(x[name] for x in last) < 0.8 * sum(x[name] for x in first)


def test_supervised_pretraining_leaves_the_test_part_out(toy_shards, tmp_path):
    part = ["test" if i // 4 % 3 == 0 else "train" for i in range(48)]
    shards = relabel(toy_shards, tmp_path / "set", part=part)
    supervised = ("method=supervised", "label=class", "k=4", "train.iterations=1")
    pretrain(recipe(shards, tmp_path / "run", *supervised, "split=part"))
    codes = shards.label("class")[0]
    kept = Run.open(tmp_path / "run").clusters(0)["label"]["assignment"]
    assert np.array_equal(kept, np.where(np.array(part) == "train", codes, -1))
    with pytest.raises(UserError, match="no sample with a label 'class' is `train` in column 'cl"):
        pretrain(recipe(shards, tmp_path / "other", *supervised, "split=class"))
    assert not (tmp_path / "other").exists()


def test_of_several_labels_each_iteration_draws_one(toy_shards, tmp_path):
    shards = relabel(toy_shards, tmp_path / "set", tags=["a;b", "a", "", "c"] * 12)
    chosen = recipe(shards, tmp_path / "run", "method=supervised", "label=tags", "k=3",
                    "train.epochs=1", "train.iterations=6")  # fmt: skip
    pretrain(chosen)
    drawn = np.array(
        [Run.open(tmp_path / "run").clusters(n)["label"]["assignment"] for n in range(6)]
    ).reshape(6, 12, 4)
    assert (drawn[:, :, 1:] == [0, -1, 2]).all()
    assert set(drawn[:, :, 0].flat) == {0, 1}
    assert 20 < drawn[:, :, 0].sum() < 52  # of 72, half are b
    assert (drawn[0, :, 0] != drawn[1, :, 0]).any()


def test_figures_are_of_the_clips_that_have_a_label(toy_shards):
    chosen = recipe(toy_shards, "")
    labels = np.where(np.arange(48) % 3 == 0, 2, -1).astype(np.int32)
    inputs = Inputs(chosen)
    learner = Learner(chosen, build_encoders(chosen), inputs, {"video": labels, "audio": labels}, 0)
    for head in learner.heads.values():
        head.bias.data[2] = 1000  # whatever the clip: class 2
    plan = EpochPlan(toy_shards.shard_sizes, 12, shuffle=False)
    feed = HostFeed(toy_shards, inputs.shape)
    batch = next(feed.batches(plan, partial(fixed_windows, shape=inputs.shape)))
    figures = learner.step(batch, 0, 0.0)
    assert {float(value) for key, value in figures.items() if "accuracy" in key} == {1.0}


def test_in_the_control_no_encoder_learns_from_itself_or_the_other_modality():
    for head in METHODS["same"]:
        (teacher,) = head.clustering
        assert teacher != head.encoder and modality_of(teacher) == modality_of(head.encoder)
    encoders = build_encoders(load_recipe(None, SETTINGS), names=encoders_of("same"))
    for modality in ("video", "audio"):
        one, other = (next(encoders[m].parameters()) for m in (modality, modality + "_twin"))
        assert one.shape == other.shape and not torch.equal(one, other)


@pytest.mark.parametrize("at", [5, 9, 13])
def test_a_memory_bank_survives_a_kill(at, toy_shards, tmp_path, monkeypatch):
    banked = ("cluster.features=training", "train.checkpoint_steps=3")
    summary = pretrain(recipe(toy_shards, tmp_path / "whole", *banked))
    steps, step = iter(range(1, 100)), Learner.step

    def dying(self, *arguments):
        if next(steps) == at:
            raise Stop
        return step(self, *arguments)

    chosen = recipe(toy_shards, tmp_path / "run", *banked)
    monkeypatch.setattr(Learner, "step", dying)
    with pytest.raises(Stop):
        pretrain(chosen)
    monkeypatch.setattr(Learner, "step", step)
    assert pretrain(chosen)["iterations"][1]["video_loss"] == summary["iterations"][1]["video_loss"]
    assert same(weights(Run.open(tmp_path / "run")), weights(Run.open(tmp_path / "whole")))


def test_a_memory_bank_holds_the_features_of_the_newest_step():
    bank = Bank(5, {"video": 2})
    for value, index in ((1.0, [0, 1]), (2.0, [1, 3])):
        bank.add(torch.tensor(index), {"video": torch.full((2, 2), value)})
    features, seen = bank.features()
    assert features["video"][:, 0].tolist() == [1, 2, 0, 2, 0]
    assert seen.tolist() == [True, True, False, True, False]
    again, _ = Bank(5, {"video": 2}, bank.state_dict()).features()
    assert np.array_equal(again["video"], features["video"])


def test_balanced_losses_are_those_of_sampling_uniformly_over_clusters():
    assignment = np.repeat([0, 1, 2, 2, 4], [50, 5, 20, 20, 1]).astype(np.int32)
    losses = np.random.default_rng(0).random(len(assignment))
    weight = even_weights(assignment, 5)[assignment]
    uniform = np.mean([losses[assignment == c].mean() for c in np.unique(assignment)])
    assert (weight * losses).mean() == pytest.approx(uniform)
    assert weight.mean() == pytest.approx(1)


def test_only_sdc_balances_by_itself(toy_shards):
    labels = np.arange(48, dtype=np.int32) // 9
    for method, asked, balanced in (
        ("xdc", "auto", False), ("sdc", "auto", True), ("xdc", "always", True),
        ("sdc", "never", False),
    ):  # fmt: skip
        chosen = recipe(toy_shards, "", f"method={method}", f"train.balance={asked}")
        names = {"video": labels, "audio": labels}
        learner = Learner(chosen, build_encoders(chosen), Inputs(chosen), names, iteration=0)
        assert all((w is not None) == balanced for w in learner.weights.values())


def test_a_cross_modal_head_learns_the_other_modalitys_clusters():
    assert {(h.encoder, h.clustering) for h in METHODS["xdc"]} == {
        ("video", ("audio",)),
        ("audio", ("video",)),
    }


def test_mistakes_are_refused_before_anything_is_written(toy_shards, toy_h264, finished, tmp_path):
    out = tmp_path / "run"
    for more, message in (
        (("method=moco",), "method=moco: known are xdc"),
        (("train.batch=64",), "48 samples do not fill one step of 64"),
        (("k=49",), "k=49 clusters of 48 samples"),
        (("data=",), "give data=FOLDER"),
        (("train.precision=bfloat16", "device=cpu"), "set train.precision=float32"),
        (("data=/nowhere",), "/nowhere: no manifest.json"),
    ):
        with pytest.raises(UserError, match=message):
            pretrain(recipe(toy_shards, out, *more))
        assert not out.exists()
    with pytest.raises(UserError, match="40x40 pixels, the recipe crops 64"):
        pretrain(recipe(toy_shards, out, "video.crop=64"))
    pretrain(recipe(toy_shards, out, "train.iterations=1"))  # mended in the same folder
    run, _ = finished
    with pytest.raises(UserError, match=r"another recipe: k=7 \(was 6\)"):
        pretrain(recipe(toy_shards, run.root, "k=7"))
    kept = (run.root / "recipe.yaml").read_text()
    with pytest.raises(UserError, match="was started on other shards"):
        pretrain(recipe(toy_h264, run.root))
    assert (run.root / "recipe.yaml").read_text() == kept
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").touch()
    with pytest.raises(UserError, match="not empty and not a run"):
        pretrain(recipe(toy_shards, tmp_path / "photos"))


@pytest.mark.parametrize("often", [500, 1])
def test_a_diverging_run_stops_with_the_last_good_checkpoint(often, toy_shards, tmp_path):
    wild = ("train.lr=1e30", "train.warmup=0", f"train.checkpoint_steps={often}")
    with pytest.raises(UserError, match=r"(loss is (nan|inf) at|not finite after) iteration 1, st"):
        pretrain(recipe(toy_shards, tmp_path / "run", *wild))
    assert_sound(tmp_path / "run", toy_shards)


def test_a_run_that_diverges_in_its_last_step_is_not_finished(toy_shards, tmp_path):
    wild = ("train.lr=1e30", "train.warmup=0", "train.steps=1", "train.iterations=1")
    with pytest.raises(UserError, match="not finite after iteration 1, step 1; the checkpoint bef"):
        pretrain(recipe(toy_shards, tmp_path / "run", *wild))
    assert not (tmp_path / "run" / "encoders.pt").exists()
    assert_sound(tmp_path / "run", toy_shards)


def assert_sound(root, shards):
    """The weights of a run's checkpoint give finite features."""
    chosen = Run.open(root).recipe
    encoders, inputs = build_encoders(chosen), Inputs(chosen)
    for name, weights in Run.open(root).checkpoint()["encoders"].items():
        encoders[name].load_state_dict(weights)
    features, _ = extract(encoders, HostFeed(shards, inputs.shape), inputs, 12)
    assert all(np.isfinite(values).all() for values in features.values())


def test_checkpoints_that_do_not_fit_are_one_line(finished, toy_shards, tmp_path):
    run, _ = finished
    for change, match in (
        (lambda saved: saved.pop("state"), "not a checkpoint of this version"),
        (lambda saved: saved["state"].update(more=1), "not a checkpoint of this version"),
        (lambda saved: saved["encoders"]["audio"].pop("stem.0.weight"),
         "weights of another architecture than audio_tiny: no stem.0.weight"),
    ):  # fmt: skip
        root = Path(shutil.copytree(run.root, tmp_path / "run"))
        saved = torch.load(root / "checkpoint.pt")
        change(saved)
        torch.save(saved, root / "checkpoint.pt")
        with pytest.raises(UserError, match=f"{root / 'checkpoint.pt'}: {match}"):
            pretrain(recipe(toy_shards, root))
        shutil.rmtree(root)
