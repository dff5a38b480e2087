"""The shards are plain WebDataset: tar, the webdataset library, DALI and players open them."""

import io
import json
import subprocess

import av
import numpy as np
import pytest
import simplejpeg

from tests.common.media import make_media
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.decode import decode_frames, decode_waveform


@pytest.fixture(scope="module", params=["jpeg", "h264"])
def shards(request, tmp_path_factory):
    """Three samples in one shard."""
    folder = tmp_path_factory.mktemp("formats")
    (folder / "videos").mkdir()
    for k in range(3):
        make_media(
            folder / "videos" / f"{k}.mp4",
            seconds=1.5 + 0.2 * k,
            size=(64, 48),
            level=0.1 + 0.1 * k,
        )
    settings = PackSettings(short_side=48, fps=10, codec=request.param)
    pack(collect([folder / "videos"], None, folder / "set"), folder / "set", settings, workers=1)
    return ShardSet(folder / "set")


def test_tar_lists_it(shards):
    path = shards.root / shards.shards[0]
    lines = subprocess.run(
        ["tar", "tvf", str(path)], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    names = [line.split()[-1] for line in lines]
    assert names == [f"{k:09d}.{kind}" for k in range(3) for kind in ("mp4", "wav", "json")]
    assert all("0/0" in line and "1970" in line for line in lines)
    assert path.read_bytes()[257:265] == b"ustar\x0000"


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # it leaves files open
def test_webdataset_reads_it(shards):
    import webdataset

    source = str(shards.root / shards.shards[0])
    samples = list(webdataset.WebDataset(source, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["000000000", "000000001", "000000002"]
    for index, sample in enumerate(samples):
        assert sample["mp4"] == shards.video_file(index)
        assert sample["wav"] == shards.audio_file(index)
        assert json.loads(sample["json"]) == shards.meta(index)


def test_offsets_lead_to_packets_and_samples(shards):
    """The sidecars' bytes are those that a demuxer and a decoder find."""
    for index in range(3):
        name, row = shards.row(index)
        file = shards.video_file(index)
        with av.open(io.BytesIO(file)) as container:
            packets = [bytes(p) for p in container.demux(video=0) if p.size]
        assert len(packets) == row["frames"] == shards.meta(index)["frames"]
        sound = decode_waveform(shards.audio_file(index), 16000)
        assert np.array_equal(shards.waveform(name, row, 0, int(row["samples"])), sound)
        assert np.array_equal(shards.waveform(name, row, -5, 10)[5:], sound[:5])
        if shards.settings["codec"] == "jpeg":
            frames = np.arange(row["frames"])
            assert [p.tobytes() for p in shards.packets(name, row, frames)] == packets
            through = decode_frames(file, frames)
            direct = np.stack([simplejpeg.decode_jpeg(p) for p in packets])
            assert np.abs(through.astype(int) - direct).mean() < 2
        else:
            assert row["packet"] == -1


def test_dali_reads_it(shards):
    """DALI's reader by our index, its decoders on the CPU (no H.264 there)."""
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def, types

    stem = shards.root / shards.shards[0].removesuffix(".tar")
    jpeg = shards.settings["codec"] == "jpeg"

    @pipeline_def(batch_size=3, num_threads=1, device_id=None)
    def pipeline():
        video, wav, meta = fn.readers.webdataset(
            paths=[f"{stem}.tar"],
            index_paths=[f"{stem}.idx"],
            ext=["mp4", "wav", "json"],
            dtypes=[types.UINT8] * 3,
        )
        sound, rate = fn.decoders.audio(wav, dtype=types.INT16)
        if not jpeg:
            return video, sound, rate, meta
        frames = fn.decoders.video(video, start_frame=2, stride=2, sequence_length=4)
        return frames, sound, rate, meta

    pipe = pipeline()
    pipe.build()
    frames, sound, rate, meta = pipe.run()
    for index in range(3):
        name, row = shards.row(index)
        pcm = shards.waveform(name, row, 0, int(row["samples"]))
        assert np.array_equal(np.array(sound[index]).ravel(), pcm)
        assert float(np.array(rate[index])) == 16000
        assert json.loads(np.array(meta[index]).tobytes()) == shards.meta(index)
        if jpeg:
            wanted = decode_frames(shards.video_file(index), np.array([2, 4, 6, 8]))
            assert np.abs(np.array(frames[index]).astype(int) - wanted).mean() < 3
        else:
            assert np.array(frames[index]).tobytes() == shards.video_file(index)


def test_players_see_a_constant_rate_video(shards):
    """Duration, rate and count in the mp4's own header agree with the metadata."""
    for index in range(3):
        meta = shards.meta(index)
        with av.open(io.BytesIO(shards.video_file(index))) as container:
            stream = container.streams.video[0]
            assert (stream.frames, float(stream.average_rate)) == (meta["frames"], meta["fps"])
            assert float(stream.duration * stream.time_base) == pytest.approx(meta["seconds"])
            assert (stream.width, stream.height) == (meta["width"], meta["height"])
            times = [frame.time for frame in container.decode(stream)]
        assert times == pytest.approx(np.arange(meta["frames"]) / meta["fps"])
