"""`index` describes what is read, of any WebDataset; what cannot be used is listed."""

from __future__ import annotations

import io
import json
import struct
import tarfile
import wave

import av
import numpy as np
import pytest
from av.stream import Disposition
from click.testing import CliRunner

from tests.common.media import make_media, tone, write_sound
from tests.common.windows import LOUDER, draw_clock, read_windows
from xdc_fast.errors import UserError
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.tables import read_csv
from xdc_fast.tools.shard import main

FPS, RATE = 30, 16000
TOLERANCE = (
    0.13  # seconds; a window of 8 frames begins and ends a little early, and luma is rounded
)


def clocked(path, seconds=3.0, times=None, begin=0.0, **options):
    """A file whose picture and sound tell the time; the sound begins at `begin` seconds."""
    shown = np.arange(round(seconds * FPS)) / FPS if times is None else times
    settings = {"fps": FPS, "rate": RATE, "size": (96, 64), **options}
    rate = settings["rate"]
    loud = LOUDER * (begin + np.arange(round((seconds - begin) * rate)) / rate)
    if begin:  # make_media gives both tracks one length
        silent = make_media(
            path.with_suffix(".v.mp4"),
            seconds=seconds,
            audio=None,
            pictures=lambda k, w, h: draw_clock(shown[k], w, h),
            **settings,
        )
        return add_sounds(path, silent, [tone(seconds - begin, RATE, loud)], begin)
    return make_media(
        path,
        seconds=seconds,
        times=times,
        level=loud,
        pictures=lambda k, w, h: draw_clock(shown[k], w, h),
        **settings,
    )


def add_sounds(path, silent, waves, start=0.0, default=0):
    """The pictures of a file with some sounds; `default` is the number of the one to be played."""
    with av.open(str(silent)) as pictures, av.open(str(path), "w") as container:
        source = pictures.streams.video[0]
        track = container.add_stream_from_template(source)
        sounds = [container.add_stream("aac", rate=RATE, layout="mono") for _ in waves]
        for number, sound in enumerate(sounds):
            sound.disposition = Disposition.default if number == default else Disposition(0)
        for packet in pictures.demux(source):
            if packet.size:
                packet.stream = track
                container.mux(packet)
        for sound, samples in zip(sounds, waves, strict=True):
            write_sound(container, sound, samples, RATE, start)
    return path


def dataset(out, *members, name="00000.tar"):
    """A folder with one tar of (name, content) pairs."""
    out.mkdir(exist_ok=True)
    with tarfile.open(out / name, "w") as archive:
        for member, content in members:
            data = content if isinstance(content, bytes) else content.read_bytes()
            info = tarfile.TarInfo(member)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out


def index(out, *more):
    return CliRunner().invoke(main, ["index", str(out), *more])


def indexed(out) -> ShardSet:
    result = index(out)
    assert result.exit_code == 0, result.output
    proved = CliRunner().invoke(main, ["verify", "--decode", str(out)])
    assert proved.exit_code == 0, proved.output
    return ShardSet(out)


def refusals(out):
    return {row["source"]: row["reason"] for row in read_csv(out / "refused.csv")}


def assert_clocks_agree(out, seconds, offset=0.0, tolerance=TOLERANCE):
    """Every window can be read; both tracks tell the time that they should."""
    (told,) = read_windows(out)
    centres = offset + 0.25 + np.linspace(0, seconds - 0.5, len(told))
    assert np.abs(told[:, 0] - centres).max() < tolerance
    assert np.abs(told[:, 1] - centres).max() < tolerance


KINDS = {
    "plain.mp4": {},
    "b-frames.avi": {"video": "mpeg4", "audio": "pcm_s16le", "coding": {"bf": "2"}},
    "h264.avi": {"audio": "pcm_s16le", "coding": {"bf": "3", "preset": "veryfast"}},
    "open-gop.mkv": {"coding": {"bf": "3", "preset": "veryfast", "x264-params": "open-gop=1"}},
    "program-stream.mpg": {"video": "mpeg1video", "audio": "mp2", "coding": {"bf": "2"}},
    "transport-stream.ts": {"coding": {"bf": "3", "preset": "veryfast"}},
    "alt-ref.webm": {
        "video": "libvpx",
        "audio": "libopus",
        "coding": {"auto-alt-ref": "1", "lag-in-frames": "8", "deadline": "realtime"},
    },
    "flash.flv": {"video": "flv", "audio": "aac"},
    "jpeg.avi": {"video": "mjpeg", "audio": "pcm_s16le"},
}


