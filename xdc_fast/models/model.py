"""Encoders ready for use."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
from torch import nn

from xdc_fast.clips.loader import choose_device
from xdc_fast.clips.windows import equal_positions
from xdc_fast.encoders.encoder import Encoder
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.encoders.weights import Keys
from xdc_fast.errors import UserError
from xdc_fast.models.media import iterate_media
from xdc_fast.packing.media import REASONS, Refusal
from xdc_fast.packing.settings import PackSettings
from xdc_fast.pretraining.run import Run
from xdc_fast.recipe import Recipe
from xdc_fast.shards.dataset import ShardSet

MARGIN = 8 / 7  # short side of a packed picture to its crop: 128 to 112, as by default

log = logging.getLogger(__name__)


@dataclass
class Model:
    """Encoders ready for use, in eval mode, on the recipe's device; `xdc_fast.load` makes it.

    Attributes:
        name: what was loaded.
        recipe: the recipe of the encoders, with the settings that were changed.
        encoders: {modality: PyTorch module}, of the modalities that there are.
        heads: {name: cluster head}; empty where none were kept.
        run: the run that the encoders are of, or None.
        inputs: makes encoder inputs of batches.
        keys: of a .pth file, which of its weights were taken; else None.
        finished: False for the encoders of a run whose training has not ended.
    """

    name: str
    recipe: Recipe
    encoders: dict[str, Encoder]
    heads: dict[str, nn.Linear]
    run: Run | None
    inputs: ClipTransform
    keys: Keys | None = None
    finished: bool = True

    def __call__(
        self, media: str | Path | Iterable[str | Path], clips: int = 10
    ) -> dict[str, np.ndarray]:
        """Features of media files, averaged over equally spaced clips of each.

        Args:
            media: a file, or several. Files may be of any length.
            clips: of each file; a single one is its middle.

        Returns:
            {modality: float32 (D,)} for a file, {modality: float32 (N, D)} for several. A modality
            that no file has is left out. The row of a file that lacks it is NaN: a video without
            sound has no "audio", a recording no "video".

        Raises:
            UserError: for the first file that cannot be decoded from beginning to end. `xdc
                extract --media` passes over such files and lists them.

        Files are decoded as `packing` says, in `recipe.threads` threads of this process. The sound
        is that of a packed sample, the pictures are those before compression.
        """
        single = isinstance(media, (str, Path))
        paths = [Path(media)] if isinstance(media, (str, Path)) else [Path(path) for path in media]
        widths = {modality: encoder.features for modality, encoder in self.encoders.items()}
        found = {m: np.full((len(paths), w), np.nan, np.float32) for m, w in widths.items()}
        positions = equal_positions(clips)
        items = iterate_media(
            self.encoders,
            self.inputs,
            self.packing,
            paths,
            lambda row: positions,
            batch=max(clips, self.recipe.train.group_size),
            device=choose_device(self.recipe.device),
            threads=self.recipe.threads,
        )
        present = set()
        for number, item in enumerate(items):
            if isinstance(item, Refusal):
                raise UserError(
                    f"{paths[number]}: {item.reason} ({item.detail or REASONS[item.reason]}); give "
                    "a file that plays from beginning to end"
                )
            for modality, rows in item.arrays.items():
                found[modality][number] = rows.mean(axis=0)
                present.add(modality)
        return {m: a[0] if single else a for m, a in found.items() if m in present}

    @cached_property
    def packing(self) -> PackSettings:
        """How media files are decoded: as the recipe's shards were packed. May be set.

        Where those shards are out of reach, the defaults of `xdc-shard pack` are taken, with a
        short side that fits the crop.
        """
        try:
            found = {}
            if (recipe := self.recipe).data:
                found = ShardSet(recipe.data, recipe.cache, recipe.cache_gb).settings
        except UserError as error:
            log.warning("media files are decoded by default settings: %s", error)
            found = {}
        return packing_for(self.recipe, found)


def packing_for(recipe: Recipe, found: dict) -> PackSettings:
    """PackSettings that fit the recipe. found: those of the set that it was trained on."""
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
