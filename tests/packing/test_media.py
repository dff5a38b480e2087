"""One file decoded, put on one clock and encoded: times, geometry, sound, refusals."""

import io
import wave
from fractions import Fraction
from itertools import pairwise

import av
import numpy as np
import pytest

from tests.common.media import draw, make_media, tone, write_sound
from tests.common.odd_media import sine_frame, write_channels
from xdc_fast.packing.convert import convert
from xdc_fast.packing.encode import open_mp4, packed_size
from xdc_fast.packing.media import Refusal, choose_video, decoded, open_media
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.timeline import Grid, resample_frames, sample_count
from xdc_fast.packing.tracks import Conversion
from xdc_fast.shards.decode import decode_frames, decode_waveform, orientation, turn
from xdc_fast.shards.sound import Mono, OverlapError, resample_audio
from xdc_fast.shards.streams import frame_count, nearest_rate

FAST = PackSettings(short_side=64)


@pytest.fixture
def packed(tmp_path):
    """Convert a file; returns its facts, its frames as RGB and its waveform."""

    def run(path, settings=FAST):
        video, audio = tmp_path / "out.mp4", tmp_path / "out.wav"
        facts = convert(path, settings, video, audio)
        frames = decode_frames(video.read_bytes(), np.arange(facts["frames"]))
        with wave.open(str(audio)) as file:
            assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
            assert file.getframerate() == settings.audio_rate
            sound = np.frombuffer(file.readframes(file.getnframes()), "<i2")
        return facts, frames, sound

    return run


def refusal(path, tmp_path, settings=FAST):
    with pytest.raises(Refusal) as caught:
        convert(path, settings, tmp_path / "refused.mp4", tmp_path / "refused.wav")
    return caught.value


@pytest.mark.parametrize("kind", ["mp4", "mkv", "mov"])
@pytest.mark.parametrize(
    ("video_start", "audio_start"), [(0, 0), (0.36, 0), (0, 0.4), (0.2, 0.5), (1.0, 1.24)]
)
@pytest.mark.parametrize("codec", ["jpeg", "copy"])
def test_click_and_flash_meet(tmp_path, packed, kind, video_start, audio_start, codec):
    """Tracks that begin at different times are packed on one clock, whatever the container."""
    event, settings = 1.4, PackSettings(short_side=64, codec=codec)
    if max(video_start, audio_start) >= 1:
        event = 1.96
    path = make_media(
        tmp_path / f"x.{kind}",
        event=event,
        video_start=video_start,
        audio_start=audio_start,
        audio="aac" if kind != "mkv" else "pcm_s16le",
    )
    facts, frames, sound = packed(path, settings)
    begin = video_start if codec == "copy" else max(video_start, audio_start)
    flash = frames.mean(axis=(1, 2, 3)).argmax() / facts["fps"]
    click = np.flatnonzero(np.abs(sound) > 0.4 * 32767)[0] / 16000
    assert facts["start"] == pytest.approx(begin, abs=0.03)  # AAC may begin a block early
    assert click == pytest.approx(event - facts["start"], abs=0.004)
    assert abs(flash - click) <= 1 / facts["fps"]
    assert len(sound) == sample_count(facts["frames"], Fraction(facts["fps"]), 16000)


def test_edit_list_hides_what_comes_before_zero(tmp_path, packed):
    """Pictures before the edit list's beginning are coded but never shown."""
    path = make_media(
        tmp_path / "x.mp4", event=1.0, video_start=-0.6, options={"avoid_negative_ts": "disabled"}
    )
    with av.open(str(path)) as container:
        coded = [p for p in container.demux(video=0) if p.size]
    facts, frames, sound = packed(path, FAST)
    assert any(p.is_discard for p in coded) and coded[0].pts < 0
    assert facts["seconds"] == pytest.approx(1.4, abs=0.07)
    flash = frames.mean(axis=(1, 2, 3)).argmax() / 15
    click = np.flatnonzero(np.abs(sound) > 13000)[0] / 16000
    assert click == pytest.approx(1.0, abs=0.004) and abs(flash - click) <= 1 / 15
    assert refusal(path, tmp_path, PackSettings(codec="copy")).reason == "cannot be copied"


