"""What the heads of an iteration learn: clusters of the features, or the classes of a label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import torch

from xdc_fast.clusters.kmeans import Clustering, cluster
from xdc_fast.clusters.points import Points
from xdc_fast.clusters.prepare import concat_features
from xdc_fast.encoders.build import MODALITIES
from xdc_fast.encoders.feature_rows import Features
from xdc_fast.pretraining.methods import LABEL, clustering_name, clusterings_of
from xdc_fast.ranks import ALONE, Ranks
from xdc_fast.recipe import Cluster, Recipe
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.parts import TRAIN, part_of


def make_clusters(
    features: Features,
    method: str,
    k: int,
    settings: Cluster,
    *,
    seed: int,
    iteration: int,
    previous: Mapping[str, np.ndarray] | None = None,
    classes: np.ndarray | None = None,
    device: torch.device | str = "cpu",
    ranks: Ranks = ALONE,
) -> dict[str, Clustering]:
    """The clusterings that a method needs, by name, each into k clusters.

    features: of N samples. seed, iteration: every draw depends on both.
    previous: {name: int32 (N,)}, the assignments of the iteration before; k-means starts from them
    if settings.warm_start says so. classes: int32 (N,), for method=supervised, what draw_classes
    returns. device, ranks: as of `cluster`, and the errors too.
    """
    before = previous if previous and settings.warm_start else {}
    clusterings = {}
    for number, names in enumerate(clusterings_of(method)):
        name = clustering_name(names)
        if names == LABEL:
            assert classes is not None, "method=supervised learns classes"
            clusterings[name] = classes_as_clusters(classes, features, k, settings, ranks)
            continue
        clusterings[name] = cluster(
            [features.arrays[encoder] for encoder in names],
            features.valid,
            k,
            settings,
            (seed * 1000 + iteration) * len(MODALITIES) + number,
            device=device,
            previous=before.get(name),
            ranks=ranks,
        )
    return clusterings


def gather_clusters(
    own: Mapping[str, Clustering], samples: np.ndarray, count: int, ranks: Ranks = ALONE
) -> dict[str, Clustering]:
    """Clusterings of a whole set, from those that each rank has of its part of `samples`; on the
    first rank, nothing on the others.

    samples: int64 (M,), those of all ranks, in rising order. count: samples of the set; those that
    are not among them get no cluster.
    """
    whole = {}
    for name, part in own.items():
        parts = ranks.collect((part.assignment, part.distance))
        if not parts:
            continue
        assignment = np.full(count, -1, dtype=np.int32)
        assignment[samples] = np.concatenate([each for each, _ in parts])
        distance = np.full(count, np.inf, dtype=np.float32)
        distance[samples] = np.concatenate([each for _, each in parts])
        whole[name] = replace(part, assignment=assignment, distance=distance)
    return whole


def training_samples(shards: ShardSet, recipe: Recipe) -> np.ndarray:
    """The samples that a run learns from, int64 (M,), in rising order.

    With recipe.split those of its training part; with method=supervised those that have the label.
    """
    learns = np.ones(len(shards), dtype=bool)
    if recipe.split:
        parts, names = shards.label(recipe.split)
        learns = np.array([part_of(name) == TRAIN for name in names] + [False])[parts]
    if recipe.method == "supervised":
        learns &= np.isin(np.arange(len(shards)), shards.memberships(recipe.label)[0])
    return np.flatnonzero(learns)


def draw_classes(
    shards: ShardSet, label: str, samples: np.ndarray, seed: int, iteration: int
) -> np.ndarray:
    """The class of each sample for an iteration of supervised pretraining, int32 (M,).

    label: the column. samples: int64 (M,), what training_samples returns. A sample with several
    labels gets one of them, drawn uniformly: over the iterations its target is uniform over its
    labels, as in Mahajan et al. 2018 (arXiv 1805.00932).
    """
    labeled, codes, _ = shards.memberships(label)
    chosen = np.full(len(shards), -1, dtype=np.int32)
    learns = np.isin(labeled, samples)
    labeled, codes = labeled[learns], codes[learns]
    order = np.random.default_rng((seed, iteration)).permutation(len(labeled))
    chosen[labeled[order]] = codes[order]  # the last one written stays
    return chosen[samples]


def classes_as_clusters(
    classes: np.ndarray, features: Features, k: int, settings: Cluster, ranks: Ranks = ALONE
) -> Clustering:
    """Classes int32 (N,), 0 to k-1, as clusters around their mean features; arguments as of
    make_clusters."""
    valid = features.valid & (classes >= 0)
    assignment = np.where(valid, classes, np.int32(-1))
    parts = [features.arrays[m] for m in MODALITIES]
    points = concat_features(parts, settings, valid, ranks)
    every = Points(points, "cpu", valid, ranks, given=True)
    means, sizes = every.means(torch.from_numpy(assignment.astype(np.int64)), k)
    centroids = means.numpy()
    distance = np.empty(len(points), np.float32)
    for place, block in every.blocks(1):
        distance[place] = np.square(block.numpy() - centroids[assignment[place]]).sum(axis=1)
    distance[~valid] = 0
    mean = every.sum(torch.from_numpy(distance)) / max(int(sizes.sum()), 1)
    distance[~valid] = np.inf
    return Clustering(assignment, centroids, distance, mean, reassigned=0)
