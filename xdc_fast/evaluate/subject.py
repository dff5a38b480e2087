"""A model on a shard set: what every downstream evaluation begins and ends with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.feed import choose_device, open_feed
from xdc_fast.encoders.features import calibrate
from xdc_fast.errors import UserError
from xdc_fast.evaluate.model import Model
from xdc_fast.evaluate.part import Part, outputs
from xdc_fast.files import replacing
from xdc_fast.shards.dataset import ShardSet


class Subject:
    """modalities: those that both the set and the model have, or of them the one asked for.

    BatchNorm of random encoders is calibrated on the set, as in `xdc probe`.
    Raises UserError when there is no such modality.
    """

    def __init__(self, model: Model, shards: ShardSet, modality: str | None = None):
        common = tuple(m for m in shards.modalities if m in model.encoders)
        if not common or modality not in (None, *common):
            raise UserError(
                f"{shards.root} holds {' and '.join(shards.modalities)}, {model.name} encodes "
                f"{' and '.join(model.encoders)}: nothing to evaluate"
                + (f" on {modality}; leave --modality out" if common else "; take another set")
            )
        self.model, self.shards = model, shards
        self.recipe, self.inputs = model.recipe, model.inputs
        self.device = choose_device(model.recipe)
        self.modalities = (modality,) if modality else common
        if model.name == "random":
            whole = Part(shards, np.arange(len(shards)), self.modalities)
            encoders = {m: model.encoders[m] for m in self.modalities}
            calibrate(encoders, self.feed(whole), self.inputs, self.recipe.train.batch)
            for encoder in encoders.values():
                encoder.eval()

    def feed(self, part: Part):
        """A feed of a part of the set, on the model's device."""
        return open_feed(self.recipe, part, self.inputs.shape, self.device)

    def network(self, modality: str) -> Callable[[Batch], torch.Tensor]:
        """The frozen encoder, from a batch to features (B, D)."""
        encoder = self.model.encoders[modality]
        return lambda batch: encoder(self.inputs.of(modality, batch))

    def features(self, part: Part, title: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Features of every item, {modality: float32 (M, D)}, and bool (M,): which were read."""
        networks = {m: self.network(m) for m in part.modalities}
        return outputs(networks, self.feed(part), self.recipe.train.batch, title)

    def digest(self, *modalities: str) -> str:
        """A name for the very weights of encoders."""
        total = hashlib.sha256()
        for modality in modalities:
            for name, value in self.model.encoders[modality].state_dict().items():
                total.update(f"{modality} {name}".encode())
                total.update(value.cpu().contiguous().numpy().tobytes())
        return total.hexdigest()[:16]

    def keep(self, folder: str, name: str, result: dict) -> None:
        """Keeps a result as RUN/FOLDER/SET-NAME.json, where the model is a run's."""
        if self.model.run is None:
            return
        path = self._path(folder, name)
        path.parent.mkdir(exist_ok=True)
        with replacing(path) as file:
            file.write(json.dumps(result, indent=2) + "\n")

    def kept(self, folder: str, name: str) -> dict:
        """What `keep` kept under these names; {} when there is nothing."""
        if self.model.run is None or not (path := self._path(folder, name)).is_file():
            return {}
        return json.loads(path.read_text())

    def _path(self, folder: str, name: str) -> Path:
        name = f"{self.shards.root.resolve().name}-{name}".replace("/", "_")
        return self.model.run.root / folder / f"{name}.json"
