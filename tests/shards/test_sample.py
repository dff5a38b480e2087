"""A sample by its index: pictures and sound as PyAV decodes them, metadata and labels."""

import io
import pickle

import av
import numpy as np
import pytest
from torch.utils.data import DataLoader

from tests.common.media import make_media
from xdc_fast.errors import UserError
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.index import index as index_tars
from xdc_fast.shards.sample import Sample, SampleError
from xdc_fast.shards.tar import ShardWriter


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three videos, the last without a word."""
    folder = tmp_path_factory.mktemp("sample") / "videos"
    folder.mkdir()
    for k in range(3):
        make_media(folder / f"{k}.mp4", seconds=1.5 + 0.2 * k, size=(64, 48), rate=16000)
    (folder / "labels.csv").write_text("file,word,age\n0.mp4,yes,1\n1.mp4,no,2\n2.mp4,,3\n")
    return folder


def packed(videos, out, **settings) -> ShardSet:
    inputs = collect([videos], videos / "labels.csv", out)
    pack(inputs, out, PackSettings(short_side=48, fps=10, **settings), workers=1)
    return ShardSet(out)


@pytest.fixture(scope="module", params=["jpeg", "h264"])
def shards(request, videos, tmp_path_factory):
    return packed(videos, tmp_path_factory.mktemp("set") / "set", codec=request.param)


def decoded_by_pyav(sample: Sample, shards: ShardSet) -> tuple[np.ndarray, np.ndarray]:
    """All pictures and all sound of a sample, from the files in the tar."""
    with av.open(io.BytesIO(shards.video_file(sample.index))) as container:
        pictures = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
    with av.open(io.BytesIO(shards.audio_file(sample.index))) as container:
        sound = [frame.to_ndarray()[0] for frame in container.decode(audio=0)]
    return np.stack(pictures), np.concatenate(sound)


def test_a_sample_is_what_pyav_decodes(shards):
    assert len(shards) == 3 and [sample.index for sample in shards] == [0, 1, 2]
    for sample in shards:
        pictures, sound = decoded_by_pyav(sample, shards)
        found = sample.video()
        assert (found.dtype, found.shape) == (np.uint8, pictures.shape)
        assert np.abs(found.astype(int) - pictures).mean() < 2  # libjpeg and FFmpeg round apart
        assert sample.audio().dtype == np.int16 and np.array_equal(sample.audio(), sound)
        assert sample.key == f"{sample.index:09d}" and sample.source == f"{sample.index}.mp4"
        assert sample.meta["frames"] == len(pictures) and sample.meta["fps"] == 10
        assert sample.meta["labels"] == sample.labels
    assert [sample.labels for sample in shards] == [
        {"word": "yes", "age": "1"},
        {"word": "no", "age": "2"},
        {"word": "", "age": "3"},
    ]


def test_indices_are_those_of_a_list(shards):
    assert [shards[i].index for i in (-1, -3, np.int64(1))] == [2, 0, 1]
    for outside in (3, -4):
        with pytest.raises(IndexError, match=rf"sample {outside} of 3"):
            shards[outside]
    with pytest.raises(TypeError):
        shards["0"]


def test_a_set_is_pickled_as_its_folder(shards):
    shards[0].video()  # maps are open
    copy = pickle.loads(pickle.dumps(shards))
    assert len(copy) == 3 and np.array_equal(copy[1].audio(), shards[1].audio())


def first_and_last(samples: list[Sample]):
    return [(s.index, s.video()[0, 0, 0].tolist(), int(s.audio()[100])) for s in samples]


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_set_is_a_dataset_of_torch(shards, context):
    loader = DataLoader(
        shards,
        batch_size=2,
        collate_fn=first_and_last,
        num_workers=1,
        multiprocessing_context=context,
    )
    assert [item for batch in loader for item in batch] == first_and_last(list(shards))


@pytest.mark.parametrize(("track", "missing"), [("video", "audio"), ("audio", "video")])
def test_a_missing_track_is_a_mistake(videos, tmp_path, track, missing):
    sample = packed(videos, tmp_path / "set", tracks=track)[0]
    assert len(getattr(sample, track)()) > 0
    with pytest.raises(UserError, match=rf"it holds {track} only.*--tracks both for {missing}"):
        getattr(sample, missing)()


def test_damage_names_shard_key_and_stream(videos, tmp_path):
    shards = packed(videos, tmp_path / "set")
    name, row = shards.row(1)
    data = bytearray((shards.root / name).read_bytes())
    start = int(row["video"]) + 200
    data[start : start + 3000] = bytes(3000)
    (shards.root / name).write_bytes(data)
    with pytest.raises(SampleError, match=rf"{name}: sample 000000001: video: undecodable"):
        ShardSet(shards.root)[1].video()
    for cut in (data[: int(row["audio"]) + 100], b""):
        (shards.root / name).write_bytes(cut)
        with pytest.raises(SampleError, match=rf"{name}: sample 000000001: audio: unreadable"):
            ShardSet(shards.root)[1].audio()
    (shards.root / name).unlink()
    with pytest.raises(SampleError, match=r"unreadable .*No such file"):
        ShardSet(shards.root)[1].audio()


def test_a_sample_of_another_program(tmp_path):
    """Sound inside the video file, another rate of frames, no metadata but a class."""
    path = make_media(tmp_path / "a.mp4", seconds=2, size=(64, 48))
    (tmp_path / "set").mkdir()
    writer = ShardWriter(tmp_path / "set" / "other.tar")
    writer.add("seven", {"mp4": path, "cls": b"3"})
    writer.close()
    index_tars(tmp_path / "set")
    (sample,) = ShardSet(tmp_path / "set")
    assert (sample.index, sample.key, sample.labels) == (0, "seven", {"class": "3"})
    assert sample.meta == {} and sample.video().shape == (50, 48, 64, 3)
    assert abs(len(sample.audio()) - 2 * 44100) < 2048 and np.ptp(sample.audio()) > 1000


@pytest.mark.parametrize("decoded", [False, True])
def test_a_stretch_of_sound_is_padded_with_zeros(shards, decoded):
    name, row = shards.row(2)
    whole = shards[2].audio()
    if decoded:
        row = row.copy()
        row["pcm"] = -1
    padded = np.pad(whole, 200)
    for start, count in ((0, 100), (-50, 200), (len(whole) - 30, 80), (-10, len(whole) + 20)):
        found = shards.waveform(name, row, start, count)
        assert np.array_equal(found, padded[200 + start :][:count])
    assert not shards.waveform(name, row, len(whole) + 5, 10).any()
