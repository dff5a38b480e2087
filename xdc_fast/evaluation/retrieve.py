"""Retrieval by cosine: within a modality by class, and from one modality to the other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from xdc_fast.clusters.kmeans import prepare
from xdc_fast.encoders.build import MODALITIES
from xdc_fast.errors import UserError
from xdc_fast.evaluation.evaluator import Evaluator
from xdc_fast.evaluation.neighbours import class_recall, instance_recall
from xdc_fast.evaluation.splits import (
    check_label_leakage,
    check_readable,
    classes_of,
    over_splits,
    recordings_of,
    splits_of,
)
from xdc_fast.models.load import Model
from xdc_fast.shards.dataset import ShardSet


def retrieve(
    model: Model,
    shards: ShardSet,
    label: str | None = None,
    columns: tuple[str, ...] = (),
    *,
    clips: int = 10,
    out: str | Path | None = None,
) -> dict:
    """How well nearest neighbours agree, by features averaged over equally spaced clips.

    Within a modality, given a label: R@k, the share of videos with one of their class among the k
    nearest, and NN@k, the accuracy of a majority vote of the k nearest. Neighbours are all other
    videos, but none of the same recording; or, on the splits that `columns` name (see splits_of),
    the training part those of the test part.
    Across modalities: R@k, the share of videos whose own other track is among the k nearest of all
    (`own`), and as above with the own recording left out (`class`). XDC's feature spaces have no
    common axes; `shared` says how they are compared, which is ours.

    Returns {..., within: {modality: {splits, mean, spread}}, across: {"audio->video": {own,
    class}, ...}, note}: each figure 0 to 1 beside its chance; across is empty, and note says why,
    where spaces cannot be compared. It is kept in `out`, or in the run's folder.
    Raises UserError as splits_of does.
    """
    if columns and label is None:
        raise UserError("a split is of labeled videos: give --label too, or leave --split out")
    evaluator = Evaluator(model, shards, out=out)
    found = evaluator.features(*evaluator.modalities, clips=clips)
    features, read = found.arrays, found.valid
    made_by = {"label": label, "asked": [*columns], "clips": clips}
    made_by |= evaluator.made_by(*evaluator.modalities)
    result: dict = {"where": model.name, "data": str(shards.root), **made_by}
    result |= {"videos": int(read.sum()), "within": {}, "across": {}, "note": ""}
    codes = None
    if label is not None:
        codes, classes = classes_of(shards, label)
        known = np.flatnonzero(read & (codes >= 0))
        if len(known) < 2:
            raise UserError(f"{shards.root}: {len(known)} readable videos have the label '{label}'")
        groups = [column for column, _ in recordings_of(shards, label).values()]
        pairs = [("leave one out", known, known)]
        if columns:
            splits = splits_of(shards, label, codes, classes, columns)
            pairs = [(n, np.intersect1d(b, known), np.intersect1d(a, known)) for n, a, b in splits]
        check_label_leakage(model.run, shards, label, [queries for _, queries, _ in pairs])
        for _, queries, gallery in pairs:
            check_readable(shards, gallery, queries)
        for name in evaluator.modalities:
            unit = _unit(features[name])
            rows = [
                {"split": split, "queries": len(queries), "gallery": len(gallery)}
                | class_recall(unit[queries], unit[gallery], codes, queries, gallery, groups)
                for split, queries, gallery in pairs
            ]
            figures = tuple(rows[0])[3:]
            result["within"][name] = {"splits": rows, **over_splits(rows, figures)}
    spaces, result["note"] = shared(evaluator, features, read)
    for query, other in (MODALITIES, MODALITIES[::-1]) if spaces else ():
        every = np.flatnonzero(read)
        figures = {"own": instance_recall(spaces[query][every], spaces[other][every])}
        if codes is not None:
            figures["class"] = class_recall(
                spaces[query][known], spaces[other][known], codes, known, known, groups
            )
        result["across"][f"{query}->{other}"] = figures
    evaluator.keep("retrieve", "-".join((label or "own", *columns)), made_by, result)
    return result


def shared(
    evaluator: Evaluator, features: dict[str, np.ndarray], read: np.ndarray
) -> tuple[dict[str, np.ndarray], str]:
    """A space for both modalities: {modality: float32 (N, D), unit length}, or {} and the reason.

    Its axes are clusters. For each clustering, both modalities have a distribution over its k
    clusters: the softmax of the head that predicts it; or, for the clustering of the modality's
    own features, softmax(-d^2 / s) of the distances d to its centroids, s being the mean d^2 to the
    nearest one. Their square roots are joined over the clusterings, so that a cosine is the mean
    Bhattacharyya coefficient. The centroids are of the last clustering, before the encoders' last
    training; features are centred, where the recipe says so, on the set at hand.
    """
    model = evaluator.model
    if len(evaluator.modalities) < len(MODALITIES):
        return {}, f"no retrieval across modalities: there is {evaluator.modalities[0]} only"
    shares: dict[str, dict[str, np.ndarray]] = {}
    for name, head in model.heads.items():
        modality, _, clustering = name.partition("_from_")
        if modality in features:
            with torch.no_grad():
                logits = head(torch.from_numpy(features[modality]).to(evaluator.device))
            shares.setdefault(clustering, {})[modality] = torch.softmax(logits, 1).cpu().numpy()
    for clustering, centroids in last_centroids(model).items():
        have = shares.get(clustering, {})
        if have and clustering in MODALITIES and clustering not in have:
            have[clustering] = members(
                features[clustering], centroids, read, model.run.recipe.cluster
            )
    usable = [have for have in shares.values() if len(have) == len(MODALITIES)]
    if not usable:
        return {}, (
            "no retrieval across modalities: it needs a run's heads and clusters, of a clustering "
            "that both modalities can be compared by"
        )
    return {
        m: np.sqrt(np.concatenate([have[m] for have in usable], axis=1) / len(usable))
        for m in MODALITIES
    }, ""


def last_centroids(model: Model) -> dict[str, np.ndarray]:
    """{clustering: float32 (k, D)} of a run's last finished iteration, whose heads are kept.

    Empty where there is no run or none is finished, and where a PCA was part of the clustering:
    its axes are not kept.
    """
    if model.run is None or model.run.recipe.cluster.pca or not model.heads:
        return {}
    last = model.run.summary()["iterations"][-1]["iteration"]
    return {name: arrays["centroids"] for name, arrays in model.run.clusters(last).items()}


def members(features: np.ndarray, centroids: np.ndarray, read: np.ndarray, settings) -> np.ndarray:
    """softmax(-d^2 / s) over the centroids, float32 (N, k); see `shared`."""
    points = prepare(features[read], settings)
    square = torch.cdist(torch.from_numpy(points), torch.from_numpy(centroids)) ** 2
    shares = np.zeros((len(features), len(centroids)), dtype=np.float32)
    scale = square.min(dim=1).values.mean().clamp(min=torch.finfo(torch.float32).tiny)
    shares[read] = torch.softmax(-square / scale, dim=1).numpy()
    return shares


def _unit(points: np.ndarray) -> np.ndarray:
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.maximum(length, np.finfo(np.float32).tiny)
