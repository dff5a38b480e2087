"""`model(media)`: media files to features in this process, as their packed samples give them."""

import csv
import errno
from fractions import Fraction

import av
import numpy as np
import pytest
import torch

import xdc_fast
from tests.common.media import make_media
from tests.common.odd_media import write_channels, write_hdr, write_parts
from tests.common.runs import TINY, make_trained_run
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.windows import ClipShape
from xdc_fast.encoders.features import compute_features
from xdc_fast.errors import UserError
from xdc_fast.models.clips import LACKING, read_clips
from xdc_fast.packing.media import Refusal
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.recipe import Recipe, load_recipe
from xdc_fast.shards.dataset import ShardSet

SHAPE = ClipShape(frames=6, fps=7.5, crop=32, samples=12000, sample_rate=16000)
EVERY = np.linspace(0, 1, 40)  # of clips: all pictures of a short file


@pytest.fixture(scope="module")
def run(toy_shards, tmp_path_factory):
    return make_trained_run(tmp_path_factory.mktemp("model") / "run", f"data={toy_shards.root}")


@pytest.fixture(scope="module")
def media(tmp_path_factory):
    """Files of every kind that packing treats in a way of its own."""
    folder = tmp_path_factory.mktemp("media")
    uneven = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.09, 40))
    make_media(folder / "plain.mp4", seconds=1.7)
    make_media(folder / "short.mp4", seconds=0.4)
    make_media(folder / "late-sound.mp4", seconds=1.5, audio_start=0.4)
    make_media(folder / "late-video.mkv", seconds=1.5, video_start=0.3)
    make_media(folder / "uneven.mkv", seconds=2, times=uneven)
    make_media(folder / "turned.mp4", seconds=1.5, turn=(90, False, False))
    make_media(folder / "oblong.mp4", seconds=1.5, sar=Fraction(4, 3))
    make_media(folder / "stream.ts", seconds=1.5)
    make_media(folder / "old.avi", seconds=1.5, video="mpeg4", audio="mp3")
    make_media(folder / "mute.mp4", seconds=1.5, audio=None)
    make_media(folder / "silent.mp4", seconds=1.5, level=0)
    make_media(folder / "sound.mkv", seconds=1.5, video=None)
    write_parts(folder / "changing.ts", "libx264", ("wide", "tall"))
    write_channels(folder / "opposite.mkv", (0.4, -0.4), "stereo", "flac", seconds=1.5)
    write_hdr(folder / "hdr.mp4", np.linspace(0.1, 0.7, 48 * 64 * 3).reshape(48, 64, 3), 16)
    return folder


def packed(folder, out, **settings):
    """{file name: its Sample and SAMPLE row, or why it has none}; of files that lack a track, of
    the other alone."""
    samples, reasons = {}, {}
    for tracks in ("both", "video", "audio"):
        given = PackSettings(min_seconds=0.0, tracks=tracks, **settings)
        pack(collect([folder], None, out), out / tracks, given, workers=1)
        shards = ShardSet(out / tracks)
        samples[tracks] = {s.source: (s, shards.row(s.index)[1]) for s in shards}
        with (out / tracks / "refused.csv").open() as file:
            reasons[tracks] = {row["source"]: row["reason"] for row in csv.DictReader(file)}
    found = dict(samples["both"])
    for name, reason in reasons["both"].items():
        tracks = LACKING.get(reason)
        found[name] = samples[tracks].get(name) or reasons[tracks][name] if tracks else reason
    return found


