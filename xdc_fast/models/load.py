"""Trained encoders, wherever they come from: loaded once, then given media files or batches."""

from __future__ import annotations

import csv
import logging
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import cached_property
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from torch import nn

from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.loader import choose_device
from xdc_fast.encoders.build import MODALITIES, build_encoders
from xdc_fast.encoders.encoder import Encoder
from xdc_fast.encoders.features import compute_features
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.encoders.weights import Keys, load_encoder_weights
from xdc_fast.errors import UserError
from xdc_fast.models import official
from xdc_fast.models.export import CONFIG, read_export
from xdc_fast.packing.media import REASONS
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import PackInputs, Source
from xdc_fast.pretraining.checkpoint import read_encoder_weights
from xdc_fast.pretraining.run import Run
from xdc_fast.recipe import Recipe, override
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.format import REFUSED

MARGIN = 8 / 7  # short side of a packed picture to its crop: 128 to 112, as by default
LACKING = {"no audio": "video", "silent": "video", "no video": "audio", "cover art": "audio"}

log = logging.getLogger(__name__)


@dataclass
class Model:
    """Encoders ready for use, in eval mode, on the recipe's device.

    name: what was loaded. encoders: by modality, those that there are. heads: cluster heads by
    name, empty where none were kept. run: the run they are of, if any. inputs: makes encoder
    inputs of batches. keys: of a .pth file, which of its weights were taken. finished: False for
    the encoders of a run whose training has not ended.
    """

    name: str
    recipe: Recipe
    encoders: dict[str, Encoder]
    heads: dict[str, nn.Linear]
    run: Run | None
    inputs: ClipTransform
    keys: Keys | None = None
    finished: bool = True

    def __call__(self, media: str | Path, clips: int = 10) -> dict[str, np.ndarray]:
        """Features of a media file: {modality: float32 (features,)}.

        The file is packed by `packing`, whatever its length, and the features are averaged over
        `clips` equally spaced clips. Of a file without sound come those of the pictures alone,
        and the other way round. Raises UserError for a file that cannot be decoded.
        """
        tracks = "both" if len(self.encoders) == len(MODALITIES) else next(iter(self.encoders))
        with TemporaryDirectory(prefix="xdc_fast-") as folder:
            shards = pack_file(Path(media), Path(folder), replace(self.packing, tracks=tracks))
            device = choose_device(self.recipe.device)
            loader = HostLoader(shards, self.inputs.shape, device=device)
            encoders = {m: self.encoders[m] for m in shards.modalities}
            found = compute_features(encoders, loader, self.inputs, clips, clips=clips)
        return {modality: values[0] for modality, values in found.arrays.items()}

    @cached_property
    def packing(self) -> PackSettings:
        """How media files are decoded: as the recipe's shards were, or may be set to anything.

        Where those are out of reach: at the packer's own frame rate and, for a crop of 112, short
        side.
        """
        try:
            found = ShardSet(self.recipe.data).settings if self.recipe.data else {}
        except UserError as error:
            log.warning("media files are decoded by default settings: %s", error)
            found = {}
        return packing(self.recipe, found)


def packing(recipe: Recipe, found: dict) -> PackSettings:
    """PackSettings of a packed set that fit the recipe."""
    video = recipe.video
    defaults = PackSettings(
        fps=max(PackSettings.fps, video.fps),
        short_side=2 * round(video.crop * MARGIN / 2),
        min_seconds=0.0,
        audio_rate=recipe.audio.sample_rate,
    )
    settings = replace(
        defaults, **{k: found[k] for k in ("codec", "fps", "short_side") if k in found}
    )
    if settings.short_side < video.crop:
        settings = replace(settings, short_side=defaults.short_side)
    return replace(settings, fps=max(settings.fps, video.fps))


def pack_file(path: Path, out: Path, settings: PackSettings) -> ShardSet:
    """A set of one file, or of the only track that it has; UserError when it is refused."""
    sources = PackInputs([Source(path, path.name)], [], [])
    folder = out / settings.tracks
    with redirect_stderr(StringIO()):  # a progress bar over one file
        summary = pack(sources, folder, settings, workers=1)
    if summary.packed:
        return ShardSet(folder)
    with (folder / REFUSED).open(newline="", encoding="utf-8") as file:
        (refused,) = csv.DictReader(file)
    reason = refused["reason"]
    if settings.tracks == "both" and reason in LACKING:
        return pack_file(path, out, replace(settings, tracks=LACKING[reason]))
    raise UserError(
        f"{path}: {reason} ({refused['detail'] or REASONS[reason]}); give a file that plays "
        "from beginning to end"
    )


def load(
    where: str | Path, settings: tuple[str, ...] = (), *, recipe: Recipe | None = None
) -> Model:
    """Encoders with their weights.

    where: a run folder; a run's encoders.pt or checkpoint.pt; a folder that `xdc export` wrote;
    an XDC checkpoint of its authors, NAME-HASH.pth (video alone); or "random", the encoders as a
    run of `recipe` begins, BatchNorm not yet calibrated.
    settings: KEY=VALUE overrides of the recipe. recipe: for "random" and .pth files, which bring
    none.
    Raises UserError for what is not there, damaged, or of another architecture than its recipe's.
    """
    path = Path(where)
    if str(where) == "random":
        if recipe is None:
            raise UserError("random: no recipe says which encoders; give one by --recipe FILE")
        model = _fresh(override(recipe, settings))
    elif path.suffix == ".pth":
        model = _official(path, override(recipe or Recipe(), settings))
    elif recipe is not None:
        raise UserError(
            f"{where}: comes with its own recipe; leave --recipe out, and change settings by "
            "KEY=VALUE"
        )
    elif (path / CONFIG).is_file():
        export = read_export(path)
        asked = override(export.recipe, settings)
        model = _filled(path, export.recipe, asked, export.weights, export.heads)
        model.packing, model.finished = packing(asked, export.packing), export.finished
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


def _of_run(path: Path, settings: tuple[str, ...]) -> Model:
    root = path if path.is_dir() else path.parent
    run = Run.open(root)
    file = run.weights_file() if path == root else path
    weights, asked = read_encoder_weights(file), override(run.recipe, settings)
    model = _filled(file, run.recipe, asked, weights, run.heads())
    model.run, model.finished = run, run.finished
    return model


def _filled(path: Path, recipe: Recipe, asked: Recipe, weights: dict, heads: dict) -> Model:
    """A model of state dicts by modality and by head, of encoders as `recipe` names them."""
    names = {modality: getattr(recipe, modality).encoder for modality in weights}
    _keep(path, asked, names)
    model = _fresh(asked)
    model.encoders = {
        modality: model.encoders[modality] for modality in MODALITIES if modality in weights
    }
    load_encoder_weights(model.encoders, weights, asked, path)
    device = choose_device(asked.device)
    for name, state in heads.items():
        k, features = state["weight"].shape
        head = nn.Linear(features, k)
        head.load_state_dict(state)
        model.heads[name] = head.to(device)
    return model


def _keep(path: Path, recipe: Recipe, names: dict[str, str]) -> None:
    """UserError when a setting asks for another encoder than the weights are of."""
    for modality, name in names.items():
        if (asked := getattr(recipe, modality).encoder) != name:
            raise UserError(
                f"{modality}.encoder={asked}: {path} holds weights of {name}; leave it out"
            )
