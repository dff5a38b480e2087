"""The order of an epoch: what training on several ranks and resuming rely on."""

import numpy as np
import pytest

from xdc_fast.clips.sampler import EpochSampler, Groups, uniform
from xdc_fast.errors import UserError

SIZES = np.array([7, 30, 1, 22, 40])


def whole_order(sampler):
    return np.concatenate([sampler.indices(step) for step in range(sampler.steps)])


@pytest.mark.parametrize("window", [1, 2, 100])
def test_training_order_visits_each_sample_at_most_once(window):
    order = whole_order(EpochSampler(SIZES, 8, seed=3, epoch=1, window=window))
    assert len(order) == 96  # 100 samples, whole steps of 8
    assert len(np.unique(order)) == 96
    assert order.min() >= 0 and order.max() < 100


def test_order_is_a_function_of_seed_and_epoch():
    def order(seed, epoch):
        return whole_order(EpochSampler(SIZES, 10, seed=seed, epoch=epoch))

    assert np.array_equal(order(1, 2), order(1, 2))
    assert not np.array_equal(order(1, 2), order(1, 3))
    assert not np.array_equal(order(1, 2), order(2, 2))


def test_any_step_is_known_without_the_ones_before():
    sampler = EpochSampler(SIZES, 9, seed=5, epoch=0, window=2)
    steps = [sampler.indices(step) for step in range(sampler.steps)]
    fresh = EpochSampler(SIZES, 9, seed=5, epoch=0, window=2)
    assert np.array_equal(fresh.indices(7), steps[7])


def test_some_steps_are_a_sampler_too():
    sampler = EpochSampler(SIZES, 9, seed=5)
    some = sampler.take(np.array([2, 9, 4]))
    assert (some.batch, some.steps) == (9, 3)
    assert all(
        np.array_equal(some.indices(k), sampler.indices(step)) for k, step in enumerate((2, 9, 4))
    )


MANY = np.random.default_rng(0).integers(5, 40, 300)  # shards: 8 lanes


@pytest.mark.parametrize("sizes, batch", [(SIZES, 24), (np.array([60]), 24), (MANY, 96)])
@pytest.mark.parametrize("world", [1, 2, 3, 4, 8])
def test_ranks_are_disjoint_take_equal_steps_and_make_up_the_order_of_one(world, sizes, batch):
    alone = EpochSampler(sizes, batch, seed=1, epoch=4)
    ranks = [Groups(alone, batch // 24, rank, world) for rank in range(world)]
    assert {sampler.steps for sampler in ranks} == {alone.steps * 24 // world}
    seen = []
    for step in range(alone.steps):
        parts = [r.indices(step * r.each + place) for r in ranks for place in range(r.each)]
        assert np.array_equal(np.concatenate(parts), alone.indices(step))
        seen.extend(parts)
    seen = np.concatenate(seen)
    assert len(np.unique(seen)) == len(seen) > sizes.sum() - batch - alone.lanes


def test_each_node_reads_its_own_shards_and_a_batch_comes_from_many():
    sizes = np.random.default_rng(1).integers(90, 111, 6500)
    sampler, nodes = EpochSampler(sizes, 512, seed=2), 8
    assert sampler.lanes == 64
    ends = np.cumsum(sizes)
    read = []
    for node in range(nodes):
        part = Groups(sampler, 64, node, nodes)
        indices = np.concatenate([part.indices(step) for step in range(part.steps)])
        read.append(np.unique(np.searchsorted(ends, indices, side="right")))
    assert sum(map(len, read)) <= 1.01 * len(sizes)
    counts = np.bincount(np.searchsorted(ends, sampler.indices(500), side="right"))
    shares = counts / counts.sum()
    assert 1 / np.square(shares).sum() > 300  # effective number of shards


def test_reading_stays_within_a_window_of_shards():
    sizes = np.full(10, 20)
    sampler = EpochSampler(sizes, 20, seed=0, epoch=0, window=2)
    order = whole_order(sampler)
    for begin in range(0, 200, 40):
        assert len(np.unique(order[begin : begin + 40] // 20)) == 2


def test_samples_of_a_window_are_mixed():
    sampler = EpochSampler(np.full(4, 50), 50, seed=0, epoch=0, window=4)
    assert len(np.unique(sampler.indices(0) // 50)) == 4


def test_evaluation_reads_everything_in_the_stored_order():
    sampler = EpochSampler(SIZES, 8, shuffle=False)
    assert sampler.steps == 13
    order = whole_order(sampler)
    assert np.array_equal(order[:100], np.arange(100))
    assert np.array_equal(order[100:], np.arange(4))  # the last step wraps around


def test_chosen_samples_come_once_an_epoch_and_no_others():
    chosen = np.arange(1, 100, 3)
    sizes = np.histogram(chosen, bins=np.concatenate([[0], np.cumsum(SIZES)]))[0]
    order = whole_order(EpochSampler(sizes, 11, seed=2, epoch=3, samples=chosen))
    assert np.array_equal(np.sort(order), chosen)


def test_a_batch_larger_than_the_set_is_refused_when_training():
    with pytest.raises(UserError, match=r"100 samples .* train.batch to 100 or less"):
        EpochSampler(SIZES, 128)


def test_draws_are_uniform_and_depend_on_every_argument():
    index = np.arange(200_000)
    draws = uniform(1, 2, index, 3)
    assert draws.min() >= 0 and draws.max() < 1
    counts = np.histogram(draws, bins=20, range=(0, 1))[0]
    # chi-square with 19 degrees of freedom: above 43.8 once in a thousand
    assert ((counts - 10_000) ** 2 / 10_000).sum() < 43.8
    for other in (uniform(0, 2, index, 3), uniform(1, 3, index, 3), uniform(1, 2, index, 4)):
        assert abs(np.corrcoef(draws, other)[0, 1]) < 0.01
    assert abs(np.corrcoef(draws[:-1], draws[1:])[0, 1]) < 0.01


def test_a_draw_does_not_depend_on_its_batch():
    index = np.array([5, 900, 17])
    assert uniform(7, 8, index, 0)[1] == uniform(7, 8, index[1:], 0)[0]
