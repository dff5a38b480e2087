"""What is refused before a run begins."""

from __future__ import annotations

from pathlib import Path

import torch

from xdc_fast.encoders.build import MODALITIES
from xdc_fast.encoders.memory import check_memory
from xdc_fast.errors import UserError
from xdc_fast.files import check_writable
from xdc_fast.pretraining.methods import encoders_of, heads_of
from xdc_fast.pretraining.pseudo_labels import training_samples
from xdc_fast.ranks import ALONE, Ranks
from xdc_fast.recipe import Recipe
from xdc_fast.shards.dataset import ShardSet


def check_recipe(recipe: Recipe, device: torch.device, ranks: Ranks = ALONE) -> ShardSet:
    """The shards of a recipe that can be trained with, by so many ranks; UserError for one that
    cannot.

    Nothing is written.
    """
    heads_of(recipe.method)
    if not recipe.data:
        raise UserError("no shards to train on; give data=FOLDER, as `xdc-shard pack` makes it")
    shards = ShardSet(recipe.data, recipe.cache, recipe.cache_gb)
    if not len(shards):
        raise UserError(f"{shards.root}: holds no samples; give another set with data=FOLDER")
    if shards.modalities != MODALITIES:
        raise UserError(
            f"{shards.root}: holds {shards.modalities[0]} only, pretraining needs both tracks; "
            "pack with --tracks both"
        )
    if recipe.method == "supervised":
        _check_labels(shards, recipe.label, recipe.k)
    samples = training_samples(shards, recipe)
    if not len(samples):
        labeled = f" with a label '{recipe.label}'" if recipe.method == "supervised" else ""
        raise UserError(
            f"{shards.root}: no sample{labeled} is `train` in column '{recipe.split}'; name a "
            "column of train and test"
        )
    if recipe.k > len(samples):
        raise UserError(
            f"k={recipe.k} clusters of {len(samples)} samples; set k to {len(samples)} or less"
        )
    if recipe.train.precision == "bfloat16" and device.type == "cpu":
        # torch 2.11 on a CPU: repeated backward passes of one batch differ, and some hold NaN
        raise UserError(
            "train.precision=bfloat16: PyTorch's 3D convolutions are not reliable in it on a CPU; "
            "set train.precision=float32"
        )
    _check_groups(recipe, ranks.world)
    check_memory(recipe, encoders_of(recipe.method), device, training=True)
    if recipe.out:
        check_writable(Path(recipe.out))
    return shards


def _check_groups(recipe: Recipe, world: int) -> None:
    """UserError where a batch does not fall into as many whole groups for each process."""
    batch, group = recipe.train.batch, recipe.train.group
    if batch % (recipe.train.group_size * world):
        processes = f"{world} processes" if world > 1 else "one process"
        several = f"{group} x {world}" if world > 1 else str(group)
        way = f"set train.batch to a multiple of {several}"
        if not group and batch % world == 0:
            way = f"set train.group to {batch // world} or to a whole part of it"
        elif not group:
            way = f"set train.group, and train.batch to a multiple of it x {world}"
        raise UserError(
            f"train.batch={batch}, train.group={group}: a batch cannot be shared out in whole "
            f"groups to {processes}; {way}"
        )
    if world > 1 and recipe.cluster.features == "training":
        raise UserError(
            "cluster.features=training: one process has to see all samples, and there are "
            f"{world}; set cluster.features=pass"
        )


def _check_labels(shards: ShardSet, label: str, k: int) -> None:
    """UserError for a label that method=supervised cannot learn."""
    if not label:
        raise UserError(
            f"method=supervised: give label=COLUMN; {shards.root} has "
            f"{', '.join(shards.label_names) or 'none'}"
        )
    if not (classes := len(shards.memberships(label)[2])):
        raise UserError(f"{shards.root}: no sample has a label '{label}'; name another column")
    if classes != k:
        raise UserError(f"k={k}, but label '{label}' has {classes} classes; set k={classes}")
