"""Results of evaluations on disk: OUT/FOLDER/SET-NAME-HASH.json, a file for each `made_by`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from xdc_fast import storage
from xdc_fast.encoders.build import MODALITIES
from xdc_fast.files import NUMBER, damaged, locked, misfit, read_json, to_json
from xdc_fast.storage import Place

HINT = "remove it, and the result is made again"
PROBE = {
    "finished": bool, "label": str, "split": (str, None), "chance": float, "clip": dict,
    "nmi": {str: {str: float}}, "nmi_random": {str: {str: float}},
}  # fmt: skip
SPLIT = {
    "split": str, "train": int, "test": int, "n_unreadable": int,
    "clip@1": float, "video@1": float, "video@5": NUMBER,
}  # fmt: skip


class Result:
    """A place for one result, that no other process of this machine writes meanwhile; without one,
    none is kept."""

    def __init__(self, path: Place | None, made_by: dict):
        self.path, self.made_by = path, made_by

    def save(self, result: dict) -> None:
        """Keeps it."""
        if self.path is not None:
            storage.write(self.path, (to_json(result, 2) + "\n").encode())

    def splits(self, names: list[str]) -> list[dict]:
        """The scores of fine-tuning that were saved, of splits of these names; UserError for a
        damaged file."""
        if self.path is None or not self.path.is_file():
            return []
        kept = read_json(self.path, {"splits": [SPLIT]}, HINT)
        if not as_json(self.made_by).items() <= kept.items():
            raise damaged(self.path, "a result of something else", HINT)
        if [score["split"] for score in kept["splits"]] != names[: len(kept["splits"])]:
            raise damaged(self.path, "other splits", HINT)
        return kept["splits"]


@contextmanager
def place_for(out: Place | None, folder: str, name: str, made_by: dict) -> Iterator[Result]:
    """Where the result that is `made_by` this is kept. out: None to keep none.

    Raises Busy when another process makes the same result.
    """
    if out is None:
        yield Result(None, made_by)
        return
    total = hashlib.sha256(json.dumps(made_by, sort_keys=True).encode()).hexdigest()
    path = out / folder / f"{name.replace('/', '_')}-{total[:12]}.json"
    if not isinstance(path, Path):
        yield Result(path, made_by)
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    busy = f"{path}: another process is making this result; wait for it"
    with locked(path.with_suffix(".lock"), busy):
        yield Result(path, made_by)


def read_probe(path: Path) -> dict:
    """A result of `xdc probe`; UserError for a damaged file."""
    result = read_json(path, PROBE, HINT)
    label, scores = result["label"], {"pretrained": float, "random": float}
    modalities = [modality for modality in MODALITIES if modality in result["clip"]]
    nmi = {modality: {label: float} for modality in modalities}
    form = {**dict.fromkeys(modalities, scores), "nmi": nmi, "nmi_random": nmi}
    if fault := misfit(result, form) or ("" if modalities else "of no modality"):
        raise damaged(path, fault, HINT)
    return result


def as_json(value: dict) -> dict:
    """A value as JSON gives it back: lists for tuples."""
    return json.loads(json.dumps(value))
