"""A run is a folder: recipe, checkpoint, clusterings, metrics, summary.

RUN/recipe.yaml               the recipe as resolved
RUN/shards.json               the fingerprint of the shards it is trained on
RUN/checkpoint.pt             the newest state; everything a resumed run needs
RUN/encoders.pt               the trained encoders, written at the end
RUN/heads.pt                  the heads of the last iteration that was finished
RUN/iterations/000/video.npz  assignment, centroids, distance of one clustering
RUN/probes/LABEL.json         what `xdc probe` found
RUN/features/000/             while the pass before a clustering runs: finished shards
RUN/metrics.jsonl             a line per logged step and per iteration
RUN/summary.json              what the run came to; rewritten after each iteration
RUN/tensorboard/              the same numbers for TensorBoard
"""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from xdc_fast.clusters.kmeans import Clustering
from xdc_fast.encoders.build import MODALITIES, modality_of
from xdc_fast.encoders.weights import load_weights, read_checkpoint
from xdc_fast.errors import UserError
from xdc_fast.files import locked, read_json, write, write_json
from xdc_fast.recipe import Recipe, dump_recipe, flatten, load_recipe

LOCK = ".lock"
MAY_CHANGE_ON_RESUME = (
    "out",
    "data",
    "device",
    "loader",
    "threads",
)  # may differ when a run is resumed


