"""`xdc sweep`: which runs it makes, in which folders, and that its tables are what the runs say."""

import csv
import fcntl
import json
import os
import re
import shutil
import signal
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.common.pretraining import same, weights
from tests.common.relabel import relabel
from tests.common.reporting import Page
from tests.common.scripts import run_script
from tests.common.toy import pack_toy
from xdc_fast.errors import UserError
from xdc_fast.evaluation import sweep as sweeping
from xdc_fast.evaluation.probe import ProbeSettings, probe, probe_labels
from xdc_fast.evaluation.trials import plan
from xdc_fast.models.load import load
from xdc_fast.pretraining.learner import Learner
from xdc_fast.pretraining.run import Run
from xdc_fast.report.sweep import write_sweep
from xdc_fast.tools import Group
from xdc_fast.tools.sweep import sweep as command

TINY = """
k: 4
video: {encoder: r2plus1d_tiny, crop: 32}
audio: {encoder: audio_tiny}
train: {iterations: 1, epochs: 1, batch: 12, warmup: 1}
"""
NAMES = [f"method={m},k=4,seed={s}" for s in (0, 1) for m in ("sdc", "xdc")]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory):
    path = tmp_path_factory.mktemp("recipe") / "tiny.yaml"
    path.write_text(TINY)
    return path


@pytest.fixture(scope="module")
def xdc(recipe, toy_shards):
    """Calls `xdc sweep` on the toy set, probing its classes."""
    group = Group(name="xdc", commands={"sweep": command})
    options = ("--data", toy_shards.root, "--label", "class", "--clips", 1)

    def call(*settings):
        arguments = (recipe, f"data={toy_shards.root}", *settings, *options)
        return CliRunner().invoke(group, ["sweep", *map(str, arguments)])

    return call


@pytest.fixture(scope="module")
def swept(xdc, tmp_path_factory):
    """Two methods, two seeds: the folder, and the result of the command."""
    out = tmp_path_factory.mktemp("sweep") / "out"
    return out, xdc(f"out={out}", "method=sdc,xdc", "seed=0,1")


@pytest.fixture
def copy(swept, tmp_path):
    """A copy of the folder, to be changed."""
    return shutil.copytree(swept[0], tmp_path / "out")


@pytest.fixture
def untrained(monkeypatch):
    """Fails when anything is trained or probed."""

    def refuse(*_, **__):
        raise AssertionError("nothing is missing")

    monkeypatch.setattr(sweeping, "pretrain", refuse)
    monkeypatch.setattr(sweeping, "probe_labels", refuse)


