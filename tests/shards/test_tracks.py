"""Sets of one track: packed, checked, indexed, read in windows and turned into features."""

import csv
import json
import shutil
import tarfile
from functools import partial
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from click.testing import CliRunner

from tests.common.media import make_media, tone, write_sound
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.loader import open_loader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import ClipShape, fixed_windows, random_windows
from xdc_fast.encoders.build import build_encoders
from xdc_fast.encoders.calibrate import calibrate
from xdc_fast.encoders.features import compute_features
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.packing.convert import convert
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.recipe import load_recipe
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.decode import decode_frames
from xdc_fast.tools.shard import main

DATA = Path(__file__).parents[3] / "shared/data"
ESC10, ODD = DATA / "esc10", DATA / "odd_media"
SMALL = PackSettings(short_side=32, fps=10)
HEARD = PackSettings(tracks="audio")
SEEN = PackSettings(short_side=32, fps=10, tracks="video")
SHAPE = ClipShape(frames=4, fps=5.0, crop=32, samples=8000, sample_rate=16000)


def make_sound(path, seconds, level=0.3, rate=44100, codec="pcm_s16le", start=0.0):
    """A rising tone: no two windows of it are alike."""
    time = np.arange(round(seconds * rate)) / rate
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        wave = level * np.sin(2 * np.pi * (200 + 150 * time) * time)
        write_sound(container, stream, wave, rate, start)
    return path


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Sounds of three kinds, videos with and without sound, and what neither set can use."""
    folder = tmp_path_factory.mktemp("tracks")
    make_sound(folder / "a.ogg", 2.0, rate=48000, codec="libopus")
    make_sound(folder / "b.wav", 1.7)
    make_sound(folder / "c.m4a", 1.5, codec="aac", rate=22050)
    make_media(folder / "d.mp4", seconds=2.4, size=(48, 32), rate=16000)
    make_media(folder / "e mute.mp4", seconds=1.6, size=(48, 32), audio=None)
    make_media(folder / "f silent.mp4", seconds=1.2, size=(48, 32), level=0.0)
    make_sound(folder / "g short.wav", 0.7)
    (folder / "h.mp4").write_text("no film")
    return folder


def run(source, out, settings, **options) -> ShardSet:
    pack(collect([source], None, out), out, settings, **{"workers": 1, **options})
    return ShardSet(out)


@pytest.fixture(scope="module")
def sounds(media, tmp_path_factory):
    return run(media, tmp_path_factory.mktemp("sounds") / "set", HEARD)


@pytest.fixture(scope="module")
def pictures(media, tmp_path_factory):
    return run(media, tmp_path_factory.mktemp("pictures") / "set", SEEN)


def refused(shards):
    with (shards.root / "refused.csv").open() as file:
        return {row["source"]: row["reason"] for row in csv.DictReader(file)}


def heard_by_pyav(path) -> np.ndarray:
    """All of a file's sound by PyAV's own resampler, mono int16 at 16 kHz."""
    resample = av.AudioResampler("s16", "mono", 16000)
    with av.open(str(path)) as container:
        parts = [p for frame in container.decode(audio=0) for p in resample.resample(frame)]
    return np.concatenate([p.to_ndarray()[0] for p in parts + resample.resample(None)])


def test_sound_alone_is_packed_or_refused_with_a_reason(media, sounds):
    assert sounds.modalities == ("audio",)
    assert sounds.sources == ["a.ogg", "b.wav", "c.m4a", "d.mp4"]
    assert refused(sounds) == {
        "e mute.mp4": "no audio",
        "f silent.mp4": "silent",
        "g short.wav": "too short",
        "h.mp4": "not media",
    }
    for index, row in enumerate(sounds.table()):
        name, place = sounds.row(index)
        wanted = heard_by_pyav(media / row["source"])
        found = sounds.waveform(name, place, 0, int(place["samples"]))
        assert len(found) == len(wanted)
        assert np.abs(found.astype(int) - wanted).max() <= 1
        assert sounds.audio_file(index)[44:] == found.tobytes()
        meta = sounds.meta(index)
        assert meta["seconds"] == float(row["seconds"]) == len(wanted) / 16000
        assert (meta["frames"], int(row["frames"]), place["frames"]) == (0, 0, 0)
        assert set(meta["original"]) == {"audio"}
    with pytest.raises(ValueError, match="its samples have no video"):
        sounds.video_file(0)


def test_pictures_alone_are_packed_whatever_sounds(media, pictures):
    assert pictures.modalities == ("video",)
    assert pictures.sources == ["d.mp4", "e mute.mp4", "f silent.mp4"]
    assert refused(pictures) == {
        **dict.fromkeys(("a.ogg", "b.wav", "c.m4a", "g short.wav"), "no video"),
        "h.mp4": "not media",
    }
    assert pictures.rows()["frames"].tolist() == [24, 16, 12]
    for index, row in enumerate(pictures.table()):
        with av.open(str(media / row["source"])) as container:  # at 25 per second, packed at 10
            source = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        frames = decode_frames(pictures.video_file(index), np.arange(int(row["frames"])))
        shown = np.stack([source[int(k / 10 * 25 + 1e-6)] for k in range(len(frames))])
        assert np.abs(frames.astype(int) - shown).mean() < 3
        assert set(pictures.meta(index)["original"]) == {"video"}
    with pytest.raises(ValueError, match="its samples have no audio"):
        pictures.audio_file(0)


def test_a_track_alone_begins_at_its_own_beginning(tmp_path):
    path = make_media(
        tmp_path / "x.mkv", seconds=2, audio="pcm_s16le", video_start=0.4, audio_start=1.0
    )
    files = tmp_path / "v.mp4", tmp_path / "a.wav"
    seen, heard = convert(path, SEEN, *files), convert(path, HEARD, *files)
    assert (seen["start"], seen["seconds"]) == (0.4, 2.0)
    assert (heard["start"], heard["seconds"]) == (1.0, 2.0)
    both = convert(path, SMALL, *files)
    assert (both["start"], both["seconds"]) == (1.0, 1.4)


def test_max_seconds_cuts_a_track_alone(media, tmp_path):
    files = tmp_path / "v.mp4", tmp_path / "a.wav"
    for tracks, name in (("video", "e mute.mp4"), ("audio", "b.wav")):
        whole = PackSettings(short_side=32, fps=10, tracks=tracks)
        cut = PackSettings(short_side=32, fps=10, tracks=tracks, max_seconds=1.25)
        exact = PackSettings(short_side=32, fps=10, tracks=tracks, max_seconds=1.7)
        seconds = {"video": 1.2, "audio": 1.25}[tracks]  # whole frames
        facts = convert(media / name, cut, *files)
        assert facts["cut"] and facts["seconds"] == pytest.approx(seconds)
        for settings in (whole, exact):
            assert not convert(media / name, settings, *files)["cut"]
    assert len(files[1].read_bytes()) == 44 + 2 * 27200


def test_video_copied_alone_keeps_its_packets(media, tmp_path):
    settings = PackSettings(codec="copy", tracks="video")
    shards = run(media, tmp_path / "set", settings)
    assert shards.sources == ["d.mp4", "e mute.mp4", "f silent.mp4"]
    assert shards.rows()["frames"].tolist() == [60, 40, 30]
    with av.open(BytesIO(shards.video_file(0))) as packed, av.open(str(media / "d.mp4")) as source:
        assert len(packed.streams) == 1
        copied, coded = ([bytes(p) for p in c.demux(video=0) if p.size] for c in (packed, source))
    assert copied == coded
    assert cli("verify", shards.root, "--decode").exit_code == 0


def cli(*arguments):
    return CliRunner().invoke(main, [str(a) for a in arguments])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_the_command_packs_one_track(media, sounds, tmp_path):
    result = cli("pack", media, tmp_path / "set", "--tracks", "audio", "--workers", 2, "--json")
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout)
    assert (line["inputs"], line["packed"], line["refused"]) == (8, 4, 4)
    assert ShardSet(tmp_path / "set").manifest["shards"] == sounds.manifest["shards"]
    assert "tracks=audio" in cli("ls", tmp_path / "set").stdout
    result = cli("pack", media, tmp_path / "set", "--tracks", "video")
    assert result.exit_code == 2 and "tracks was audio, now video" in result.stderr
    assert cli("pack", media, tmp_path / "other", "--tracks", "smell").exit_code == 2


def test_sets_of_both_tracks_are_what_they_were(toy_shards):
    """Their manifests say nothing new, and older ones are read as theirs."""
    assert "tracks" not in toy_shards.settings
    assert toy_shards.modalities == ("video", "audio")


def test_a_manifest_of_unknown_tracks_is_a_mistake(sounds, tmp_path):
    shutil.copytree(sounds.root, tmp_path / "set")
    for tracks in ("smell", ["audio"], None):
        manifest = {**sounds.manifest, "settings": {**sounds.settings, "tracks": tracks}}
        (tmp_path / "set" / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(UserError, match=r"manifest\.json: damaged, its settings"):
            ShardSet(tmp_path / "set")


def fill_disk(path, settings, video, audio):
    if path.name == {"audio": "c.m4a", "video": "e mute.mp4"}[settings.tracks]:
        raise OSError(28, "No space left on device", str(audio))
    return convert(path, settings, video, audio)


@pytest.mark.parametrize("settings", [HEARD, SEEN], ids=["audio", "video"])
def test_interrupted_and_started_again_it_ends_with_the_same_bytes(media, tmp_path, settings):
    with pytest.raises(UserError, match="run the same command again"):
        run(media, tmp_path / "set", settings, shard_mb=0, task=fill_disk)
    assert (tmp_path / "set" / "shard-000000.tar").exists()
    run(media, tmp_path / "set", settings, shard_mb=0, workers=2)
    run(media, tmp_path / "whole", settings, shard_mb=0)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


@pytest.mark.parametrize("kind", ["sounds", "pictures"])
def test_verify_and_index_know_one_track(kind, request, tmp_path):
    """With the manifest, index reproduces every byte; without it, the tables."""
    whole = request.getfixturevalue(kind).root
    assert cli("verify", whole, "--decode").exit_code == 0
    copy = Path(shutil.copytree(whole, tmp_path / "set"))
    for path in (*copy.glob("*.npy"), *copy.glob("*.idx"), copy / "samples.csv"):
        path.unlink()
    assert cli("index", copy).exit_code == 0
    assert contents(copy) == contents(whole)
    (copy / "manifest.json").unlink()
    assert cli("index", copy).exit_code == 0
    changed = {n for n, data in contents(whole).items() if contents(copy)[n] != data}
    assert changed == {"manifest.json"}
    assert ShardSet(copy).modalities == ShardSet(whole).modalities
    assert cli("verify", copy, "--decode").exit_code == 0
    path = copy / "shard-000000.tar"
    data = bytearray(path.read_bytes())
    first = ShardSet(copy).rows()[0]
    start = int(max(first["video"], first["pcm"]))
    data[start + 60 : start + 90] = bytes(30)
    path.write_bytes(data)
    assert cli("verify", copy).exit_code == 1


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # it leaves files open
@pytest.mark.parametrize(("kind", "extension"), [("sounds", "wav"), ("pictures", "mp4")])
def test_webdataset_reads_one_track(kind, extension, request):
    import webdataset

    shards = request.getfixturevalue(kind)
    source = str(shards.root / shards.shards[0])
    samples = list(webdataset.WebDataset(source, shardshuffle=False))
    file = shards.audio_file if extension == "wav" else shards.video_file
    assert len(samples) == len(shards)
    for index, sample in enumerate(samples):
        assert {key for key in sample if not key.startswith("_")} == {extension, "json"}
        assert sample[extension] == file(index)
        assert json.loads(sample["json"]) == shards.meta(index)


def rewrite(source: Path, target: Path, keep) -> None:
    """Copy a tar, less the members that `keep` does not want."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for info in old:
            if keep(info.name):
                new.addfile(info, old.extractfile(info))