def test_variable_rate_shows_the_frame_of_the_moment(tmp_path, packed):
    """Frames at irregular times: the packed frame k is the last one at or before k / fps."""
    steps = np.tile([0.02, 0.1, 0.3, 0.04, 0.06], 6)
    times = np.concatenate([[0], np.cumsum(steps)])
    levels = np.linspace(20, 230, len(times)).astype(np.uint8)
    path = make_media(
        tmp_path / "x.mp4",
        seconds=3.2,
        times=times,
        pictures=lambda k, w, h: np.full((h, w, 3), levels[k], np.uint8),
    )
    facts, frames, _ = packed(path, FAST)
    wanted = [levels[np.flatnonzero(times <= k / 15 + 1e-4)[-1]] for k in range(facts["frames"])]
    found = frames.mean(axis=(1, 2, 3))
    assert facts["frames"] >= 45
    assert np.abs(found - wanted).max() < 3
    assert refusal(path, tmp_path, PackSettings(codec="copy")).reason == "cannot be copied"


def test_shown_repeats_and_skips():
    source = [(t, t + 0.1, str(t)) for t in (0.0, 0.1, 0.2, 0.3)]
    assert list(resample_frames(iter(source), 0.0, Fraction(5), 99, 0.001)) == ["0.0", "0.2"]
    doubled = ["0.0", "0.0", "0.1", "0.1", "0.2", "0.2", "0.3", "0.3"]
    assert list(resample_frames(iter(source), 0.0, Fraction(20), 99, 0.001)) == doubled
    assert list(resample_frames(iter(source), 0.0, Fraction(20), 3, 0.001)) == doubled[:3]
    late = [(0.0, 0.1, "a"), (0.1004, 0.2, "b"), (0.2, 0.3, "c")]  # rounded to milliseconds, late
    assert list(resample_frames(iter(late), 0.0, Fraction(10), 99, 0.001)) == ["a", "b", "c"]


def test_grid_meets_every_frame_that_is_shown():
    """And few others: those that rounding may bring to the screen."""
    rng = np.random.default_rng(0)
    shown = met = 0
    for _ in range(300):
        fps = Fraction(int(rng.integers(1, 60_000)), 1000)
        gap = rng.choice([1 / 60, 1001 / 30_000, 0.04, 0.1])
        steps = gap * (1 if rng.random() < 0.5 else rng.uniform(0.2, 3, 80))
        times = np.cumsum(np.full(80, steps)).round(int(rng.choice([3, 9])))
        frames = [(a, b, (a, b)) for a, b in pairwise(times.tolist()) if a < b]
        tick = float(rng.choice([0.001, 1 / 90_000]))
        start = frames[0][0] + rng.uniform(0, 1)
        grid = Grid(start, float(1 / fps))
        taken = set(resample_frames(frames, start, fps, 10**6, tick)) - {frames[-1][2]}
        wanted = {item for _, _, item in frames[:-1] if grid.meets(*item)}
        assert taken <= wanted
        shown, met = shown + len(taken), met + len(wanted)
    assert 10_000 < shown <= met < 1.1 * shown


@pytest.mark.parametrize(
    ("rate", "frames", "left_out"),
    [(25, 125, 15), (30, 150, 30), (60, 300, 80), ("uneven", 120, 5)],
)
def test_pictures_nobody_sees_are_not_decoded(tmp_path, monkeypatch, rate, frames, left_out):
    """Of H.264 with B-frames; the bytes are those of a file that is decoded whole."""
    times = np.cumsum(np.random.default_rng(0).uniform(0.01, 0.07, 120))
    plain = rate != "uneven"
    coding = {"preset": "medium", "bf": "3", "g": "30", "sc_threshold": "0"}
    path = make_media(
        tmp_path / "a.mp4", seconds=5, fps=rate if plain else 30, times=None if plain else times,
        coding=coding, video_start=0.2,
    )  # fmt: skip
    for settings in (FAST, PackSettings(short_side=64, tracks="video", fps=12.5)):
        made = []
        for shows in (Conversion.shows, lambda *_: True):
            monkeypatch.setattr(Conversion, "shows", shows)
            convert(path, settings, tmp_path / "out.mp4", tmp_path / "out.wav")
            made.append((tmp_path / "out.mp4").read_bytes())
        assert made[0] == made[1]
        monkeypatch.undo()
    with open_media(path) as container:
        grid = Grid(0.2, 1 / 15)
        seen = [time for time, _, _ in decoded(choose_video(container), shows=grid.meets)]
    assert len(seen) <= frames - left_out and seen == sorted(seen)
    assert seen[-1] == pytest.approx(0.2 + (times[-1] if not plain else 5 - 1 / rate), abs=1e-3)


