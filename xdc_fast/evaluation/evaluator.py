"""A model on a shard set: what every evaluation begins and ends with."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import asdict

import numpy as np

from xdc_fast.clips.loader import Loader, choose_device, open_loader
from xdc_fast.encoders.calibrate import calibrate
from xdc_fast.encoders.encoder import Encoder
from xdc_fast.encoders.feature_rows import Features
from xdc_fast.encoders.features import compute_features, weights_digest
from xdc_fast.encoders.memory import check_memory
from xdc_fast.errors import UserError
from xdc_fast.evaluation.results import Result, as_json, place_for
from xdc_fast.models.load import Model
from xdc_fast.ranks import ALONE, Ranks
from xdc_fast.recipe import Recipe
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.format import MANIFEST
from xdc_fast.storage import Place, check_writable, place_of


class Evaluator:
    """The encoders of a model on a shard set, and the folder of their results.

    modality: the encoder to evaluate; without it, each that both the model and the set have. They
    are in `modalities`.
    out: the folder for results; without it, the run's folder if the model is of a run.
    ranks: they share the feature passes; the first one has the features and keeps the results.
    BatchNorm of random encoders is calibrated on the set.
    Raises UserError when there is no such modality, when `out` cannot be written, and when a batch
    cannot fit into memory.
    """

    def __init__(
        self,
        model: Model,
        shards: ShardSet,
        modality: str | None = None,
        out: str | Place | None = None,
        ranks: Ranks = ALONE,
    ):
        common = tuple(m for m in shards.modalities if m in model.encoders)
        if not common or modality not in (None, *common):
            raise UserError(
                f"{shards.root} holds {' and '.join(shards.modalities)}, {model.name} encodes "
                f"{' and '.join(model.encoders)}: nothing to evaluate"
                + (f" on {modality}; leave --modality out" if common else "; take another set")
            )
        self.model, self.shards, self.ranks = model, shards, ranks
        self.out = place_of(out) if out else model.run.place if model.run else None
        self.recipe, self.inputs = model.recipe, model.inputs
        self.device = choose_device(model.recipe.device)
        self.modalities = (modality,) if modality else common
        if self.out:
            check_writable(self.out)
            if (self.out / MANIFEST).is_file():
                raise UserError(f"{self.out}: holds a shard set; give another folder with --out")
        check_memory(self.recipe, self.modalities, self.device, training=False)
        if model.name == "random":
            encoders = self.encoders(*self.modalities)
            loader = self.loader(*self.modalities)
            calibrate(encoders, loader, self.inputs, self.recipe.train.group_size)
            for encoder in encoders.values():
                encoder.eval()

    def loader(self, *modalities: str) -> Loader:
        """Reads these tracks of the set, to the model's device."""
        return open_loader(
            self.shards,
            self.inputs.shape.only(*modalities),
            device=self.device,
            loader=self.recipe.loader,
            threads=self.recipe.threads,
            decoder_load=self.recipe.decoder_load,
            spec=self.inputs.spec,
            read=self.recipe.read,
            max_unreadable=self.recipe.max_unreadable,
        )

    def encoders(self, *modalities: str) -> dict[str, Encoder]:
        """The model's encoders of these modalities."""
        return {m: self.model.encoders[m] for m in modalities}

    def features(
        self,
        *modalities: str,
        samples: np.ndarray | None = None,
        clips: int,
        average: bool = True,
        title: str = "features",
    ) -> Features:
        """Features of equally spaced clips, as compute_features makes them; of several ranks, the
        first gets them."""
        return compute_features(
            self.encoders(*modalities),
            self.loader(*modalities),
            self.inputs,
            self.recipe.train.group_size,
            samples=samples,
            clips=clips,
            average=average,
            title=title,
            ranks=self.ranks,
        )

    def made_by(self, *modalities: str) -> dict:
        """What results on these modalities depend on, beside their own settings."""
        return {
            "shards": self.shards.fingerprint,
            "weights": weights_digest(self.encoders(*modalities)),
            "clip": clip_settings(self.recipe, modalities),
        }

    def about(self, made_by: dict) -> dict:
        """What every result says: the model, whether its run had finished, the set, `made_by`."""
        where, finished = self.model.name, self.model.finished
        return {"where": where, "finished": finished, "data": str(self.shards.root), **made_by}

    def place_for(self, folder: str, name: str, made_by: dict) -> AbstractContextManager[Result]:
        """Where a result on the set is kept, see results.place_for; on the first rank alone."""
        out = self.out if self.ranks.first else None
        return place_for(out, folder, f"{self.shards.root.resolve().name}-{name}", made_by)


def clip_settings(recipe: Recipe, modalities: tuple[str, ...]) -> dict:
    """The recipe's settings of a clip, {modality: {setting: value}}, as JSON gives them back."""
    clip = {modality: asdict(getattr(recipe, modality)) for modality in modalities}
    return as_json(clip)
