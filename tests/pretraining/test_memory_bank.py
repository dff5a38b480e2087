"""The memory bank: the newest features of each sample, on one process and on several."""

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.common.ranks import in_ranks
from xdc_fast.clusters.points import ROWS
from xdc_fast.errors import UserError
from xdc_fast.pretraining import memory_bank as module
from xdc_fast.pretraining.memory_bank import MemoryBank

SAMPLES, STEPS, GROUPS, GROUP = 5 * ROWS - 300, 70, 12, 3


def test_it_holds_the_features_of_the_newest_step(tmp_path):
    samples = np.array([2, 3, 5, 8, 9])
    bank = MemoryBank(tmp_path, samples, {"video": 2}, new=True)
    for value, index in ((1.0, [2, 3]), (2.0, [3, 8])):
        bank.add([(torch.tensor(index), {"video": torch.full((2, 2), value)})])
    found = bank.features()
    assert found.arrays["video"][:, 0].tolist() == [1, 2, 0, 2, 0]
    assert found.valid.tolist() == [True, True, False, True, False]
    again = MemoryBank(tmp_path, samples, {"video": 2}, new=False).features()
    assert np.array_equal(again.arrays["video"], found.arrays["video"])
    assert np.array_equal(again.valid, found.valid)
    for spoil in (lambda file: file.write_bytes(file.read_bytes()[:-3]), Path.unlink):
        spoil(*tmp_path.iterdir())
        with pytest.raises(UserError, match=r"000000000000.npy: .*; begin a new run"):
            MemoryBank(tmp_path, samples, {"video": 2}, new=False)


def fill(ranks, folder, steps):
    """(rows, valid) of this rank's part after some steps, of which the first begins the bank."""
    module.SPANS = 3
    samples = np.arange(SAMPLES) * 3
    bank = MemoryBank(folder, samples, {"video": 4, "audio": 2}, "float16", new=not steps.start,
                      ranks=ranks)  # fmt: skip
    each = GROUPS // ranks.world
    for step in steps:
        rng = np.random.default_rng(step)
        groups = []
        for _ in range(GROUPS):  # a sample may be in several groups of a step
            index = torch.from_numpy(rng.choice(samples[: SAMPLES // 2], GROUP, replace=False))
            values = torch.from_numpy(rng.random((GROUP, 4), dtype=np.float32))
            groups.append((index, {"video": values, "audio": values[:, :2] * 2}))
        bank.add(groups[ranks.rank * each :][:each])
    bank.flush()
    found = bank.features()
    return found.arrays["video"], found.arrays["audio"], found.valid


@pytest.mark.slow
def test_on_several_ranks_it_is_that_of_one_process(tmp_path):
    (alone,) = in_ranks(1, fill, tmp_path / "alone", range(STEPS))
    assert alone[0].dtype == np.float16 and 0.2 < alone[2].mean() < 0.5
    for world, other in ((2, 3), (4, 1)):  # another number of ranks goes on with it
        folder = tmp_path / str(world)
        in_ranks(world, fill, folder, range(40))
        parts = in_ranks(other, fill, folder, range(35, STEPS))  # a checkpoint was older
        for whole, *each in zip(alone, *parts, strict=True):
            assert np.array_equal(np.concatenate(each), whole)
