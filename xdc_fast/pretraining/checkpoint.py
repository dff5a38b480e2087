"""The checkpoint: where a run stands, and the weights of its encoders.

checkpoint.pt is a PyTorch file that holds a dict of the keys

format      FORMAT, an int; a file of another number is refused
encoders    {encoder: state dict}
...         the fields of State, each under its own name
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import get_type_hints

import torch
from torch import nn

from xdc_fast.encoders.build import MODALITIES, modality_of
from xdc_fast.encoders.encoder import Encoder
from xdc_fast.encoders.weights import load_encoder_weights, read_checkpoint, tensors_fault
from xdc_fast.errors import UserError
from xdc_fast.files import damaged, misfit, write
from xdc_fast.pretraining.methods import heads_of
from xdc_fast.pretraining.records import clusters_form, record_form
from xdc_fast.recipe import Recipe

FORMAT = 1
HINT = "remove it and run `xdc pretrain` again"


@dataclass
class State:
    """Where a run stands.

    iteration: the number of finished ones. step: the number of finished ones of this iteration.
    seconds: how long the run has taken. clusters: metrics of this iteration's clusterings, as of
    records.cluster_record; None: they are not made yet. learner: state of the heads and the
    optimizer; None: this iteration has not trained yet. heads: {head: state dict} to begin this
    iteration with; None: they are drawn.
    sums: this iteration's metrics, summed over its steps. records: those of finished iterations.
    """

    iteration: int = 0
    step: int = 0
    seconds: float = 0.0
    clusters: dict | None = None
    learner: dict | None = None
    heads: dict | None = None
    sums: dict = field(default_factory=dict)
    records: list = field(default_factory=list)

    def add(self, metrics: Mapping[str, float | torch.Tensor]) -> None:
        """Adds a step's metrics to the sums."""
        self.sums = {name: self.sums.get(name, 0) + value for name, value in metrics.items()}

    def next_iteration(self, record: dict, heads: dict | None) -> None:
        """Closes an iteration with its record; the next one begins with these heads."""
        self.records.append(record)
        self.iteration, self.step = self.iteration + 1, 0
        self.clusters, self.learner, self.heads, self.sums = None, None, heads, {}


def write_state(file: Path, state: State, encoders: Mapping[str, nn.Module]) -> None:
    """Writes a checkpoint; the one before it stays until the new one is whole."""
    weights = {name: encoder.state_dict() for name, encoder in encoders.items()}
    write_tensors(file, {"format": FORMAT, "encoders": weights, **vars(state)})


def read_state(file: Path, encoders: Mapping[str, Encoder], recipe: Recipe, steps: int) -> State:
    """The state that a checkpoint holds; its weights are loaded into the encoders.

    steps: of an iteration. Raises UserError when the file cannot be read, is
    of another format or of other encoders, or holds what no run of the recipe writes.
    """
    content = _checked(read_checkpoint(file, HINT), file)
    load_encoder_weights(encoders, content["encoders"], recipe, file)
    state = State(**{known.name: content[known.name] for known in fields(State)})
    if fault := _fault(state, encoders, recipe, steps):
        raise damaged(file, fault, HINT)
    return state


def read_encoder_weights(file: Path) -> dict[str, dict[str, torch.Tensor]]:
    """{modality: state dict} of a run's encoders.pt or checkpoint.pt, not of the twins.

    Raises UserError when the file cannot be read or holds no such weights.
    """
    content = read_checkpoint(file, HINT)
    if "format" in content:
        content = _checked(content, file)["encoders"]
    if not set(MODALITIES) <= set(content):
        raise UserError(f"{file}: no weights of a run; give encoders.pt or checkpoint.pt")
    return {modality: content[modality] for modality in MODALITIES}


def head_weights(
    recipe: Recipe, encoders: Mapping[str, Encoder]
) -> dict[str, dict[str, torch.Tensor]]:
    """{head: state dict} of a recipe's heads by name, shape and type, without numbers.

    encoders: of both modalities.
    """
    with torch.device("meta"):
        return {
            head.name: nn.Linear(
                encoders[modality_of(head.encoder)].features, recipe.k
            ).state_dict()
            for head in heads_of(recipe.method)
        }


