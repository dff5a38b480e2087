"""Dense features: their times, their clips, and going on where it stopped."""

import csv
import json
import shutil

import numpy as np
import pytest
import torch

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.reader import SampleReader
from xdc_fast.errors import UserError
from xdc_fast.evaluation import extract as dense
from xdc_fast.evaluation.extract import extract_features
from xdc_fast.models.load import load
from xdc_fast.recipe import load_recipe
from xdc_fast.shards.sample import sample_error

TINY = load_recipe(None, ("video.encoder=r2plus1d_tiny", "video.crop=32", "train.batch=20",
                          "audio.encoder=audio_tiny", "audio.frames=60"))  # fmt: skip


@pytest.fixture(scope="module")
def model():
    return load("random", recipe=TINY)


@pytest.fixture(scope="module")
def done(model, toy_shards, tmp_path_factory):
    out = tmp_path_factory.mktemp("dense") / "out"
    return out, extract_features(model, toy_shards, out, stride=0.5)


def test_clips_cover_every_sample(done, toy_shards):
    out, result = done
    assert (result["samples"], result["n_unreadable"]) == (48, 0)
    files = sorted(out.glob("*.npz"))
    assert [f.stem for f in files] == [name.removesuffix(".tar") for name in toy_shards.shards]
    assert len(files) > 1
    parts = [dict(np.load(file)) for file in files]
    index = np.concatenate([part["index"] for part in parts])
    assert np.array_equal(np.unique(index), np.arange(48)) and len(index) == result["clips"]
    for part in parts:
        assert part["index"].dtype == np.int64 and part["start"].dtype == np.float64
        assert part["video"].shape == part["audio"].shape == (len(part["index"]), 48)
        assert part["video"].dtype == np.float32
        for sample in np.unique(part["index"]):
            mine = part["index"] == sample
            # 3 s of 8 frames at 7.5 per second, one every half second
            assert part["start"][mine].tolist() == [0, 0.5, 1, 1.5]
            np.testing.assert_allclose(part["stop"][mine] - part["start"][mine], 8 / 7.5)
    with (out / "samples.csv").open(newline="") as file:
        assert [row["source"] for row in csv.DictReader(file)] == toy_shards.sources


def test_features_are_those_of_the_pictures_and_sound_at_that_time(done, model, toy_shards):
    out, _ = done
    part = dict(np.load(sorted(out.glob("*.npz"))[0]))
    place = int(np.flatnonzero((part["index"] == 2) & (part["start"] == 1))[0])
    name, row = toy_shards.row(2)
    # from the shards by hand: every second frame of 15 per second, from second 1 on
    import simplejpeg

    packets = toy_shards.packets(name, row, np.arange(15, 31, 2))
    corner = (40 - 32) // 2
    pictures = np.stack([simplejpeg.decode_jpeg(p) for p in packets])
    pictures = pictures[:, corner : corner + 32, corner : corner + 32]
    x = torch.from_numpy(pictures).permute(3, 0, 1, 2).float()[None] / 255
    mean, std = (torch.tensor(v)[:, None, None, None] for v in (TINY.video.mean, TINY.video.std))
    with torch.no_grad():
        expected = model.encoders["video"]((x - mean) / std)[0].numpy()
    np.testing.assert_allclose(part["video"][place], expected, rtol=1e-3, atol=1e-4)
    shape = model.inputs.shape
    first = round((1 + 4 / 7.5) * 16000 - shape.samples / 2)
    wave = toy_shards.waveform(name, row, first, shape.samples)
    batch = Batch(None, torch.from_numpy(wave)[None], torch.zeros(1, dtype=torch.int64))
    with torch.no_grad():
        expected = model.encoders["audio"](model.inputs.of("audio", batch))[0].numpy()
    np.testing.assert_allclose(part["audio"][place], expected, rtol=1e-3, atol=1e-4)


def test_an_interrupted_extraction_goes_on_to_equal_bytes(
    done, model, toy_shards, tmp_path, monkeypatch
):
    whole, result = done
    real, calls = dense.save_shard, []

    def fails(*arguments):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(1)
        real(*arguments)

    monkeypatch.setattr(dense, "save_shard", fails)
    with pytest.raises(KeyboardInterrupt):
        extract_features(model, toy_shards, tmp_path / "out", stride=0.5)
    assert len([*(tmp_path / "out").glob("*.npz")]) == 1
    stamp = next((tmp_path / "out").glob("*.npz")).stat().st_mtime_ns
    monkeypatch.setattr(dense, "save_shard", real)
    assert extract_features(model, toy_shards, tmp_path / "out", stride=0.5) == result
    files = sorted(path.name for path in whole.iterdir())
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    for name in files:
        assert (tmp_path / "out" / name).read_bytes() == (whole / name).read_bytes()
    assert (tmp_path / "out" / "part-000000-00000.npz").stat().st_mtime_ns == stamp


def test_an_extraction_killed_at_its_first_files_goes_on(done, model, toy_shards, tmp_path):
    whole, result = done
    for left in (".extract.json.part", "extract.json"):
        out = tmp_path / left
        out.mkdir()
        (out / left).write_bytes((whole / "extract.json").read_bytes())
        assert extract_features(model, toy_shards, out, stride=0.5) == result
        assert (out / "samples.csv").read_bytes() == (whole / "samples.csv").read_bytes()


def test_short_samples_give_one_clip(toy_shards, tmp_path):
    model = load("random", ("video.frames=40",), recipe=TINY)
    result = extract_features(model, toy_shards, tmp_path / "out", stride=0.5)
    assert result["clips"] == 48
    part = np.load(tmp_path / "out" / "part-000000-00000.npz")
    assert not part["start"].any() and np.allclose(part["stop"], 3, atol=0.1)


def test_a_folder_of_something_else_is_refused(done, model, toy_shards, tmp_path):
    out, _ = done
    with pytest.raises(UserError, match="features of another stride; give another folder"):
        extract_features(model, toy_shards, out, stride=1.0)
    other = load("random", ("seed=1",), recipe=TINY)
    with pytest.raises(UserError, match="features of another weights"):
        extract_features(other, toy_shards, out, stride=0.5)
    shutil.copy(out / "samples.csv", tmp_path)
    with pytest.raises(UserError, match=r"not empty, and not from `xdc extract`"):
        extract_features(model, toy_shards, tmp_path)


def test_damaged_samples_are_left_out(model, toy_shards, tmp_path, monkeypatch):
    read = SampleReader.read_waveform

    def damaged(self, name, row, start, out):
        if self.shards.index_of(name, row) == 3:
            raise sample_error(ValueError("damaged"), name, "key", "audio")
        return read(self, name, row, start, out)

    monkeypatch.setattr(SampleReader, "read_waveform", damaged)
    result = extract_features(model, toy_shards, tmp_path / "out", stride=0.5)
    assert (result["n_unreadable"], result["clips"]) == (4, 47 * 4)
    assert 3 not in np.load(tmp_path / "out" / "part-000000-00000.npz")["index"]
    assert json.loads((tmp_path / "out" / "extract.json").read_text())["stride"] == 0.5
