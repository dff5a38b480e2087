import numba
import numpy as np
import pytest
from sklearn import metrics
from sklearn.metrics.cluster import contingency_matrix

from tests.common.scripts import run_script
from xdc_fast.kernels import (
    ari,
    cluster_sizes,
    contingency,
    effective_clusters,
    entropy,
    gather_labels,
    nmi,
    purity,
)

CASES = [(0, 3, 2), (1, 1, 1), (50, 1, 4), (200, 7, 1), (1000, 10, 25), (5000, 300, 200)]


def assignments(n, ka, kb, dtype=np.int64, seed=0, missing=True):
    """Two related assignments, a tenth of each without a cluster."""
    rng = np.random.default_rng(seed)
    a = rng.integers(0, ka, n)
    b = np.where(rng.random(n) < 0.6, a % kb, rng.integers(0, kb, n))
    if missing:
        a[rng.random(n) < 0.1] = -1
        b[rng.random(n) < 0.1] = -1
    return a.astype(dtype), b.astype(dtype)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_counts(case, dtype):
    _, ka, kb = case
    a, b = assignments(*case, dtype)
    sizes = cluster_sizes(a, ka)
    assert sizes.dtype == np.int64
    np.testing.assert_array_equal(sizes, np.bincount(a[a >= 0], minlength=ka))
    table = contingency(a, b, ka, kb)
    assert table.dtype == np.int64
    expected = np.zeros((ka, kb), int)
    both = (a >= 0) & (b >= 0)
    np.add.at(expected, (a[both], b[both]), 1)
    np.testing.assert_array_equal(table, expected)


def test_counts_do_not_depend_on_threads():
    a, b = assignments(100_000, 12, 9)
    tables = [contingency(a, b, 12, 9, threads=threads) for threads in (1, 2, 5)]
    for table in tables:
        np.testing.assert_array_equal(table, tables[0])
        assert table.sum() == ((a >= 0) & (b >= 0)).sum()


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("case", CASES)
def test_figures_equal_scikit_learn(case, seed):
    a, b = assignments(*case, seed=seed)
    table = contingency(a, b, *case[1:])
    both = (a >= 0) & (b >= 0)
    a, b = a[both], b[both]
    expected = metrics.normalized_mutual_info_score(b, a)
    assert nmi(table) == pytest.approx(expected, abs=1e-9)
    assert ari(table) == pytest.approx(metrics.adjusted_rand_score(b, a), abs=1e-9)
    if len(a):
        np.testing.assert_array_equal(table[table.any(axis=1)][:, table.any(axis=0)],
                                      contingency_matrix(a, b))  # fmt: skip
        share = np.bincount(a) / len(a)
        share = share[share > 0]
        expected = -(share * np.log(share)).sum()
        assert entropy(table.sum(axis=1)) == pytest.approx(expected, abs=1e-9)


def test_same_and_independent_labelings():
    a = np.repeat(np.arange(6), 50)
    same = contingency(a, (a + 2) % 6, 6, 6)
    assert nmi(same) == pytest.approx(1)
    assert ari(same) == 1
    assert purity(same) == (pytest.approx([1] * 6), 1)
    one = np.array([[300]])
    assert (nmi(one), ari(one)) == (1, 1)
    independent = np.full((4, 5), 10)
    assert nmi(independent) == pytest.approx(0, abs=1e-9)
    assert ari(independent) < 0.001
    all_in_one = np.array([[10, 20, 30]])
    assert nmi(all_in_one) == 0
    assert ari(all_in_one) == 0


def test_ari_of_many_samples_does_not_overflow():
    rng = np.random.default_rng(0)
    table = rng.integers(0, 20, (30, 30)) * 100_000
    table[np.arange(30), np.arange(30)] += 2_500_000
    # With counts this large, pairs within a sample no longer matter: shares decide.
    share = table / table.sum()
    rows, columns = (share.sum(axis=1) ** 2).sum(), (share.sum(axis=0) ** 2).sum()
    expected = ((share**2).sum() - rows * columns) / ((rows + columns) / 2 - rows * columns)
    assert ari(table) == pytest.approx(expected, abs=1e-6)


def test_purity_weighs_clusters_by_size():
    each, overall = purity(np.array([[8, 2], [0, 0], [45, 45]]))
    np.testing.assert_array_equal(each, [0.8, np.nan, 0.5])
    assert overall == 53 / 100


def test_effective_clusters():
    assert effective_clusters(np.full(64, 9)) == pytest.approx(64)
    assert effective_clusters(np.array([7, 0, 0])) == 1
    assert 1 < effective_clusters(np.array([99, 1])) < 1.1


def test_nothing_assigned():
    none = np.full(20, -1)
    assert not cluster_sizes(none, 3).any()
    table = contingency(none, none, 3, 4)
    assert not table.any()
    assert (nmi(table), ari(table)) == (1, 1)
    assert (entropy(table.sum(axis=1)), effective_clusters(table.sum(axis=1))) == (0, 0)
    each, overall = purity(table)
    assert np.isnan(each).all()
    assert np.isnan(overall)


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_gather(dtype):
    rng = np.random.default_rng(0)
    assignment = rng.integers(-1, 50, 1000).astype(dtype)
    index = rng.integers(0, 1000, 64)
    labels = gather_labels(assignment, index)
    assert labels.dtype == np.int64
    np.testing.assert_array_equal(labels, assignment[index])
    out = np.empty(64, dtype)
    assert gather_labels(assignment, index.astype(np.int32), out) is out
    np.testing.assert_array_equal(out, assignment[index])
    assert gather_labels(assignment, index[:0]).shape == (0,)