def csv_of(folder):
    with (folder / "sweep.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def probes_of(run):
    """The results that a run's folder holds."""
    return [json.loads(path.read_text()) for path in sorted(run.glob("probes/*.json"))]


def names_of(recipe, *settings):
    return [trial.name for trial in plan(recipe, ("out=x", *settings))]


def test_axes_are_multiplied_and_runs_named_by_what_they_are(recipe):
    assert names_of(recipe, "seed=0,1", "k=2,3") == [
        "method=xdc,k=2,seed=0", "method=xdc,k=3,seed=0",
        "method=xdc,k=2,seed=1", "method=xdc,k=3,seed=1",
    ]  # fmt: skip
    one = names_of(recipe, "train.lr=0.1,5e-2", "cluster.normalize=none,l2")
    assert one[1] == "method=xdc,k=4,cluster.normalize=l2,train.lr=0.1,seed=0"
    other = names_of(recipe, "cluster.normalize=none,l2", "train.lr=0.1,0.05")
    assert sorted(one) == sorted(other) and one != other
    assert names_of(recipe, "train.lr=0.3") == ["method=xdc,k=4,seed=0"]  # fixed: not in the name
    bracketed = plan(recipe, ("out=x", "video.mean=[0.5,0.5,0.5],[0.4,0.4,0.4]"))
    assert [t.recipe.video.mean for t in bracketed] == [(0.5,) * 3, (0.4,) * 3]
    assert bracketed[0].name == "method=xdc,k=4,video.mean=_0.5__0.5__0.5_,seed=0"
    assert [t.recipe.out for t in plan(recipe, ("out=a,b",))] == ["a,b/method=xdc,k=4,seed=0"]


def test_data_is_an_axis_when_every_part_is_a_folder(recipe, tmp_path):
    parts = [tmp_path / name for name in ("half", "all")]
    for part in parts:
        part.mkdir()
    both = f"data={parts[0]},{parts[1]}"
    assert names_of(recipe, both) == [
        "method=xdc,k=4,data=half,seed=0", "method=xdc,k=4,data=all,seed=0"
    ]  # fmt: skip
    (trial,) = plan(recipe, ("out=x", both + "-of-it"))
    assert trial.recipe.data == f"{parts[0]},{parts[1]}-of-it"
    (tmp_path / "more" / "half").mkdir(parents=True)
    with pytest.raises(UserError, match=r"two runs would be named .*data=half"):
        plan(recipe, ("out=x", f"data={parts[0]},{tmp_path}/more/half"))


def test_supervised_takes_its_k_from_the_label_and_nothing_else_does(recipe, toy_shards):
    settings = ("out=x", f"data={toy_shards.root}", "method=xdc,supervised", "k=6,8", "label=class")
    trials = {trial.name: trial for trial in plan(recipe, settings)}
    assert [*trials] == [f"method={m},seed=0" for m in ("xdc,k=6", "xdc,k=8", "supervised,k=4")]
    supervised = trials["method=supervised,k=4,seed=0"]
    assert (supervised.recipe.k, supervised.recipe.label, supervised.clusters) == (4, "class", 6)
    assert trials["method=xdc,k=6,seed=0"].recipe.label == ""  # so that label= changes no run


def test_supervised_is_not_tested_on_what_it_learned(recipe, xdc, toy_shards, tmp_path):
    out = tmp_path / "out"
    result = xdc(f"out={out}", "method=supervised", "label=class")
    assert result.exit_code == 2
    assert "would learn the label 'class' of the videos it is tested on" in result.stdout
    assert not any(path.is_dir() for path in out.iterdir())
    group = Group(name="xdc", commands={"sweep": command})
    part = ["test" if i // 4 % 3 == 0 else "train" for i in range(48)]
    shards = relabel(toy_shards, tmp_path / "set", part=part)
    settings = (f"data={shards.root}", f"out={out}", "method=supervised", "label=class")
    options = ("--data", shards.root, "--label", "class", "--split", "part", "--clips", 1)
    result = CliRunner().invoke(
        group, ["sweep", *map(str, (recipe, *settings, "split=part", *options))]
    )
    assert result.exit_code == 0, result.output
    (run,) = (path for path in out.iterdir() if path.is_dir())
    (probe,) = probes_of(run)
    assert (probe["train"], probe["test"], probe["split"]) == (32, 16, "part")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("k=2", "k=3"), "'k' is given twice"),
        (("k",), "k: settings are given as KEY=VALUE"),
        (("k=4,x",), "k: 'x' is not of type int"),
        (("kk=4,5",), "no setting 'kk'"),
        (("method=xdc,moco",), "method=moco: known are"),
        (("method=supervised",), "give label=COLUMN"),
        (("out=",), "give out=FOLDER"),
    ],
)
def test_mistakes_are_refused_before_anything_runs(xdc, tmp_path, settings, message):
    settings = settings if "out=" in settings else (f"out={tmp_path}/out", *settings)
    result = xdc(*settings)
    assert result.exit_code == 2 and message in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_probing_needs_a_set_and_a_label_of_it(recipe, toy_shards, toy_videos, tmp_path):
    group = Group(name="xdc", commands={"sweep": command})
    sound = pack_toy(toy_videos, tmp_path / "sound", tracks="audio").root
    for options, message in (
        (("--label", "class"), "belong together"),
        (("--data", toy_shards.root), "belong together"),
        (("--data", toy_shards.root, "--label", "clas"), "did you mean 'class'"),
        (("--data", sound, "--label", "class"), "holds audio only, a sweep probes the encoders of"),
    ):
        arguments = (recipe, f"out={tmp_path}/out", f"data={toy_shards.root}", *options)
        result = CliRunner().invoke(group, ["sweep", *map(str, arguments)])
        assert result.exit_code == 2 and message in result.stderr
    assert not (tmp_path / "out").exists()


