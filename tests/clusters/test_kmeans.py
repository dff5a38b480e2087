"""k-means against scikit-learn, and the arguments that it refuses."""

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn import cluster as sklearn_cluster
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.metrics import adjusted_rand_score
from sklearn.metrics.cluster import contingency_matrix
from sklearn.preprocessing import normalize

from xdc_fast.clusters import points as module
from xdc_fast.clusters.kmeans import cluster, kmeans_plusplus
from xdc_fast.clusters.points import Points
from xdc_fast.clusters.prepare import prepare, unit_length
from xdc_fast.errors import UserError
from xdc_fast.recipe import Cluster

rng = np.random.default_rng(0)


def blobs(n=600, d=16, k=6, spread=0.3):
    centres = rng.standard_normal((k, d)) * 3
    truth = rng.integers(0, k, n)
    return (centres[truth] + spread * rng.standard_normal((n, d))).astype(np.float32), truth


def valid(points):
    return np.ones(len(points), dtype=bool)


def test_finds_separate_blobs():
    points, truth = blobs()
    result = cluster([points], valid(points), 6, Cluster(n_init=5), seed=1)
    assert adjusted_rand_score(truth, result.assignment) == 1.0


def test_assignment_centroids_and_distances_fit_together():
    points, _ = blobs(spread=2.0)
    result = cluster([points], valid(points), 10, Cluster(), seed=1)
    squared = ((points[:, None] - result.centroids[None]) ** 2).sum(2)
    assert np.array_equal(squared.argmin(1), result.assignment)
    np.testing.assert_allclose(squared.min(1), result.distance, rtol=1e-3, atol=1e-3)
    assert result.mean_squared_distance == pytest.approx(squared.min(1).mean(), rel=1e-4)


def test_inertia_is_as_low_as_scikit_learns():
    points = rng.standard_normal((3000, 24)).astype(np.float32)
    ours = cluster([points], valid(points), 20, Cluster(n_init=3), seed=0).mean_squared_distance
    theirs = KMeans(20, n_init=3, init="random", random_state=0).fit(points).inertia_ / 3000
    assert ours < 1.01 * theirs


def test_every_point_counts_above_256_per_cluster():
    # as many as faiss draws by default, where a centroid would miss the mean by 1/16 deviation
    points = np.concatenate([rng.standard_normal((2000, 4)), 20 + rng.standard_normal((2000, 4))])
    points = points.astype(np.float32)
    result = cluster([points], valid(points), 2, Cluster(), seed=0)
    means = np.sort([points[:2000].mean(0), points[2000:].mean(0)], axis=0)
    np.testing.assert_allclose(np.sort(result.centroids, axis=0), means, atol=1e-3)


def test_the_seed_decides():
    points = rng.standard_normal((500, 8)).astype(np.float32)
    a, b, c = (cluster([points], valid(points), 12, Cluster(), seed=s) for s in (3, 3, 4))
    assert np.array_equal(a.assignment, b.assignment)
    assert not np.array_equal(a.assignment, c.assignment)


def test_samples_without_features_get_no_cluster():
    points, _ = blobs(n=100)
    here = valid(points)
    here[[3, 50]] = False
    points[3] = np.nan  # never looked at
    result = cluster([points], here, 5, Cluster(), seed=0)
    assert np.array_equal(np.flatnonzero(result.assignment < 0), [3, 50])
    assert np.isinf(result.distance[[3, 50]]).all()


def test_joined_features_count_alike_whatever_their_scale():
    a, _ = blobs(n=300)
    b, _ = blobs(n=300, k=4)
    small = cluster([a, b], valid(a), 8, Cluster(), seed=0)
    large = cluster([a * 1000, b], valid(a), 8, Cluster(), seed=0)
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
    points[7] = 0
    np.testing.assert_allclose(unit_length(points), normalize(points), atol=1e-6)


def test_refusals_name_the_cause():
    points, _ = blobs(n=30)
    with pytest.raises(UserError, match="k=31 clusters of 30 samples"):
        cluster([points], valid(points), 31, Cluster(), seed=0)
    copies = np.repeat(points[:3], 10, axis=0)
    with pytest.raises(UserError, match="only 3 distinct feature vectors"):
        cluster([copies], valid(copies), 5, Cluster(), seed=0)
    points[17, 2] = np.inf
    with pytest.raises(UserError, match="features of sample 17 "):
        cluster([points], valid(points), 5, Cluster(), seed=0)
    dead = blobs(n=30)[0]
    dead[:, 0] = 1
    with pytest.raises(UserError, match=r"keeps components without variance"):
        cluster([dead], valid(dead), 5, Cluster(pca=dead.shape[1]), seed=0)
    with pytest.raises(UserError, match=r"cluster.pca=99"):
        cluster([blobs(n=30)[0]], np.ones(30, bool), 5, Cluster(pca=99), seed=0)


