"""Runs on object storage: as on a disk, whatever ends the process."""

import os

import pytest

from tests.common.object_server import serving
from tests.common.pretraining import Stop, dies_at_step, recipe, same, weights
from tests.common.ranks import in_ranks
from xdc_fast import storage
from xdc_fast.errors import UserError
from xdc_fast.evaluation.probe import ProbeSettings, probe
from xdc_fast.models.load import load
from xdc_fast.pretraining.folder import StoredFolder, open_folder
from xdc_fast.pretraining.loop import _pretrain, pretrain
from xdc_fast.pretraining.run import Run
from xdc_fast.report.page import write_report
from xdc_fast.storage import place_of

SECRET = b"a-secret-that-no-log-may-hold"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A store with the bucket `b`, which answers every seventh request with 503."""
    storage._open.cache_clear()
    with serving(tmp_path / "store", fault=lambda n, *_: 503 if n % 7 == 3 else None) as server:
        (server.folder / "b").mkdir()
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
    storage._open.cache_clear()


def stored(server):
    """The names of what lies in the bucket's folder `run`."""
    root = server.folder / "b/run"
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()}


def test_a_killed_run_goes_on_from_storage_as_from_a_disk(
    finished, toy_shards, server, tmp_path, monkeypatch
):
    chosen = recipe(toy_shards, "s3://b/run", "train.checkpoint_steps=3")
    with monkeypatch.context() as patch, pytest.raises(Stop):
        dies_at_step(patch, 5)
        pretrain(chosen)
    assert {"checkpoint.pt", "iterations/000/video.npy", "recipe.yaml"} <= stored(server)
    summary = pretrain(chosen)
    assert summary["iterations"][-1]["iteration"] == 1
    run, disk = Run.open("s3://b/run"), finished[0]
    assert same(weights(run), weights(disk))
    assert run.summary()["iterations"][1]["video_loss"] == pytest.approx(
        finished[1]["iterations"][1]["video_loss"]
    )
    names = stored(server)
    assert not any(name.startswith("features/") for name in names)
    assert {"encoders.pt", "heads.pt", "metrics.jsonl", "summary.json"} <= names
    assert any(name.startswith("tensorboard/") for name in names)
    assert [line.get("step") for line in run.metrics()].count(5) == 2  # once in each iteration
    for path in (server.folder / "b").rglob("*"):
        assert path.is_dir() or SECRET not in path.read_bytes()


def test_evaluations_and_reports_of_a_run_on_storage_lie_beside_it(
    finished, toy_shards, server, tmp_path
):
    root = finished[0].root
    for path in root.rglob("*"):
        if path.is_file() and not path.name.startswith("."):
            storage.upload(path, place_of("s3://b/run") / path.relative_to(root).as_posix())
    model = load("s3://b/run")
    assert same(model.encoders["video"].state_dict(), load(root).encoders["video"].state_dict())
    result = probe(model, toy_shards, "class", ProbeSettings(clips=1))
    assert result["where"] == "s3://b/run"
    assert [name for name in stored(server) if name.startswith("probes/")]
    page = write_report(Run.open("s3://b/run"), toy_shards)
    assert str(page) == "s3://b/run/report.html"
    assert b"Linear probes" in (server.folder / "b/run/report.html").read_bytes()


def on_a_rank(ranks, chosen, environment):
    os.environ.update(environment)  # the process is of a server that began before
    _pretrain(chosen, ranks)
    return True


@pytest.mark.slow
def test_ranks_meet_on_storage(toy_shards, server, tmp_path):
    chosen = recipe(toy_shards, "s3://b/run", "train.iterations=1", "train.group=6")
    assert all(in_ranks(2, on_a_rank, chosen, server.environment))
    alone = recipe(toy_shards, tmp_path / "alone", "train.iterations=1", "train.group=6")
    pretrain(alone)
    ours, one = Run.open("s3://b/run"), Run.open(tmp_path / "alone")
    names = ["video", "audio"]
    for name, assignment in ours.assignments(0, names, 48).items():
        assert (assignment == one.assignments(0, names, 48)[name]).all()


def test_the_last_process_that_comes_works_there(server, tmp_path):
    first, second = open_folder("s3://b/run"), open_folder("s3://b/run")
    assert isinstance(first, StoredFolder)
    taken = r"s3://b/run: another process has begun to work there"
    with pytest.raises(UserError, match=taken), first.hold():
        (first.root / "a.txt").write_text("1")
        first.publish()
        with second.hold():
            assert second.file("a.txt").read_text() == "1"
            (second.root / "b.txt").write_text("3")
        (first.root / "a.txt").write_text("22")
        first.publish()
    assert stored(server) == {"a.txt", "b.txt"}
    assert (server.folder / "b/run/a.txt").read_text() == "1"


def test_a_copy_ends_with_its_process_and_errors_name_the_url(server):
    folder = open_folder("s3://b/run")
    root = folder.root
    assert root.is_dir()
    storage.write(folder.place / "recipe.yaml", b"k: many\n")
    with pytest.raises(UserError, match=r"^s3://b/run/recipe\.yaml") as error:
        Run.open("s3://b/run")
    assert str(root.parent) not in str(error.value)
    del folder
    assert not root.exists()


@pytest.mark.parametrize(
    ("out", "settings", "message"),
    [
        ("http://127.0.0.1:1/run", (), "can be read only"),
        ("s3://b/run", ("cluster.features=training",), "out=FOLDER on a disk"),
        ("ftp://b/run", (), "not a place that is known"),
    ],
)
def test_what_cannot_be_a_run_is_refused(toy_shards, out, settings, message):
    with pytest.raises(UserError, match=message):
        pretrain(recipe(toy_shards, out, *settings))