def test_runs_probes_and_tables_are_made(swept):
    out, result = swept
    assert result.exit_code == 0, result.output + result.stderr
    lines = result.stdout.splitlines()
    heads = [f"[{i}/4] {name}" for i, name in enumerate(NAMES, 1)]
    assert [line.split(": ")[0] for line in lines] == [*heads, str(out / "sweep.html")]
    assert all(re.search(r"\d s · class video [\d.]+ % audio [\d.]+ %$", x) for x in lines[:4])
    for name in NAMES:
        (probe,) = probes_of(out / name)
        assert probe["finished"] and probe["clips"] == 1
        assert Run.open(out / name).summary()["method"] == name[7:10]


def test_the_csv_holds_what_the_runs_say(swept, toy_shards):
    out, _ = swept
    lines = csv_of(out)
    assert [line["name"] for line in lines] == [*NAMES, "", ""]
    for line in lines[:4]:
        (probe,) = probes_of(out / line["name"])
        summary = Run.open(out / line["name"]).summary()
        assert float(line["seconds"]) == summary["seconds"]
        agreement = summary["iterations"][-1]["nmi_audio_video"]
        assert float(line["nmi_audio_video"]) == agreement
        for modality in ("video", "audio"):
            key, nmi = f"class_{modality}", dict(probe["nmi"][modality])
            assert float(line[f"{key}_accuracy"]) == probe[modality]["pretrained"]
            assert float(line[f"{key}_nmi"]) == nmi.pop("class")
            assert float(line[f"{key}_other_nmi"]) == max(nmi.values())
            assert nmi[line[f"{key}_other"]] == max(nmi.values())
    for seed, line in enumerate(lines[4:]):
        assert (line["method"], line["k"], line["seed"]) == ("scratch", "4", str(seed))
        for name in NAMES[2 * seed : 2 * seed + 2]:  # both methods start from the same encoders
            (probe,) = probes_of(out / name)
            assert float(line["class_audio_accuracy"]) == probe["audio"]["random"]
            nmi = probe["nmi_random"]["audio"]["class"]
            assert float(line["class_audio_nmi"]) == pytest.approx(nmi)


def test_means_and_deviations_are_those_of_the_csv(swept):
    out, _ = swept
    lines = csv_of(out)
    table = json.loads((out / "sweep.json").read_text())
    assert [row["values"]["method"] for row in table["rows"]] == ["scratch", "sdc", "xdc"]
    shown = (out / "sweep.md").read_text()
    for row in table["rows"]:
        mine = [line for line in lines if line["method"] == row["values"]["method"]]
        assert row["seeds"] == ["0", "1"]
        for figure in ("class_video_accuracy", "class_audio_nmi", "class_audio_other_nmi"):
            values = [float(line[figure]) for line in mine]
            assert row["mean"][figure] == pytest.approx(np.mean(values))
            assert row["spread"][figure] == pytest.approx(np.std(values, ddof=1))
        values = [100 * float(line["class_video_accuracy"]) for line in mine]
        cell = f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
        assert f"| {row['values']['method']} | 4 | 2 | {cell} |" in shown


def test_the_page_shows_the_tables_the_plot_and_the_papers_order(swept):
    out, _ = swept
    text = (out / "sweep.html").read_text()
    page = Page(text)
    assert "http" not in text and not page.all("script")
    (paper,) = page.all("section", _class="paper")
    assert "Table 1" in paper["text"] and "ecalled, not confirmed" in paper["text"]
    assert "only their order can be compared" in " ".join(paper["text"].split())
    assert "XDC74.239.078.0" in "".join(e["text"] for e in page.all("tr", paper))
    (means,), (seeds,) = page.all("section", id="means"), page.all("section", id="seeds")
    assert len(page.all("tr", means)) == 4 and len(page.all("tr", seeds)) == 7
    accuracy, nmi = page.all("svg")
    assert len(page.all("circle", accuracy)) == 12  # scratch and 2 methods, 2 modalities, 2 seeds
    assert len(page.all("circle", nmi)) == 24
    (command_,) = page.all("pre")
    assert command_["text"].startswith("xdc sweep ") and "method=sdc,xdc" in command_["text"]
    assert len(ElementTree.parse(out / "sweep.svg").findall(".//{*}circle")) == 36


