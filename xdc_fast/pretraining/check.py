"""What is refused before a run begins."""

from __future__ import annotations

import logging

import numpy as np
import torch

from xdc_fast.clusters.points import ROWS
from xdc_fast.encoders.build import MODALITIES, known_encoder, modality_of
from xdc_fast.encoders.memory import check_memory, memory_of
from xdc_fast.errors import UserError
from xdc_fast.pretraining.methods import LABEL, clusterings_of, encoders_of, heads_of
from xdc_fast.pretraining.pseudo_labels import training_samples
from xdc_fast.ranks import ALONE, Ranks
from xdc_fast.recipe import Recipe
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.storage import URL, check_writable, place_of

log = logging.getLogger(__name__)

OF_A_POINT = 24  # bytes: its square, cluster and distance, in torch and NumPy
OF_A_LABEL = 4


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
    _check_clustering(recipe, len(samples), len(shards), ranks)
    if recipe.out:
        place = place_of(recipe.out)
        check_writable(place)
        if isinstance(place, URL) and recipe.cluster.features == "training":
            raise UserError(
                f"{place}: cluster.features=training keeps its features in files that are written "
                "in place; give an out=FOLDER on a disk, or set cluster.features=pass"
            )
    return shards


def clustering_bytes(recipe: Recipe, samples: int, whole: int) -> int:
    """The bytes that a process holds between training and training: features of its `samples`, the
    points of one clustering, and labels of the `whole` set."""
    with torch.device("meta"):
        width = {
            name: known_encoder(recipe, modality_of(name))().features
            for name in encoders_of(recipe.method)
        }
    every = [MODALITIES if c == LABEL else c for c in clusterings_of(recipe.method)]
    widest = max(sum(width[name] for name in names) for names in every)
    prepared = recipe.cluster.pca or recipe.cluster.normalize == "centered-l2"
    numbers = sum(width.values()) + widest * (2 if prepared else 1)
    size = np.dtype(recipe.cluster.precision).itemsize
    return samples * (numbers * size + OF_A_POINT) + 2 * whole * len(every) * OF_A_LABEL


def _check_clustering(recipe: Recipe, samples: int, whole: int, ranks: Ranks) -> None:
    """Says what a process needs for features and k-means, where there are several; UserError where
    the machine has less."""
    own = ranks.share(samples, ROWS)
    needed = clustering_bytes(recipe, own.stop - own.start, whole)
    there = memory_of(torch.device("cpu")) / ranks.on_machine
    if needed > there:
        raise UserError(
            f"features of {own.stop - own.start:,} samples and their k-means need "
            f"{needed / 1e9:,.1f} GB of memory, and this process has {there / 1e9:,.1f}; give more "
            "machines (docs/scale.md), or set cluster.precision=float16"
        )
    if ranks.world > 1:
        log.info(
            "%d processes, each with features of %s samples; they and k-means take %s MB",
            ranks.world, f"{own.stop - own.start:,}", f"{needed / 1e6:,.1f}",
        )  # fmt: skip


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
