"""k-means, NMI and the probe on real features, beside scikit-learn on the very same ones.

pytest -m slow tests/test_real.py -s      # prints what it compares
"""

from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score
from sklearn.model_selection import StratifiedKFold
from sklearn.preprocessing import StandardScaler

from xdc_fast.clusters.kmeans import cluster
from xdc_fast.clusters.quality import against_labels
from xdc_fast.evaluation.evaluator import Evaluator
from xdc_fast.evaluation.probe import FOLDS, STRENGTHS, ProbeSettings, classify, divide
from xdc_fast.models.load import load
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.recipe import load_recipe
from xdc_fast.shards.dataset import ShardSet

GRID = Path(__file__).parent.parent.parent / "shared" / "data" / "grid_s1"
RECIPE = Path(__file__).parent.parent / "recipes" / "grid.yaml"
K = 16


@pytest.fixture(scope="module")
def features(tmp_path_factory):
    """(shards, recipe, {modality: features}) of a third of the clips after a short pretraining."""
    if not GRID.is_dir():
        pytest.skip(f"needs {GRID}")
    root = tmp_path_factory.mktemp("grid")
    chosen = sorted(GRID.glob("*.mp4"))[::3]
    inputs = collect(chosen, GRID / "labels.csv", root / "shards")
    pack(inputs, root / "shards", PackSettings(short_side=48))
    small = ("video.encoder=r2plus1d_tiny", "video.crop=40", "video.frames=8",
             "audio.encoder=audio_tiny", "train.iterations=3", "train.epochs=2")  # fmt: skip
    chosen = (*small, f"k={K}", f"data={root / 'shards'}", f"out={root / 'run'}")
    pretrain(load_recipe(RECIPE, chosen))
    model, shards = load(root / "run"), ShardSet(root / "shards")
    found = Evaluator(model, shards).features("video", "audio", clips=1)
    assert found.valid.all()
    return shards, model.recipe, found.arrays


def newton(rows, codes, train, test):
    """Test accuracy by Newton's method in float64; the strength by the probe's folds."""

    def score(strength, learn, ask):
        scaler = StandardScaler().fit(rows[learn])
        model = LogisticRegression(C=strength, solver="newton-cg", max_iter=500, tol=1e-6)
        return model.fit(scaler.transform(rows[learn]), codes[learn]).score(
            scaler.transform(rows[ask]), codes[ask]
        )

    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0).split(train, codes[train])
    folds = list(folds)
    means = [np.mean([score(c, train[a], train[b]) for a, b in folds]) for c in STRENGTHS]
    return score(STRENGTHS[int(np.argmax(means))], train, test)


@pytest.mark.slow
@pytest.mark.parametrize("modality", ["video", "audio"])
def test_clusters_nmi_and_probe_are_scikit_learns(modality, features):
    shards, recipe, found = features
    rows, seen = found[modality], np.ones(len(shards), dtype=bool)
    ours = cluster([rows], seen, K, recipe.cluster, seed=0)

    units = rows.astype(np.float64) - rows.astype(np.float64).mean(axis=0)
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    near = ((units[:, None] - ours.centroids.astype(np.float64)) ** 2).sum(axis=2)
    assert np.array_equal(near.argmin(axis=1), ours.assignment)
    assert near.min(axis=1).mean() == pytest.approx(ours.mean_squared_distance, rel=1e-4)
    settled = KMeans(K, init=ours.centroids.astype(np.float64), n_init=1).fit(units)
    alone = [KMeans(K, n_init=1, random_state=s).fit(units).inertia_ for s in range(10)]
    alone = np.array(alone) / len(units)
    same = (settled.labels_ == ours.assignment).mean()
    print(
        f"\n{modality}: inertia {ours.mean_squared_distance:.4f}; scikit-learn, going on from "
        f"it until nothing moves, {settled.inertia_ / len(units):.4f}, "
        f"{100 * same:.1f} % of the labels the same; "
        f"alone, 10 seeds, {alone.min():.4f} to {alone.max():.4f}"
    )
    assert same > 0.9 and ours.mean_squared_distance < 1.02 * np.median(alone)

    table = against_labels(ours.assignment, K, shards)
    for column in shards.label_names:
        codes, classes = shards.label(column)
        theirs = normalized_mutual_info_score(codes, ours.assignment)
        assert table[column]["nmi"] == pytest.approx(theirs, abs=1e-9)
        print(f"  {column}: NMI {table[column]['nmi']:.4f}, scikit-learn {theirs:.4f}")
    for column in ("command", "colour", "digit"):
        codes, classes = shards.label(column)
        train, test = divide(shards, column, codes, classes, ProbeSettings())[1:]
        expected = newton(rows.astype(np.float64), codes, train, test)
        shown = (classify(rows, codes, train, test, seed=0) == codes[test]).mean()
        print(
            f"  {column}: probe {100 * shown:.1f} %, by Newton's method in float64 "
            f"{100 * expected:.1f} %"
        )
        assert shown == pytest.approx(expected, abs=0.03)  # three of 100 clips
