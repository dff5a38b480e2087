"""A run is a folder: recipe, checkpoint, clusterings, metrics, summary.

RUN/recipe.yaml               the recipe as resolved
RUN/shards.json               the fingerprint of the shards that it is trained on
RUN/checkpoint.pt             where it stands, see checkpoint.py
RUN/checkpoint.before.pt      the one before it, until the run ends
RUN/encoders.pt               the trained encoders, written at the end: {modality: state dict}
RUN/heads.pt                  the heads of the last finished iteration: {head: state dict}
RUN/features/000/             finished shards of the pass before a clustering, while it goes on
RUN/bank/                     the memory bank, while a run with cluster.features=training goes on
RUN/iterations/000/video.npy  the assignment of one clustering; a resumed run needs those of its
                              iteration and of the one before
RUN/iterations/000/video.npz  its centroids and distances; of older runs, the assignment too
RUN/probes/*.json             what `xdc probe` found; other evaluations have folders likewise
RUN/metrics.jsonl             a line per logged step and per iteration
RUN/summary.json              what the run came to; rewritten after each iteration
RUN/tensorboard/              the same numbers for TensorBoard
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import torch

from xdc_fast import storage
from xdc_fast.clusters.kmeans import Clustering
from xdc_fast.encoders.build import MODALITIES
from xdc_fast.encoders.encoder import Encoder
from xdc_fast.encoders.weights import read_checkpoint
from xdc_fast.errors import UserError
from xdc_fast.files import (
    damaged,
    link,
    naming,
    read_array,
    read_arrays,
    read_json,
    read_lines,
    to_json,
    write,
    write_array,
    write_arrays,
    write_json,
)
from xdc_fast.pretraining.checkpoint import (
    State,
    read_encoder_weights,
    read_state,
    write_state,
    write_tensors,
)
from xdc_fast.pretraining.folder import Folder, open_folder
from xdc_fast.pretraining.records import record_form, run_form, step_form
from xdc_fast.recipe import END, Recipe, dump_recipe, flatten, is_whole, load_recipe
from xdc_fast.storage import Place

log = logging.getLogger(__name__)

ANEW = "mend it, put back a copy of it, or begin a new run in another folder"
MAY_CHANGE_ON_RESUME = (
    *("out", "data", "device", "loader", "threads", "decoder_load"),
    *("read", "cache", "cache_gb", "max_unreadable"),
)


class Run:
    """A run folder. `Run.open` for one that exists, `Run.start` to begin or resume one.

    folder: where its files are. place: that folder as the user names it. root: the folder on this
    machine. trained_on: the fingerprint of the shards that it is trained on; None where none is
    kept.
    """

    def __init__(self, folder: Folder, recipe: Recipe, trained_on: str | None = None):
        self.folder, self.recipe, self.trained_on = folder, recipe, trained_on
        self.place, self.root = folder.place, folder.root

    @classmethod
    def open(cls, root: str | Place) -> Run:
        """An existing run, in a folder or at a URL; UserError when it holds none."""
        return cls._open(open_folder(root))

    @classmethod
    def _open(cls, folder: Folder) -> Run:
        written, file = folder.file("recipe.yaml"), folder.file("shards.json")
        if not written.is_file():
            raise UserError(
                f"{folder.place}: no recipe.yaml there, so no run; make one with `xdc pretrain`"
            )
        with folder.naming():
            try:
                recipe = load_recipe(written)
            except UserError as error:
                raise UserError(f"{error}; {ANEW}") from None
            if not is_whole(written.read_text(encoding="utf-8")):
                raise damaged(written, "its end lacks", ANEW)
            kept = read_json(file, {"fingerprint": (str, None)}, ANEW) if file.is_file() else {}
        return cls(folder, recipe, kept.get("fingerprint"))

    @classmethod
    def start(cls, recipe: Recipe, fingerprint: str) -> Run:
        """The folder recipe.out, new or to be resumed; nothing is written yet.

        fingerprint: that of the shards to train on.
        Raises UserError when the folder holds something else, a run of another recipe, or a run
        that was started on other shards.
        """
        if not recipe.out:
            raise UserError("no folder for the run; give out=FOLDER")
        folder = open_folder(recipe.out)
        root = folder.place
        if isinstance(root, Path) and root.exists() and not root.is_dir():
            raise UserError(f"{root}: is a file; give another out=FOLDER")
        found = folder.top()
        if "checkpoint.pt" in found:
            before = cls._open(folder)
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
            raise UserError(f"{root}: not empty, and not a run; give another out=FOLDER")
        return cls(folder, recipe, fingerprint)

    @contextmanager
    def hold(self) -> Iterator[None]:
        """Keeps other processes from working in the folder; writes recipe.yaml and shards.json.

        Raises Busy when another process works there.
        """
        with self.folder.hold():
            write(self.root / "recipe.yaml", dump_recipe(self.recipe) + END)
            write_json(self.root / "shards.json", {"fingerprint": self.trained_on})
            yield

    @property
    def finished(self) -> bool:
        """Whether its training has ended, so that its encoders are the final ones."""
        return self.folder.file("encoders.pt").is_file()

    def features(self, iteration: int) -> Place:
        """Where the pass before a clustering keeps the spans that it has finished."""
        return self.place / "features" / f"{iteration:03d}"

    def remove_features(self) -> None:
        """Removes what `features` holds, of every iteration."""
        storage.delete_below(self.place / "features")

    @property
    def bank(self) -> Path:
        """Where the memory bank lies."""
        return self.root / "bank"

    def iteration(self, number: int) -> Path:
        """Where the clusterings of an iteration lie."""
        return self.root / "iterations" / f"{number:03d}"

    def save_clusters(self, number: int, clusterings: Mapping[str, Clustering]) -> None:
        """Keeps the clusterings of an iteration, {name: Clustering}."""
        folder = self.iteration(number)
        folder.mkdir(parents=True, exist_ok=True)
        for name, c in clusterings.items():
            write_array(folder / f"{name}.npy", c.assignment)
            write_arrays(folder / f"{name}.npz", centroids=c.centroids, distance=c.distance)
        self.folder.publish()

    def clusters(self, number: int, samples: int) -> dict[str, dict[str, np.ndarray]]:
        """{clustering: {assignment, centroids, distance}} of an iteration.

        samples: of the set that the run is trained on. Raises UserError for a damaged file.
        """
        names = self.folder.names(f"iterations/{number:03d}")
        with self.folder.naming():
            return {
                Path(name).stem: self._clustering(name, samples)
                for name in names
                if name.endswith(".npz")
            }

    def assignments(self, number: int, names: Iterable[str], samples: int) -> dict[str, np.ndarray]:
        """{clustering: int32 (N,)}, the assignments of an iteration; UserError where one lacks."""
        folder = f"iterations/{number:03d}"
        with self.folder.naming():
            return {name: self._assignment(f"{folder}/{name}", samples) for name in names}

    def _clustering(self, name: str, samples: int) -> dict[str, np.ndarray]:
        path = self.folder.file(name)
        form = {
            "centroids": (np.float32, (self.recipe.k, None)),
            "distance": (np.float32, (samples,)),
        }
        arrays = read_arrays(path, form, ANEW)
        if not np.isfinite(arrays["centroids"]).all() or np.isnan(arrays["distance"]).any():
            raise damaged(path, "numbers that are not finite", ANEW)
        assignment = self._assignment(name.removesuffix(".npz"), samples)
        return {"assignment": assignment, **arrays}

    def _assignment(self, name: str, samples: int) -> np.ndarray:
        """name: of a clustering's files, without their suffix."""
        k, path, assignment = self.recipe.k, self.folder.file(f"{name}.npy"), None
        if not path.exists():
            older = self.folder.file(f"{name}.npz")
            with suppress(UserError):  # where the file is gone, and the run is not an older one
                form: dict = {"assignment": (np.int32, (samples,))}
                path, assignment = older, read_arrays(older, form, ANEW)["assignment"]
        if assignment is None:
            assignment = read_array(path, np.int32, (samples,), ANEW)
        if len(assignment) and not (assignment.min() >= -1 and assignment.max() < k):
            raise damaged(path, f"clusters outside -1 to {k - 1}", ANEW)
        return assignment

    def write_state(self, state: State, encoders: Mapping[str, torch.nn.Module]) -> None:
        """Writes the checkpoint; the one before it is kept too."""
        newest, before = self._checkpoints
        if newest.is_file():
            link(newest, before)
        write_state(newest, state, encoders)
        self.folder.publish()

    def read_state(self, encoders: Mapping[str, Encoder], steps: int) -> State | None:
        """The state of the checkpoint, its weights loaded into the encoders; None without one.

        steps: of an iteration. Of a damaged checkpoint and the one before it,
        the latter is taken.
        """
        newest, before = self._checkpoints
        if not newest.is_file():
            return None
        with self.folder.naming():
            try:
                return read_state(newest, encoders, self.recipe, steps)
            except UserError as error:
                if not before.is_file():
                    raise
                state = read_state(before, encoders, self.recipe, steps)
                log.warning("%s; the run goes on from %s", str(error).rsplit(";", 1)[0], before)
                return state

    @property
    def _checkpoints(self) -> tuple[Path, Path]:
        return self.folder.file("checkpoint.pt"), self.folder.file("checkpoint.before.pt")

    def save_encoders(self, encoders: Mapping[str, torch.nn.Module]) -> None:
        """Keeps the trained encoders; the run has finished."""
        weights = {modality: encoders[modality].state_dict() for modality in MODALITIES}
        write_tensors(self.root / "encoders.pt", weights)
        shutil.rmtree(self.bank, ignore_errors=True)
        self._checkpoints[1].unlink(missing_ok=True)
        self.folder.publish()

    def weights_file(self) -> Path:
        """The file of the trained encoders; the checkpoint while the run goes on."""
        for name in ("encoders.pt", "checkpoint.pt"):
            if (file := self.folder.file(name)).is_file():
                return file
        raise UserError(f"{self.place}: no checkpoint yet; let `xdc pretrain` run longer")

    def encoder_weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """{modality: state dict}, as weights_file() holds them."""
        return read_encoder_weights(self.weights_file())

    def save_heads(self, heads: Mapping[str, dict[str, torch.Tensor]]) -> None:
        """Keeps the heads of a finished iteration, {head: state dict}."""
        write_tensors(self.heads_file, dict(heads))

    @property
    def heads_file(self) -> Path:
        """The file of the heads of the last finished iteration; not there before there is one."""
        return self.folder.file("heads.pt")

    def heads(self) -> dict[str, dict[str, torch.Tensor]]:
        """{head: state dict}, as heads_file holds them; empty where there is none."""
        return read_checkpoint(self.heads_file, ANEW) if self.heads_file.is_file() else {}

    def keep_metrics(self, iteration: int, step: int) -> None:
        """Drops the lines that a resumed run will write again."""
        kept = [
            to_json(line)
            for line in self.metrics()
            if (line["iteration"], line.get("step", float("inf"))) <= (iteration, step)
        ]
        write(self.root / "metrics.jsonl", "".join(line + "\n" for line in kept))

    def add_metrics(self, line: dict) -> None:
        """Adds a line to metrics.jsonl."""
        path = self.root / "metrics.jsonl"
        with naming(path), path.open("a", encoding="utf-8") as file:
            file.write(to_json(line) + "\n")

    def metrics(self) -> list[dict]:
        """The lines of metrics.jsonl."""
        path, method = self.folder.file("metrics.jsonl"), self.recipe.method
        if not path.is_file():
            return []
        hint = "remove it, and the report shows no loss by step"
        with self.folder.naming():
            return read_lines(path, (step_form(method), record_form(method)), hint)

    def save_summary(self, summary: dict) -> None:
        """Writes summary.json."""
        write_json(self.root / "summary.json", summary)

    def summary(self) -> dict:
        """What summary.json holds; UserError when no iteration has finished."""
        path, recipe = self.folder.file("summary.json"), self.recipe
        if not path.is_file():
            raise UserError(
                f"{self.place}: no iteration finished yet; let `xdc pretrain` run longer"
            )
        with self.folder.naming():
            summary = read_json(path, run_form(recipe.method), ANEW)
            numbers = [record["iteration"] for record in summary["iterations"]]
            if not numbers or numbers != list(range(len(numbers))):
                raise damaged(path, "not the records of all iterations", ANEW)
            if (summary["method"], summary["k"]) != (recipe.method, recipe.k):
                raise damaged(path, "of another method or k than recipe.yaml", ANEW)
        return summary
