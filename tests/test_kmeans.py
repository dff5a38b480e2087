"""k-means: against scikit-learn, and what it must refuse."""

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score

from xdc_fast.clusters.kmeans import cluster, prepare
from xdc_fast.errors import UserError
from xdc_fast.recipe import Cluster

rng = np.random.default_rng(0)


def blobs(n=600, d=16, k=6, spread=0.3):
    centres = rng.standard_normal((k, d)) * 3
    truth = rng.integers(0, k, n)
    return (centres[truth] + spread * rng.standard_normal((n, d))).astype(np.float32), truth


def seen(points):
    return np.ones(len(points), dtype=bool)


def test_finds_separate_blobs():
    points, truth = blobs()
    result = cluster([points], seen(points), 6, Cluster(restarts=5), seed=1)
    assert adjusted_rand_score(truth, result.assignment) == 1.0


def test_assignment_centroids_and_distances_fit_together():
    points, _ = blobs(spread=2.0)
    result = cluster([points], seen(points), 10, Cluster(), seed=1)
    squared = ((points[:, None] - result.centroids[None]) ** 2).sum(2)
    assert np.array_equal(squared.argmin(1), result.assignment)
    np.testing.assert_allclose(squared.min(1), result.distance, rtol=1e-3, atol=1e-3)
    assert result.inertia == pytest.approx(squared.min(1).mean(), rel=1e-4)


def test_inertia_is_as_low_as_scikit_learns():
    points = rng.standard_normal((3000, 24)).astype(np.float32)
    ours = cluster([points], seen(points), 20, Cluster(restarts=3), seed=0).inertia
    theirs = KMeans(20, n_init=3, init="random", random_state=0).fit(points).inertia_ / 3000
    assert ours < 1.01 * theirs


def test_every_point_counts_above_faiss_default_of_256_per_cluster():
    # from a draw of 256 x k points, a centroid would miss the mean by 1/16 standard deviation
    points = np.concatenate([rng.standard_normal((2000, 4)), 20 + rng.standard_normal((2000, 4))])
    points = points.astype(np.float32)
    result = cluster([points], seen(points), 2, Cluster(), seed=0)
    means = np.sort([points[:2000].mean(0), points[2000:].mean(0)], axis=0)
    np.testing.assert_allclose(np.sort(result.centroids, axis=0), means, atol=1e-3)


def test_the_seed_decides():
    points = rng.standard_normal((500, 8)).astype(np.float32)
    a, b, c = (cluster([points], seen(points), 12, Cluster(), seed=s) for s in (3, 3, 4))
    assert np.array_equal(a.assignment, b.assignment)
    assert not np.array_equal(a.assignment, c.assignment)


def test_samples_without_features_get_no_cluster():
    points, _ = blobs(n=100)
    here = seen(points)
    here[[3, 50]] = False
    points[3] = np.nan  # never looked at
    result = cluster([points], here, 5, Cluster(), seed=0)
    assert np.array_equal(np.flatnonzero(result.assignment < 0), [3, 50])
    assert np.isinf(result.distance[[3, 50]]).all()


def test_joined_features_count_alike_whatever_their_scale():
    a, _ = blobs(n=300)
    b, _ = blobs(n=300, k=4)
    small = cluster([a, b], seen(a), 8, Cluster(), seed=0)
    large = cluster([a * 1000, b], seen(a), 8, Cluster(), seed=0)
    assert adjusted_rand_score(small.assignment, large.assignment) > 0.99


def test_whitening_matches_scikit_learn():
    points = (rng.standard_normal((400, 10)) @ rng.standard_normal((10, 10))).astype(np.float32)
    ours = prepare(points, Cluster(pca=4))
    theirs = PCA(4, whiten=True).fit_transform(points)
    for column in range(4):  # the sign of a component is free
        assert abs(np.corrcoef(ours[:, column], theirs[:, column])[0, 1]) > 0.999
    np.testing.assert_allclose(ours.std(0) / ours.std(), 1, rtol=1e-4)


def test_normalisation():
    points = 5 + rng.standard_normal((50, 6)).astype(np.float32)
    np.testing.assert_allclose(np.linalg.norm(prepare(points, Cluster(normalize="l2")), axis=1), 1,
                               rtol=1e-5)  # fmt: skip
    centred = prepare(points, Cluster(normalize="centered-l2"))
    unit = points - points.mean(0)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    np.testing.assert_allclose(centred, unit, atol=1e-5)
    assert np.array_equal(prepare(points, Cluster()), points)


def test_refusals_name_the_cause():
    points, _ = blobs(n=30)
    with pytest.raises(UserError, match="k=31 clusters of 30 samples"):
        cluster([points], seen(points), 31, Cluster(), seed=0)
    copies = np.repeat(points[:3], 10, axis=0)
    with pytest.raises(UserError, match="only 3 distinct feature vectors"):
        cluster([copies], seen(copies), 5, Cluster(), seed=0)
    points[17, 2] = np.inf
    with pytest.raises(UserError, match="features of sample 17 "):
        cluster([points], seen(points), 5, Cluster(), seed=0)
    dead = blobs(n=30)[0]
    dead[:, 0] = 1
    with pytest.raises(UserError, match=r"keeps components without variance"):
        cluster([dead], seen(dead), 5, Cluster(pca=dead.shape[1]), seed=0)
    with pytest.raises(UserError, match=r"cluster.pca=99"):
        cluster([blobs(n=30)[0]], np.ones(30, bool), 5, Cluster(pca=99), seed=0)