def overlapping(n=4000, d=16, k=20, groups=30):
    """Points of groups that overlap, and the same after a training that moved them a little."""
    centres = rng.standard_normal((groups, d)) * 1.5
    group = rng.integers(0, groups, n)
    points = centres[group] + rng.standard_normal((n, d))
    moved = (
        points + 0.3 * rng.standard_normal((groups, d))[group] + 0.2 * rng.standard_normal((n, d))
    )
    return points.astype(np.float32), moved.astype(np.float32)


def test_from_the_last_clusters_the_inertia_is_as_low_as_from_scratch_in_fewer_rounds():
    points, moved = overlapping()
    last = cluster([points], valid(points), 20, Cluster(), seed=0)
    warm = cluster([moved], valid(moved), 20, Cluster(), seed=1, previous=last.assignment)
    theirs = KMeans(20, n_init=1, max_iter=20, tol=0, random_state=0).fit(moved).inertia_ / 4000
    assert warm.mean_squared_distance < 1.005 * theirs
    assert 0 < warm.rounds <= 10


def test_clusters_keep_their_numbers_from_iteration_to_iteration():
    points, moved = overlapping()
    last = cluster([points], valid(points), 20, Cluster(), seed=0).assignment
    warm = cluster([moved], valid(moved), 20, Cluster(), seed=1, previous=last).assignment
    fresh = cluster([moved], valid(moved), 20, Cluster(), seed=1).assignment
    shared = contingency_matrix(last, warm)
    assert np.array_equal(linear_sum_assignment(-shared)[1], np.arange(20))
    assert (last == warm).mean() > 0.7 > 0.2 > (last == fresh).mean()


def test_the_last_clusters_matter_through_their_members_only():
    # another rotation of the features, as a refitted PCA gives, does not disturb the start
    points, _ = overlapping(d=8)
    turned = points @ np.linalg.qr(rng.standard_normal((8, 8)))[0].astype(np.float32)
    last = cluster([points], valid(points), 20, Cluster(), seed=0)
    again = cluster([turned], valid(turned), 20, Cluster(), seed=1, previous=last.assignment)
    assert (again.assignment == last.assignment).mean() > 0.9
    assert again.mean_squared_distance <= last.mean_squared_distance * (1 + 1e-5)


def test_clusters_that_the_last_iteration_left_empty_are_filled():
    points, _ = overlapping()
    last = np.arange(len(points), dtype=np.int32) % 5  # 5 to 19 hold nothing
    result = cluster([points], valid(points), 20, Cluster(), seed=0, previous=last)
    fresh = cluster([points], valid(points), 20, Cluster(), seed=0)
    assert np.bincount(result.assignment, minlength=20).min() > 0
    assert result.reassigned >= 14
    assert result.mean_squared_distance < 1.05 * fresh.mean_squared_distance


def test_a_crowd_of_copies_is_not_what_fills_an_empty_cluster():
    points, _ = overlapping(n=400)
    points[:300] = points[0]  # silent sound tracks
    last = np.where(np.arange(400) < 300, 0, 1).astype(np.int32)
    result = cluster([points], valid(points), 12, Cluster(), seed=0, previous=last)
    assert np.bincount(result.assignment, minlength=12).min() > 0
    assert len(np.unique(result.assignment[:300])) == 1


def test_samples_that_come_or_go_between_iterations():
    points, moved = overlapping(n=1000)
    before, now = valid(points), valid(moved)
    before[:50], now[950:] = False, False
    last = cluster([points], before, 10, Cluster(), seed=0)
    result = cluster([moved], now, 10, Cluster(), seed=1, previous=last.assignment)
    assert (result.assignment[:950] >= 0).all() and (result.assignment[950:] == -1).all()
    assert (result.assignment[50:950] == last.assignment[50:950]).mean() > 0.7
    nobody = np.full(1000, -1, dtype=np.int32)
    fresh = cluster([moved], now, 10, Cluster(), seed=1)
    unknown = cluster([moved], now, 10, Cluster(), seed=1, previous=nobody)
    assert np.array_equal(unknown.assignment, fresh.assignment)


