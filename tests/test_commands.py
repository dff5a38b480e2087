"""The command `xdc`: what it prints, and how it refuses."""

import json
from importlib.metadata import requires

import pytest
from click.testing import CliRunner

from xdc_fast.pretrain.run import Run
from xdc_fast.tools.doctor import stages
from xdc_fast.tools.xdc import main

SETTINGS = ("video.encoder=r2plus1d_tiny", "video.crop=32", "audio.encoder=audio_tiny", "k=4",
            "train.iterations=1", "train.epochs=1", "train.batch=12")  # fmt: skip


def xdc(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture(scope="module")
def run(toy_shards, tmp_path_factory):
    folder = tmp_path_factory.mktemp("commands")
    (folder / "r.yaml").write_text("method: xdc\n")
    result = xdc("pretrain", folder / "r.yaml", *SETTINGS, f"data={toy_shards.root}",
                 f"out={folder / 'run'}")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "xdc, k=4, 48 samples, 1 iterations" in result.stdout
    return Run.open(folder / "run")


def test_probe_prints_a_table_or_one_line_of_json(run, toy_shards):
    common = ("probe", run.root, "--data", toy_shards.root, "--label", "class", "--clips", 1)
    shown = json.loads(xdc(*common, "--json").stdout.splitlines()[-1])
    assert shown["label"] == "class" and shown["train"] + shown["test"] == 48
    table = xdc(*common).stdout
    assert f"{shown['video']['pretrained']:.1%}" in table and "chance" in table


def test_report_prints_where_it_is(run):
    result = xdc("report", run.root)
    assert result.exit_code == 0, result.output
    assert (run.root / "report.html").is_file()
    assert result.stdout.strip() == str(run.root / "report.html")


def test_doctor_names_every_stage():
    text = xdc("doctor").stdout
    for word in ("torch", "CUDA kernels", "NVDEC", "faiss", "numba threading", "clips", "log-mel",
                 "k-means"):  # fmt: skip
        assert word in text


@pytest.mark.gpu
def test_doctor_tries_the_compiler():
    assert "compile and run" in xdc("doctor").stdout


def test_numba_is_asked_for_with_its_cuda_compiler():
    (line,) = (line for line in requires("xdc_fast") if line.startswith("numba-cuda"))
    assert "[cu13]" in line


def test_doctor_says_which_path_a_gpu_changes(monkeypatch):
    before = dict(stages())
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    after = dict(stages())
    assert before["clips"].startswith("host path") and after["clips"].startswith("DALI on the GPU")
    assert "CPU" in before["log-mel"] and "CUDA" in after["log-mel"]


def test_settings_are_listed_in_the_help():
    assert "train.lr" in xdc("pretrain", "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("pretrain", "none.yaml"), "xdc: none.yaml: No such file or directory"),
        (("probe", "nowhere", "--data", "x", "--label", "y"), "xdc: nowhere: no recipe.yaml there"),
        (("report", "nowhere"), "xdc: nowhere: no recipe.yaml there"),
        (("probe", "nowhere"), "Missing option"),
    ],
)
def test_mistakes_end_in_one_line_and_status_2(arguments, message):
    result = xdc(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.output
