"""Settings: files, overrides, and mistakes in them."""

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from xdc_fast.errors import UserError
from xdc_fast.recipe import Recipe, describe, dump_recipe, load_recipe

RECIPES = sorted((Path(__file__).parent.parent / "recipes").glob("*.yaml"))


def test_overrides_win_over_the_file(tmp_path):
    path = tmp_path / "r.yaml"
    path.write_text("k: 64\ntrain:\n  lr: 0.5\n  epochs: 2\n")
    recipe = load_recipe(path, ("train.lr=1e-3", "data=a/b=c", "video.mean=[0, 1, 2]"))
    assert (recipe.k, recipe.train.epochs) == (64, 2)
    assert recipe.train.lr == 1e-3
    assert recipe.data == "a/b=c"
    assert load_recipe(None, ("out=010", "data=[x")).out == "010"
    assert recipe.video.mean == (0.0, 1.0, 2.0)
    assert recipe.train.batch == Recipe().train.batch


def test_a_dumped_recipe_reads_back_equal(tmp_path):
    recipe = load_recipe(None, ("k=7", "audio.encoder=audio_tiny", "train.compile=true"))
    path = tmp_path / "r.yaml"
    path.write_text(dump_recipe(recipe))
    assert load_recipe(path) == recipe


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("train.lrr=1", "no setting 'train.lrr'; did you mean 'train.lr'"),
        ("metod=xdc", "did you mean 'method'"),
        ("k=many", "'many' is not of type int"),
        ("k=1.5", "1.5 is not of type int"),
        ("train=3", "'train' is a group"),
        ("k", "KEY=VALUE"),
        ("video.mean=3", "is not a list of numbers"),
        ("train.compile=maybe", "is not of type bool"),
        ("train.epochs=0", "train.epochs=0: must be 1 or more"),
        ("train.batch=-12", "train.batch=-12: must be 1 or more"),
        ("k=0", "k=0: must be 1 or more"),
        ("seed=-1", "seed=-1: must be 0 or more"),
        ("video.fps=0", "video.fps=0.0: must be above 0"),
        ("video.std=[1, 0, 1]", "must be above 0"),
        ("video.mean=[1, 2]", "must be 3 numbers"),
        ("cluster.normalize=L2", "must be one of none, l2, centered-l2"),
        ("device=tpu", "device=tpu: must be one of auto, cpu, cuda"),
        ("k=[", "is not of type int"),
        ("train.lr=.inf", "train.lr=inf: must be finite"),
        ("cluster.rounds=5", "`cluster.rounds` is now `cluster.max_iter`"),
        ("audio.window=5", "`audio.window` is now `audio.win_length`"),
    ],
)
def test_mistakes_are_named_with_a_way_out(override, message):
    with pytest.raises(UserError, match=message):
        load_recipe(None, (override,))


def test_unreadable_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"none.yaml: No such file"):
        load_recipe(tmp_path / "none.yaml")
    (tmp_path / "bad.yaml").write_text("a: [1")
    with pytest.raises(UserError, match=r"bad.yaml: not valid YAML"):
        load_recipe(tmp_path / "bad.yaml")
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(UserError, match="a recipe is a mapping"):
        load_recipe(tmp_path / "list.yaml")


def test_every_setting_is_described():
    text = describe()
    for field in fields(Recipe):
        default = getattr(Recipe(), field.name)
        names = [f"{field.name}.{f.name}" for f in fields(default)] if is_dataclass(default) else []
        for name in names or [field.name]:
            assert any(line.split()[0] == name for line in text.splitlines()), name


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_the_recipes_that_ship_are_valid(path):
    load_recipe(path)