def strip(shards, out, extension) -> ShardSet:
    """The same set without one kind of file, by `xdc-shard index`."""
    out.mkdir()
    for name in shards.shards:
        rewrite(shards.root / name, out / name, lambda member: not member.endswith(extension))
    assert cli("index", out).exit_code == 0
    return ShardSet(out)


def test_index_refuses_sets_of_which_some_have_both(toy_shards, tmp_path):
    out, source = tmp_path / "set", toy_shards.root / toy_shards.shards[0]
    out.mkdir()
    for lost, words in (
        ("000000000.wav", "000000001: has audio, the set has video only"),
        ("000000000.mp4", "000000001: has video, the set has audio only"),
        ("000000001.wav", "000000001: mp4: no sound"),
        ("000000001.mp4", "000000001: no video file"),
    ):
        rewrite(source, out / "x.tar", lambda name, lost=lost: name != lost)
        result = cli("index", out)
        assert result.exit_code == 2 and words in result.stderr
    rewrite(source, out / "x.tar", lambda name: name.endswith("json"))
    assert "000000000: neither video nor sound" in cli("index", out).stderr


def test_sound_in_video_files_without_pictures_is_indexed(tmp_path):
    out = tmp_path / "set"
    out.mkdir()
    with tarfile.open(out / "x.tar", "w") as archive:
        for k in range(2):
            path = make_media(tmp_path / f"{k}.mp4", seconds=1.5, video=None, rate=22050)
            archive.add(path, f"{k}.mp4")
    assert cli("index", out).exit_code == 0
    shards = ShardSet(out)
    assert (shards.modalities, shards.sample_rate) == (("audio",), 22050)
    assert [float(row["seconds"]) for row in shards.table()] == pytest.approx([1.5] * 2, abs=0.06)
    shape = ClipShape(frames=4, fps=5.0, crop=32, samples=8000, sample_rate=22050)
    sampler = EpochSampler(shards.shard_sizes, 2, shuffle=False)
    (batch,) = HostLoader(shards, shape).batches(sampler, partial(fixed_windows, shape=shape))
    wave = tone(1, 22050, 0.05 * 32768)
    assert np.abs(batch.waveform[0].numpy()).max() == pytest.approx(wave.max(), rel=0.1)