def test_reports_of_runs_are_linked(copy, xdc, untrained):
    (copy / NAMES[1] / "report.html").touch()
    xdc(f"out={copy}", "method=sdc,xdc", "seed=0,1")
    (link,) = Page((copy / "sweep.html").read_text()).all("a")
    assert link["href"].replace("%3D", "=").replace("%2C", ",") == f"{NAMES[1]}/report.html"


def test_a_second_call_runs_nothing(swept, xdc, untrained):
    out, first = swept
    before = (out / "sweep.csv").read_bytes()
    again = xdc(f"out={out}", "method=sdc,xdc", "seed=0,1")
    assert (again.exit_code, again.stdout) == (0, first.stdout)
    assert (out / "sweep.csv").read_bytes() == before
    fewer = xdc(f"out={out}", "method=xdc", "seed=1,0")
    assert fewer.exit_code == 0 and len(csv_of(out)) == 4


def test_a_probe_of_an_unfinished_run_is_not_taken(copy, xdc, toy_shards):
    (right,) = probes_of(copy / NAMES[0])
    right["where"] = str(copy / NAMES[0])
    shutil.rmtree(copy / NAMES[0] / "probes")
    weights = copy / NAMES[0] / "encoders.pt"
    aside = weights.rename(copy / "aside.pt")
    probe(load(copy / NAMES[0]), toy_shards, "class", ProbeSettings(clips=1))
    aside.rename(weights)
    assert [found["finished"] for found in probes_of(copy / NAMES[0])] == [False]
    assert xdc(f"out={copy}", "method=sdc").exit_code == 0
    assert probes_of(copy / NAMES[0]) == [right]  # of the same weights: the same file


def test_two_sweeps_with_other_options_keep_each_others_probes(
    copy, xdc, recipe, toy_shards, monkeypatch
):
    (first,) = probes_of(copy / NAMES[0])
    assert xdc(f"out={copy}", "method=sdc").exit_code == 0
    before = csv_of(copy)[0]
    made = []

    def count(*arguments, **options):
        made.append(arguments)
        return probe_labels(*arguments, **options)

    monkeypatch.setattr(sweeping, "probe_labels", count)
    group = Group(name="xdc", commands={"sweep": command})
    arguments = (recipe, f"out={copy}", f"data={toy_shards.root}", "method=sdc")
    other = ("--data", toy_shards.root, "--label", "class", "--clips", 2, "--test-share", 0.5,
             "--seed", 3)  # fmt: skip
    for _ in range(2):
        result = CliRunner().invoke(group, ["sweep", *map(str, (*arguments, *other))])
        assert result.exit_code == 0, result.output
        table = json.loads((copy / "sweep.json").read_text())
        assert (table["eval"]["clips"], table["eval"]["test_share"]) == (2, 0.5)
    (second,) = (found for found in probes_of(copy / NAMES[0]) if found != first)
    assert (second["clips"], second["test_share"], second["seed"]) == (2, 0.5, 3)
    shown = float(csv_of(copy)[0]["class_audio_accuracy"])
    assert shown == second["audio"]["pretrained"]
    assert xdc(f"out={copy}", "method=sdc").exit_code == 0
    assert csv_of(copy)[0] == before
    assert len(made) == 1  # of all these sweeps, one had to probe


