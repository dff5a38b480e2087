"""Retrieval by cosine: within a modality by class, and from one modality to the other."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from xdc_fast.clusters.prepare import prepare, unit_length
from xdc_fast.encoders.build import MODALITIES
from xdc_fast.errors import UserError
from xdc_fast.evaluation.evaluator import Evaluator
from xdc_fast.evaluation.neighbours import class_recall, instance_recall
from xdc_fast.evaluation.splits import (
    Split,
    check_label_leakage,
    check_readable,
    classes_of,
    over_splits,
    recordings_of,
    splits_of,
)
from xdc_fast.files import damaged
from xdc_fast.models.load import Model
from xdc_fast.pretraining.run import ANEW, Run
from xdc_fast.ranks import ALONE, Ranks
from xdc_fast.recipe import Cluster
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.storage import Place


def retrieve(
    model: Model,
    shards: ShardSet,
    label: str | None = None,
    columns: tuple[str, ...] = (),
    *,
    modality: str | None = None,
    clips: int = 10,
    out: str | Place | None = None,
    ranks: Ranks = ALONE,
) -> dict:
    """How well nearest neighbours agree, by features averaged over equally spaced clips.

    Within a modality, given a label: R@k, the share of videos with one of their class among the k
    nearest, and NN@k, the accuracy of a majority vote of the k nearest. Neighbours are all other
    videos that are not of the same recording; or, on the splits that `columns` name (see
    splits_of), the training part for each video of the test part.
    Across modalities: R@k, the share of videos whose own other track is among the k nearest of all
    (`own`), and as above without the own recording (`class`). XDC's feature spaces have no common
    axes; `shared` says how they are compared, which is ours.

    Returns {..., within: {modality: {splits, mean, spread}}, across: {"audio->video": {own,
    class}, ...}, note}: each metric 0 to 1 beside its chance. Where the spaces cannot be compared,
    across is empty and note says why. The result is kept in `out`, or in the run's folder. Several
    ranks share the feature pass; the first one returns the result, the others {}.
    Raises UserError as splits_of does.
    """
    if columns and label is None:
        raise UserError("--split needs --label; give both, or leave --split out")
    task = None if label is None else class_task(model.run, shards, label, columns)
    evaluator = Evaluator(model, shards, modality, out, ranks)
    made_by = {"label": label, "asked": [*columns], "clips": clips}
    made_by |= evaluator.made_by(*evaluator.modalities)
    with evaluator.place_for("retrieve", "-".join((label or "own", *columns)), made_by) as place:
        centroids = last_centroids(evaluator)
        found = evaluator.features(*evaluator.modalities, clips=clips)
        if not ranks.first:
            return {}
        features, valid = found.arrays, found.valid
        every = np.flatnonzero(valid)
        spaces, note = shared(evaluator, features, valid, centroids)
        within: dict[str, dict] = {}
        across: dict[str, dict] = {
            f"{query}->{other}": {
                "own": instance_recall(spaces[query][every], spaces[other][every])
            }
            for query, other in ((MODALITIES, MODALITIES[::-1]) if spaces else ())
        }
        if task is not None:
            known = np.intersect1d(task.labeled, every)
            if len(known) < 2:
                raise UserError(
                    f"{shards.root}: {len(known)} readable videos have the label '{label}'"
                )
            pairs = [
                (name, np.intersect1d(test, known), np.intersect1d(train, known))
                for name, train, test in task.splits
            ] or [("leave one out", known, known)]
            for _, queries, gallery in pairs:
                check_readable(shards, gallery, queries)
            for name in evaluator.modalities:
                unit = unit_length(features[name])
                rows = [
                    {"split": split, "queries": len(queries), "gallery": len(gallery)}
                    | task.recall(unit, unit, queries, gallery)
                    for split, queries, gallery in pairs
                ]
                within[name] = {"splits": rows, **over_splits(rows, tuple(rows[0])[3:])}
            for way, kinds in across.items():
                query, _, other = way.partition("->")
                kinds["class"] = task.recall(spaces[query], spaces[other], known, known)
        result = evaluator.about(made_by)
        result |= {"videos": len(every), "within": within, "across": across, "note": note}
        place.save(result)
    return result


@dataclass(frozen=True)
class ClassTask:
    """Neighbours of a query's class are sought.

    codes: int (N,), the classes. labeled: int64 (M,), the samples that have one. groups: see
    class_recall. splits: none for leave one out.
    """

    codes: np.ndarray
    labeled: np.ndarray
    groups: list[np.ndarray]
    splits: list[Split]

    def recall(
        self, queries: np.ndarray, gallery: np.ndarray, ask: np.ndarray, among: np.ndarray
    ) -> dict:
        """class_recall of samples `ask` (Q,) `among` others (G,); queries, gallery: float32 (N, D),
        the features of all samples."""
        return class_recall(queries[ask], gallery[among], self.codes, ask, among, self.groups)


def class_task(
    run: Run | None, shards: ShardSet, label: str, columns: tuple[str, ...]
) -> ClassTask:
    """The task of a label column; UserError as splits_of and check_label_leakage."""
    codes, classes = classes_of(shards, label)
    labeled = np.flatnonzero(codes >= 0)
    if len(labeled) < 2:
        raise UserError(
            f"{shards.root}: {len(labeled)} videos have the label '{label}'; 2 are needed: give "
            "another column, or pack more"
        )
    splits = splits_of(shards, label, codes, classes, columns) if columns else []
    tests = [split.test for split in splits] or [labeled]
    check_label_leakage(run, shards, label, tests)
    groups = [column for column, _ in recordings_of(shards, label).values()]
    return ClassTask(codes, labeled, groups, splits)


def shared(
    evaluator: Evaluator,
    features: dict[str, np.ndarray],
    valid: np.ndarray,
    centroids: dict[str, np.ndarray],
) -> tuple[dict[str, np.ndarray], str]:
    """A space for both modalities: {modality: float32 (N, D), unit length}, or {} and the reason.

    valid: bool (N,), the samples that have features. centroids: of last_centroids.
    The axes of the space are clusters. For each clustering, both modalities have a distribution
    over its k clusters: the softmax of the head that predicts it; or, for the clustering of the
    modality's own features, softmax(-d^2 / s) of the distances d to its centroids, s being the mean
    d^2 to the nearest one. The square roots of
    all clusterings are concatenated, so that a cosine is the mean Bhattacharyya coefficient. The
    centroids are of the last clustering, before the encoders' last training; features are centred,
    where the recipe says so, on the set at hand.
    """
    model = evaluator.model
    cluster = (model.run or model).recipe.cluster
    if len(evaluator.modalities) < len(MODALITIES):
        return {}, f"no retrieval across modalities: there is {evaluator.modalities[0]} only"
    shares: dict[str, dict[str, np.ndarray]] = {}
    for name, head in model.heads.items():
        modality, _, clustering = name.partition("_from_")
        if modality in features:
            with torch.no_grad():
                logits = head(torch.from_numpy(features[modality]).to(evaluator.device))
            shares.setdefault(clustering, {})[modality] = torch.softmax(logits, 1).cpu().numpy()
    for clustering, own in centroids.items():
        have = shares.get(clustering, {})
        if have and clustering not in have:
            have[clustering] = members(features[clustering], own, valid, cluster)
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


def last_centroids(evaluator: Evaluator) -> dict[str, np.ndarray]:
    """{modality: float32 (k, D)} of its own features' last clustering, whose heads are kept.

    Empty where a PCA was part of the clustering: its axes are not kept.
    """
    run = evaluator.model.run
    if run is None or not evaluator.model.heads or run.recipe.cluster.pca:
        return {}
    summary = run.summary()
    last = summary["iterations"][-1]["iteration"]
    found = run.clusters(last, summary["samples"])
    centroids = {m: found[m]["centroids"] for m in evaluator.modalities if m in found}
    for modality, own in centroids.items():
        width = evaluator.model.encoders[modality].features
        if own.shape[1] != width:
            path = run.iteration(last) / f"{modality}.npz"
            raise damaged(path, f"'centroids' is {own.shape}, of {width} features", ANEW)
    return centroids


def members(
    features: np.ndarray, centroids: np.ndarray, valid: np.ndarray, settings: Cluster
) -> np.ndarray:
    """softmax(-d^2 / s) over the centroids (k, D), float32 (N, k); see `shared`.

    features: float32 (N, D). valid: bool (N,); other rows are 0.
    """
    points = prepare(features[valid], settings)
    square = torch.cdist(torch.from_numpy(points), torch.from_numpy(centroids)) ** 2
    shares = np.zeros((len(features), len(centroids)), dtype=np.float32)
    scale = square.min(dim=1).values.mean().clamp(min=torch.finfo(torch.float32).tiny)
    shares[valid] = torch.softmax(-square / scale, dim=1).numpy()
    return shares
