"""A linear SVM on frozen features: the protocol for sound."""

from __future__ import annotations

import numpy as np
from joblib import parallel_config
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.preprocessing import normalize
from sklearn.svm import LinearSVC

from xdc_fast.evaluation.evaluator import Evaluator
from xdc_fast.evaluation.splits import (
    check_label_leakage,
    check_readable,
    classes_of,
    over_splits,
    splits_of,
)
from xdc_fast.models.load import Model
from xdc_fast.ranks import ALONE, Ranks
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.storage import Place

# How the paper found its C is not known; the follow-up CrissCross swept 1e-5 to 1.
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0)
FOLDS = 3


def svm(
    model: Model,
    shards: ShardSet,
    label: str,
    columns: tuple[str, ...] = (),
    *,
    modality: str = "audio",
    clips: int = 10,
    test_share: float = 0.3,
    seed: int = 0,
    out: str | Place | None = None,
    ranks: Ranks = ALONE,
) -> dict:
    """Accuracy of a one-vs-rest linear SVM on the splits that `columns` name.

    columns, test_share, seed: see splits_of.
    Each recording gives `clips` equally spaced clips of the recipe's length, whose features are
    made unit length and learned one by one; at test their scores are averaged. C is found by
    cross-validation within the training part, where clips of a recording stay together.
    The result is kept in `out`, or in the run's folder. Several ranks share the feature pass; the
    first one returns the result, the others {}.

    Returns {..., splits: [{split, train, test, n_unreadable, c, accuracy}], mean, spread}:
    accuracies 0 to 1. Raises UserError as splits_of does.
    """
    codes, classes = classes_of(shards, label)
    splits = splits_of(
        shards, label, codes, classes, columns, needed=FOLDS, test_share=test_share, seed=seed
    )
    check_label_leakage(model.run, shards, label, [split.test for split in splits])
    evaluator = Evaluator(model, shards, modality, out, ranks)
    made_by = {
        "label": label,
        "classes": len(classes),
        "modality": modality,
        "asked": [split.name for split in splits],
        "clips": clips,
        "test_share": test_share,
        "seed": seed,
        **evaluator.made_by(modality),
    }
    with evaluator.place_for("svm", "-".join((label, *columns, modality)), made_by) as place:
        used = np.unique(np.concatenate([part for split in splits for part in split[1:]]))
        found = evaluator.features(
            modality, samples=used, clips=clips, average=False, title=f"{modality} features"
        )
        if not ranks.first:
            return {}
        units = normalize(found.arrays[modality]).reshape(len(used), clips, -1)
        valid: np.ndarray = found.valid.reshape(len(used), clips)
        readable = np.all(valid, axis=1)
        scores = []
        for name, *parts in splits:
            train, test = (np.searchsorted(used, part) for part in parts)
            n_unreadable = int((~readable[train]).sum() + (~readable[test]).sum())
            train, test = train[readable[train]], test[readable[test]]
            check_readable(shards, train, test)
            machine = fit(units[train], codes[used[train]], seed, model.recipe.threads)
            right = predict(machine, units[test]) == codes[used[test]]
            scores.append(
                {"split": name, "train": len(train), "test": len(test)}
                | {"n_unreadable": n_unreadable, "c": machine.C, "accuracy": float(right.mean())}
            )
        result = evaluator.about(made_by) | {"splits": scores}
        result |= over_splits(scores, ("accuracy",))
        place.save(result)
    return result


def fit(units: np.ndarray, codes: np.ndarray, seed: int, threads: int = 1) -> LinearSVC:
    """An SVM of clips float (N, clips, D) of recordings of classes int (N,), its C searched for."""
    count, clips, _ = units.shape
    search = GridSearchCV(
        LinearSVC(max_iter=10_000, random_state=seed),
        {"C": STRENGTHS},
        cv=StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed),
        n_jobs=threads,
    )
    with parallel_config("threading"):  # liblinear lets go of the GIL: no copies of the features
        search.fit(
            units.reshape(count * clips, -1),
            np.repeat(codes, clips),
            groups=np.repeat(np.arange(count), clips),
        )
    return search.best_estimator_


def predict(machine: LinearSVC, units: np.ndarray) -> np.ndarray:
    """The class of each recording by the mean score of its clips, float (N, clips, D): int (N,)."""
    scores = machine.decision_function(units.reshape(-1, units.shape[2]))
    scores = scores.reshape(*units.shape[:2], -1).mean(axis=1)
    if scores.shape[1] == 1:  # two classes have one score
        scores = np.concatenate([-scores, scores], axis=1)
    return machine.classes_[scores.argmax(axis=1)]
