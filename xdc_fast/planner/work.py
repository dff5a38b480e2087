"""What a clip asks of a device, from shapes alone: operations, weights, memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch.utils.flop_counter import FlopCounterMode

from xdc_fast.encoders.build import known_encoder, modality_of
from xdc_fast.encoders.memory import batch_bytes
from xdc_fast.pretraining.methods import LABEL, clusterings_of, encoders_of, heads_of
from xdc_fast.recipe import Recipe, Train


@dataclass(frozen=True)
class Work:
    """What a recipe's encoders and heads cost.

    step, encode: operations (two for a multiplication and an addition) of convolutions and matrix
    products for a clip, in a training step and in the pass that computes features. weights: numbers
    that are trained. widths: {encoder: features}. clusterings: features of each k-means.
    training, encoding: bytes that a group takes on the device at the least.
    """

    step: int
    encode: int
    weights: int
    widths: dict[str, int]
    clusterings: tuple[int, ...]
    training: int
    encoding: int


def work_of(recipe: Recipe) -> Work:
    """Counts a recipe's work; nothing is allocated. UserError for unknown encoders and methods."""
    train = Train(batch=recipe.train.group_size, precision=recipe.train.precision)
    # what does not matter is the same for all, so that they share a count
    work = _encoders(replace(Recipe(), method=recipe.method, video=recipe.video,
                             audio=recipe.audio, train=train))  # fmt: skip
    widths = [work.widths[head.encoder] for head in heads_of(recipe.method)]
    return replace(
        work,
        # forward, and backward to the features and to the weights
        step=work.step + 6 * recipe.k * sum(widths),
        weights=work.weights + recipe.k * sum(width + 1 for width in widths),
    )


@lru_cache
def _encoders(recipe: Recipe) -> Work:
    """The work without the heads."""
    names, size = encoders_of(recipe.method), recipe.train.group_size
    shapes = {
        "video": (3, recipe.video.frames, recipe.video.crop, recipe.video.crop),
        "audio": (1, recipe.audio.n_mels, recipe.audio.frames),
    }
    encode = backward = weights = 0
    widths = {}
    for name in names:
        modality = modality_of(name)
        with torch.device("meta"):
            encoder = known_encoder(recipe, modality)()
            clips = torch.empty(2, *shapes[modality])  # of one alone, BatchNorm may have one number
        with FlopCounterMode(display=False) as counter:
            features = encoder(clips)
        encode += counter.get_total_flops() // len(clips)
        with FlopCounterMode(display=False) as counter:
            features.sum().backward()
        backward += counter.get_total_flops() // len(clips)
        weights += sum(parameter.numel() for parameter in encoder.parameters())
        widths[name] = encoder.features
    return Work(
        step=encode + backward,
        encode=encode,
        weights=weights,
        widths=widths,
        clusterings=tuple(
            sum(widths[name] for name in clustering)
            for clustering in clusterings_of(recipe.method)
            if clustering != LABEL
        ),
        training=batch_bytes(recipe, names, size, training=True),
        encoding=batch_bytes(recipe, names, size, training=False),
    )