def heads_fault(found: object, like: Mapping[str, Mapping[str, torch.Tensor]]) -> str:
    """Why what a file holds are not the weights of these heads; empty when they are."""
    if not isinstance(found, dict) or found.keys() != like.keys():
        return f"not the heads {', '.join(like)}"
    faults = {name: tensors_fault(found[name], like[name]) for name in like}
    return next((f"head {name}: {fault}" for name, fault in faults.items() if fault), "")


def write_tensors(file: Path, content: dict) -> None:
    """Writes a dict of tensors as a PyTorch file."""
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write(file, buffer.getbuffer())


def _checked(content: dict, file: Path) -> dict:
    """The content of a checkpoint; UserError when it is not as State and FORMAT say."""
    found = content.get("format")
    if type(found) is not int or found != FORMAT:
        shown = found if found is None or type(found) is int else "unknown"
        raise UserError(
            f"{file}: checkpoint of format {shown}, and this version of xdc_fast reads {FORMAT}; "
            "continue with the version that wrote it, or give another out=FOLDER"
        )
    if content.get("memory_bank", 0) is None:  # of older versions; they kept it here
        del content["memory_bank"]
    schema = {"format": int, "encoders": dict, **get_type_hints(State)}
    for key in sorted(content.keys() | schema.keys()):
        if key not in content:
            fault = f"no '{key}'"
        elif key not in schema:
            fault = f"unknown '{key}'"
        elif not isinstance(content[key], schema[key]):
            fault = f"'{key}' is of type {type(content[key]).__name__}"
        else:
            continue
        raise UserError(f"{file}: not a checkpoint of this format: {fault}; {HINT}")
    return content


def _fault(state: State, encoders: Mapping[str, Encoder], recipe: Recipe, steps: int) -> str:
    """What of a state no run of the recipe writes; empty when all is well."""
    like, number = head_weights(recipe, encoders), (float, torch.Tensor)
    sums = [f"{head}_{metric}" for head in like for metric in ("loss", "accuracy")]
    forms = {
        "iteration": int,
        "step": int,
        "seconds": float,
        "clusters": (clusters_form(recipe.method), None),
        "records": [record_form(recipe.method)],
        "sums": dict.fromkeys((*sums, "steps", "seconds", "wait"), number) if state.step else {},
        "learner": ({"heads": dict, "optimizer": {"state": dict}}, None),
    }
    if fault := misfit(vars(state), forms):
        return fault
    try:
        json.dumps([state.clusters, state.records])
    except (TypeError, ValueError, RecursionError):
        return "records of other things than numbers and text"
    numbers = [record["iteration"] for record in state.records]
    if len(numbers) != state.iteration or numbers != list(range(len(numbers))):
        return f"not the records of {state.iteration} iterations"
    if not 0 <= state.step <= steps:
        return f"step {state.step} of {steps}"
    if state.step and (state.clusters is None or state.learner is None):
        return f"step {state.step} without its clusters and its learner"
    scalars = {name: value for name, value in state.sums.items() if torch.is_tensor(value)}
    faults = [tensors_fault(scalars, dict.fromkeys(scalars, torch.zeros(())))]
    if state.heads is not None:
        faults.append(heads_fault(state.heads, like))
    if state.learner is not None:
        faults.append(heads_fault(state.learner["heads"], like))
        trained: list[torch.Tensor] = []
        for encoder in encoders.values():
            trained += encoder.parameters()
        for head in like.values():
            trained += head.values()
        faults.append(_momentum_fault(state.learner["optimizer"]["state"], trained))
    return next(filter(None, faults), "")


def _momentum_fault(found: dict, trained: list[torch.Tensor]) -> str:
    """Why a state of SGD does not fit what it trains; empty when it does."""
    for number, slot in found.items():
        if number not in range(len(trained)) or not isinstance(slot, dict):
            return "not the optimizer of these weights"
        buffers = {name: buffer for name, buffer in slot.items() if buffer is not None}
        like = {"momentum_buffer": trained[number]} if buffers else {}
        if fault := tensors_fault(buffers, like):
            return f"optimizer, tensor {number}: {fault}"
    return ""
