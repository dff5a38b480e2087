"""The evaluation commands: tables, JSON, what is kept, and one line for a mistake."""

import json
import shutil

import pytest
from click.testing import CliRunner

from xdc_fast.pretraining.loop import pretrain
from xdc_fast.recipe import load_recipe
from xdc_fast.tools import Group, evaluate

SETTINGS = ("video.encoder=r2plus1d_tiny", "video.crop=32", "audio.encoder=audio_tiny", "k=4",
            "train.iterations=1", "train.epochs=1", "train.batch=12")  # fmt: skip
NAMES = ("probe", "finetune", "svm", "retrieve", "extract")
COMMANDS = {name: getattr(evaluate, name) for name in NAMES}


def xdc(*arguments):
    group = Group(name="xdc", commands=COMMANDS)
    return CliRunner().invoke(group, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def run(toy_shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("evaluate") / "run"
    pretrain(load_recipe(None, (*SETTINGS, f"data={toy_shards.root}", f"out={out}")))
    return out


@pytest.mark.parametrize(
    ("arguments", "figure", "lines"),
    [
        (("probe", "--label", "class", "--clips", 1), "pretrained", 4),
        (("finetune", "--label", "class", "--epochs", 1, "--clips", 2), "video@1", 10),
        (("finetune", "--label", "class", "--only-head", "--preset", "esc50", "--epochs", 1,
          "--modality", "audio"), "audio, head", 5),
        (("svm", "--label", "class", "--clips", 2), "accuracy", 5),
        (("retrieve", "--label", "class", "--clips", 2), "NN@10", 4),
    ],
)  # fmt: skip
def test_tables_json_and_files(run, toy_shards, arguments, figure, lines):
    name, *options = arguments
    command = (name, run, "--data", toy_shards.root, *options)
    table = xdc(*command)
    assert table.exit_code == 0, table.output
    assert figure in table.stdout and len(table.stdout.splitlines()) >= lines
    shown = json.loads(xdc(*command, "--json").stdout)
    folder = "probes" if name == "probe" else name
    kept = [json.loads(file.read_text()) for file in (run / folder).glob("*.json")]
    assert (shown["audio"] if name == "finetune" else shown) in kept


@pytest.mark.parametrize("name", NAMES)
def test_results_of_an_unfinished_run_are_marked(run, toy_shards, tmp_path, name):
    early = shutil.copytree(run, tmp_path / "early", ignore=shutil.ignore_patterns("encoders.pt"))
    options = {
        "probe": ("--label", "class", "--clips", 1),
        "finetune": ("--label", "class", "--clips", 1, "--epochs", 1, "--only-head"),
        "svm": ("--label", "class", "--clips", 1),
        "retrieve": ("--clips", 1),
        "extract": ("--stride", 9),
    }[name]
    out = (tmp_path / "out",) if name == "extract" else ()
    command = (name, early, *out, "--data", toy_shards.root, "--modality", "audio", *options)
    table = xdc(*command)
    assert table.exit_code == 0, table.output
    assert f"{early} (unfinished)" in table.stdout
    shown = json.loads(xdc(*command, "--json").stdout)
    assert (shown["audio"] if name == "finetune" else shown)["finished"] is False


def test_the_share_and_the_seed_of_a_random_split(run, toy_shards):
    common = (run, "--data", toy_shards.root, "--label", "class", "--modality", "audio", "--clips",
              1, "--test-share", 0.5, "--seed", 3, "--json")  # fmt: skip
    for name, more in (("probe", ()), ("svm", ()), ("finetune", ("--epochs", 1, "--only-head"))):
        shown = json.loads(xdc(name, *common, *more).stdout)
        result = shown["audio"] if name == "finetune" else shown
        (row,) = [result] if name == "probe" else result["splits"]
        assert (row["train"], row["test"]) == (24, 24)
        assert (result["test_share"], result["seed"]) == (0.5, 3)


def test_extract_and_settings(run, toy_shards, tmp_path):
    command = ("extract", run, tmp_path / "out", "video.frames=4", "--data", toy_shards.root)
    assert "one per 1.0 s" in xdc(*command).stdout
    shown = json.loads(xdc(*command, "--json").stdout)
    assert shown["clip"]["video"]["frames"] == 4 and shown["clips"] == 96


def test_random_is_the_baseline(toy_shards, tmp_path):
    recipe = tmp_path / "tiny.yaml"
    recipe.write_text("audio: {encoder: audio_tiny}\nvideo: {encoder: r2plus1d_tiny, crop: 32}\n")
    command = ("svm", "random", "--data", toy_shards.root, "--label", "class", "--recipe", recipe)
    assert "random: audio, linear SVM, 4 classes" in xdc(*command).stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("probe", "nowhere", "--data", "{data}", "--label", "class"), "nowhere: no such file"),
        (("svm", "{run}", "--data", "nowhere", "--label", "class"), "nowhere: no manifest.json"),
        (("svm", "nowhere", "--data", "{data}", "--label", "class"), "nowhere: no such file"),
        (("svm", "{run}", "--data", "{data}", "--label", "clas"), "did you mean 'class'?"),
        (("svm", "{run}", "--data", "{data}", "--label", "class", "--split", "class"),
         "has 0 training videos in split 'class=0'"),
        (("retrieve", "{run}", "--data", "{data}", "--split", "drift"), "--split needs --label"),
        (("finetune", "{run}", "--data", "{data}", "--label", "class", "frames=3"),
         "no setting 'frames'"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line_and_status_2(run, toy_shards, arguments, message):
    result = xdc(*(str(a).format(run=run, data=toy_shards.root) for a in arguments))
    assert result.exit_code == 2, result.output
    assert message in result.stderr and len(result.stderr.strip().splitlines()) == 1
