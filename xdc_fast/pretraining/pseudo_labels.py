"""What the heads of an iteration learn: clusters of the features, or the classes of a label."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from xdc_fast.clusters.kmeans import Clustering, Points, cluster, concat_features
from xdc_fast.encoders.build import MODALITIES
from xdc_fast.encoders.features import Features
from xdc_fast.pretraining.methods import LABEL, clustering_name, clusterings_of
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
    classes: tuple[np.ndarray, np.ndarray] | None = None,
    device: torch.device | str = "cpu",
) -> dict[str, Clustering]:
    """The clusterings that a method needs, by name, each into k clusters.

    features: of every sample of the set. seed, iteration: every draw depends on both.
    previous: {name: int32 (N,)}, the assignments of the iteration before; k-means starts from them
    if settings.warm_start says so. classes: for method=supervised, what training_labels returns.
    device: where k-means computes. Raises UserError as `cluster` does.
    """
    before = previous if previous and settings.warm_start else {}
    clusterings = {}
    for number, names in enumerate(clusterings_of(method)):
        name = clustering_name(names)
        if names == LABEL:
            assert classes is not None, "method=supervised learns classes"
            draw = np.random.default_rng((seed, iteration))
            clusterings[name] = classes_as_clusters(*classes, features, k, settings, draw)
            continue
        clusterings[name] = cluster(
            [features.arrays[encoder] for encoder in names],
            features.valid,
            k,
            settings,
            (seed * 1000 + iteration) * len(MODALITIES) + number,
            device=device,
            previous=before.get(name),
        )
    return clusterings


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


def training_labels(
    shards: ShardSet, label: str, samples: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The labels that supervised pretraining learns: samples int64 (L,), rising, and codes (L,).

    label: the column. samples: what training_samples returns. One with several labels comes often.
    """
    labeled, codes, _ = shards.memberships(label)
    learns = np.isin(labeled, samples)
    return labeled[learns], codes[learns]


def classes_as_clusters(
    samples: np.ndarray,
    codes: np.ndarray,
    features: Features,
    k: int,
    settings: Cluster,
    draw: np.random.Generator,
) -> Clustering:
    """The classes of a label as k clusters around their mean features.

    samples, codes: int (M,), as training_labels returns them. A sample with several labels gets
    one of them, drawn uniformly: over the iterations its target is uniform over its labels, as in
    Mahajan et al. 2018 (arXiv 1805.00932).
    """
    assignment = np.full(len(features.valid), -1, dtype=np.int32)
    order = draw.permutation(len(samples))
    assignment[samples[order]] = codes[order]  # the last one written stays
    assignment[~features.valid] = -1
    rows = np.flatnonzero(assignment >= 0)
    points = concat_features([features.arrays[m][rows] for m in MODALITIES], settings)
    means, _ = Points(points).means(torch.from_numpy(assignment[rows].astype(np.int64)), k)
    centroids = means.numpy()
    distance = np.full(len(assignment), np.inf, dtype=np.float32)
    distance[rows] = np.square(points - centroids[assignment[rows]]).sum(axis=1)
    return Clustering(assignment, centroids, distance, float(distance[rows].mean()), reassigned=0)
