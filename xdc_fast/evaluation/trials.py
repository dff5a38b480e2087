"""The trials of a sweep: which runs a product of settings asks for, and their folders."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from xdc_fast.errors import UserError
from xdc_fast.pretraining.methods import heads_of
from xdc_fast.recipe import Recipe, get, load_recipe
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.storage import place_of

WHOLE = ("out", "label", "split")  # never split at commas
UNSAFE = re.compile(r"[^\w.+-]")  # in the name of a folder


@dataclass(frozen=True)
class Trial:
    """One run of a sweep.

    values: {key: what a table shows}, of method, k, every key with several values, and seed.
    clusters: those of the NMI; k, but for method=supervised the k of its neighbours.
    """

    recipe: Recipe
    values: dict[str, str]
    clusters: int

    @property
    def name(self) -> str:
        return Path(self.recipe.out).name


def plan(recipe: str | Path | None, settings: tuple[str, ...]) -> list[Trial]:
    """The runs of a sweep, those of the first seed first.

    settings: KEY=VALUE, or KEY=VALUE,VALUE for an axis; commas within brackets do not split, nor
    do those of out and label, nor those of data unless every part is a folder. Each run is a
    folder in `out`, named by method, k, the other keys with several values in alphabetical order,
    and the seed: method=xdc,k=64,train.lr=0.1,seed=0. For data it is the folder's name; what is
    not a letter, a digit or one of . _ + - becomes _.
    For method=supervised k becomes the number of classes of `label`; other methods read no label,
    and none is kept in their recipes.
    Raises UserError for what load_recipe refuses, unknown methods, and names that do not differ.
    """
    axes = _axes(settings)
    order = sorted(axes, key=lambda key: key != "seed")  # a table of few seeds is whole early
    several = {key for key in axes if len(axes[key]) > 1}
    keys = ("method", "k", *sorted(several - {"method", "k", "seed"}), "seed")
    trials: dict[str, Trial] = {}
    for values in product(*(axes[key] for key in order)):
        given = dict(zip(order, values, strict=True))
        loaded = load_recipe(recipe, tuple(f"{key}={value}" for key, value in given.items()))
        heads_of(loaded.method)
        if not loaded.out:
            raise UserError("no folder for the sweep; give out=FOLDER")
        if not isinstance(place_of(loaded.out), Path):
            raise UserError(f"{loaded.out}: a sweep works on a disk; give another out=FOLDER")
        if loaded.method != "supervised":
            chosen = replace(loaded, label="")
        elif loaded.label:
            shards = ShardSet(loaded.data, loaded.cache, loaded.cache_gb)
            classes = shards.memberships(loaded.label)[2]
            chosen = replace(loaded, k=len(classes))
        else:
            raise UserError("method=supervised: give label=COLUMN, the column to predict")
        shown = {key: _show(chosen, key) for key in keys}
        name = ",".join(f"{key}={UNSAFE.sub('_', shown[key])}" for key in keys)
        chosen = replace(chosen, out=str(Path(loaded.out) / name))
        before = trials.setdefault(name, Trial(chosen, shown, loaded.k))
        if before.recipe != chosen:
            raise UserError(f"two runs would be named {name}; give values whose names differ")
    return list(trials.values())


def _axes(settings: tuple[str, ...]) -> dict[str, list[str]]:
    """{key: its values} of KEY=VALUE,VALUE."""
    axes: dict[str, list[str]] = {}
    for setting in settings:
        key, sign, text = setting.partition("=")
        if not sign:
            raise UserError(f"{setting}: settings are given as KEY=VALUE or KEY=VALUE,VALUE")
        if key in axes:
            raise UserError(f"{setting}: '{key}' is given twice; give its values as {key}=A,B")
        parts = re.split(r",(?![^\[]*\])", text)
        if key in WHOLE or (key == "data" and not all(map(_is_set, parts))):
            parts = [text]
        axes[key] = list(dict.fromkeys(parts))
    return axes


def _show(recipe: Recipe, key: str) -> str:
    value = str(get(recipe, key))
    return Path(value).name if key == "data" else value


def _is_set(text: str) -> bool:
    """Whether a text names a folder that is there, or a URL."""
    place = place_of(text)
    return not isinstance(place, Path) or place.is_dir()
