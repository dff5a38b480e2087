"""A feature pass on several ranks: as much work for each, the features of one process."""

import numpy as np
import pytest

from tests.common.ranks import in_ranks
from xdc_fast.clips.host import HostLoader
from xdc_fast.encoders.build import build_encoders
from xdc_fast.encoders.features import SPANS, compute_features, edges_of_spans
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.recipe import load_recipe
from xdc_fast.shards.dataset import ShardSet

BATCH = 4


class Stopped(Exception):
    """What `stop` raises."""


def compute(ranks, root, folder, stops=None):
    """(batches of this rank, its rows of the first shard's features)."""
    recipe = load_recipe(None, ("video.encoder=r2plus1d_tiny", "video.crop=32",
                                "audio.encoder=audio_tiny", "audio.frames=60"))  # fmt: skip
    inputs, shards, batches = ClipTransform(recipe), ShardSet(root), []
    loader = HostLoader(shards, inputs.shape, threads=1)
    samples = np.arange(2, shards.shard_sizes[0])

    def stop():
        batches.append(1)
        if len(batches) == stops:
            raise Stopped

    try:
        found = compute_features(
            build_encoders(recipe), loader, inputs, BATCH, samples=samples, clips=2, stop=stop,
            folder=folder, precision="float16" if folder else "float32", ranks=ranks,
        )  # fmt: skip
    except Stopped:
        found = None
    return len(batches), found


def test_one_shard_is_shared_evenly_and_any_number_of_ranks_goes_on(toy_shards, tmp_path):
    ((steps, whole),) = in_ranks(1, compute, toy_shards.root, None)
    first, other = in_ranks(2, compute, toy_shards.root, None)
    assert abs(first[0] - other[0]) <= 1 and first[0] + other[0] == steps >= 6
    assert not len(other[1].valid)  # the first one has them all
    in_ranks(1, compute, toy_shards.root, tmp_path / "kept", 3)
    parts = in_ranks(3, compute, toy_shards.root, tmp_path / "kept")
    assert sum(batches for batches, _ in parts) < steps
    for name, array in whole.arrays.items():
        assert np.array_equal(first[1].arrays[name], array)
        together = np.concatenate([part.arrays[name] for _, part in parts])
        assert together.dtype == np.float16
        assert np.array_equal(together, array.astype(np.float16))


@pytest.mark.parametrize(
    "samples, clips, batch",
    [(1, 1, 64), (1000, 1, 7), (65_000_000, 10, 32), (900, 60, 1000), (3_000_000, 3, 64)],
)
def test_spans_hold_whole_batches(samples, clips, batch):
    edges = edges_of_spans(samples, clips, batch)
    assert edges[0] == 0 and edges[-1] == samples and 2 <= len(edges) <= SPANS + 1
    sizes = np.diff(edges)
    assert not (sizes[:-1] * clips % batch).any() and (sizes[:-1] == sizes[0]).all()
    assert 0 < sizes[-1] <= sizes[0]
