"""Which videos train a classifier and which test it, and that none does both."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from sklearn.model_selection import StratifiedGroupKFold, train_test_split

from xdc_fast.errors import UserError
from xdc_fast.pretraining.methods import LABEL, clustering_name
from xdc_fast.pretraining.run import Run
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.format import LABEL_SEPARATOR
from xdc_fast.shards.parts import EVALUATION, TEST, TRAIN, VALIDATION, fold_of, part_of

TESTS = (TEST, VALIDATION, EVALUATION)  # the first that a column gives to labeled samples tests
SPLIT_COLUMN = "a split column holds train and test (or val), or the numbers of folds"
GROUP_COLUMNS = ("group", "youtube_id")  # label columns that name the recording of a video


class Split(NamedTuple):
    """train, test: int64, sample indices in rising order, none in both."""

    name: str
    train: np.ndarray
    test: np.ndarray


def splits_of(
    shards: ShardSet,
    label: str,
    codes: np.ndarray,
    classes: list[str],
    columns: tuple[str, ...] = (),
    *,
    needed: int = 1,
    test_share: float = 0.3,
    seed: int = 0,
) -> list[Split]:
    """The splits that label columns name, of the samples that have a label; or one at random.

    codes, classes: the column `label`, as ShardSet.label returns it. A column of train and test, in
    any usual spelling, is one split; where it has no test, validation is the test. A column of
    numbers holds folds and gives a split for each, whose test part is that fold. An empty cell
    leaves a sample out. Without columns, a share `test_share` is drawn as the test part by `seed`,
    stratified by class; recordings stay on one side.
    needed: training samples per class.
    Raises UserError for a column that makes no split, for classes too small or never trained, and
    for recordings in both parts: equal sources, or equal values of a column in GROUP_COLUMNS.
    """
    if len(classes) < 2:
        raise UserError(
            f"{shards.root}: label '{label}' has {len(classes)} class; a classifier needs 2"
        )
    labeled = np.flatnonzero(codes >= 0)
    recordings = recordings_of(shards, label)
    if columns:
        splits = [split for column in columns for split in _by_column(shards, column, labeled)]
    else:
        _refuse_small(shards, label, classes, "random", np.bincount(codes[labeled]), 2)
        splits = [_at_random(shards, codes, labeled, test_share, seed, recordings)]
    for split in splits:
        if not len(split.test):
            raise UserError(
                f"{shards.root}: no test video of split '{split.name}' has the label '{label}'"
            )
        present = np.unique(codes[np.concatenate([split.train, split.test])])
        counts = np.bincount(codes[split.train], minlength=len(classes))[present]
        _refuse_small(shards, label, [classes[c] for c in present], split.name, counts, needed)
        _refuse_leak(shards, split, recordings)
    return splits


def classes_of(shards: ShardSet, label: str) -> tuple[np.ndarray, list[str]]:
    """A label column as ShardSet.label gives it; UserError where it joins several labels."""
    codes, classes = shards.label(label)
    if joined := next((name for name in classes if LABEL_SEPARATOR in name), None):
        raise UserError(
            f"{shards.root}: column '{label}' has several labels in a cell ('{joined}'), and one "
            "class is to be predicted; name a column with one label a cell"
        )
    return codes, classes


def check_label_leakage(
    run: Run | None, shards: ShardSet, label: str, tests: list[np.ndarray]
) -> None:
    """Raises UserError for a supervised run that has learned the label of samples in `tests`, or
    of others of the same recordings."""
    if run is None or run.recipe.method != "supervised" or run.recipe.label != label:
        return
    if run.trained_on != shards.fingerprint:
        return
    learned = run.clusters(0, len(shards)).get(clustering_name(LABEL))
    if learned is None:
        return
    known = learned["assignment"] >= 0
    for codes, _ in recordings_of(shards, label).values():
        known |= (codes >= 0) & np.isin(codes, codes[learned["assignment"] >= 0])
    count = int(known[np.unique(np.concatenate(tests))].sum())
    if count:
        raise UserError(
            f"{run.place}: has learned the label '{label}' of {count} test videos of "
            f"{shards.root}, or of others from the same recordings; pretrain with split=COLUMN, "
            "which leaves the test part out, and test with --split COLUMN"
        )


def check_readable(shards: ShardSet, train: np.ndarray, test: np.ndarray) -> None:
    """Raises UserError where no sample of a part, int64 (M,), can be read."""
    for part, samples in (("training", train), ("test", test)):
        if not len(samples):
            raise UserError(f"{shards.root}: no {part} video can be read; run `xdc-shard verify`")


def recordings_of(shards: ShardSet, *others: str) -> dict[str, tuple[np.ndarray, list[str]]]:
    """{column: (codes int64 (N,), names)} of what tells that samples are cuts of one recording.

    A code of -1 tells nothing. others: columns that are used for something else.
    """
    names, codes = np.unique(shards.sources, return_inverse=True)
    known = [
        column for column in GROUP_COLUMNS if column in shards.label_names and column not in others
    ]
    return {"source": (codes, names.tolist())} | {column: shards.label(column) for column in known}


def over_splits(scores: list[dict], metrics: tuple[str, ...]) -> dict:
    """{mean: {metric: ...}, spread: {...}} over the splits; None where a split has none.

    The spread is the standard deviation over splits, with n - 1 in the denominator.
    """
    columns = {metric: [score[metric] for score in scores] for metric in metrics}
    whole = {metric: None not in values for metric, values in columns.items()}
    return {
        "mean": {m: float(np.mean(v)) if whole[m] else None for m, v in columns.items()},
        "spread": {
            m: float(np.std(v, ddof=1)) if whole[m] and len(v) > 1 else None
            for m, v in columns.items()
        },
    }


def _by_column(shards: ShardSet, column: str, labeled: np.ndarray) -> list[Split]:
    codes, names = shards.label(column)
    codes, parts = codes[labeled], [part_of(name) for name in names]
    if not names:
        raise UserError(f"{shards.root}: column '{column}' is empty; {SPLIT_COLUMN}")
    folds = [fold_of(name) for name in names]
    if None not in folds:
        return _folds(shards, column, labeled, np.array([*folds, -1])[codes])
    if unknown := [name for name, part in zip(names, parts, strict=True) if not part]:
        raise UserError(f"{shards.root}: column '{column}' holds '{unknown[0]}'; {SPLIT_COLUMN}")
    # official test lists may come without labels: then the validation part tests
    useful = {parts[code] for code in np.unique(codes) if code >= 0}
    test = next((part for held in (useful, {*parts}) for part in TESTS if part in held), TEST)
    for part in (TRAIN, test):
        if part not in parts:
            raise UserError(f"{shards.root}: column '{column}' has no '{part}'; {SPLIT_COLUMN}")
    of_part = np.array([*parts, None], dtype=object)[codes]
    return [Split(column, labeled[of_part == TRAIN], labeled[of_part == test])]


def _folds(shards: ShardSet, column: str, labeled: np.ndarray, folds: np.ndarray) -> list[Split]:
    """A split for each fold; folds: int (M,), of the labeled samples, -1 for none."""
    numbers = np.unique(folds[folds >= 0])
    if len(numbers) < 2:
        raise UserError(f"{shards.root}: column '{column}' holds one fold; {SPLIT_COLUMN}")
    return [
        Split(f"{column}={n}", labeled[(folds >= 0) & (folds != n)], labeled[folds == n])
        for n in numbers
    ]


def _at_random(
    shards: ShardSet,
    codes: np.ndarray,
    labeled: np.ndarray,
    test_share: float,
    seed: int,
    recordings: dict[str, tuple[np.ndarray, list[str]]],
) -> Split:
    """A share of the samples, stratified by class; cuts of one recording stay together.

    Then the set is divided into equal parts, ten where every class has as many recordings, and the
    test part is as many of them as come closest to the share.
    """
    groups = _together(labeled, recordings)
    try:
        if len(np.unique(groups)) == len(labeled):
            train, test = train_test_split(
                labeled, test_size=test_share, random_state=seed, stratify=codes[labeled]
            )
        else:
            of_class = np.unique(np.stack([codes[labeled], groups]), axis=1)[0]
            fewest = int(np.unique(of_class, return_counts=True)[1].min())
            # more parts than a class has recordings could all fall to the test part
            parts = max(min(fewest, 10), round(1 / min(test_share, 1 - test_share)))
            divide = StratifiedGroupKFold(parts, shuffle=True, random_state=seed)
            each = [part for _, part in divide.split(labeled, codes[labeled], groups)]
            taken = min(max(round(test_share * parts), 1), parts - 1)
            tests = np.isin(np.arange(len(labeled)), np.concatenate(each[:taken]))
            train, test = labeled[~tests], labeled[tests]
    except ValueError as error:
        raise UserError(
            f"{shards.root}: {len(labeled)} videos of {len(np.unique(codes[labeled]))} classes "
            f"cannot be divided with a test share of {test_share:g} ({error}); change "
            "--test-share, or name a split column with --split"
        ) from None
    return Split("random", np.sort(train), np.sort(test))


def _together(
    labeled: np.ndarray, recordings: dict[str, tuple[np.ndarray, list[str]]]
) -> np.ndarray:
    """A number for each sample, equal where a chain of shared recordings leads to another."""
    count, nodes = len(labeled), len(labeled)
    ends: list[tuple[np.ndarray, np.ndarray]] = []
    for codes, _ in recordings.values():
        known = np.flatnonzero(codes[labeled] >= 0)
        ends.append((known, nodes + codes[labeled][known]))
        nodes += int(codes.max(initial=-1)) + 1
    samples, groups = (np.concatenate(side) for side in zip(*ends, strict=True))
    graph = coo_array((np.ones(len(samples)), (samples, groups)), (nodes, nodes))
    return connected_components(graph, directed=False)[1][:count]


def _refuse_small(
    shards: ShardSet, label: str, classes: list[str], name: str, counts: np.ndarray, needed: int
) -> None:
    if counts.min() < needed:
        raise UserError(
            f"{shards.root}: class '{classes[int(counts.argmin())]}' of '{label}' has "
            f"{counts.min()} training videos in split '{name}', and needs {needed}: pack more, or "
            "take a coarser label"
        )


def _refuse_leak(
    shards: ShardSet, split: Split, recordings: dict[str, tuple[np.ndarray, list[str]]]
) -> None:
    for column, (codes, names) in recordings.items():
        both = np.intersect1d(codes[split.train], codes[split.test])
        both = both[both >= 0]
        if len(both):
            raise UserError(
                f"{shards.root}: split '{split.name}' leaks: {column} '{names[both[0]]}' is in its "
                f"training and in its test part ({len(both)} in all); name a split column that "
                "keeps them apart with --split"
            )
