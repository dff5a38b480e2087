"""The linear probe: a classifier on frozen features, beside the same on random encoders."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from xdc_fast.clips.loader import choose_device, open_loader
from xdc_fast.clusters.kmeans import cluster
from xdc_fast.clusters.quality import class_columns, label_counts
from xdc_fast.encoders.build import MODALITIES, build_encoders
from xdc_fast.encoders.calibrate import calibrate
from xdc_fast.encoders.features import compute_features
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.encoders.weights import load_encoder_weights
from xdc_fast.errors import UserError
from xdc_fast.evaluation.splits import check_label_leakage, check_readable, classes_of, splits_of
from xdc_fast.kernels.labels import nmi
from xdc_fast.pretraining.run import Run
from xdc_fast.recipe import Cluster
from xdc_fast.shards.dataset import ShardSet

STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # inverse regularisation, chosen on the training part
FOLDS = 3
LEAST = 4  # samples per cluster, on average

Features = dict[str, tuple[dict[str, np.ndarray], np.ndarray]]


def probe(
    run: Run,
    shards: ShardSet,
    label: str,
    *,
    split: str | None = None,
    test_share: float = 0.3,
    clips: int = 3,
    seed: int = 0,
    k: int | None = None,
    features: Features | None = None,
) -> dict:
    """Linear-probe accuracy of a run's encoders and of the same ones before any training.

    Features are frozen and averaged over `clips` equally spaced clips of each video. Videos are
    divided at random, stratified by class, or by the label column `split` (train, test; videos
    with neither are left out). Multinomial logistic regression on standardised features, its
    strength chosen by cross-validation on the training part alone.
    Beside it the features of all videos are clustered by k-means as in the recipe, and compared
    with the label and every other column of classes. k: of these clusters, if not the recipe's.
    features: those of both_features, when several labels are probed.

    Returns {label, classes, chance, video: {pretrained, random}, audio: {...}, train, test, nmi:
    {modality: {column: ...}}, nmi_random, and what it is of: data, split, test_share, clips, seed,
    k, finished}: accuracies and chance (share of the test part's most frequent class) 0 to 1,
    counts of videos, NMI of pretrained and of random features' clusters, the fingerprint of the
    shards, and whether the run had ended.
    Raises UserError for an unknown column, fewer than two classes, a class too small, or a video
    in both parts.
    """
    codes, classes = classes_of(shards, label)
    train, test = divide(shards, label, codes, classes, split, test_share, seed)
    check_label_leakage(run, shards, label, [test])
    finished = (run.root / "encoders.pt").is_file()
    if features is None:
        features = both_features(run, shards, clips)
    seen = features["pretrained"][1] & features["random"][1]
    train, test = train[seen[train]], test[seen[test]]
    check_readable(shards, train, test)
    result: dict = {
        "label": label,
        "classes": len(classes),
        "chance": float(np.bincount(codes[test]).max() / len(test)),
    }
    for modality in MODALITIES:
        result[modality] = {
            name: accuracy(parts[modality], codes, train, test, seed)
            for name, (parts, _) in features.items()
        }
    result |= {"train": len(train), "test": len(test)}
    k = k or run.recipe.k
    columns = list(dict.fromkeys((label, *class_columns(shards))))
    for key, name in (("nmi", "pretrained"), ("nmi_random", "random")):
        result[key] = {
            modality: label_nmi(
                features[name][0][modality],
                features[name][1],
                k,
                run.recipe.cluster,
                seed,
                shards,
                columns,
            )
            for modality in MODALITIES
        }
    result |= {"data": shards.fingerprint, "split": split, "test_share": test_share}
    result |= {"clips": clips, "seed": seed, "k": k, "finished": finished}
    run.save_probe(result)
    return result


def both_features(run: Run, shards: ShardSet, clips: int) -> Features:
    """{pretrained, random: what run_features gives}."""
    return {
        "pretrained": run_features(run, shards, clips, trained=True),
        "random": run_features(run, shards, clips, trained=False),
    }


def run_features(
    run: Run, shards: ShardSet, clips: int, *, trained: bool
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Features of a shard set by a run's encoders, or by their random start.

    The start has the weights that the run began with; its BatchNorm is calibrated on `shards`.
    """
    recipe = run.recipe
    inputs, device = ClipTransform(recipe), choose_device(recipe.device)
    encoders = build_encoders(recipe, device)
    loader = open_loader(
        shards, inputs.shape, device=device, loader=recipe.loader, threads=recipe.threads
    )
    if trained:
        load_encoder_weights(encoders, run.encoder_weights(), recipe, run.root)
    else:
        calibrate(encoders, loader, inputs, recipe.train.batch)
    found = compute_features(encoders, loader, inputs, recipe.train.batch, clips=clips)
    return found.arrays, found.valid


def label_nmi(
    features: np.ndarray,
    seen: np.ndarray,
    k: int,
    settings: Cluster,
    seed: int,
    shards: ShardSet,
    columns: list[str],
) -> dict[str, float]:
    """{column: NMI with it} of label columns and a k-means of all features (N, D) that were read.

    Of few videos or few distinct features are made fewer clusters: no more than one for every 4
    videos. So with cluster.pca.
    """
    most = max(int(seen.sum()) // LEAST, 1)
    k = min(k, most, len(np.unique(features[seen], axis=0)))
    settings = replace(settings, pca=min(settings.pca, most, features.shape[1]))
    assignment = cluster([features], seen, k, settings, seed).assignment
    return {name: float(nmi(label_counts(assignment, k, shards, name)[0])) for name in columns}


def divide(shards, label, codes, classes, split, test_share, seed):
    """Sample indices of the training and the test part."""
    columns = (split,) if split else ()
    first, *more = splits_of(
        shards, label, codes, classes, columns, needed=FOLDS, test_share=test_share, seed=seed
    )
    if more:
        raise UserError(
            f"{shards.root}: column '{split}' holds {1 + len(more)} folds; a probe takes a column "
            "of train and test, `xdc svm` takes folds"
        )
    return first.train, first.test


def accuracy(features: np.ndarray, codes: np.ndarray, train, test, seed: int) -> float:
    """Test accuracy of logistic regression on standardised features (N, D)."""
    model = GridSearchCV(
        make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000)),
        {"logisticregression__C": STRENGTHS},
        cv=StratifiedKFold(FOLDS, shuffle=True, random_state=seed),
    )
    model.fit(features[train], codes[train])
    return float(model.score(features[test], codes[test]))