def test_the_last_clusters_and_the_seed_of_a_draw_decide():
    points, moved = overlapping()
    last = cluster([points], valid(points), 20, Cluster(), seed=0).assignment
    arguments = {"settings": Cluster(max_samples=1500), "previous": last}
    a, b = (cluster([moved], valid(moved), 20, seed=3, **arguments) for _ in range(2))
    assert np.array_equal(a.assignment, b.assignment)
    assert np.array_equal(a.centroids, b.centroids)
    squared = ((moved[:, None] - a.centroids[None]) ** 2).sum(2)
    assert np.array_equal(squared.argmin(1), a.assignment)
    every = cluster([moved], valid(moved), 20, Cluster(), seed=3, previous=last)
    assert a.mean_squared_distance < 1.05 * every.mean_squared_distance


def test_more_rounds_than_needed_change_little():
    points, _ = overlapping()
    stopped = cluster([points], valid(points), 20, Cluster(max_iter=200), seed=0)
    assert stopped.rounds < 30
    start = stopped.centroids
    theirs = KMeans(20, init=start, n_init=1, max_iter=20, tol=0).fit(points).inertia_ / 4000
    assert stopped.mean_squared_distance < 1.005 * theirs
    assert cluster([points], valid(points), 20, Cluster(max_iter=1), seed=0).rounds == 1


def test_plusplus_is_as_good_a_start_as_scikit_learns():
    points = (5 + blobs(n=2000, k=30, spread=0.2)[0]).astype(np.float32)

    def cost(rows):
        return ((points[:, None] - points[rows]) ** 2).sum(2).min(1).mean()

    ours = [
        cost(kmeans_plusplus(Points(points), 30, np.random.default_rng(s)).numpy())
        for s in range(5)
    ]
    theirs = [
        cost(sklearn_cluster.kmeans_plusplus(points, 30, random_state=s)[1]) for s in range(5)
    ]
    assert np.mean(ours) < 1.1 * np.mean(theirs)


@pytest.mark.parametrize("rows", [1, 30, 4096])
def test_blocks_of_any_size_give_nearest_and_means_of_float64(rows, monkeypatch):
    monkeypatch.setattr(module, "ROWS", rows)
    points = rng.standard_normal((777, 24)).astype(np.float32)
    centroids = points[:30] + 0.1
    squared = ((points[:, None].astype(np.float64) - centroids) ** 2).sum(2)
    found, distance = Points(points).nearest(torch.from_numpy(centroids))
    assert np.array_equal(found, squared.argmin(1))
    np.testing.assert_allclose(distance, squared.min(1), rtol=1e-4)
    means, sizes = Points(points).means(found, 31)
    expected = [points[found.numpy() == c].mean(0, np.float64) for c in range(30)]
    np.testing.assert_allclose(means[:30], expected, atol=1e-5)
    assert np.array_equal(sizes, np.bincount(found, minlength=31)) and not means[30].any()


def test_half_precision_features_are_those_values():
    points = (100 * blobs(spread=2.0)[0]).astype(np.float16)  # sums of a row exceed its range
    half, single = (
        cluster([p], valid(p), 6, Cluster(), seed=0) for p in (points, points.astype(np.float32))
    )
    assert np.array_equal(half.assignment, single.assignment)
    assert np.array_equal(half.centroids, single.centroids)


def test_arrays_that_may_not_be_written_are_read():
    points, _ = blobs()
    points.setflags(write=False)
    assert cluster([points], valid(points), 6, Cluster(), seed=0).rounds


@pytest.mark.gpu
@pytest.mark.parametrize("room", [2, 10**12], ids=["on the device", "on the host"])
def test_a_gpu_gives_the_clusters_of_the_cpu(room, monkeypatch):
    monkeypatch.setattr(module, "SPARE", room)
    points, moved = overlapping()
    last = cluster([points], valid(points), 20, Cluster(), seed=0)
    fresh = cluster([points], valid(points), 20, Cluster(), seed=0, device="cuda")
    assert fresh.mean_squared_distance == pytest.approx(last.mean_squared_distance, rel=0.01)
    arguments = {"settings": Cluster(), "seed": 1, "previous": last.assignment}
    ours, theirs = (
        cluster([moved], valid(moved), 20, device=device, **arguments) for device in ("cpu", "cuda")
    )
    assert (ours.assignment == theirs.assignment).mean() > 0.999