@pytest.mark.parametrize("place", ["training", pytest.param("probe", marks=pytest.mark.slow)])
def test_an_interrupted_sweep_goes_on(swept, xdc, tmp_path, monkeypatch, place):
    """Stopped by SIGTERM; then it ends with the weights of the sweep that nobody stopped."""
    owner, name = (Learner, "step") if place == "training" else (sweeping, "probe_labels")
    original, calls = getattr(owner, name), []

    def stopping(*arguments, **options):
        calls.append(1)
        if len(calls) == (2 if place == "training" else 1):
            os.kill(os.getpid(), signal.SIGTERM)
        return original(*arguments, **options)

    monkeypatch.setattr(owner, name, stopping)
    before = signal.getsignal(signal.SIGTERM)
    stopped = xdc(f"out={tmp_path}", "method=xdc")
    assert stopped.exit_code == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; run the same command again to continue" in stopped.stderr
    assert signal.getsignal(signal.SIGTERM) is before
    assert (tmp_path / NAMES[1] / "encoders.pt").exists() == (place == "probe")
    steps = len(calls)
    again = xdc(f"out={tmp_path}", "method=xdc")
    assert again.exit_code == 0, again.stderr
    assert len(calls) == steps + (2 if place == "training" else 1)  # of 4 steps, of 1 probe
    whole, mended = (
        torch.load(root / NAMES[1] / "encoders.pt", weights_only=True)
        for root in (swept[0], tmp_path)
    )
    assert all(torch.equal(t, mended["video"][n]) for n, t in whole["video"].items())


def test_a_run_that_another_process_holds_is_left_out(copy, xdc):
    (copy / NAMES[1] / "encoders.pt").unlink()
    with Run.open(copy / NAMES[1]).hold():
        result = xdc(f"out={copy}", "method=sdc,xdc")
    assert result.exit_code == 0
    assert f"{NAMES[1]}: left out, another process is at work on it" in result.stdout
    held, *_ = (line for line in csv_of(copy) if line["name"] == NAMES[1])
    assert "another process" in held["reason"] and held["seconds"] == ""
    assert xdc(f"out={copy}", "method=sdc,xdc").exit_code == 0
    assert not any(line["reason"] for line in csv_of(copy))