def test_counts():
    assert frame_count(2.0, Fraction(15)) == 30
    assert frame_count(1.9999, Fraction(15)) == 30  # a rounding, not a missing frame
    assert frame_count(1.99, Fraction(15)) == 29
    assert frame_count(-1.0, Fraction(15)) == 0
    assert sample_count(30, Fraction(15), 16000) == 32000
    assert sample_count(30, Fraction(30000, 1001), 16000) == 16016
    assert nearest_rate(29.97) == Fraction(30000, 1001)
    assert [nearest_rate(r) for r in (4, 15, 25, 12.5)] == [4, 15, 25, Fraction(25, 2)]


CORNERS = np.array([[10, 80], [150, 230]], np.uint8)  # top-left, top-right; bottom-left, -right


def corners(k, width, height):
    picture = np.repeat(np.repeat(CORNERS, height // 2, 0), width // 2, 1)
    return np.repeat(picture[..., None], 3, -1)


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
@pytest.mark.parametrize(
    "way",
    [(a, h, v) for a in (0, 90, 180, 270) for h, v in ((False, False), (True, False))]
    + [(0, False, True)],
)
def test_rotation_is_applied(tmp_path, packed, way, codec):
    """What a player shows upright is packed upright: compared with FFmpeg's display matrix."""
    path = make_media(tmp_path / "x.mp4", size=(96, 64), pictures=corners, turn=way)
    facts, frames, _ = packed(path, PackSettings(short_side=64, codec=codec))
    degrees, hflip, vflip = way
    wanted = np.rot90(CORNERS, degrees // 90)  # FFmpeg's angles turn counterclockwise
    wanted = wanted[:, ::-1] if hflip else wanted
    wanted = wanted[::-1] if vflip else wanted
    size = (64, 96) if degrees % 180 else (96, 64)
    assert (facts["width"], facts["height"]) == size
    height, width = frames.shape[1:3]
    found = frames[10].mean(-1)[height // 4 :: height // 2, width // 4 :: width // 2]
    assert np.abs(found - wanted).max() < 6


class Unknown:
    """A frame with side data of a type that PyAV does not know."""

    def __init__(self, frame):
        self.rotation = frame.rotation

    @property
    def side_data(self):
        raise ValueError("29 is not a valid Type")


@pytest.mark.parametrize("degrees", [0, 90, 180, 270])
def test_rotation_beside_unknown_side_data(tmp_path, degrees):
    path = make_media(tmp_path / "x.mp4", pictures=corners, turn=(degrees, False, False))
    with av.open(path) as file:
        frame = next(file.decode(video=0))
    assert orientation(Unknown(frame)) == orientation(frame)


def test_turn_is_what_the_matrix_says():
    """The eight orientations move a marked point to ax + cy, bx + dy."""
    picture = np.arange(6).reshape(2, 3)
    assert np.array_equal(turn(picture, (False, True, True)), np.rot90(picture, 2))
    assert np.array_equal(turn(picture, (True, True, False)), np.rot90(picture, -1))
    assert np.array_equal(turn(picture, (True, False, True)), np.rot90(picture, 1))


@pytest.mark.parametrize(
    ("size", "sar", "wanted"),
    [
        ((96, 64), None, (96, 64)),
        ((48, 32), None, (96, 64)),  # scaled up too
        ((101, 67), None, (96, 64)),  # odd sizes become even ones
        ((96, 96), Fraction(3, 2), (96, 64)),  # wide pixels
        ((64, 96), Fraction(1, 2), (64, 192)),
    ],
)
def test_size_is_upright_square_and_even(tmp_path, packed, size, sar, wanted):
    path = make_media(tmp_path / "x.mkv", size=size, sar=sar)
    facts, frames, _ = packed(path)
    assert (facts["width"], facts["height"]) == wanted == frames.shape[2:0:-1]


def test_strips_are_refused():
    with pytest.raises(Refusal, match="odd shape"):
        packed_size(av.VideoFrame(1000, 10, "yuv420p"), 64)


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
@pytest.mark.parametrize("matrix", [1, 5])
def test_colours_survive(tmp_path, packed, codec, matrix):
    """Full-range JPEG and limited H.264 show the source's colours, BT.709 sources included."""
    colours = np.array([[200, 40, 40], [40, 180, 60], [50, 60, 210], [230, 230, 230]], np.uint8)
    path = tmp_path / "x.mp4"
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=25)
        sound = container.add_stream("aac", rate=16000, layout="mono")
        track.width, track.height, track.pix_fmt = 128, 64, "yuv420p"
        track.codec_context.colorspace = matrix
        picture = np.repeat(np.repeat(colours[None], 64, 0), 32, 1)
        for k in range(40):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p", dst_colorspace=matrix, dst_color_range=1
            )
            frame.pts = k
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
        write_sound(container, sound, tone(1.6, 16000, 0.1), 16000)
    _, frames, _ = packed(path, PackSettings(short_side=64, codec=codec))
    assert np.abs(frames[5, 32, 16::32].astype(int) - colours).max() < 10


def test_sound_is_the_mean_of_channels_resampled(tmp_path, packed):
    """Against the same tone computed at 16 kHz."""
    path = tmp_path / "x.mkv"
    with av.open(str(path), "w") as container:
        track = container.add_stream("libx264", rate=25)
        sound = container.add_stream("pcm_s16le", rate=44100, layout="stereo")
        track.width, track.height, track.pix_fmt = 64, 64, "yuv420p"
        for k in range(50):
            frame = av.VideoFrame.from_ndarray(draw(k, 64, 64), format="rgb24")
            frame.pts = k
            container.mux(track.encode(frame))
        container.mux(track.encode(None))
        left = tone(2, 44100, 0.6)
        write_sound(container, sound, np.stack([left, np.zeros_like(left)], 1), 44100)
    _, _, found = packed(path)
    wanted = tone(2, 16000, 0.3) * 32768
    assert len(found) == 32000
    assert np.abs(found - wanted)[200:-200].max() < 30


@pytest.mark.parametrize(("layout", "channels"), [("5.1", 6), ("7.1", 8), ("hexadecagonal", 16)])
def test_sound_of_many_channels(layout, channels):
    """Planar frames, each channel a tone of its own level: their mean."""
    levels = np.linspace(0.1, 0.8, channels)
    waves = (levels[:, None] * tone(1, 16000, 1.0)).astype(np.float32)
    frame = av.AudioFrame.from_ndarray(waves.T.reshape(1, -1).copy(), "flt", layout)
    frame.sample_rate = 16000
    (planar,) = av.AudioResampler("fltp", layout).resample(frame)
    np.testing.assert_allclose(Mono()([planar, planar])[16000:], waves.mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("layout", "levels", "heard"),
    [
        ("stereo", (0.4, -0.4), 0.4),
        ("stereo", (0.3, -0.4), 0.4),  # in part
        ("stereo", (0.4, -0.1), 0.15),  # the mean can be heard
        ("stereo", (0.5, 0.0), 0.25),
        ("5.1", (0.3, -0.3, 0.02, 0, 0.2, -0.2), 0.3),
        ("5.1", (0.6, 0, 0, 0, 0, 0), 0.1),
        ("7.1", (0.4, -0.4) * 4, 0.4),
    ],
)
@pytest.mark.parametrize("codec", ["flac", "pcm_s16le", "pcm_f32le", "pcm_u8"])
@pytest.mark.parametrize("tracks", ["both", "audio"])
def test_channels_that_cancel_out_are_heard(tmp_path, layout, levels, heard, codec, tracks):
    """The loudest of them is taken; by packing and by reading a file with such sound alike."""
    path = write_channels(tmp_path / "x.mkv", levels, layout, codec)
    settings = PackSettings(short_side=32, min_seconds=0.2, tracks=tracks)
    convert(path, settings, tmp_path / "v.mp4", tmp_path / "a.wav")
    packed = np.frombuffer((tmp_path / "a.wav").read_bytes()[44:], "<i2") / 32768
    read = decode_waveform(path.read_bytes(), 16000) / 32768
    for sound in (packed, read):
        assert np.abs(sound).max() == pytest.approx(heard, abs=0.02)
        assert np.sqrt(2 * (sound**2).mean()) == pytest.approx(heard, abs=0.02)


@pytest.mark.parametrize(("level", "lost"), [(0.2, True), (0.02, False)])
def test_a_part_that_cancels_out_is_heard(level, lost):
    """The first third of a sound in opposite channels, loud or quiet, the rest in equal ones."""
    mono = Mono()
    for levels in ((level, -level), (0.2, 0.2), (0.2, 0.2)):
        mono([sine_frame(levels, "stereo")])
    assert (mono.loudest is not None) == lost


def test_gaps_in_the_sound_become_silence():
    """Blocks of ones at 0 to 0.5 s and 1 to 1.5 s; jitter below 50 ms is no gap."""

    def blocks(starts):
        for start in starts:
            frame = av.AudioFrame.from_ndarray(np.ones((1, 1600), np.float32), "flt", "mono")
            frame.sample_rate = 16000
            yield start, start + 0.1, frame

    starts = [0, 0.1, 0.21, 0.3, 0.4, 1.0, 1.1, 1.2, 1.3, 1.4]
    sound = np.concatenate(list(resample_audio(blocks(starts), 0.0, 16000, 10**6, Mono())))
    assert len(sound) == 24000
    assert sound[:8000].min() > 30000 and sound[16000:].min() > 30000
    assert not sound[8100:15900].any()
    late = np.concatenate(list(resample_audio(blocks(starts), 0.25, 16000, 12000, Mono())))
    assert len(late) == 12000 and np.array_equal(late, sound[4000:16000])
    with pytest.raises(OverlapError, match="overlap"):
        list(resample_audio(blocks([0, 0.01, 0.02, 0.03, 0.04]), 0.0, 16000, 10**6, Mono()))


def test_sound_does_not_depend_on_the_lengths_of_its_frames():
    """Against the whole of it resampled at once; frames past the limit are not asked for."""
    rng = np.random.default_rng(0)
    noise = (0.2 * rng.standard_normal((1, 100_000))).astype(np.float32)
    cuts = [0, *np.sort(rng.choice(np.arange(1, 100_000), 90, replace=False)), 100_000]

    def cut(begin, end):
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(noise[:, begin:end]), "flt", "mono")
        frame.sample_rate = 44100
        return frame

    def frames(asked):
        for begin, end in pairwise(cuts):
            asked.append(end)
            yield begin / 44100, end / 44100, cut(begin, end)

    resample = av.AudioResampler("s16", "mono", 16000)
    parts = resample.resample(cut(0, 100_000)) + resample.resample(None)
    wanted = np.concatenate([part.to_ndarray()[0] for part in parts])
    assert np.array_equal(
        np.concatenate(list(resample_audio(frames([]), 0.0, 16000, 10**6, Mono()))), wanted
    )
    asked = []
    sound = np.concatenate(list(resample_audio(frames(asked), 0.0, 16000, 20_000, Mono())))
    assert np.array_equal(sound, wanted[:20_000])
    assert asked[-3] < 20_000 / 16000 * 44100 < asked[-1] + 1


def test_max_seconds_cuts_both_tracks(tmp_path, packed):
    path = make_media(tmp_path / "x.mp4", seconds=3)
    facts, frames, sound = packed(path, PackSettings(short_side=64, max_seconds=1.4))
    assert facts["cut"] and (len(frames), len(sound)) == (21, 22400)
    facts, frames, sound = packed(path, PackSettings(short_side=64, max_seconds=30))
    assert not facts["cut"] and (len(frames), len(sound)) == (45, 48000)


def test_each_reason(tmp_path):
    """Each kind of unusable file is refused with its own reason."""
    at = tmp_path.joinpath
    make_media(at("no audio.mp4"), audio=None)
    make_media(at("no video.mp4"), video=None)
    make_media(at("silent.mp4"), level=0.0)
    make_media(at("too short.mp4"), seconds=0.5)
    late = {"audio": "pcm_s16le", "seconds": 1.2}
    make_media(at("no overlap.mkv"), **late, audio_start=5)
    make_media(at("no overlap, audio.mkv"), **late, video_start=5)
    make_media(at("too short, less than a frame.mkv"), **late, audio_start=1.18)
    make_media(at("too short, less than a frame of sound.mkv"), **late, video_start=1.16)
    make_media(at("cover art.mp4"), times=np.zeros(1), seconds=2)
    make_media(at("odd shape.mp4"), size=(640, 16))
    at("not media.mp4").write_text("this is a letter, not a film\n" * 50)
    at("not media, empty.mp4").write_bytes(b"")
    at("unreadable.mp4").mkdir()
    paths = sorted(tmp_path.glob("*.m*"))
    assert len(paths) == 13
    for path in paths:
        assert refusal(path, tmp_path).reason == path.stem.split(",")[0]
    assert refusal(at("missing.mp4"), tmp_path).reason == "unreadable"
    for name in ("no overlap.mkv", "no overlap, audio.mkv"):
        assert refusal(at(name), tmp_path, PackSettings(codec="copy")).reason == "no overlap"


def test_a_copy_that_does_not_read_back_is_refused(tmp_path, monkeypatch):
    def to_nowhere(path):
        path.write_bytes(b"")
        return open_mp4(tmp_path / "elsewhere.mp4")

    monkeypatch.setattr("xdc_fast.packing.copy.open_mp4", to_nowhere)
    refused = refusal(make_media(tmp_path / "x.mp4"), tmp_path, PackSettings(codec="copy"))
    assert refused.reason == "cannot be copied" and "cannot be read" in refused.detail


def test_damage_is_found(tmp_path):
    """A file cut short, and one with bytes overwritten in its middle."""
    whole = make_media(tmp_path / "x.mp4", seconds=4, options={"movflags": "faststart"})
    data = bytearray(whole.read_bytes())
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) * 6 // 10])
    assert refusal(cut, tmp_path).reason == "damaged"
    assert convert(cut, PackSettings(max_seconds=1), tmp_path / "v.mp4", tmp_path / "a.wav")["cut"]
    with av.open(str(whole)) as container:
        packet = [p for p in container.demux(video=0) if p.size][60]
    data[packet.pos + 12 : packet.pos + packet.size] = bytes(packet.size - 12)
    spoilt = tmp_path / "spoilt.mp4"
    spoilt.write_bytes(data)
    assert refusal(spoilt, tmp_path).reason == "damaged"