def test_errors_name_position_and_value():
    a, b = assignments(1000, 5, 5)
    for value in (5, -2):
        bad = a.copy()
        bad[[700, 800]] = value
        message = rf"\[700\] is {value}, outside -1 to 4"
        with pytest.raises(ValueError, match="assignment" + message):
            cluster_sizes(bad, 5)
        with pytest.raises(ValueError, match="a" + message):
            contingency(bad, b, 5, 5)
        with pytest.raises(ValueError, match="b" + message):
            contingency(a, bad, 5, 5)
    for value in (1000, -1):
        with pytest.raises(IndexError, match=rf"index\[2\] is {value}, outside 0 to 999"):
            gather_labels(a, np.array([0, 999, value]))
    with pytest.raises(ValueError, match="999 and 1000 samples"):
        contingency(a[1:], b, 5, 5)
    with pytest.raises(ValueError, match=r"float64 \(1000,\)"):
        cluster_sizes(a.astype(float), 5)
    with pytest.raises(ValueError, match="3 labels for an index of 2"):
        gather_labels(a, np.array([0, 1]), np.empty(3, np.int64))


SMALL = """
import numpy as np
rng = np.random.default_rng(0)
a, b = rng.integers(-1, 4, 150), rng.integers(-1, 3, 150).astype(np.int32)
index = rng.integers(0, 150, 20)
sizes = np.bincount(a[a >= 0], minlength=4)
table = np.zeros((4, 3), int)
np.add.at(table, (a[(a >= 0) & (b >= 0)], b[(a >= 0) & (b >= 0)]), 1)

def refuses(error, text, call, *arguments):
    try:
        call(*arguments)
    except error as caught:
        assert text in str(caught), caught
    else:
        raise AssertionError(f"no {error.__name__}")
"""

UNCOMPILED = """
from xdc_fast.kernels import cluster_sizes, contingency, gather_labels
np.testing.assert_array_equal(cluster_sizes(a, 4), sizes)
np.testing.assert_array_equal(contingency(a, b, 4, 3), table)
np.testing.assert_array_equal(gather_labels(a, index), a[index])
refuses(ValueError, "outside -1 to 2", cluster_sizes, a, 3)
"""

SIMULATED = """
from numba import cuda
from xdc_fast.kernels.labels_cuda import cluster_sizes_cuda, contingency_cuda, gather_labels_cuda
put = cuda.to_device
zeros = lambda *shape: put(np.zeros(shape, np.int64))
out = zeros(4)
assert cluster_sizes_cuda(put(a), out) is out
np.testing.assert_array_equal(out.copy_to_host(), sizes)
np.testing.assert_array_equal(contingency_cuda(put(a), put(b), zeros(4, 3)).copy_to_host(), table)
labels = gather_labels_cuda(put(a), put(index), zeros(20)).copy_to_host()
np.testing.assert_array_equal(labels, a[index])
a[[70, 140]] = 4
refuses(ValueError, "assignment[70] is 4, outside -1 to 3", cluster_sizes_cuda, put(a), out)
refuses(ValueError, "a[70] is 4", contingency_cuda, put(a), put(b), zeros(4, 3))
index[3] = 150
refuses(IndexError, "index[3] is 150", gather_labels_cuda, put(a), put(index), zeros(20))
"""


def test_runs_uncompiled():
    run_script(SMALL + UNCOMPILED, NUMBA_DISABLE_JIT="1")


def test_cuda_kernels_in_the_simulator():
    run_script(SMALL + SIMULATED, NUMBA_ENABLE_CUDASIM="1")


@pytest.mark.parametrize("integer", [numba.int32, numba.int64])
def test_cuda_kernels_compile_for_hopper(integer):
    from numba import cuda

    from xdc_fast.kernels import labels_cuda

    labels, bad = integer[::1], numba.int64[::1]
    for kernel, arguments in (
        (labels_cuda.count_kernel, (labels, bad, bad)),
        (labels_cuda.count_pairs_kernel, (labels, labels, numba.int64[:, ::1], bad)),
        (labels_cuda.gather_kernel, (labels, labels, bad, bad)),
    ):
        ptx, _ = cuda.compile_ptx(kernel.py_func, arguments, cc=(9, 0))
        assert ".target sm_90" in ptx


@pytest.mark.gpu
def test_cuda_equals_cpu():
    import torch

    from xdc_fast.kernels.labels_cuda import (
        cluster_sizes_cuda,
        contingency_cuda,
        gather_labels_cuda,
    )

    a, b = assignments(100_000, 64, 50)
    index = np.random.default_rng(0).integers(0, len(a), 512)
    da, db, di = (torch.from_numpy(x).cuda() for x in (a, b, index))
    sizes = cluster_sizes_cuda(da, torch.zeros(64, dtype=torch.int64, device="cuda"))
    np.testing.assert_array_equal(sizes.cpu(), cluster_sizes(a, 64))
    table = contingency_cuda(da, db, torch.zeros(64, 50, dtype=torch.int64, device="cuda"))
    np.testing.assert_array_equal(table.cpu(), contingency(a, b, 64, 50))
    np.testing.assert_array_equal(gather_labels_cuda(da, di, torch.empty_like(di)).cpu(), a[index])