def test_windows_of_sound_alone_span_the_sound_alone(sounds):
    """Pictures of the clip shape, which last longer, have no say."""
    shape = ClipShape(frames=16, fps=10.0, crop=500, samples=8000, sample_rate=16000)
    loader = HostLoader(sounds, shape)
    sampler = EpochSampler(sounds.shard_sizes, 4, shuffle=False)
    tracks = [np.frombuffer(sounds.audio_file(i)[44:], "<i2") for i in range(4)]
    for clip in range(3):
        (batch,) = loader.batches(sampler, partial(fixed_windows, shape=shape, position=clip / 2))
        assert batch.frames is None and len(batch) == 4
        assert batch.device == batch.waveform.device
        for track, waveform in zip(tracks, batch.waveform.numpy(), strict=True):
            start = round((len(track) - 8000) * clip / 2)
            assert np.array_equal(waveform, track[start : start + 8000])
    rows = np.repeat(sounds.rows()[:1], 2000)
    starts = random_windows(np.arange(2000), rows, shape, seed=1, epoch=0, flip=True).start
    assert 0 <= starts.min() < 100 and 0 <= (24000 - starts.max()) < 100


def test_windows_of_pictures_alone_span_the_pictures_alone(pictures):
    shape = ClipShape(frames=4, fps=5.0, crop=32, samples=48000, sample_rate=44100)
    loader = HostLoader(pictures, shape)  # at whatever rate the sound would be wanted
    sampler = EpochSampler(pictures.shard_sizes, 3, shuffle=False)
    for clip, place in enumerate((0, 0.5, 1)):
        (batch,) = loader.batches(sampler, partial(fixed_windows, shape=shape, position=clip / 2))
        assert batch.waveform is None and batch.device == batch.frames.device
        for index, frames in enumerate(batch.frames.numpy()):
            count = pictures.row(index)[1]["frames"]
            numbers = int(place * (count - 8) + 1e-6) + np.arange(0, 8, 2)
            whole = decode_frames(pictures.video_file(index), numbers)[:, :, 8:40]
            assert np.abs(frames.astype(int) - whole).mean() < 5


