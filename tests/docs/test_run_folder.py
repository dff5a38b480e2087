"""docs/run.md names what is in a run folder, no more and no less."""

import json

import numpy as np
import pytest
from click.testing import CliRunner

from tests.common.runs import TINY
from tests.docs.pages import ROOT, table
from xdc_fast.pretraining.run import Run
from xdc_fast.tools.xdc import main

PAGE = ROOT / "docs/run.md"


def names(row):
    """The names in backticks of a table's row."""
    return row[0].replace("`", "").split(", ")


@pytest.fixture(scope="module")
def run(toy_shards, tmp_path_factory):
    """A run of one iteration, probed and reported."""
    folder = tmp_path_factory.mktemp("page")
    data = f"data={toy_shards.root}"
    (folder / "recipe.yaml").write_text("method: xdc\n")
    short = ("train.iterations=1", "train.epochs=1", "train.batch=12")
    for command in (
        ("pretrain", folder / "recipe.yaml", *TINY, *short, data, f"out={folder / 'run'}"),
        ("probe", folder / "run", "--data", toy_shards.root, "--label", "class"),
        ("report", folder / "run"),
        ("extract", folder / "run", folder / "features", "--data", toy_shards.root),
    ):
        done = CliRunner().invoke(main, [str(word) for word in command])
        assert done.exit_code == 0, done.output
    return Run.open(folder / "run")


def test_the_page_names_every_file(run):
    told = [name for row in table(PAGE, "writes one folder")[1:] for name in names(row)]
    tops = {name.split("/")[0] for name in told} - {"features", "bank", "checkpoint.before.pt"}
    assert tops == {path.name for path in run.root.glob("[!.]*")}
    passing = ("features/000/", "bank/", "checkpoint.before.pt")
    assert all((run.root / name).exists() or name in passing for name in told)


def test_the_page_names_every_key_and_array(run):
    summary = json.loads((run.root / "summary.json").read_text())
    assert [names(row)[0] for row in table(PAGE, "`summary.json`:")[1:]] == list(summary)
    told = [name for row in table(PAGE, "A record of an iteration")[1:] for name in names(row)]
    assert set(told) == summary["iterations"][0].keys()
    with np.load(run.root / "iterations/000/video.npz") as arrays:
        assignment = np.load(run.root / "iterations/000/video.npy")
        for name, kind, _ in table(PAGE, "Of a clustering there are")[1:]:
            array = assignment if name == "assignment" else arrays[name.strip("`")]
            shape = {"N": len(array), "k": 4, "D": array.shape[-1]}
            wanted, axes = kind.split(" ", 1)
            assert array.dtype == wanted
            assert array.shape == tuple(shape[a] for a in axes.strip("(,)").split(", "))


def test_the_page_names_the_arrays_of_extract(run):
    out = run.root.parent / "features"
    assert {"extract.json", "samples.csv", "part-000000-00000.npz"} <= {
        p.name for p in out.iterdir()
    }
    rows = table(PAGE, "The arrays of an npz file")[1:]
    with np.load(out / "part-000000-00000.npz") as arrays:
        assert {name for row in rows for name in names(row)} == set(arrays)
        for row in rows:
            wanted, axes = row[1].split(" ", 1)
            for name in names(row):
                assert arrays[name].dtype == wanted
                assert arrays[name].ndim == len(axes.strip("(),").split(",")) * (axes != "()")
