"""Encoders by name, and the pair that a recipe asks for."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from xdc_fast.encoders import audio_resnet, r2plus1d
from xdc_fast.encoders.encoder import Encoder
from xdc_fast.errors import UserError
from xdc_fast.recipe import Recipe

MODALITIES = ("video", "audio")
TWIN = "_twin"  # ends the name of a second encoder of a modality

ENCODERS: dict[str, dict[str, Callable[[], Encoder]]] = {
    "video": {
        "r2plus1d_18": r2plus1d.r2plus1d_18,
        "r2plus1d_small": r2plus1d.r2plus1d_small,
        "r2plus1d_tiny": r2plus1d.r2plus1d_tiny,
    },
    "audio": {
        "audio_resnet18": audio_resnet.audio_resnet18,
        "audio_small": audio_resnet.audio_small,
        "audio_tiny": audio_resnet.audio_tiny,
    },
}


def modality_of(name: str) -> str:
    """What an encoder of this name reads: video or audio."""
    return name.removesuffix(TWIN)


def build_encoders(
    recipe: Recipe,
    device: torch.device | str = "cpu",
    names: tuple[str, ...] = MODALITIES,
) -> dict[str, Encoder]:
    """The recipe's encoders, randomly initialised from its seed, each name in its own way.

    Raises UserError for unknown names.
    """
    encoders = {}
    for number, name in enumerate(names):
        make = known_encoder(recipe, modality_of(name))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed * len(MODALITIES) + number)
            encoder = make()
            encoder.apply(_initialise)
        layout = _layout(encoder, torch.device(device))
        encoders[name] = encoder.to(device).to(memory_format=layout)  # type: ignore[call-overload]  # PyTorch's stubs lack it
    return encoders


def known_encoder(recipe: Recipe, modality: str) -> Callable[[], Encoder]:
    """What makes the recipe's encoder of a modality; UserError for an unknown name."""
    kind, known = getattr(recipe, modality).encoder, ENCODERS[modality]
    if kind not in known:
        raise UserError(f"{modality}.encoder={kind}: known are {', '.join(known)}")
    return known[kind]


def _layout(encoder: nn.Module, device: torch.device) -> torch.memory_format:
    """The fastest order of dimensions that is safe.

    torch 2.11 on a CPU: behind a 1 x 1 convolution of channels-last pictures whose channels are
    no multiple of 16, as in our smallest encoders, the backward pass writes past its memory: odd
    batches crash. Contiguous, they are faster on two threads besides.
    """
    kinds = (nn.Conv2d, nn.Conv3d)
    convolutions = [module for module in encoder.modules() if isinstance(module, kinds)]
    if device.type == "cpu" and any(
        set(c.kernel_size) == {1} and c.in_channels % 16 for c in convolutions
    ):
        return torch.contiguous_format
    return (torch.channels_last, torch.channels_last_3d)[len(convolutions[0].kernel_size) - 2]


def new_head(features: int, k: int, seed: int) -> nn.Linear:
    """A linear classifier, weights N(0, 0.01), bias 0: DeepCluster's fresh top layer."""
    head = nn.Linear(features, k)
    with torch.no_grad():
        head.weight.normal_(0, 0.01, generator=torch.Generator().manual_seed(seed))
        head.bias.zero_()
    return head


def _initialise(module: nn.Module) -> None:
    if isinstance(module, (nn.Conv2d, nn.Conv3d)):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
