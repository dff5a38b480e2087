"""Figures of clusterings against scikit-learn and against counting everything."""

import itertools
import time
from collections import Counter

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.special import logsumexp
from sklearn import metrics as sklearn_metrics
from sklearn.cluster import KMeans
from sklearn.metrics.cluster import expected_mutual_information
from sklearn.model_selection import StratifiedKFold

from xdc_fast.clusters import quality
from xdc_fast.clusters.kmeans import cluster
from xdc_fast.clusters.quality import (
    METRICS,
    accuracy,
    against_labels,
    class_columns,
    expected_information,
    label_counts,
    metrics,
)
from xdc_fast.evaluation import probe
from xdc_fast.kernels.labels import contingency
from xdc_fast.recipe import Cluster
from xdc_fast.shards.dataset import ShardSet


def related(n, k, classes, seed=0, alike=0.5):
    """An assignment and labels that agree in part, a tenth of each missing."""
    rng = np.random.default_rng(seed)
    codes = np.minimum(rng.geometric(3 / classes, n) - 1, classes - 1)  # classes of unequal size
    assignment = np.where(rng.random(n) < alike, codes % k, rng.integers(0, k, n))
    assignment[rng.random(n) < 0.1] = -1
    codes[rng.random(n) < 0.1] = -1
    return assignment, codes


@pytest.mark.parametrize("alike", [0, 0.5, 1])
@pytest.mark.parametrize(("n", "k", "classes"), [(60, 20, 10), (400, 4, 4), (5000, 64, 30)])
def test_figures_equal_scikit_learns(n, k, classes, alike):
    assignment, codes = related(n, k, classes, alike=alike)
    found = metrics(contingency(assignment, codes, k, classes))
    assert tuple(found) == METRICS
    both = (assignment >= 0) & (codes >= 0)
    a, b = assignment[both], codes[both]
    assert found["nmi"] == pytest.approx(
        sklearn_metrics.normalized_mutual_info_score(b, a), abs=1e-9
    )
    assert found["ami"] == pytest.approx(sklearn_metrics.adjusted_mutual_info_score(b, a), abs=1e-9)
    assert found["ari"] == pytest.approx(sklearn_metrics.adjusted_rand_score(b, a), abs=1e-9)
    each = [np.bincount(b[a == c]).max() / (a == c).sum() for c in np.unique(a)]
    assert found["mean_purity"] == pytest.approx(np.mean(each))
    assert found["purity"] == pytest.approx(np.average(each, weights=np.bincount(a)[np.unique(a)]))


# scikit-learn takes as many clusters as samples for a regression
@pytest.mark.filterwarnings("ignore:The number of unique classes")
@pytest.mark.parametrize("table", [[[300]], [[5, 7]], [[5], [7]], np.eye(6, dtype=int), [[0, 9]]])
def test_trivial_partitions_are_judged_as_by_scikit_learn(table):
    table = np.array(table)
    rows, columns = np.nonzero(table)
    a, b = (np.repeat(side, table[rows, columns]) for side in (rows, columns))
    expected = sklearn_metrics.adjusted_mutual_info_score(b, a)
    assert metrics(table)["ami"] == pytest.approx(expected, abs=1e-9)


def test_nothing_to_compare_gives_no_figures():
    assert metrics(np.zeros((3, 4), int)) == dict.fromkeys(METRICS)


def test_expected_information_leaves_out_nothing_that_counts():
    rng = np.random.default_rng(0)
    rows, columns = rng.multinomial(60_000, rng.dirichlet([0.3] * 12, 2))
    rows, columns = rows[rows > 0], columns[columns > 0]
    table = np.zeros((len(rows), len(columns)))
    table[:, 0], table[0] = rows, columns  # scikit-learn reads the sums only
    table[0, 0] = rows[0] + columns[0] - 60_000
    expected = expected_mutual_information(table, 60_000)
    assert expected_information(rows, columns) == pytest.approx(expected, rel=1e-6)


