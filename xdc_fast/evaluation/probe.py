"""The linear probe: a classifier on frozen features, beside the same on random encoders."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xdc_fast.clusters.kmeans import cluster
from xdc_fast.clusters.quality import class_columns, label_counts
from xdc_fast.encoders.feature_rows import Features
from xdc_fast.errors import UserError
from xdc_fast.evaluation.evaluator import Evaluator
from xdc_fast.evaluation.splits import (
    Split,
    check_label_leakage,
    check_readable,
    classes_of,
    splits_of,
)
from xdc_fast.kernels.labels import nmi
from xdc_fast.models.load import Model, load
from xdc_fast.ranks import ALONE, Ranks
from xdc_fast.recipe import Cluster
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.storage import Place

STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # inverse regularisation, chosen on the training part
FOLDS = 3
LEAST = 4  # samples per cluster, on average


@dataclass(frozen=True)
class ProbeSettings:
    """How to probe.

    split: a label column of train and test (videos with neither are left out); without it, a share
    `test_share` of the videos is drawn by `seed` as the test part, stratified by class.
    clips: equally spaced clips per video; their features are averaged.
    k: clusters for the NMI; without it, as many as the recipe says.
    """

    split: str | None = None
    test_share: float = 0.3
    clips: int = 3
    seed: int = 0
    k: int | None = None


def probe(
    model: Model,
    shards: ShardSet,
    label: str,
    settings: ProbeSettings | None = None,
    *,
    modality: str | None = None,
    out: str | Place | None = None,
    ranks: Ranks = ALONE,
) -> dict:
    """Linear-probe accuracy of a model's encoders, and of the same ones before any training.

    The classifier is a multinomial logistic regression on standardised features, its strength
    chosen by cross-validation on the training part alone. The random encoders have the weights
    that a run of the model's recipe begins with, and BatchNorm calibrated on `shards`.
    Beside it the features of all videos are clustered by k-means as in the recipe, and compared
    with the label and every other column of classes.

    Returns {label, classes, chance, video: {pretrained, random}, audio: {...}, train, test, nmi:
    {modality: {column: ...}}, nmi_random, names, tested, predicted: {modality: {pretrained,
    random}}, ...}: accuracies and chance (the share of the test part's most frequent class) 0 to 1,
    counts of videos, NMI of the clusters of pretrained and of random features, the classes, the
    indices of the test videos and the class of each by the classifier (a position in names), then
    what the result was made of. It is kept in `out`, or in the run's folder. Several ranks share
    the feature passes; the first one returns the result, the others {}.
    Raises UserError for an unknown column, fewer than two classes, a class too small, or a video
    in both parts.
    """
    found = probe_labels(model, shards, (label,), settings, modality=modality, out=out, ranks=ranks)
    return found[0] if found else {}


def probe_labels(
    model: Model,
    shards: ShardSet,
    labels: tuple[str, ...],
    settings: ProbeSettings | None = None,
    *,
    modality: str | None = None,
    out: str | Place | None = None,
    ranks: Ranks = ALONE,
) -> list[dict]:
    """`probe` of several labels, for which the features are made once; [] but on the first rank."""
    settings = settings or ProbeSettings()
    settings = replace(settings, k=settings.k or model.recipe.k)
    labels, splits = tuple(dict.fromkeys(labels)), []
    for label in labels:
        codes, classes = classes_of(shards, label)
        splits.append(divide(shards, label, codes, classes, settings))
        check_label_leakage(model.run, shards, label, [splits[-1].test])
    evaluator = Evaluator(model, shards, modality, out, ranks)
    made_by = {
        **asdict(settings),
        "cluster": asdict(model.recipe.cluster),
        "random_seed": model.recipe.seed,
        **evaluator.made_by(*evaluator.modalities),
    }
    with ExitStack() as stack:
        places = [
            stack.enter_context(evaluator.place_for("probes", label, {"label": label, **made_by}))
            for label in labels
        ]
        trained = evaluator.features(*evaluator.modalities, clips=settings.clips)
        random = trained
        if model.name != "random":
            start = load("random", recipe=model.recipe)
            start.encoders = {name: start.encoders[name] for name in evaluator.modalities}
            random = Evaluator(start, shards, ranks=ranks).features(
                *evaluator.modalities, clips=settings.clips, title="random features"
            )
        results: list[dict] = []
        if not ranks.first:
            return results
        for label, split, place in zip(labels, splits, places, strict=True):
            result = score(evaluator, label, split, settings, trained, random)
            result |= evaluator.about(place.made_by)
            place.save(result)
            results.append(result)
    return results


def score(
    evaluator: Evaluator,
    label: str,
    split: Split,
    settings: ProbeSettings,
    trained: Features,
    random: Features,
) -> dict:
    """The metrics of `probe` for one label, from the features of all samples."""
    shards, k = evaluator.shards, settings.k or evaluator.recipe.k
    codes, classes = classes_of(shards, label)
    valid = trained.valid & random.valid
    train, test = split.train[valid[split.train]], split.test[valid[split.test]]
    check_readable(shards, train, test)
    chance = float(np.bincount(codes[test]).max() / len(test))
    result: dict = {"label": label, "classes": len(classes), "chance": chance}
    predicted: dict = {}
    for name in evaluator.modalities:
        predicted[name] = {
            key: classify(features.arrays[name], codes, train, test, settings.seed)
            for key, features in (("pretrained", trained), ("random", random))
        }
        result[name] = {
            key: float((found == codes[test]).mean()) for key, found in predicted[name].items()
        }
    result |= {"train": len(train), "test": len(test)}
    columns = list(dict.fromkeys((label, *class_columns(shards))))
    how = (valid, k, evaluator.recipe.cluster, settings.seed, shards, columns)
    for key, features in (("nmi", trained), ("nmi_random", random)):
        result[key] = {m: label_nmi(features.arrays[m], *how) for m in evaluator.modalities}
    result |= {"names": list(classes), "tested": test.tolist()}
    result["predicted"] = {
        name: {key: found.tolist() for key, found in by.items()} for name, by in predicted.items()
    }
    return result


def label_nmi(
    features: np.ndarray,
    valid: np.ndarray,
    k: int,
    settings: Cluster,
    seed: int,
    shards: ShardSet,
    columns: list[str],
) -> dict[str, float]:
    """{column: NMI with it} of label columns and a k-means of all valid features (N, D).

    Few videos or few distinct features make fewer clusters: at most one for every 4 videos. The
    same limit holds for cluster.pca.
    """
    most = max(int(valid.sum()) // LEAST, 1)
    k = min(k, most, len(np.unique(features[valid], axis=0)))
    settings = replace(settings, pca=min(settings.pca, most, features.shape[1]))
    assignment = cluster([features], valid, k, settings, seed).assignment
    return {name: float(nmi(label_counts(assignment, k, shards, name)[0])) for name in columns}


def divide(
    shards: ShardSet, label: str, codes: np.ndarray, classes: list[str], settings: ProbeSettings
) -> Split:
    """The training and the test part; codes, classes: the column `label`, as classes_of."""
    columns = (settings.split,) if settings.split else ()
    first, *more = splits_of(
        shards,
        label,
        codes,
        classes,
        columns,
        needed=FOLDS,
        test_share=settings.test_share,
        seed=settings.seed,
    )
    if more:
        raise UserError(
            f"{shards.root}: column '{settings.split}' holds {1 + len(more)} folds; a probe takes "
            "a column of train and test, `xdc svm` takes folds"
        )
    return first


def classify(
    features: np.ndarray, codes: np.ndarray, train: np.ndarray, test: np.ndarray, seed: int
) -> np.ndarray:
    """Classes of the test part, int (M,), by logistic regression on standardised features (N, D).

    codes: int (N,), the classes. train, test: int (M,), the samples of each part.
    """
    model = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        {"logisticregression__C": STRENGTHS},
        cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed),
    )
    model.fit(features[train], codes[train])
    return model.predict(features[test])
