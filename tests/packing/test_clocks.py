"""Two clocks: pauses that are none of damage, leaps that are, and what one track has alone."""

import json

import av
import numpy as np
import pytest

from tests.common.media import make_media, tone
from xdc_fast.packing.convert import convert
from xdc_fast.packing.media import Refusal
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.shards.decode import decode_frames
from xdc_fast.shards.index import index
from xdc_fast.tools.shard import describe_packing

SLIDES = np.array([0, 0.5, 1, 76, 76.5, 77])  # the third one stays for 75 s
LEVELS = np.array([30, 70, 110, 150, 190, 230], np.uint8)
SLOW = {"fps": 2.0, "short_side": 32, "audio_rate": 8000}


def slide(k, width, height):
    return np.full((height, width, 3), LEVELS[k % len(LEVELS)], np.uint8)


def lecture(path, *, times=SLIDES, sound=77.5, audio: str | None = "pcm_s16le", **more):
    return make_media(
        path, seconds=sound, rate=8000, audio=audio,
        times=times, size=(32, 32), pictures=slide, **more,
    )  # fmt: skip


def write_paused(path, pause):
    """Pictures all along, and sound that pauses from the first second on."""
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=2)
        sound = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        track.width = track.height = 32
        track.pix_fmt = "yuv420p"
        for k in range(2 * (pause + 2)):
            frame = av.VideoFrame.from_ndarray(slide(k, 32, 32), format="rgb24")
            frame.pts = k
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
        for second in (0, 1 + pause):
            wave = (tone(1, 8000, 0.5) * 32767).astype(np.int16)[None]
            block = av.AudioFrame.from_ndarray(wave, format="s16", layout="mono")
            block.sample_rate, block.pts = 8000, 8000 * second
            container.mux(sound.encode(block))
    return path


def run(path, tmp_path, **settings):
    video, audio = tmp_path / "v.mp4", tmp_path / "a.wav"
    return convert(path, PackSettings(**{**SLOW, **settings}), video, audio), video, audio


@pytest.mark.parametrize("kind", ["mkv", "mp4"])
@pytest.mark.parametrize("tracks", ["both", "video", "alone"])
def test_a_slide_may_stay_for_long(tmp_path, kind, tracks):
    """Under running sound, or by the file's own header where there is no sound."""
    audio = None if tracks == "alone" else "aac" if kind == "mp4" else "pcm_s16le"
    path = lecture(tmp_path / f"x.{kind}", audio=audio)
    facts, video, _ = run(path, tmp_path, tracks="both" if tracks == "both" else "video")
    assert facts["seconds"] == pytest.approx(77.5, abs=0.5)
    found = decode_frames(video.read_bytes(), np.array([1, 2, 3, 80, 151, 152]))
    assert np.abs(found.mean(axis=(1, 2, 3)) - [70, 110, 110, 110, 110, 150]).max() < 4


def test_sound_may_pause_for_long(tmp_path):
    path = write_paused(tmp_path / "x.mkv", 70)
    for tracks in ("both", "audio"):
        facts, _, audio = run(path, tmp_path, tracks=tracks)
        sound = np.frombuffer(audio.read_bytes()[44:], "<i2")
        assert facts["seconds"] == pytest.approx(72, abs=0.5)
        assert not sound[8100:567_900].any() and np.abs(sound[568_100:]).max() > 16_000


@pytest.mark.parametrize(
    ("times", "sound"),
    [
        ([0, 0.5, 1, 76, 76.5], 10),  # nothing sounds where the pictures leap to
        ([0, 0.5, 1, 5000, 5000.5], 77),
        ([0, 0.5, 1, 5000, 5000.5], None),  # too long for a header to be a witness
    ],
)
def test_wild_timestamps_are_damage(tmp_path, times, sound):
    audio = None if sound is None else "pcm_s16le"
    path = lecture(tmp_path / "x.mkv", times=np.array(times), sound=sound or 1, audio=audio)
    with pytest.raises(Refusal, match="timestamps jump from 1") as caught:
        run(path, tmp_path, tracks="video" if sound is None else "both")
    assert caught.value.reason == "damaged"


@pytest.mark.parametrize(
    ("times", "sound", "more", "packed", "alone"),
    [
        (np.arange(0, 10, 0.5), 40, {}, 10, 30),  # the last slide stays while the sound goes on
        (np.arange(0, 40, 0.5), 10, {}, 10, 30),
        (np.arange(0, 20, 0.5), 20, {"audio_start": 5.0}, 15, 10),
        (np.arange(0, 20, 0.5), 20, {"video_start": 0.4}, 19.5, 0),  # a rounding
    ],
)
def test_what_one_track_has_alone_is_told(tmp_path, times, sound, more, packed, alone):
    """In the summary and the manifest, which `index` keeps; with an own tail it is not read on."""
    (tmp_path / "in").mkdir()
    lecture(tmp_path / "in" / "x.mkv", times=times, sound=sound, **more)
    for name, longest in (("all", None), ("cut", 3.0)):
        out = tmp_path / name
        settings = PackSettings(**SLOW, max_seconds=longest)
        summary = pack(collect([tmp_path / "in"], None, out), out, settings, workers=1)
        manifest = json.loads((out / "manifest.json").read_text())
        told = [line for line in describe_packing(summary) if "alone" in line]
        if longest is None:
            assert manifest["seconds"] == pytest.approx(packed, abs=0.5)
            wanted = alone
        else:
            wanted = 5 if "audio_start" in more else 0
        assert bool(told) == bool(wanted) == (manifest["unpaired"]["samples"] == 1)
        if wanted:
            assert manifest["unpaired"]["seconds"] == pytest.approx(wanted, abs=0.6)
            assert f"{manifest['unpaired']['seconds']:g} s" in told[0]
        index(out)
        assert json.loads((out / "manifest.json").read_text()) == manifest
