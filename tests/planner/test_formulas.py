"""The formulas of a plan, each against numbers worked out by hand."""

import pytest

from xdc_fast.planner import formulas
from xdc_fast.shards.format import PACKET, SAMPLE


def test_bytes_of_a_sample_and_of_a_clip():
    assert formulas.sound_bytes(3, 16000) == 96_000
    tables = SAMPLE.itemsize + 45 * PACKET.itemsize
    assert formulas.sample_bytes(30_000, 96_000, 45) == 30_000 + 96_000 + 3 * 768 + tables
    # 8 frames at every second one: the range holds 15 of 1,000 bytes; and 16,000 sound samples
    assert formulas.clip_bytes(8, 2, 1000, 16_000) == 15_000 + 32_000


def test_what_a_ring_sends():
    assert formulas.ring_bytes(100, 1) == 0
    assert formulas.ring_bytes(100, 2) == 100
    assert formulas.ring_bytes(100, 4) == 150


def test_the_slower_of_encoders_and_loader_decides():
    assert formulas.clip_seconds(2e9, 1e6, speed=1e12, feed=1e9) == 2e-3
    assert formulas.clip_seconds(2e9, 1e6, speed=1e12, feed=1e8) == 1e-2
    assert formulas.clip_seconds(2e9, 1e6, speed=1e12, feed=1e8, together=0.5) == 2e-2


def test_a_step_is_its_groups_and_its_sum():
    assert formulas.groups_per_rank(1024, 32, 32) == 1
    assert formulas.groups_per_rank(1024, 32, 8) == 4
    assert formulas.groups_per_rank(1024, 32, 64) == 1  # GPUs beyond the groups have nothing to do
    assert formulas.step_seconds(32, 0.01, 1e9, 1, 1e9) == pytest.approx(0.32)
    assert formulas.step_seconds(32, 0.01, 1e9, 2, 1e9) == pytest.approx(1.32)


def test_operations_of_kmeans():
    # 1,000 points of 10 features, 4 clusters, 2 rounds and the end: a multiplication and an
    # addition each; then 5,000 samples get a cluster
    assert formulas.fit_operations(1000, 4, 10, 2, 0) == 2 * 1000 * 4 * 10 * 3
    assert formulas.fit_operations(1000, 4, 10, 2, 5000) == 2 * 10 * 4 * (3000 + 5000)
    # of 1,000, the start takes 20 for each cluster: 80; 2 + ln 4 = 3 candidates for each cluster
    rounds, candidates = 2 * 80 * 10 * 4 * 3, 2 * 80 * 10 * 4 * 3
    assert formulas.start_operations(1000, 4, 10, 2, 1) == rounds + candidates
    assert formulas.start_operations(1000, 4, 10, 2, 5) == 5 * (rounds + candidates)
    assert formulas.start_operations(40, 4, 10, 2, 1) == (rounds + candidates) / 2


def test_seconds_of_kmeans():
    alone = formulas.kmeans_seconds(10, 100, 3, 1000, speed=10, ranks=1, network=1)
    assert alone == 1 + 10
    four = formulas.kmeans_seconds(10, 100, 3, 1000, speed=10, ranks=4, network=1500)
    assert four == 1 + 2.5 + 3  # each round sends 1,500 bytes


def test_memory_and_checkpoints():
    assert formulas.training_memory(1000, 5e6, 1) == 12_000 + 5e6
    assert formulas.training_memory(1000, 5e6, 2) == 16_000 + 5e6
    assert formulas.points_memory(100, 512, 4, prepared=False) == 100 * (512 * 4 + 24)
    assert formulas.points_memory(100, 512, 2, prepared=True) == 100 * (2 * 512 * 2 + 24)
    assert formulas.labels_memory(1000, 2) == 2 * 1000 * 2 * 4
    assert formulas.sums_bytes(1024, 512) == 1024 * 512 * 8
    assert formulas.checkpoint_bytes(1000) == 8000
