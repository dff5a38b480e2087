"""k-means over several ranks gives what one process gives, bit for bit."""

from dataclasses import replace

import numpy as np
import pytest

from tests.common.ranks import in_ranks
from xdc_fast.clusters.kmeans import cluster
from xdc_fast.clusters.points import ROWS
from xdc_fast.errors import UserError
from xdc_fast.recipe import Cluster

SAMPLES, WIDTH, K = 5 * ROWS - 300, 12, 30
CENTRED = Cluster(normalize="centered-l2")
CASES = {
    "raw": Cluster(),
    "centred": CENTRED,
    "whitened": replace(CENTRED, pca=6),
    "fitted on some": replace(CENTRED, max_samples=2 * ROWS + 77),
    "two starts": replace(CENTRED, n_init=2),
}


def points():
    rng = np.random.default_rng(5)
    centres = 3 * rng.standard_normal((K, WIDTH))
    found = centres[rng.integers(K, size=SAMPLES)] + rng.standard_normal((SAMPLES, WIDTH))
    return found.astype(np.float32), rng.random(SAMPLES) > 0.03


def cluster_each(ranks):
    """{case: Clustering} of this rank's part."""
    every, valid = points()
    part = ranks.share(SAMPLES, ROWS)
    own, there = every[part], valid[part]
    found = {name: cluster([own], there, K, s, 1, ranks=ranks) for name, s in CASES.items()}
    found["joined"] = cluster([own, own[:, :4]], there, K, CENTRED, 1, ranks=ranks)
    found["half"] = cluster([own.astype(np.float16)], there, K, CENTRED, 1, ranks=ranks)
    last = found["raw"].assignment
    found["next"] = cluster([own + own**2 / 9], there, K, CENTRED, 1, previous=last, ranks=ranks)
    # two thirds of the clusters are empty at the start
    found["refilled"] = cluster([own], there, K, CENTRED, 1, previous=last // 3, ranks=ranks)
    return found


@pytest.fixture(scope="module")
def alone():
    return in_ranks(1, cluster_each)[0]


@pytest.mark.parametrize(
    "world", [3, *(pytest.param(world, marks=pytest.mark.slow) for world in (2, 4))]
)
def test_the_clusters_are_those_of_one_process(world, alone):
    found = in_ranks(world, cluster_each)
    assert found[0].keys() == alone.keys()
    for name, whole in alone.items():
        parts = [each[name] for each in found]
        for field in ("assignment", "distance"):
            together = np.concatenate([getattr(part, field) for part in parts])
            assert np.array_equal(together, getattr(whole, field)), name
        for part in parts:
            assert np.array_equal(part.centroids, whole.centroids), name
            assert part.mean_squared_distance == whole.mean_squared_distance
            assert (part.rounds, part.reassigned) == (whole.rounds, whole.reassigned)
    assert alone["refilled"].reassigned >= K // 3 and alone["next"].rounds > 1


def refuse(ranks, name):
    every, valid = points()
    if name == "not finite":
        every[2 * ROWS, 3] = np.nan
        valid[2 * ROWS] = True
    if name == "collapsed":
        every[:] = every[0]
    if name == "unreadable":
        valid[:] = False
    part = ranks.share(SAMPLES, ROWS)
    try:
        cluster([every[part]], valid[part], K, CENTRED, 1, ranks=ranks)
    except UserError as error:
        return str(error)


@pytest.mark.parametrize("name", ["not finite", "collapsed", "unreadable"])
def test_all_ranks_refuse_alike(name):
    told = in_ranks(2, refuse, name)
    assert told[0] == told[1] == in_ranks(1, refuse, name)[0] is not None
