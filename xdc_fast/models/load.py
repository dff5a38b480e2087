"""Trained encoders, wherever they come from."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from xdc_fast.clips.loader import choose_device
from xdc_fast.encoders.build import MODALITIES, build_encoders
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.encoders.weights import load_encoder_weights
from xdc_fast.errors import UserError
from xdc_fast.files import damaged
from xdc_fast.models import official
from xdc_fast.models.export import AGAIN, CONFIG, HEADS, read_export
from xdc_fast.models.model import Model, packing_for
from xdc_fast.pretraining.checkpoint import head_weights, heads_fault, read_encoder_weights
from xdc_fast.pretraining.run import ANEW, Run
from xdc_fast.recipe import Overrides, Recipe, override
from xdc_fast.storage import URL, Place, place_of

OWN_RECIPE = "comes with its own recipe; leave --recipe out, and change settings by KEY=VALUE"


def load(where: str | Place, settings: Overrides = (), *, recipe: Recipe | None = None) -> Model:
    """Encoders with their weights.

    Args:
        where: a run, in a folder or at a URL; the encoders.pt or checkpoint.pt of a run; a folder
            that `xdc export` wrote; a file NAME-HASH.pth that the authors of XDC released (video
            alone); or "random", the encoders with which a run of `recipe` begins.
        settings: what to change in the recipe, as {"video.frames": 32} or ("video.frames=32",).
        recipe: for "random" and .pth files, which have no recipe of their own.

    Raises:
        UserError: for what is not there, damaged, or of another architecture than its recipe's.

    >>> model = xdc_fast.load("run")
    >>> features = model(["videos/000000.mp4", "videos/000001.mp4"])
    >>> features["video"].shape, features["audio"].shape
    ((2, 48), (2, 48))
    """
    place = place_of(where)
    if isinstance(place, URL):
        if recipe is not None:
            raise UserError(f"{where}: {OWN_RECIPE}")
        model = _of_run(place, settings)
        model.name = str(place)
        return model
    path = place
    if str(where) == "random":
        if recipe is None:
            raise UserError("random: a recipe must name the encoders; give it with --recipe FILE")
        model = _fresh(override(recipe, settings))
    elif path.suffix == ".pth":
        model = _official(path, override(recipe or Recipe(), settings))
    elif recipe is not None:
        raise UserError(f"{where}: {OWN_RECIPE}")
    elif (path / CONFIG).is_file():
        export = read_export(path)
        asked = override(export.recipe, settings)
        model = _filled(path, export.recipe, asked, export.weights)
        if (path / HEADS).is_file():
            _fill_heads(model, export.recipe, export.heads, path / HEADS, AGAIN)
        model.packing, model.finished = packing_for(asked, export.packing), export.finished
    elif path.exists():
        model = _of_run(path, settings)
    else:
        raise UserError(
            f"{where}: no such file or folder; give a run, its encoders.pt or checkpoint.pt, an "
            "export, an XDC .pth file, or random"
        )
    model.name = str(where)
    return model


def _fresh(recipe: Recipe) -> Model:
    """The encoders as a run of the recipe begins."""
    encoders = build_encoders(recipe, choose_device(recipe.device))
    for encoder in encoders.values():
        encoder.eval()
    return Model("", recipe, encoders, {}, None, ClipTransform(recipe))


def _official(path: Path, recipe: Recipe) -> Model:
    _keep(path, recipe, {"video": official.ENCODER})
    model = _fresh(recipe)
    del model.encoders["audio"]
    model.keys = official.load_official(path, model.encoders["video"])
    return model


def _of_run(place: Place, settings: Overrides) -> Model:
    """A model of a run, or of one of its files of weights."""
    of_file = place.suffix == ".pt" if isinstance(place, URL) else not place.is_dir()
    run = Run.open(place.parent if of_file else place)
    file = run.folder.file(place.name) if of_file else run.weights_file()
    weights, asked = read_encoder_weights(file), override(run.recipe, settings)
    model = _filled(file, run.recipe, asked, weights)
    if run.heads_file.is_file():
        _fill_heads(model, run.recipe, run.heads(), run.heads_file, ANEW)
    model.run, model.finished = run, run.finished
    return model


def _filled(path: Path, recipe: Recipe, asked: Recipe, weights: dict) -> Model:
    """A model of state dicts by modality, of encoders as `recipe` names them."""
    names = {modality: getattr(recipe, modality).encoder for modality in weights}
    _keep(path, asked, names)
    model = _fresh(asked)
    model.encoders = {
        modality: model.encoders[modality] for modality in MODALITIES if modality in weights
    }
    load_encoder_weights(model.encoders, weights, asked, path)
    return model


def _fill_heads(model: Model, recipe: Recipe, heads: dict, file: Path, hint: str) -> None:
    """Gives a model the cluster heads of a recipe that `file` holds, {head: state dict}."""
    if fault := heads_fault(heads, head_weights(recipe, model.encoders)):
        raise damaged(file, fault, hint)
    for name, state in heads.items():
        k, features = state["weight"].shape
        head = nn.Linear(features, k)
        head.load_state_dict(state)
        model.heads[name] = head.to(choose_device(model.recipe.device))


def _keep(path: Path, recipe: Recipe, names: dict[str, str]) -> None:
    """UserError when a setting asks for another encoder than the weights are of."""
    for modality, name in names.items():
        if (asked := getattr(recipe, modality).encoder) != name:
            raise UserError(
                f"{modality}.encoder={asked}: {path} holds weights of {name}; leave it out"
            )
