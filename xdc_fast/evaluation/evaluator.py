"""A model on a shard set: what every downstream evaluation begins and ends with."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np

from xdc_fast.clips.loader import Loader, choose_device, open_loader
from xdc_fast.encoders.calibrate import calibrate
from xdc_fast.encoders.encoder import Encoder
from xdc_fast.encoders.features import Features, compute_features, weights_digest
from xdc_fast.errors import UserError
from xdc_fast.files import write_json
from xdc_fast.models.load import Model
from xdc_fast.shards.dataset import ShardSet


class Evaluator:
    """modalities: those that both the set and the model have, or of them the one asked for.

    out: where results are kept; otherwise in the run's folder, if the model is a run's.
    BatchNorm of random encoders is calibrated on the set, as in `xdc probe`.
    Raises UserError when there is no such modality.
    """

    def __init__(
        self,
        model: Model,
        shards: ShardSet,
        modality: str | None = None,
        out: str | Path | None = None,
    ):
        common = tuple(m for m in shards.modalities if m in model.encoders)
        if not common or modality not in (None, *common):
            raise UserError(
                f"{shards.root} holds {' and '.join(shards.modalities)}, {model.name} encodes "
                f"{' and '.join(model.encoders)}: nothing to evaluate"
                + (f" on {modality}; leave --modality out" if common else "; take another set")
            )
        self.model, self.shards = model, shards
        self.out = Path(out) if out else model.run and model.run.root
        self.recipe, self.inputs = model.recipe, model.inputs
        self.device = choose_device(model.recipe.device)
        self.modalities = (modality,) if modality else common
        if model.name == "random":
            encoders = self.encoders(*self.modalities)
            loader = self.loader(*self.modalities)
            calibrate(encoders, loader, self.inputs, self.recipe.train.batch)
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
        """Features of equally spaced clips, by compute_features."""
        return compute_features(
            self.encoders(*modalities),
            self.loader(*modalities),
            self.inputs,
            self.recipe.train.batch,
            samples=samples,
            clips=clips,
            average=average,
            title=title,
        )

    def digest(self, *modalities: str) -> str:
        """A name for the very weights of encoders."""
        return weights_digest(self.encoders(*modalities))

    def made_by(self, *modalities: str) -> dict:
        """What results on these modalities depend on, beside their own settings."""
        clip = {m: asdict(getattr(self.recipe, m)) for m in modalities}
        return {
            "shards": self.shards.fingerprint,
            "weights": self.digest(*modalities),
            "clip": json.loads(json.dumps(clip)),  # as it will be read: lists for tuples
        }

    def keep(self, folder: str, name: str, made_by: dict, result: dict) -> None:
        """Keeps a result as FOLDER/SET-NAME-HASH.json, a file for each `made_by`."""
        if self.out is None:
            return
        path = self._path(folder, name, made_by)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, result)

    def kept(self, folder: str, name: str, made_by: dict) -> dict:
        """What `keep` kept for the same; {} when there is nothing."""
        if self.out is None or not (path := self._path(folder, name, made_by)).is_file():
            return {}
        return json.loads(path.read_text())

    def _path(self, folder: str, name: str, made_by: dict) -> Path:
        total = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()
        name = f"{self.shards.root.resolve().name}-{name}".replace("/", "_")
        return self.out / folder / f"{name}-{total[:12]}.json"