def test_a_million_samples_take_seconds():
    rng = np.random.default_rng(0)
    assignment, codes = rng.integers(0, 64, 1_000_000), rng.integers(0, 400, 1_000_000)
    table = contingency(assignment, codes, 64, 400)
    began = time.perf_counter()
    found = metrics(table)
    assert time.perf_counter() - began < 5
    assert found["ami"] == pytest.approx(0, abs=1e-4) and found["nmi"] > 0.002


@pytest.mark.parametrize(("k", "classes"), [(5, 5), (6, 4), (7, 3)])
def test_accuracy_is_that_of_the_best_matching(k, classes):
    table = contingency(*related(300, k, classes, seed=k), k, classes)
    best = max(
        sum(table[c, label] for label, c in enumerate(chosen))
        for chosen in itertools.permutations(range(k), classes)
    )
    assert accuracy(table) == pytest.approx(best / table.sum())


def test_accuracy_needs_a_cluster_for_each_class():
    assert accuracy(np.ones((3, 4), int)) is None


@pytest.fixture(scope="module")
def features():
    """Like an encoder's: correlated, some directions wide, groups that overlap; float32."""
    rng = np.random.default_rng(3)
    centres = rng.standard_normal((12, 32)) * np.linspace(2, 0.1, 32)
    truth = rng.integers(0, 12, 3000)
    noise = rng.standard_normal((3000, 32)) @ (rng.standard_normal((32, 32)) / 6)
    return (centres[truth] + noise).astype(np.float32)


@pytest.mark.parametrize("normalize", ["none", "centered-l2"])
def test_k_means_is_as_good_as_scikit_learns(features, normalize):
    settings = Cluster(n_init=10, normalize=normalize, max_iter=100)
    ours = cluster([features], np.ones(len(features), bool), 12, settings, seed=0)
    points = features.astype(np.float64)
    if normalize != "none":
        points -= points.mean(axis=0)
        points /= np.linalg.norm(points, axis=1, keepdims=True)
    theirs = KMeans(12, n_init=10, random_state=0).fit(points)
    means = np.stack([points[ours.assignment == c].mean(axis=0) for c in range(12)])
    inertia = ((points - means[ours.assignment]) ** 2).sum()
    assert inertia == pytest.approx(theirs.inertia_, rel=0.01)


def test_k_means_finds_the_same_blobs_as_scikit_learn():
    rng = np.random.default_rng(4)
    truth = rng.integers(0, 8, 1000)
    points = 10 * rng.standard_normal((8, 16))[truth] + rng.standard_normal((1000, 16))
    points = points.astype(np.float32)
    ours = cluster([points], np.ones(1000, bool), 8, Cluster(n_init=10), seed=0).assignment
    theirs = KMeans(8, n_init=10, random_state=0).fit(points).labels_
    assert sklearn_metrics.adjusted_rand_score(theirs, ours) == 1
    # and so our NMI of our clusters is scikit-learn's NMI of its own
    nmi = metrics(contingency(ours, truth, 8, 8))["nmi"]
    assert nmi == pytest.approx(sklearn_metrics.normalized_mutual_info_score(truth, theirs))


def fit_softmax(points, codes, strength):
    """The minimum of strength * summed cross-entropy + |W|^2 / 2, found without scikit-learn."""
    n, d, classes = *points.shape, codes.max() + 1

    def loss(flat):
        weights, bias = flat[: d * classes].reshape(d, classes), flat[d * classes :]
        logits = points @ weights + bias
        logs = logits - logsumexp(logits, axis=1, keepdims=True)
        slope = strength * (np.exp(logs) - np.eye(classes)[codes])
        value = -strength * logs[np.arange(n), codes].sum() + (weights**2).sum() / 2
        return value, np.concatenate([(points.T @ slope + weights).ravel(), slope.sum(axis=0)])

    flat = minimize(loss, np.zeros((d + 1) * classes), jac=True, method="L-BFGS-B").x
    return flat[: d * classes].reshape(d, classes), flat[d * classes :]


