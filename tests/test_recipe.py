"""Settings: files, overrides, and mistakes in them."""

import itertools
import os
import re
import time
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from xdc_fast.errors import UserError
from xdc_fast.recipe import Recipe, describe, dump_recipe, load_recipe, settings

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
        ("k=1.5", "'1.5' is not of type int"),
        ("train=3", "'train' is a group"),
        ("k", "KEY=VALUE"),
        ("video.mean=3", "is not a list of numbers"),
        ("train.compile=maybe", "is not of type bool"),
        ("train.epochs=0", "train.epochs=0: must be 1 or more"),
        ("train.batch=-12", "train.batch=-12: must be 1 or more"),
        ("k=0", "k=0: must be 1 or more"),
        ("seed=-1", "seed=-1: must be 0 or more"),
        ("video.fps=0", "video.fps=0.0: must be 0.01 or more"),
        ("video.std=[1, 0, 1]", "must be 0.001 or more"),
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


@pytest.mark.parametrize(
    "name", [name for name, known in settings() if not isinstance(known.default, (str, bool))]
)
def test_no_number_is_without_bounds(name):
    """Of every numeric setting: what is not finite and what is absurd, as text and as a number."""
    length = dict(settings())[name].metadata.get("length", 0)
    for value in (".nan", "nan", "-.inf", "1e30", "-1e30", str(2**64), "9" * 4000, "1" * 5000):
        text = f"[{', '.join([value] * length)}]" if length else value
        with pytest.raises(UserError) as error:
            load_recipe(None, (f"{name}={text}",))
        assert len(str(error.value)) < 300
    for value in (float("nan"), float("inf"), 1e300, 10**400):
        with pytest.raises(UserError, match=name):
            load_recipe(None, {name: [value] * length or value})


def test_texts_stay_as_they_are_written(tmp_path):
    """What YAML would read as a date, a bool, or a number in base 8, 16 or 60."""
    path = tmp_path / "r.yaml"
    for text in ("2024-01-01", "2024-01-01 10:00", "no", "on", "010", "0x10", "1:30", "1e3", "1_0"):
        path.write_text(f"out: {text}\nlabel: {text}\n")
        recipe = load_recipe(path, (f"split={text}",))
        assert recipe.out == recipe.label == recipe.split == text
        path.write_text(dump_recipe(recipe))
        assert load_recipe(path) == recipe
    for text in ("2024-01-01", "no", "010", "0x10", "1:30", "1e3", "~", "", "'1", "[1]", "{a: 1}"):
        path.write_text(f"k: {text}\n")
        with pytest.raises(UserError, match=r"r\.yaml"):
            load_recipe(path)
    path.write_text("k: 1_000\nvideo: {flip: off, fps: 1e1}\n")
    recipe = load_recipe(path)
    assert (recipe.k, recipe.video.flip, recipe.video.fps) == (1000, False, 10.0)


BOMB = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join([f'*{a}'] * 9)}]\n" for a, b in itertools.pairwise("abcdefghijkl")
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (BOMB, "alias"),
        ("train: &t {lr: 0.1}\nvideo: *t\n", "alias"),
        ("[" * 5000, "nested too deep"),
        ("a: " + "{a: " * 5000, "nested too deep"),
        ("- " * 5000, "nested too deep"),
        ("k: 3\ntrain: {lr: 1}\nk: 4\n", "'k' is given twice"),
        ("train: {lr: 1, lr: 2}", "'lr' is given twice"),
        ("#" * 200_000, "longer than 100,000 bytes"),
        ('out: "a\\0b"', "out=a\0b: must be text without NUL"),
        ('label: "\\ud800"', "must be text"),
        ('out: "\\Uffffffff"', "not valid YAML"),
        ("k: !!python/object/apply:os.abort []", "is not of type int"),
        ("k: 1\n---\nk: 2\n", "not valid YAML"),
        ("? [a, b]\n: 1\n", "not valid YAML"),
        (f"k: {'9' * 4000}", "k=999"),
        (f"{'x' * 900}: 1", "no setting 'xxx"),
        (b"\xff\xfe\x00k", "not a text file"),
        (bytes(range(128)), "not valid YAML"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_hostile_files_are_answered_at_once(content, message, tmp_path):
    path = tmp_path / "r.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    started = time.process_time()
    with pytest.raises(UserError, match=re.escape(message)) as error:
        load_recipe(path)
    assert time.process_time() - started < 2
    assert len(str(error.value)) < 400


def test_what_is_no_file_is_named(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(UserError, match=f"{path}: a folder or a device, not a file"):
            load_recipe(path)
    with pytest.raises(UserError, match="name too long"):
        load_recipe(tmp_path / ("x" * 300))


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