@pytest.mark.parametrize("codec", ["jpeg", "h264", "copy"])
def test_clips_of_a_file_are_those_of_its_packed_sample(media, tmp_path, codec):
    """Row, sound and pictures; of the pictures only what compression changes differs."""
    settings = PackSettings(codec=codec, short_side=40, min_seconds=0.0)
    compared = set()
    for name, outcome in packed(media, tmp_path, codec=codec, short_side=40).items():
        if isinstance(outcome, str):
            with pytest.raises(Refusal) as refused:
                read_clips(media / name, settings, SHAPE, lambda row: EVERY)
            assert refused.value.reason == outcome == "cannot be copied"
            continue
        compared.add(name)
        clips = read_clips(media / name, settings, SHAPE, lambda row: EVERY)
        sample, row = outcome
        assert clips.modalities == tuple(m for m in ("video", "audio") if row[m] >= 0)
        for key in ("frames", "width", "height", "fps", "samples"):
            assert clips.row[key][0] == row[key], (name, key)
        if "audio" in clips.modalities:
            sound = sample.audio()
            assert np.array_equal(clips.sound, sound[: len(clips.sound)])
            assert not sound[len(clips.sound) :].any()
        if "video" in clips.modalities:
            assert {*clips.windows.frames.ravel()} <= clips.pictures.keys()
            pictures = sample.video()
            top, left = (side - 32 for side in pictures.shape[1:3])
            pictures = pictures[:, top // 2 :, left // 2 :][:, :32, :32].astype(int)
            apart = [np.abs(p - pictures[n]).mean() for n, p in clips.pictures.items()]
            assert max(apart) < {"jpeg": 3, "h264": 3, "copy": 1e-9}[codec], name
    assert {"plain.mp4", "short.mp4", "late-sound.mp4", "mute.mp4", "sound.mkv"} <= compared
    assert codec == "copy" or len(compared) == 15


@pytest.mark.parametrize("clips", [1, 3])
def test_features_are_those_of_packed_samples(run, toy_videos, toy_shards, clips):
    model = xdc_fast.load(run.root)
    loader = HostLoader(toy_shards, model.inputs.shape)
    wanted = compute_features(model.encoders, loader, model.inputs, 12, clips=clips).arrays
    files = [toy_videos / source for source in toy_shards.sources]
    found = model(files, clips=clips)
    assert found["video"].shape == found["audio"].shape == (48, 48)
    for modality, share in (("video", 0.02), ("audio", 1e-5)):
        assert found[modality].dtype == np.float32
        scale = np.abs(wanted[modality]).max()
        assert np.abs(found[modality] - wanted[modality]).max() < share * scale
        apart = np.linalg.norm(found[modality][:, None] - wanted[modality], axis=2)
        assert np.array_equal(apart.argmin(axis=1), np.arange(48))  # nobody else's
    one = model(str(files[7]), clips=clips)
    for modality, values in one.items():
        np.testing.assert_allclose(values, found[modality][7], rtol=1e-4, atol=1e-4)


def test_files_of_one_track_give_its_features_and_nan_for_the_other(run, media):
    model = xdc_fast.load(run.root)
    names = ("plain.mp4", "mute.mp4", "silent.mp4", "sound.mkv")
    found = model([media / name for name in names], clips=2)
    lacking = {m: np.isnan(values).all(axis=1).tolist() for m, values in found.items()}
    assert lacking == {"video": [False, False, False, True], "audio": [False, True, True, False]}
    assert {m: np.isnan(values).any(axis=1).tolist() for m, values in found.items()} == lacking
    assert set(model(media / "mute.mp4")) == {"video"} and set(model(media / "sound.mkv")) == {
        "audio"
    }
    assert np.array_equal(found["video"][1], found["video"][2])
    assert model([]) == {}


def test_clips_that_are_alike_are_encoded_once(run, media, monkeypatch):
    model = xdc_fast.load(run.root)
    counts = {"video": 0, "audio": 0}
    for modality, encoder in model.encoders.items():

        def count(_, inputs, modality=modality):
            counts[modality] += len(inputs[0])

        encoder.register_forward_pre_hook(count)
    ten, one = (model(media / "short.mp4", clips=clips) for clips in (10, 1))
    assert counts == {"video": 2, "audio": 2}
    for modality in ten:
        np.testing.assert_allclose(ten[modality], one[modality], rtol=1e-5, atol=1e-6)


def test_what_cannot_be_decoded_is_named(run, media, tmp_path):
    model = xdc_fast.load(run.root)
    (tmp_path / "text.mp4").write_text("no video at all")
    with pytest.raises(UserError, match=r"text.mp4: not media \(.*\); give a file that plays"):
        model([media / "plain.mp4", tmp_path / "text.mp4", media / "mute.mp4"])
    with pytest.raises(UserError, match=r"none.mp4: unreadable \(no such file\)"):
        model(tmp_path / "none.mp4")
    whole = (media / "plain.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 2 // 3])
    with pytest.raises(UserError, match=r"cut.mp4: "):
        model(tmp_path / "cut.mp4")


def test_pictures_smaller_than_the_crop_are_refused(media):
    settings = PackSettings(codec="copy", min_seconds=0.0, tracks="video")
    large = ClipShape(frames=6, fps=7.5, crop=80, samples=12000, sample_rate=16000)
    with pytest.raises(UserError, match=r"plain.mp4: its pictures are 96 x 64 .* video.crop=64"):
        read_clips(media / "plain.mp4", settings, large, lambda row: EVERY)


def test_packing_follows_the_runs_shards_or_else_the_crop(run, toy_shards, tmp_path, caplog):
    packing = xdc_fast.load(run.root).packing
    given = toy_shards.settings
    assert (packing.short_side, packing.fps) == (given["short_side"], given["fps"]) == (40, 15.0)
    assert xdc_fast.load(run.root, ("video.crop=56",)).packing.short_side == 64
    assert not caplog.messages
    moved = xdc_fast.load(run.root, (f"data={tmp_path / 'gone'}", "video.fps=25"))
    assert (moved.packing.short_side, moved.packing.fps) == (36, 25.0)
    assert "gone: no manifest.json there" in caplog.text
    default = xdc_fast.load("random", recipe=Recipe(device="cpu")).packing
    assert (default.short_side, default.fps, default.audio_rate) == (128, 15.0, 16000)


def test_encoders_of_one_modality_read_that_track(media):
    model = xdc_fast.load("random", recipe=load_recipe(None, TINY))
    both = model(media / "plain.mp4")
    del model.encoders["video"]
    alone = model(media / "plain.mp4")
    assert set(alone) == {"audio"} and set(both) == {"video", "audio"}
    assert torch.is_tensor(next(model.encoders["audio"].parameters()))


def test_want_of_memory_is_told_as_such(media, monkeypatch):
    """It is no property of the file that a table of features should keep."""

    def fail(*_, **__):
        raise av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(av, "open", fail)
    with pytest.raises(UserError, match=r"plain\.mp4: .*Cannot allocate memory.*run the same"):
        read_clips(media / "plain.mp4", PackSettings(), SHAPE, lambda row: EVERY)
