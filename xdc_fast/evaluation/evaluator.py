"""A model on a shard set: what every downstream evaluation begins and ends with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.loader import choose_device, open_loader
from xdc_fast.clips.subset import ClipSubset, predict
from xdc_fast.encoders.features import calibrate
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
        self.device = choose_device(model.recipe)
        self.modalities = (modality,) if modality else common
        if model.name == "random":
            whole = ClipSubset(shards, np.arange(len(shards)), self.modalities)
            encoders = {m: model.encoders[m] for m in self.modalities}
            calibrate(encoders, self.feed(whole), self.inputs, self.recipe.train.batch)
            for encoder in encoders.values():
                encoder.eval()

    def feed(self, part: ClipSubset):
        """A feed of a part of the set, on the model's device."""
        return open_loader(self.recipe, part, self.inputs.shape, self.device)

    def network(self, modality: str) -> Callable[[Batch], torch.Tensor]:
        """The frozen encoder, from a batch to features (B, D)."""
        encoder = self.model.encoders[modality]
        return lambda batch: encoder(self.inputs.of(modality, batch))

    def features(self, part: ClipSubset, title: str) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Features of every item, {modality: float32 (M, D)}, and bool (M,): which were read."""
        networks = {m: self.network(m) for m in part.modalities}
        widths = {m: self.model.encoders[m].features for m in part.modalities}
        return predict(networks, widths, self.feed(part), self.recipe.train.batch, title)

    def digest(self, *modalities: str) -> str:
        """A name for the very weights of encoders."""
        total = hashlib.sha256()
        for modality in modalities:
            for name, value in self.model.encoders[modality].state_dict().items():
                total.update(f"{modality} {name}".encode())
                total.update(value.cpu().contiguous().numpy().tobytes())
        return total.hexdigest()[:16]

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