def test_bad_samples_of_one_track_are_replaced(pictures, tmp_path):
    shutil.copytree(pictures.root, tmp_path / "set")
    shards = ShardSet(tmp_path / "set")
    name, row = shards.row(1)
    with (shards.root / name).open("r+b") as file:
        file.seek(int(row["video"]))
        file.write(bytes(int(row["video_bytes"])))
    loader = HostLoader(ShardSet(shards.root), SHAPE)
    sampler = EpochSampler(shards.shard_sizes, 3, shuffle=False)
    (batch,) = loader.batches(sampler, partial(fixed_windows, shape=SHAPE))
    assert batch.index.tolist() == [0, 2, 2] and loader.failures == {"undecodable": 1}
    assert torch.equal(batch.frames[1], batch.frames[2])


def test_dali_reads_pictures_alone_and_leaves_sound_alone_to_the_host(sounds, pictures):
    from xdc_fast.clips.dali import DaliLoader

    sampler = EpochSampler(pictures.shard_sizes, 3, shuffle=False)
    windows = partial(fixed_windows, shape=SHAPE)
    (host,) = HostLoader(pictures, SHAPE).batches(sampler, windows)
    (dali,) = DaliLoader(pictures, SHAPE, device="cpu").batches(sampler, windows)
    assert dali.waveform is None and torch.equal(host.index, dali.index)
    assert (host.frames.int() - dali.frames.int()).abs().float().mean() < 1
    with pytest.raises(UserError, match=r"no video for DALI to decode; set loader=host"):
        DaliLoader(sounds, SHAPE, device="cpu")
    for name in ("auto", "host"):
        loader = open_loader(sounds, SHAPE, device=torch.device("cuda"), loader=name)
        assert type(loader) is HostLoader