@pytest.mark.parametrize("name", KINDS)
def test_containers_and_codecs(name, tmp_path):
    options = {"rate": 44100, **KINDS[name]}
    rate = 48000 if options.get("audio") == "libopus" else options["rate"]
    loud = LOUDER * np.arange(3 * rate) / rate
    path = make_media(
        tmp_path / name,
        seconds=3,
        level=loud,
        pictures=lambda k, w, h: draw_clock(k / FPS, w, h),
        **{"fps": FPS, **options, "rate": rate},
    )
    shards = indexed(dataset(tmp_path / "set", (f"0.{name.split('.')[1]}", path)))
    row = shards.rows()[0]
    assert (row["packet"] >= 0) == (name == "jpeg.avi")
    assert abs(row["frames"] - 90) <= 4 and abs(row["samples"] - 3 * rate) < 0.15 * rate
    assert_clocks_agree(tmp_path / "set", row["frames"] / FPS, tolerance=0.2)


def test_a_rotated_video_is_read_upright(tmp_path):
    path = clocked(tmp_path / "r.mp4", turn=(90, False, False))
    shards = indexed(dataset(tmp_path / "set", ("0.mp4", path)))
    row = shards.rows()[0]
    assert (row["width"], row["height"]) == (64, 96)
    assert shards[0].video().shape == (90, 96, 64, 3)
    assert len(read_windows(tmp_path / "set")) == 1


def test_a_trimmed_video_has_its_visible_frames(tmp_path):
    """An edit list hides the first 45 frames."""
    whole = make_media(
        tmp_path / "w.mp4",
        seconds=4.5,
        fps=FPS,
        audio=None,
        coding={"g": "300"},
        pictures=lambda k, w, h: draw_clock(k / FPS, w, h),
    )
    with av.open(str(whole)) as source, av.open(str(tmp_path / "t.mp4"), "w") as target:
        stream = source.streams.video[0]
        track = target.add_stream_from_template(stream)
        for packet in source.demux(stream):
            if packet.size:
                shift = round(1.5 / stream.time_base)
                packet.pts, packet.dts = packet.pts - shift, packet.dts - shift
                packet.stream = track
                target.mux(packet)
    shards = indexed(dataset(tmp_path / "set", ("0.mp4", tmp_path / "t.mp4")))
    assert abs(int(shards.rows()[0]["frames"]) - 90) <= 1
    (told,) = read_windows(tmp_path / "set")
    centres = 1.5 + 0.25 + np.linspace(0, 2.5, 20)
    assert np.abs(told[:, 0] - centres).max() < TOLERANCE


def test_a_variable_rate_is_read_by_its_times(tmp_path):
    times = np.concatenate([np.arange(60) / 30, 2 + np.arange(20) / 10])
    path = clocked(tmp_path / "v.mp4", seconds=4.0, times=times)
    shards = indexed(dataset(tmp_path / "set", ("0.mp4", path)))
    assert shards.rows()[0]["fps"] == 30 and abs(int(shards.rows()[0]["frames"]) - 119) <= 3
    assert_clocks_agree(tmp_path / "set", 4.0, tolerance=0.2)


def test_a_sound_that_begins_late_is_read_at_its_instant(tmp_path):
    path = clocked(tmp_path / "late.mp4", seconds=4.0, begin=1.5)
    shards = indexed(dataset(tmp_path / "set", ("0.mp4", path)))
    row = shards.rows()[0]
    assert abs(row["origin"] - 1.5) < 0.1 and abs(int(row["frames"]) - 75) <= 3
    assert_clocks_agree(tmp_path / "set", 2.5, offset=float(row["origin"]))