def test_a_run_that_another_process_has_just_begun_is_left_out(tmp_path, xdc):
    (tmp_path / NAMES[1]).mkdir()
    with (tmp_path / NAMES[1] / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        result = xdc(f"out={tmp_path}", "method=xdc")
    assert result.exit_code == 0
    assert f"{NAMES[1]}: left out, another process is at work on it" in result.stdout
    (tmp_path / NAMES[1] / ".recipe.yaml.part").touch()  # of one that was killed as it began
    assert xdc(f"out={tmp_path}", "method=xdc").exit_code == 0
    assert (tmp_path / NAMES[1] / "encoders.pt").exists()


def test_a_refused_run_is_listed_and_the_others_go_on(copy, xdc):
    result = xdc(f"out={copy}", "method=sdc", "k=49,4")
    assert result.exit_code == 2
    assert "1 of 2 runs were refused" in result.stderr
    reason = "k=49 clusters of 48 samples; set k to 48 or less"
    assert f"[1/2] method=sdc,k=49,seed=0: {reason}" in result.stdout
    assert f"[2/2] {NAMES[0]}: " in result.stdout
    lines = {line["name"]: line for line in csv_of(copy)}
    assert lines["method=sdc,k=49,seed=0"]["reason"] == reason
    assert lines[NAMES[0]]["reason"] == "" and lines[NAMES[0]]["class_audio_accuracy"]
    (listed,) = Page((copy / "sweep.html").read_text()).all("li")
    assert reason in listed["text"] and reason in (copy / "sweep.md").read_text()


def test_one_json_line(swept, recipe, toy_shards, untrained):
    out, _ = swept
    group = Group(name="xdc", commands={"sweep": command})
    arguments = (recipe, f"out={out}", f"data={toy_shards.root}", "method=sdc,xdc", "seed=0,1",
                 "--data", toy_shards.root, "--label", "class", "--clips", 1, "--json")  # fmt: skip
    result = CliRunner().invoke(group, ["sweep", *map(str, arguments)])
    assert json.loads(result.stdout) == json.loads((out / "sweep.json").read_text())


def test_without_a_set_to_probe_on_there_is_a_table_and_no_plot(
    copy, recipe, toy_shards, untrained
):
    group = Group(name="xdc", commands={"sweep": command})
    arguments = (recipe, f"out={copy}", f"data={toy_shards.root}", "method=sdc,xdc")
    result = CliRunner().invoke(group, ["sweep", *map(str, arguments)])
    assert result.exit_code == 0, result.output
    assert [line["method"] for line in csv_of(copy)] == ["sdc", "xdc"]
    assert all(float(line["seconds"]) > 0 for line in csv_of(copy))
    assert not (copy / "sweep.svg").exists()
    assert not Page((copy / "sweep.html").read_text()).all("svg")


def made_up(axis, places):
    """A table of two seeds at each place of an axis."""
    rng = np.random.default_rng(0)
    keys = ["method", "k", *([axis] if axis != "k" else [])]
    runs, rows = [], []
    for place in places:
        values = {"method": "xdc", "k": "20"} | {axis: str(place)}
        group = []
        for seed in "01":
            figures = {f"a|b_{m}_{f}": rng.random() for m in ("video", "audio")
                       for f in ("accuracy", "nmi", "other_nmi")}  # fmt: skip
            figures |= {"a|b_chance": 0.1, "seconds": 3.0, "nmi_audio_video": 0.2}
            figures |= {"samples": 8 * int(re.sub(r"\D", "", str(place)))}
            group.append({"name": "x", "reason": "", **values, "seed": seed, **figures})
        numbers = [key for key, value in group[0].items() if isinstance(value, (float, int))]
        mean = {key: float(np.mean([run[key] for run in group])) for key in numbers}
        rows.append({"values": values, "seeds": ["0", "1"], "mean": mean, "spread": mean})
        runs += group
    return {
        "keys": keys, "axes": {axis: [str(p) for p in places]}, "labels": ["a|b"],
        "eval": {"data": "<set>", "samples": 9, "clips": 1}, "runs": runs, "rows": rows,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("axis", "places", "table", "even"),
    [
        ("k", [64, 128, 512], "Table 2", [0, 1, 3]),
        ("k", [10, 20, 50], "Table 2", [0, 1, 4]),
        ("data", ["p8", "p4", "p2"], "Table 3", [2, 1, 0]),
        ("train.lr", [1, 3, 5], None, [0, 1, 2]),
    ],
)
def test_a_numeric_axis_is_a_line_with_every_seed(tmp_path, axis, places, table, even):
    write_sweep(tmp_path, made_up(axis, places), "xdc sweep")
    page = Page((tmp_path / "sweep.html").read_text())
    (chart,) = page.all("svg")
    dots = page.all("circle", chart)
    assert len(dots) == 2 * 2 * len(places)
    x = sorted({float(dot["cx"]) for dot in dots})
    share = [(place - x[0]) / (x[-1] - x[0]) for place in x]
    np.testing.assert_allclose(share, np.sort(even) / max(even), atol=0.01)
    shown = [section["text"] for section in page.all("section", _class="paper")]
    assert len(shown) == bool(table) and all(table in text for text in shown)
    markdown = (tmp_path / "sweep.md").read_text()
    assert ("Table" in markdown) == bool(table) and "a\\|b video %" in markdown
    assert len(ElementTree.parse(tmp_path / "sweep.svg").findall(".//{*}circle")) == len(dots)


def test_no_cell_of_a_sweep_is_a_formula(tmp_path):
    table = made_up("k", [4])
    for run in table["runs"]:
        run |= {"reason": "=1+1", "=2+2_chance": -0.5}
    write_sweep(tmp_path, table, "xdc sweep")
    lines = (tmp_path / "sweep.csv").read_text().splitlines()
    assert "'=2+2_chance" in lines[0] and all("'=1+1" in line for line in lines[1:])
    assert all(line.endswith(",-0.5") for line in lines[1:])


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "2"])
def test_a_run_of_a_sweep_is_the_run_alone_bit_for_bit(threads, toy_shards, tmp_path):
    """The second run of a sweep begins in a process that has trained before."""
    alone, sweep = tmp_path / "alone", tmp_path / "sweep"
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(TINY)
    data = f"data={toy_shards.root}"
    for arguments in (
        ("sweep", str(recipe), data, f"out={sweep}", "seed=0,1"),
        ("pretrain", str(recipe), data, f"out={alone}", "seed=1"),
    ):
        script = f"import sys; sys.argv = ['xdc', *{arguments!r}]\n"
        script += "from xdc_fast.__main__ import xdc; xdc()"
        run_script(script, OMP_NUM_THREADS=threads, NUMBA_NUM_THREADS=threads)
    (second,) = sweep.glob("*seed=1*")
    assert same(weights(Run.open(second)), weights(Run.open(alone)))
