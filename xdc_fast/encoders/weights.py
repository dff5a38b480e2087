"""Weights by name and shape: checked before they are loaded."""

from __future__ import annotations

import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from xdc_fast.encoders.build import modality_of
from xdc_fast.errors import UserError
from xdc_fast.recipe import Recipe

if TYPE_CHECKING:
    from typing_extensions import TypeIs

COUNTER = "num_batches_tracked"  # of training alone, and not in every file


@dataclass(frozen=True)
class Keys:
    """The names of weights beside those of an encoder.

    reshaped: {name: (shape in the file, shape in the encoder)} where the two differ.
    """

    matched: list[str]
    missing: list[str]
    unexpected: list[str]
    reshaped: dict[str, tuple[tuple[int, ...], tuple[int, ...]]]

    def fault(self, spare: tuple[str, ...] = ()) -> str:
        """The first reason why the weights do not fit, empty when they do.

        spare: prefixes of unexpected names that may be there.
        """
        for name, (found, wanted) in self.reshaped.items():
            return f"{name} is {found}, not {wanted}"
        for name in self.missing:
            if not name.endswith(COUNTER):
                return f"no {name}"
        for name in self.unexpected:
            if not name.startswith(spare):
                return f"unknown {name}"
        return ""

    def __str__(self) -> str:
        parts = f"{len(self.matched)} keys match, {len(self.missing)} missing, "
        return parts + f"{len(self.unexpected)} unexpected, {len(self.reshaped)} of another shape"


def compare(encoder: nn.Module, weights: dict[str, torch.Tensor]) -> Keys:
    """Which weights fit the encoder, by name and shape."""
    return _compare(encoder.state_dict(), weights)


def _compare(own: Mapping[str, torch.Tensor], weights: Mapping[str, torch.Tensor]) -> Keys:
    return Keys(
        matched=[n for n in own if n in weights and weights[n].shape == own[n].shape],
        missing=[name for name in own if name not in weights],
        unexpected=[name for name in weights if name not in own],
        reshaped={
            name: (tuple(weights[name].shape), tuple(own[name].shape))
            for name in own
            if name in weights and weights[name].shape != own[name].shape
        },
    )


def tensors_fault(found: object, like: Mapping[str, torch.Tensor]) -> str:
    """Why a file's content is not finite tensors of these names, shapes and types; or empty."""
    if not _are_tensors(found):
        return "holds other things than tensors"
    return _compare(like, found).fault() or _content_fault(found, like)


def _are_tensors(found: object) -> TypeIs[dict[str, torch.Tensor]]:
    return isinstance(found, dict) and all(
        isinstance(name, str) and torch.is_tensor(tensor) for name, tensor in found.items()
    )


def _content_fault(found: Mapping[str, torch.Tensor], like: Mapping[str, torch.Tensor]) -> str:
    for name in found.keys() & like.keys():
        if found[name].dtype != like[name].dtype or found[name].layout != torch.strided:
            return f"{name} is of {found[name].dtype}, not {like[name].dtype}"
        if not torch.isfinite(found[name]).all():
            return f"{name} has numbers that are not finite"
    return ""


def load_encoder_weights(
    encoders: Mapping[str, nn.Module], weights: Mapping[str, object], recipe: Recipe, file: Path
) -> None:
    """Loads the weights of a recipe's encoders, {encoder: state dict}, as `file` holds them.

    Raises UserError when they are of other encoders than the recipe's.
    """
    for name, encoder in encoders.items():
        modality = modality_of(name)
        hint = f"set {modality}.encoder in its recipe to what it was trained with"
        load_weights(encoder, weights.get(name), file, getattr(recipe, modality).encoder, hint)


def load_weights(
    encoder: nn.Module,
    weights: object,
    file: Path,
    name: str,
    hint: str,
    spare: tuple[str, ...] = (),
) -> Keys:
    """Loads a state dict into the encoder called `name`.

    spare: prefixes of weights that the encoder may lack; these are left out.
    Raises UserError, which ends with `hint`, when weights are missing, of another shape, or of an
    unknown name.
    """
    if not _are_tensors(weights):
        raise UserError(f"{file}: holds other things than weights; {hint}")
    keys = compare(encoder, weights)
    if fault := keys.fault(spare):
        raise UserError(f"{file}: weights of another architecture than {name}: {fault}; {hint}")
    if fault := _content_fault(weights, encoder.state_dict()):
        raise UserError(f"{file}: damaged: {fault}; take another copy, or make it again")
    encoder.load_state_dict({key: weights[key] for key in keys.matched}, strict=False)
    return keys


def read_checkpoint(file: Path, hint: str) -> dict:
    """The dict that a PyTorch file holds, its tensors on the CPU; code in the file is not run.

    Raises UserError, which ends with `hint`, when the file cannot be read or holds no dict.
    """
    try:
        if zipfile.is_zipfile(file):  # files of old versions of PyTorch are none
            with zipfile.ZipFile(file) as archive:
                if archive.testzip():  # torch.load does not look at the checksums
                    raise zipfile.BadZipFile
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is no file of PyTorch's
            content = torch.load(file, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror or error}; {hint}") from None
    except Exception as error:  # torch.load raises many kinds for a damaged file
        raise UserError(f"{file}: cannot be read ({type(error).__name__}); {hint}") from error
    if not isinstance(content, dict):
        raise UserError(f"{file}: holds no weights by name; {hint}")
    return content