def test_lengths_come_from_the_sound_itself(tmp_path):
    """A file that was written to a pipe has no duration, and one has a wrong one."""
    path = clocked(tmp_path / "a.mkv", options={"live": "1"})
    with av.open(str(path)) as container:
        assert container.duration is None
    (row,) = indexed(dataset(tmp_path / "live", ("0.mkv", path))).rows()
    assert abs(int(row["samples"]) - 3 * RATE) < 2100
    data = bytearray(clocked(tmp_path / "b.mp4").read_bytes())
    at = -1
    while (at := data.find(b"mdhd", at + 1)) >= 0:
        struct.pack_into(">I", data, at + 20, struct.unpack_from(">I", data, at + 20)[0] // 30)
    (row,) = indexed(dataset(tmp_path / "short", ("0.mp4", bytes(data)))).rows()
    assert abs(int(row["samples"]) - 3 * RATE) < 2100


def wav(size, samples=3 * RATE, channels=1):
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setparams((channels, 2, RATE, 0, "NONE", ""))
        out.writeframes(bytes(tone(samples / RATE, RATE, 9000.0).astype("<i2")) * channels)
    data = bytearray(file.getvalue())
    struct.pack_into("<I", data, 40, size)
    return bytes(data)


@pytest.mark.parametrize("size", [0, 0xFFFFFFFF])
@pytest.mark.parametrize("channels", [1, 2])
def test_a_wav_that_does_not_know_its_size(size, channels, tmp_path):
    video = clocked(tmp_path / "v.mp4", audio=None)
    members = ("0.mp4", video), ("0.wav", wav(size, channels=channels))
    shards = indexed(dataset(tmp_path / "set", *members))
    assert shards.rows()[0]["samples"] == 3 * RATE == len(shards[0].audio())
    assert (shards.rows()[0]["pcm"] >= 0) == (channels == 1)


def test_metadata_that_are_not_utf8(tmp_path):
    data = clocked(tmp_path / "a.avi", audio="pcm_s16le").read_bytes()
    assert b"Lavf" in data
    indexed(dataset(tmp_path / "set", ("0.avi", data.replace(b"Lavf", b"L\x8c\xe9\xff"))))
    assert len(read_windows(tmp_path / "set")) == 1


def test_the_default_sound_is_the_one_that_is_read(tmp_path):
    silent = make_media(tmp_path / "s.mp4", seconds=2, audio=None)
    waves = [np.zeros(2 * RATE), tone(2, RATE, 0.4)]
    path = add_sounds(tmp_path / "two.mp4", silent, waves, default=1)
    shards = indexed(dataset(tmp_path / "set", ("0.mp4", path)))
    assert np.abs(shards[0].audio().astype(int)).max() > 0.3 * 32768


def test_unusable_samples_are_left_out_and_listed(tmp_path):
    """The set keeps the others; a second run finds the same; verify knows them."""
    good = clocked(tmp_path / "v.mp4")
    mute = make_media(tmp_path / "m.mp4", audio=None)
    out = dataset(
        tmp_path / "set",
        ("a.mp4", good),
        ("b.json", b'{"status": "failed_to_download"}'),
        ("c.mp4", mute),
        ("d.mp4", good.read_bytes()[:5000]),
        ("e.mp4", b""),
        ("f.mp4", b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile:///etc/passwd\n"),
        ("g.mp4", b"ffconcat version 1.0\nfile v.mp4\n"),
        ("h.mp4", good),
        ("h.json", b"{no json"),
        ("i.mp4", good),
        ("i.json", b"[" * 100_000),
        ("a.json", b"{}"),
        ("j.mp4", good),
        ("j.mp4", good),
        ("k.wav", wav(0)),
        ("z.mp4", good),
    )
    result = index(out)
    assert result.exit_code == 0 and "indexed 2 samples in 1 shards" in result.stdout
    assert "refused.csv lists them" in result.stdout
    assert [row["key"] for row in ShardSet(out).table()] == ["a", "z"]
    assert refusals(out) == {
        "00000.tar/b": "no video",
        "00000.tar/c": "no audio",
        "00000.tar/d": "not media",
        "00000.tar/e": "not media",
        "00000.tar/f": "not media",
        "00000.tar/g": "not media",
        "00000.tar/h": "bad metadata",
        "00000.tar/i": "bad metadata",
        "00000.tar/a": "key used twice",
        "00000.tar/j": "key used twice",
        "00000.tar/k": "no video",
    }
    manifest = ShardSet(out).manifest
    assert manifest["inputs"]["count"] == 13 and sum(manifest["refused"].values()) == 11
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    indexed(out)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_cut_file_is_damaged(tmp_path):
    data = clocked(tmp_path / "v.mkv", coding={"bf": "0"}).read_bytes()
    whole = clocked(tmp_path / "w.mkv")
    out = dataset(tmp_path / "set", ("0.mkv", data[: len(data) // 2]), ("1.mkv", whole))
    indexed(out)
    assert 1 <= len(ShardSet(out)) <= 2  # Matroska may end anywhere between two packets


def test_what_most_samples_have_is_what_the_set_has(tmp_path):
    """Their tracks, and the rate of their sound; those that have more are used too."""
    both = clocked(tmp_path / "v.mp4")
    mute = make_media(tmp_path / "m.mp4", audio=None)
    other = clocked(tmp_path / "o.mp4", rate=8000)
    shards = indexed(dataset(tmp_path / "a", *((f"{k}.mp4", mute) for k in "012"), ("3.mp4", both)))
    assert shards.modalities == ("video",) and len(shards) == 4
    shards = indexed(
        dataset(tmp_path / "b", ("0.mp4", other), ("1.mp4", both), ("2.mp4", mute), ("3.mp4", both))
    )
    assert (shards.modalities, shards.sample_rate) == (("video", "audio"), RATE)
    assert [row["key"] for row in shards.table()] == ["0", "1", "3"]
    assert abs(len(shards[0].audio()) - len(shards[1].audio())) < 3000


def test_labels_of_other_programs(tmp_path):
    video = clocked(tmp_path / "v.mp4", seconds=1)
    out = dataset(
        tmp_path / "set",
        ("0.mp4", video),
        ("0.json", b'{"labels": {"class": ["cat", "dog"], "tag": null, "age": 3}}'),
        ("1.mp4", video),
        ("1.json", b'{"labels": {"tag": "x"}, "seconds": NaN}'),
        ("1.cls", b"7\n"),
        ("1.txt", b"a caption, with a comma"),
        ("2.mp4", video),
        ("2.json", b'{"labels": 5}'),
        ("2.cls", b"8"),
    )
    rows = indexed(out).table()
    assert [row["class"] for row in rows] == ["cat;dog", "7", "8"]
    assert [row["tag"] for row in rows] == ["", "x", ""]
    assert [row["age"] for row in rows] == ["3", "", ""]
    assert [row["text"] for row in rows] == ["", "a caption, with a comma", ""]
    assert json.loads((out / "manifest.json").read_text())["seconds"] == pytest.approx(3, abs=0.2)
    assert {*ShardSet(out).memberships("class")[2]} == {"cat", "dog", "7", "8"}


def test_names_with_blanks_are_read_by_dali(tmp_path):
    fn = pytest.importorskip("nvidia.dali.fn")
    from nvidia.dali import pipeline_def, types

    video = clocked(tmp_path / "v.mp4", seconds=1)
    out = dataset(tmp_path / "set", ("cat/clip one.mp4", video), ("dog/clip\ttwo.mp4", video))
    assert [row["key"] for row in indexed(out).table()] == ["cat/clip one", "dog/clip\ttwo"]

    @pipeline_def(batch_size=2, num_threads=1, device_id=None)
    def pipeline():
        return fn.readers.webdataset(
            paths=[f"{out}/00000.tar"],
            index_paths=[f"{out}/00000.idx"],
            ext=["mp4"],
            dtypes=[types.UINT8],
        )

    pipe = pipeline()
    pipe.build()
    (files,) = pipe.run()
    assert [np.array(file).tobytes() for file in files] == [video.read_bytes()] * 2


def test_messages_name_the_dots(tmp_path):
    video = clocked(tmp_path / "v.mp4", seconds=1)
    out = dataset(tmp_path / "set", ("cat/clip 2.0 (clean).mp4", video), ("cat/x.txt", b"1"))
    result = index(out)
    assert result.exit_code == 2 and "Traceback" not in result.stderr
    assert "cat/clip 2" in result.stderr and "a name has no dot but the one" in result.stderr


@pytest.mark.parametrize("ending", ["m4v", "ts", "opus", "aac", "mka"])
def test_endings_that_are_taken(ending, tmp_path):
    if ending in ("m4v", "ts"):
        made = clocked(tmp_path / f"x.{ending if ending == 'ts' else 'mp4'}", seconds=1)
    else:
        codec, rate = ("libopus", 48000) if ending == "opus" else ("aac", 44100)
        kind = {"mka": "matroska"}.get(ending)
        with av.open(str(tmp_path / f"x.{ending}"), "w", format=kind) as container:
            stream = container.add_stream(codec, rate=rate, layout="mono")
            write_sound(container, stream, tone(1, rate, 0.4), rate)
        made = tmp_path / f"x.{ending}"
    shards = indexed(dataset(tmp_path / "set", (f"0.{ending.upper()}", made)))
    assert len(shards) == 1 and 0.9 < float(shards.table()[0]["seconds"]) < 1.1


def test_equal_keys_in_several_tars(tmp_path):
    video = clocked(tmp_path / "v.mp4", seconds=1)
    out = dataset(tmp_path / "set", ("0.mp4", video), ("1.mp4", video))
    dataset(out, ("0.mp4", video), name="00001.tar")
    rows = indexed(out).table()
    assert [(row["shard"], row["key"]) for row in rows] == [
        ("00000.tar", "0"),
        ("00000.tar", "1"),
        ("00001.tar", "0"),
    ]


def test_a_broken_tar_is_named(tmp_path):
    video = clocked(tmp_path / "v.mp4", seconds=1)
    out = dataset(tmp_path / "set", ("0.mp4", video))
    (out / "00001.tar").write_bytes((out / "00000.tar").read_bytes()[:2000])
    result = index(out)
    assert result.exit_code == 2 and "00001.tar: not a valid tar" in result.stderr


def test_verify_finds_a_seek_to_another_picture(tmp_path, monkeypatch):
    out = dataset(tmp_path / "set", ("0.mp4", clocked(tmp_path / "v.mp4")))
    indexed(out)
    right = ShardSet.pictures
    late = lambda s, n, row, f: right(s, n, row, np.minimum(f + 6, row["frames"] - 1))  # noqa: E731
    monkeypatch.setattr(ShardSet, "pictures", late)
    result = CliRunner().invoke(main, ["verify", "--decode", str(out)])
    assert result.exit_code == 1 and "is another one after a seek" in result.stdout


def test_windows_outside_a_sample_are_a_mistake(tmp_path):
    from xdc_fast import ClipLoader, ClipShape

    out = dataset(tmp_path / "set", ("0.mp4", clocked(tmp_path / "v.mp4")))
    indexed(out)
    clip = ClipShape(8, 16, 40, 8000, RATE)
    loader = ClipLoader(out, clip, batch_size=1, device="cpu")
    assert loader.read([0, 0]).index.tolist() == [0, 0]
    with pytest.raises(UserError, match="from 0 to 1"):
        loader.read([0], 1.5)
    with pytest.raises(IndexError):
        loader.read([7])


def test_a_leap_of_hours_is_damage(tmp_path):
    good = make_media(tmp_path / "v.mp4", seconds=1, fps=FPS)
    times = np.concatenate([np.arange(20) / FPS, 4000 + np.arange(20) / FPS])
    leap = make_media(tmp_path / "w.mp4", seconds=1, fps=FPS, times=times)
    shards = indexed(dataset(tmp_path / "set", ("0.mp4", good), ("1.mp4", leap)))
    assert [row["key"] for row in shards.table()] == ["0"]
    assert refusals(shards.root) == {"00000.tar/1": "damaged"}
