"""A linear SVM on frozen features: the protocol for sound."""

from __future__ import annotations

from pathlib import Path

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
from xdc_fast.shards.dataset import ShardSet

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
    windows: int = 10,
    seed: int = 0,
    out: str | Path | None = None,
) -> dict:
    """Accuracy of a one-vs-rest linear SVM on the splits that `columns` name (see splits_of).

    Each recording gives `windows` equally spaced clips of the recipe's length, whose features are
    made unit length and learned one by one; at test their scores are averaged. C is found by
    cross-validation within the training part, where clips of a recording stay together.
    The result is kept in `out`, or in the run's folder.

    Returns {..., splits: [{split, train, test, unread, c, accuracy}], mean, spread}: accuracies 0
    to 1. Raises UserError as splits_of does.
    """
    evaluator = Evaluator(model, shards, modality, out)
    codes, classes = classes_of(shards, label)
    splits = splits_of(shards, label, codes, classes, columns, needed=FOLDS, seed=seed)
    check_label_leakage(model.run, shards, label, [split.test for split in splits])
    used = np.unique(np.concatenate([part for split in splits for part in split[1:]]))
    found = evaluator.features(
        modality, samples=used, clips=windows, average=False, title=f"{modality} features"
    )
    units = normalize(found.arrays[modality]).reshape(len(used), windows, -1)
    read = found.valid.reshape(len(used), windows).all(axis=1)
    scores = []
    for name, *parts in splits:
        train, test = (np.searchsorted(used, part) for part in parts)
        unread = int((~read[train]).sum() + (~read[test]).sum())
        train, test = train[read[train]], test[read[test]]
        check_readable(shards, train, test)
        machine = fit(units[train], codes[used[train]], seed, model.recipe.threads)
        right = predict(machine, units[test]) == codes[used[test]]
        scores.append(
            {"split": name, "train": len(train), "test": len(test), "unread": unread}
            | {"c": machine.C, "accuracy": float(right.mean())}
        )
    made_by = {
        "label": label,
        "classes": len(classes),
        "modality": modality,
        "asked": [split.name for split in splits],
        "windows": windows,
        "seed": seed,
        **evaluator.made_by(modality),
    }
    result = {"where": model.name, "data": str(shards.root), **made_by, "splits": scores}
    result |= over_splits(scores, ("accuracy",))
    evaluator.keep("svm", "-".join((label, *columns, modality)), made_by, result)
    return result


def fit(units: np.ndarray, codes: np.ndarray, seed: int, threads: int = 1) -> LinearSVC:
    """An SVM of windows (N, W, D) of recordings with codes int (N,), its C found on the way."""
    count, windows, _ = units.shape
    search = GridSearchCV(
        LinearSVC(max_iter=10_000, random_state=seed),
        {"C": STRENGTHS},
        cv=StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed),
        n_jobs=threads,
    )
    with parallel_config("threading"):  # liblinear lets go of the GIL: no copies of the features
        search.fit(
            units.reshape(count * windows, -1),
            np.repeat(codes, windows),
            groups=np.repeat(np.arange(count), windows),
        )
    return search.best_estimator_


def predict(machine: LinearSVC, units: np.ndarray) -> np.ndarray:
    """The class of each recording (N, W, D) by its windows' mean score, int (N,)."""
    scores = machine.decision_function(units.reshape(-1, units.shape[2]))
    scores = scores.reshape(*units.shape[:2], -1).mean(axis=1)
    if scores.shape[1] == 1:  # two classes have one score
        scores = np.concatenate([-scores, scores], axis=1)
    return machine.classes_[scores.argmax(axis=1)]
