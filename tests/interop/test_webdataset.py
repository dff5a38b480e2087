"""A `webdataset` pipeline over our tars, with our decoders."""

import json
import shutil

import numpy as np
import pytest
import torch
import webdataset

from xdc_fast.shards.decode import decode_frames, decode_waveform

# the library leaves files open
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


def decode(sample):
    """Every second picture, the whole sound, and the metadata."""
    meta = json.loads(sample["json"])
    return {
        "key": sample["__key__"],
        "class": meta["labels"]["class"],
        "frames": decode_frames(sample["mp4"], np.arange(0, meta["frames"], 2)),
        "waveform": decode_waveform(sample["wav"], 16000),
    }


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_a_pipeline_gives_the_samples_of_the_set(codec, request):
    shards = request.getfixturevalue("toy_shards" if codec == "jpeg" else "toy_h264")
    tars = [str(shards.root / name) for name in shards.shards]
    pipeline = webdataset.WebDataset(tars, shardshuffle=False).map(decode)
    found = list(pipeline)
    assert [sample["key"] for sample in found] == shards.keys
    codes, classes = shards.label("class")
    assert [sample["class"] for sample in found] == [classes[code] for code in codes]
    for index in (0, 29, 47):
        sample, ours = found[index], shards[index]
        assert np.array_equal(sample["waveform"], ours.audio())
        apart = np.abs(sample["frames"].astype(int) - ours.video()[::2])
        # libjpeg and FFmpeg interpolate the chroma of a JPEG in their own ways
        assert apart.mean() < (4 if codec == "jpeg" else 1e-9)


def test_a_pipeline_reads_a_set_on_a_store(toy_shards, server):
    shutil.copytree(toy_shards.root, server.folder / "b" / "set")
    urls = [f"{server.url}/b/set/{name}" for name in toy_shards.shards]
    found = list(webdataset.WebDataset(urls, shardshuffle=False).map(decode))
    assert [sample["key"] for sample in found] == toy_shards.keys
    assert np.array_equal(found[47]["waveform"], toy_shards[47].audio())


def test_workers_of_a_data_loader_share_the_tars(toy_shards):
    tars = [str(toy_shards.root / name) for name in toy_shards.shards]
    assert len(tars) >= 2
    dataset = webdataset.WebDataset(
        tars, shardshuffle=False, workersplitter=webdataset.split_by_worker
    ).map(decode)
    loader = torch.utils.data.DataLoader(
        dataset, batch_size=None, num_workers=2, multiprocessing_context="spawn"
    )
    found = {sample["key"]: sample for sample in loader}
    assert found.keys() == set(toy_shards.keys)
    assert torch.equal(
        found[toy_shards.keys[5]]["waveform"], torch.from_numpy(toy_shards[5].audio())
    )
