"""Dense features of media files: those of their packed samples, and going on where it stopped."""

import csv
import json

import numpy as np
import pytest
from click.testing import CliRunner

import xdc_fast
from tests.common.media import make_media
from tests.common.runs import make_trained_run
from xdc_fast.errors import UserError
from xdc_fast.evaluation import extract_media as module
from xdc_fast.evaluation.extract import extract_features
from xdc_fast.evaluation.extract_media import extract_media
from xdc_fast.models import media as models_media
from xdc_fast.tools.xdc import main


@pytest.fixture(scope="module")
def model(toy_shards, tmp_path_factory):
    run = make_trained_run(tmp_path_factory.mktemp("media") / "run", f"data={toy_shards.root}")
    return xdc_fast.load(run.root)


@pytest.fixture
def folder(tmp_path):
    """Four files that can be read in part or whole, and two that cannot."""
    out = tmp_path / "media"
    (out / "more").mkdir(parents=True)
    make_media(out / "a.mp4", seconds=2.3)
    make_media(out / "b.mp4", seconds=0.5)
    make_media(out / "c.mp4", seconds=1.5, audio=None)
    make_media(out / "more/d.mkv", seconds=1.5, video=None)
    (out / "e.mp4").write_text("no video at all")
    (out / "f.mp4").write_bytes((out / "a.mp4").read_bytes()[:9000])
    return out


def read(out):
    parts = [dict(np.load(file)) for file in sorted(out.glob("media-*.npz"))]
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def table(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_features_are_those_of_the_packed_set(model, toy_videos, toy_shards, tmp_path):
    ours = extract_media(model, toy_videos, tmp_path / "media", stride=0.5)
    theirs = extract_features(model, toy_shards, tmp_path / "shards", stride=0.5)
    assert (ours["samples"], ours["clips"], ours["refused"]) == (48, theirs["clips"], 0)
    shards = [dict(np.load(file)) for file in sorted((tmp_path / "shards").glob("*.npz"))]
    found = read(tmp_path / "media")
    assert toy_shards.sources == [row["source"] for row in table(tmp_path / "media/samples.csv")]
    for name in ("index", "start", "stop"):
        assert np.array_equal(found[name], np.concatenate([part[name] for part in shards]))
    for modality, share in (("video", 0.03), ("audio", 1e-5)):
        wanted = np.concatenate([part[modality] for part in shards])
        assert found[modality].dtype == np.float32
        assert np.abs(found[modality] - wanted).max() < share * np.abs(wanted).max()


def test_tracks_that_lack_and_files_that_are_refused(model, folder, tmp_path):
    result = extract_media(model, folder, tmp_path / "out", stride=0.5)
    assert (result["samples"], result["refused"]) == (6, 2)
    assert sum(result["reasons"].values()) == 2 and result["reasons"]["not media"] >= 1
    rows = table(tmp_path / "out/samples.csv")
    assert [row["source"] for row in rows] == sorted(row["source"] for row in rows)
    names = np.array([row["source"] for row in rows])
    assert {row["source"] for row in table(tmp_path / "out/refused.csv")} == {"e.mp4", "f.mp4"}
    found = read(tmp_path / "out")
    assert len(found["index"]) == result["clips"]
    for name, starts, lacking in (
        ("a.mp4", [0, 0.5, 1], ()),
        ("b.mp4", [0], ()),
        ("c.mp4", [0], ("audio",)),
        ("more/d.mkv", [0, 0.5], ("video",)),
        ("e.mp4", [], ()),
    ):
        mine = names[found["index"]] == name
        assert found["start"][mine].tolist() == starts
        for modality in ("video", "audio"):
            wanted = modality in lacking
            assert (np.isnan(found[modality][mine]).all(axis=1) == wanted).all()
    assert found["stop"][names[found["index"]] == "b.mp4"] == pytest.approx(0.5, abs=0.1)


def test_an_interrupted_extraction_goes_on(model, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FILES", 2)
    whole = extract_media(model, folder, tmp_path / "whole", stride=0.5)
    calls, real = [], models_media.read_clips

    def stop_at_third(path, *arguments):
        calls.append(path)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return real(path, *arguments)

    monkeypatch.setattr(models_media, "read_clips", stop_at_third)
    one_at_a_time = xdc_fast.load(model.name, {"threads": 1, "train.batch": 1})
    with pytest.raises(KeyboardInterrupt):
        extract_media(one_at_a_time, folder, tmp_path / "part", stride=0.5)
    assert len(list((tmp_path / "part").glob("media-*.npz"))) == 1
    monkeypatch.setattr(models_media, "read_clips", lambda *a: calls.append("new") or real(*a))
    again = extract_media(model, folder, tmp_path / "part", stride=0.5)
    assert calls.count("new") == 4
    assert {k: again[k] for k in ("clips", "reasons")} == {
        k: whole[k] for k in ("clips", "reasons")
    }
    one, two = read(tmp_path / "whole"), read(tmp_path / "part")
    for name in one:
        if one[name].dtype.kind == "f":
            np.testing.assert_allclose(two[name], one[name], rtol=1e-4, atol=1e-5)
        else:
            assert np.array_equal(two[name], one[name])


def test_what_does_not_belong_together_is_refused(model, folder, tmp_path):
    out = tmp_path / "out"
    extract_media(model, folder, out)
    with pytest.raises(UserError, match="features of another stride"):
        extract_media(model, folder, out, stride=2)
    (folder / "g.mp4").write_text("one more")
    with pytest.raises(UserError, match="features of another media; give another folder"):
        extract_media(model, folder, out)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no files that could be media"):
        extract_media(model, tmp_path / "empty", tmp_path / "none")


def test_the_command(model, folder, tmp_path):
    def xdc(*arguments):
        return CliRunner().invoke(main, ["extract", *map(str, arguments)])

    shown = xdc(model.name, tmp_path / "out", "--media", folder, "--modality", "audio")
    assert shown.exit_code == 0, shown.output
    assert "clips of 6 files" in shown.stdout and "3 files have no features" in shown.stdout
    again = json.loads(xdc(model.name, tmp_path / "out", "--media", folder, "--modality", "audio",
                           "--json").stdout)  # fmt: skip
    assert again["samples"] == 6 and again["reasons"]["no audio"] == 1
    for options in ((), ("--media", folder, "--data", folder)):
        wrong = xdc(model.name, tmp_path / "out", *options)
        assert wrong.exit_code == 2 and "give either --data SHARDS or --media" in wrong.stderr