def test_playlists_open_nothing_else(tmp_path):
    """A file that names other files or addresses is no media."""
    make_media(tmp_path / "x.mp4")
    for text in (
        "#EXTM3U\n#EXTINF:2,\nx.mp4\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile x.mp4",
    ):
        path = tmp_path / "list.mp4"
        path.write_text(text)
        assert refusal(path, tmp_path).reason in ("not media", "undecodable")


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_random_access_equals_reading_through(tmp_path, codec):
    path = make_media(tmp_path / "x.mp4", seconds=4)
    convert(path, PackSettings(short_side=64, codec=codec), tmp_path / "v.mp4", tmp_path / "a.wav")
    file = (tmp_path / "v.mp4").read_bytes()
    with av.open(io.BytesIO(file)) as container:
        through = np.stack([f.to_ndarray(format="rgb24") for f in container.decode(video=0)])
    assert len(through) == 60
    for numbers in ([0], [59], [17, 19, 21, 23], [31, 31, 48], list(range(60))):
        assert np.array_equal(decode_frames(file, np.array(numbers)), through[numbers])
    with pytest.raises(ValueError, match="frame 60"):
        decode_frames(file, np.array([58, 60]))
    with pytest.raises((ValueError, av.FFmpegError)):
        decode_frames(file[: len(file) // 2], np.array([50]))
    with pytest.raises((ValueError, av.FFmpegError)):
        decode_frames(b"nonsense" * 99, np.array([0]))


def test_waveform_reads_back(tmp_path):
    path = make_media(tmp_path / "x.mp4", seconds=2, audio="aac", rate=44100)
    convert(path, FAST, tmp_path / "v.mp4", tmp_path / "a.wav")
    packed = (tmp_path / "a.wav").read_bytes()
    assert np.array_equal(decode_waveform(packed, 16000), np.frombuffer(packed[44:], "<i2"))
    inside = decode_waveform(path.read_bytes(), 8000)  # the sound of a video file
    assert abs(len(inside) - 16000) < 600 and inside.dtype == np.int16
    with pytest.raises((ValueError, av.FFmpegError)):
        decode_waveform((tmp_path / "v.mp4").read_bytes(), 16000)
