"""`xdc plan` and `xdc bench --save`: what they print and write, and how they refuse."""

import json

import pytest
from click.testing import CliRunner

from xdc_fast.tools.xdc import main

TINY = ("video.encoder=r2plus1d_tiny", "audio.encoder=audio_tiny", "video.crop=32", "k=6")


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("method: xdc\n")
    return path


def xdc(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_text_and_json_say_the_same(recipe):
    text = xdc("plan", recipe, *TINY, "--videos", 1e6).stdout
    assert text.startswith("1,000,000 videos of 15 s") and "breaks first" in text
    assert "chosen for you: --seconds --gpus" in text and "assumed: " in text
    made = json.loads(xdc("plan", recipe, *TINY, "--videos", 1e6, "--json").stdout)
    assert made["job"]["videos"] == 1e6
    for figure in made["figures"]:
        assert figure["name"] in text and figure["formula"] in text
    assert made["limits"][0]["name"] in text.split("breaks first")[1].splitlines()[1]


@pytest.mark.slow
def test_what_bench_saves_is_what_plan_takes(recipe, toy_shards, toy_videos, tmp_path):
    file = tmp_path / "rates.json"
    settings = (*TINY, "train.batch=12", "threads=1", f"data={toy_shards.root}")
    done = xdc("bench", recipe, *settings, "--seconds", 0.1, "--save", file,
               "--sources", toy_videos)  # fmt: skip
    assert done.exit_code == 0, done.output
    made = json.loads(xdc("plan", recipe, *settings, "--rates", file, "--json").stdout)
    for name in ("jpeg_bytes", "aspect", "jpeg_pack", "h264_pack", "copy_pack", "feed", "step",
                 "encode", "together", "kmeans"):  # fmt: skip
        assert made["rates"][name]["kind"] == "measured"
        assert str(file) in made["rates"][name]["source"]
    assert "processes 1" in made["rates"]["step"]["source"]
    assert made["rates"]["network"]["kind"] == "assumed"
    assert made["rates"]["aspect"]["value"] == 1
    rows = toy_shards.rows()
    pixels = (rows["frames"] * rows["width"] * rows["height"]).sum()
    assert made["rates"]["jpeg_bytes"]["value"] == pytest.approx(
        rows["video_bytes"].sum() / pixels, rel=0.2
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--rates", "none.json"), "none.json: No such file"),
        (("--prices", "none.yaml"), "none.yaml: No such file"),
        (("--gpus", 1, "--nodes", 2), "--nodes 2: more than --gpus 1"),
        (("--videos", 3), "--videos 3: fewer than k=6"),
        (("--videos", 0), "--videos"),
        (("--seconds", "nan"), "--seconds"),
        (("--short-side", 20), "--short-side 20: smaller than video.crop=32"),
        (("--page", "/dev/full/plan.html"), "/dev/full"),
        (("video.encoder=none",), "video.encoder=none: known are"),
    ],
)
def test_mistakes_are_one_line(recipe, arguments, message):
    done = xdc("plan", recipe, *TINY, *arguments)
    assert done.exit_code == 2 and message in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not done.stdout


@pytest.mark.parametrize("file", ["rates.yaml", "folder.json", "file/rates.json"])
def test_a_file_for_rates_is_refused_before_anything_is_measured(recipe, file, monkeypatch):
    """Whatever measures is not there."""
    (recipe.parent / "folder.json").mkdir()
    (recipe.parent / "file").touch()
    monkeypatch.setattr("xdc_fast.planner.bench.measure_speed", None)
    done = xdc("bench", recipe, "data=shards", "--save", recipe.parent / file)
    assert done.exit_code == 2 and done.stderr.startswith(f"xdc: {recipe.parent}")
