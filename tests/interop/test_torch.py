"""A ShardSet as a map-style dataset of `torch.utils.data.DataLoader`."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset


def collate(samples):
    """The first 8 pictures and the first second of each sample."""
    return {
        "index": torch.tensor([sample.index for sample in samples]),
        "frames": torch.stack([torch.from_numpy(sample.video()[:8]) for sample in samples]),
        "waveform": torch.stack([torch.from_numpy(sample.audio()[:16000]) for sample in samples]),
        "class": [sample.labels["class"] for sample in samples],
    }


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_data_loader_are_samples_of_the_set(toy_shards, workers):
    context = "spawn" if workers else None
    generator = torch.Generator().manual_seed(0)
    loader = DataLoader(
        toy_shards, batch_size=10, shuffle=True, generator=generator, collate_fn=collate,
        num_workers=workers, multiprocessing_context=context,
    )  # fmt: skip
    codes, classes = toy_shards.label("class")
    seen = []
    for batch in loader:
        indices = batch["index"].tolist()
        seen += indices
        assert batch["frames"].dtype == torch.uint8 and batch["frames"].shape[1:] == (8, 40, 40, 3)
        assert batch["waveform"].dtype == torch.int16
        assert batch["class"] == [classes[codes[index]] for index in indices]
        first = toy_shards[indices[0]]
        assert np.array_equal(batch["frames"][0].numpy(), first.video()[:8])
        assert np.array_equal(batch["waveform"][0].numpy(), first.audio()[:16000])
    assert sorted(seen) == list(range(48)) and seen != sorted(seen)


def test_a_subset_of_a_set(toy_shards):
    loader = DataLoader(Subset(toy_shards, [7, 3, 40]), batch_size=3, collate_fn=collate)
    (batch,) = loader
    assert batch["index"].tolist() == [7, 3, 40]