class Run:
    """A run folder. `Run.open` for one that exists, `Run.start` to begin or resume one.

    trained_on: the fingerprint of the shards that it is trained on; None where none is kept.
    """

    def __init__(self, root: Path, recipe: Recipe, trained_on: str | None = None):
        self.root, self.recipe, self.trained_on = root, recipe, trained_on

    @classmethod
    def open(cls, root: str | Path) -> Run:
        """An existing run; UserError when the folder holds none."""
        root = Path(root)
        if not (root / "recipe.yaml").is_file():
            raise UserError(
                f"{root}: no recipe.yaml there, so no run; make one with `xdc pretrain`"
            )
        recipe, file = load_recipe(root / "recipe.yaml"), root / "shards.json"
        kept = read_json(file, "run `xdc pretrain` again") if file.is_file() else {}
        return cls(root, recipe, kept.get("fingerprint"))

    @classmethod
    def start(cls, recipe: Recipe, fingerprint: str) -> Run:
        """The folder recipe.out, new or to be resumed; nothing is written yet.

        fingerprint: that of the shards to train on.
        Raises UserError when the folder holds something else, a run of another recipe, or a run
        that was started on other shards.
        """
        if not recipe.out:
            raise UserError("no folder for the run; give out=FOLDER")
        root = Path(recipe.out)
        if root.exists() and not root.is_dir():
            raise UserError(f"{root}: is a file; give another out=FOLDER")
        found = {path.name for path in root.glob("[!.]*")}
        if "checkpoint.pt" in found:
            before = cls.open(root)
            was, now = flatten(before.recipe), flatten(recipe)
            changed = {k for k in now if now[k] != was[k]} - {*MAY_CHANGE_ON_RESUME}
            if changed:
                shown = ", ".join(f"{k}={now[k]!r} (was {was[k]!r})" for k in sorted(changed))
                raise UserError(
                    f"{root}: holds a run of another recipe: {shown}; "
                    "resume it with its own settings, or give another out=FOLDER"
                )
            if before.trained_on != fingerprint:
                raise UserError(
                    f"{root}: was started on other shards than {recipe.data} holds; give the data "
                    "it was started on, or another out=FOLDER"
                )
        elif found and "recipe.yaml" not in found:
            raise UserError(f"{root}: not empty and not a run; give another out=FOLDER")
        return cls(root, recipe, fingerprint)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keeps other processes from working in the folder, and writes there what it is about.

        Raises Busy when one does already.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        busy = (
            f"{self.root}: another process is at work there; wait for it, or give another "
            "out=FOLDER"
        )
        with locked(self.root / LOCK, busy):
            write(self.root / "recipe.yaml", dump_recipe(self.recipe))
            write_json(self.root / "shards.json", {"fingerprint": self.trained_on})
            yield

    def iteration(self, number: int) -> Path:
        return self.root / "iterations" / f"{number:03d}"

    def features(self, number: int) -> Path:
        """Where the features of one iteration are kept until they are clustered."""
        return self.root / "features" / f"{number:03d}"

    def remove_features(self) -> None:
        shutil.rmtree(self.root / "features", ignore_errors=True)

    def save_clusters(self, number: int, clusterings: dict[str, Clustering]) -> None:
        folder = self.iteration(number)
        folder.mkdir(parents=True, exist_ok=True)
        for name, c in clusterings.items():
            content = io.BytesIO()
            np.savez(content, assignment=c.assignment, centroids=c.centroids, distance=c.distance)
            write(folder / f"{name}.npz", content.getbuffer())

    def clusters(self, number: int) -> dict[str, dict[str, np.ndarray]]:
        """{clustering: {assignment, centroids, distance}} of one iteration."""
        out = {}
        for path in sorted(self.iteration(number).glob("*.npz")):
            try:
                with path.open("rb") as file:
                    out[path.stem] = dict(np.load(file))
            except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
                raise UserError(f"{path}: cannot be read ({error}); start the run anew") from error
        return out

    def save_checkpoint(self, state: dict) -> None:
        self._save("checkpoint.pt", state)

    def checkpoint(self) -> dict | None:
        return self._load("checkpoint.pt")

    @property
    def finished(self) -> bool:
        """Whether its training has ended, so that its encoders are the final ones."""
        return (self.root / "encoders.pt").is_file()

    def save_encoders(self, encoders: dict[str, torch.nn.Module]) -> None:
        self._save("encoders.pt", {m: encoders[m].state_dict() for m in MODALITIES})

    def save_heads(self, heads: dict[str, dict[str, torch.Tensor]]) -> None:
        """Keeps the state dict of each head."""
        self._save("heads.pt", heads)

    def _save(self, name: str, state: dict) -> None:
        content = io.BytesIO()
        torch.save(state, content)
        write(self.root / name, content.getbuffer())

    def _load(self, name: str) -> dict | None:
        path = self.root / name
        if not path.is_file():
            return None
        return read_checkpoint(path, "remove it and run `xdc pretrain` again")

    def encoder_weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """State dicts of the trained encoders; of the newest checkpoint while the run goes on."""
        weights = self._load("encoders.pt")
        if weights is None:
            state = self.checkpoint()
            if state is None:
                raise UserError(f"{self.root}: no checkpoint yet; let `xdc pretrain` run longer")
            weights = state["encoders"]
        return {modality: weights[modality] for modality in MODALITIES}

    def keep_metrics(self, iteration: int, step: int) -> None:
        """Drops the lines that a resumed run will write again."""
        kept = [
            json.dumps(line)
            for line in self.metrics()
            if (line["iteration"], line.get("step", float("inf"))) <= (iteration, step)
        ]
        write(self.root / "metrics.jsonl", "".join(line + "\n" for line in kept))

    def add_metrics(self, line: dict) -> None:
        with (self.root / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")

    def metrics(self) -> list[dict]:
        path = self.root / "metrics.jsonl"
        if not path.is_file():
            return []
        lines = path.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.endswith("\n")]  # the last may be torn

    def save_summary(self, summary: dict) -> None:
        write_json(self.root / "summary.json", summary)

    def save_probe(self, result: dict) -> None:
        """Keeps a probe's result as RUN/probes/LABEL.json."""
        folder = self.root / "probes"
        folder.mkdir(exist_ok=True)
        name = result["label"].replace("/", "_") + ".json"
        write_json(folder / name, result)

    def summary(self) -> dict:
        path = self.root / "summary.json"
        if not path.is_file():
            raise UserError(
                f"{self.root}: no iteration finished yet; let `xdc pretrain` run longer"
            )
        return read_json(path, "run `xdc pretrain` again")


def load_encoder_weights(
    encoders: dict[str, torch.nn.Module], weights: dict[str, dict], recipe: Recipe, file: Path
) -> None:
    """Loads the weights that a file holds; UserError when they are not of the recipe's encoders."""
    for name, encoder in encoders.items():
        modality = modality_of(name)
        hint = f"set {modality}.encoder in its recipe to what it was trained with"
        load_weights(encoder, weights.get(name), file, getattr(recipe, modality).encoder, hint)