def test_the_probe_is_a_softmax_regression_of_the_strength_that_its_training_part_prefers():
    rng = np.random.default_rng(5)
    codes = rng.integers(0, 4, 260)
    features = 5 + 3 * (np.eye(4)[codes] @ rng.standard_normal((4, 12)))
    features += 6 * rng.standard_normal((260, 12))
    train, test = np.arange(180), np.arange(180, 260)

    def score(fitted, judged, strength):
        mean, deviation = features[fitted].mean(axis=0), features[fitted].std(axis=0)
        points = (features - mean) / deviation
        weights, bias = fit_softmax(points[fitted], codes[fitted], strength)
        return ((points[judged] @ weights + bias).argmax(axis=1) == codes[judged]).mean()

    folds = StratifiedKFold(probe.FOLDS, shuffle=True, random_state=0)
    parts = list(folds.split(train, codes[train]))
    inner = [np.mean([score(train[a], train[b], c) for a, b in parts]) for c in probe.STRENGTHS]
    expected = score(train, test, probe.STRENGTHS[int(np.argmax(inner))])
    found = (probe.classify(features, codes, train, test, seed=0) == codes[test]).mean()
    assert found == pytest.approx(expected, abs=1.01 / len(test)) and 0.3 < found < 0.95


COLUMNS = {
    "class": ["a", "b"] * 6,
    "pair": [str(i // 2) for i in range(12)],
    "group": [str(i // 2) for i in range(11)] + [""],  # 11 samples of 6
    "youtube_id": [str(i) for i in range(12)],
    "several": ["a;b", "b;a", "c", "", "b;c;a", "a", "b;b;", "c;a", "", "c", "b", "c"],
    "empty": [""] * 12,
    "single": ["a"] * 12,
}


class Labeled:
    """A set of 12 samples, of which samples.csv says COLUMNS."""

    label_names = tuple(COLUMNS)
    memberships, _expand = ShardSet.memberships, ShardSet._expand

    def __init__(self):
        self._memberships = {}

    def label(self, column):
        values = COLUMNS[column]
        classes = sorted({value for value in values if value})
        return np.array([classes.index(v) if v else -1 for v in values]), classes


def test_clusters_are_compared_with_classes_not_with_names(monkeypatch):
    assert class_columns(Labeled()) == ["class", "pair", "several", "single"]
    clusters = np.arange(12, dtype=np.int32) % 2
    found = against_labels(clusters, 2, Labeled())
    assert list(found) == ["class", "pair", "several", "single"]
    assert found["class"] == {"nmi": pytest.approx(1), "purity": 1}
    monkeypatch.setattr(quality, "MAX_CLASSES", 5)
    assert class_columns(Labeled()) == ["class", "several", "single"]


def test_a_sample_counts_for_each_of_its_labels():
    clusters = np.array([0, 1, -1, 0, 2, 2, 1, 0, 1, 0, 1, 2], dtype=np.int32)
    cells = [set(cell.split(";")) - {""} for cell in COLUMNS["several"]]
    table, classes = label_counts(clusters, 3, Labeled(), "several")
    assert classes == ["a", "b", "c"]
    for k, counts in enumerate(table):
        held = Counter(itertools.chain(*(cells[i] for i in np.flatnonzero(clusters == k))))
        assert counts.tolist() == [held[name] for name in classes]
    samples, codes, _ = Labeled().memberships("several")
    told = [[i, classes.index(name)] for i, cell in enumerate(cells) for name in sorted(cell)]
    assert np.column_stack([samples, codes]).tolist() == told
    samples, codes, _ = Labeled().memberships("class")
    assert samples.tolist() == list(range(12))
    assert np.array_equal(codes, Labeled().label("class")[0])
    assert [len(part) for part in Labeled().memberships("empty")] == [0, 0, 0]