@pytest.fixture(scope="module")
def encoders():
    tiny = ("video.encoder=r2plus1d_tiny", "video.crop=32", "audio.encoder=audio_tiny")
    recipe = load_recipe(None, tiny)
    return ClipTransform(recipe), build_encoders(recipe)


@pytest.mark.parametrize(("modality", "lost"), [("video", ".wav"), ("audio", ".mp4")])
def test_features_of_one_track_are_those_of_both(toy_shards, encoders, modality, lost, tmp_path):
    inputs, both = encoders
    alone = strip(toy_shards, tmp_path / "set", lost)
    assert alone.modalities == (modality,)
    one, found = {modality: both[modality]}, []
    for shards in (toy_shards, alone):
        loader = HostLoader(shards, inputs.shape)
        calibrate(one, loader, inputs, 24)
        features = compute_features(one, loader, inputs, 24)
        assert list(features.arrays) == [modality] and features.valid.all()
        found.append(features.arrays[modality])
    assert np.ptp(found[0]) > 0.01
    np.testing.assert_allclose(*found, atol=1e-6)


def test_encoders_of_a_missing_track_are_a_mistake(sounds, pictures, encoders):
    inputs, both = encoders
    for shards, words in (
        (sounds, "holds audio only, and the video is asked for; take a set with video, or pack"),
        (pictures, "holds video only, and the audio is asked for; take a set with audio, or pack"),
    ):
        loader = HostLoader(shards, inputs.shape)
        for ask in (compute_features, calibrate):
            with pytest.raises(UserError, match=words) as caught:
                ask(both, loader, inputs, 2)
            assert str(shards.root) in str(caught.value) and "--tracks both" in str(caught.value)


@pytest.mark.skipif(not ESC10.is_dir(), reason="ESC-10 is not here")
def test_recordings_of_esc10(tmp_path):
    """One of each class: labelled by folder, whole, and heard as PyAV hears them."""
    for folder in sorted(ESC10.iterdir()):
        (tmp_path / "audio" / folder.name).mkdir(parents=True)
        file = min(folder.iterdir())
        (tmp_path / "audio" / folder.name / file.name).symlink_to(file)
    shards = run(tmp_path / "audio", tmp_path / "set", HEARD)
    assert len(shards) == 10 == len(shards.label("class")[1])
    for index, source in enumerate(shards.sources):
        wanted = heard_by_pyav(tmp_path / "audio" / source)
        found = np.frombuffer(shards.audio_file(index)[44:], "<i2")
        assert len(found) == len(wanted)
        assert np.abs(found.astype(int) - wanted).max() <= 1


@pytest.mark.skipif(not ODD.is_dir(), reason="the odd media are not here")
def test_the_sound_of_odd_media(tmp_path):
    """None stops the run or kills a decoder; whatever has sound is judged by it alone."""
    shards = run(ODD, tmp_path / "set", HEARD, workers=2, time_limit=120)
    reasons = refused(shards)
    assert len(shards) + len(reasons) == 248 and len(shards) > 100
    assert not {"decoder died", "time limit", "no video", "cover art"} & set(reasons.values())
    with (ODD / "INDEX.csv").open() as file:
        for row in csv.DictReader(file):
            has = "audio" in row["streams"]
            reason = reasons.get(row["file"], "packed")
            assert (reason != "no audio") if has else reason in ("no audio", "not media"), row
    assert cli("verify", shards.root, "--decode").exit_code == 0
