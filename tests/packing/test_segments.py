"""Segments of files: which there are, their pictures and sound, one pass, and how runs end."""

import csv
import errno
import io
import json
import math
import os
import signal
import time
import wave
import weakref
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest

from tests.common.media import make_media, tone
from tests.common.odd_media import write_channels, write_parts
from tests.packing.test_clocks import lecture
from xdc_fast.errors import UserError
from xdc_fast.packing import tracks as track_passes
from xdc_fast.packing.convert import convert_all
from xdc_fast.packing.pack import pack
from xdc_fast.packing.relabel import relabel
from xdc_fast.packing.segments import Clock, share
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sink import Files
from xdc_fast.packing.sources import collect
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.decode import decode_frames
from xdc_fast.shards.index import index
from xdc_fast.shards.verify import verify

SMALL = {"short_side": 32, "fps": 10}
LIST = """path,start,end,class
a.mp4,2,4,x
a.mp4,1,9,y
a.mp4,,,z
a.mp4,10,,x
a.mp4,3.5,6.25,q
"""


@pytest.fixture(scope="module")
def video(tmp_path_factory):
    """11.3 seconds at 25 frames/s."""
    path = tmp_path_factory.mktemp("long") / "a.mp4"
    return make_media(path, seconds=11.3, size=(48, 32), rate=16000, event=7.0)


def run(source, out, workers=1, task=convert_all, shard_mb=256, time_limit=600, **settings):
    """Pack, and check what holds for every set."""
    settings = PackSettings(**{**SMALL, **settings})
    options = {"workers": workers, "task": task, "shard_mb": shard_mb, "time_limit": time_limit}
    summary = pack(collect([source], None, out), out, settings, **options)
    assert summary.inputs == summary.packed + summary.refused
    assert summary.refused == len(refused(out))
    if summary.packed:
        manifest = json.loads((out / "manifest.json").read_text())
        assert manifest["inputs"]["count"] == summary.inputs
        assert verify(out)["damaged"] == []
    return ShardSet(out)


def refused(out):
    with (out / "refused.csv").open() as file:
        return [
            (row["source"], row["reason"], row["start"], row["end"]) for row in csv.DictReader(file)
        ]


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(shards):
    return [(row["source"], float(row["start"]), float(row["seconds"])) for row in shards.table()]


def pictures(shards, number):
    count = shards.meta(number)["frames"]
    return decode_frames(bytes(shards.video_file(number)), np.arange(count))


def sound(shards, number):
    with wave.open(io.BytesIO(bytes(shards.audio_file(number)))) as file:
        return np.frombuffer(file.readframes(10**9), "<i2").astype(int)


@pytest.mark.parametrize("tracks", ["both", "video", "audio"])
def test_the_segments_are_the_video(video, tmp_path, tracks):
    """One after another; the rest is the last one, and `index` finds the same."""
    whole = run(video, tmp_path / "whole", tracks=tracks)
    shards = run(video, tmp_path / "cut", tracks=tracks, segment=2.0)
    starts = [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]
    rest = 1.3 if tracks != "audio" else pytest.approx(1.3, abs=0.07)
    assert rows(shards) == [("a.mp4", t, 2.0 if t < 10 else rest) for t in starts]
    if tracks != "audio":
        cut = np.concatenate([pictures(shards, k) for k in range(6)])
        assert np.array_equal(cut, pictures(whole, 0))
    if tracks != "video":
        cut = np.concatenate([sound(shards, k) for k in range(6)])
        assert np.abs(cut - sound(whole, 0)).max() < 3 and len(cut) > 180_000
    assert shards.meta(1)["span"] == [2.0, 4.0] and shards.meta(1)["start"] == 2.0
    assert shards.manifest["settings"]["segment"] == 2.0
    before = contents(tmp_path / "cut")
    index(tmp_path / "cut")
    assert contents(tmp_path / "cut") == before


def test_a_short_rest_is_refused_and_counted(video, tmp_path):
    shards = run(video, tmp_path / "out", segment=2.75)
    assert [start for _, start, _ in rows(shards)] == [0.0, 2.75, 5.5, 8.25]
    assert refused(tmp_path / "out") == [("a.mp4", "too short", "11.0", "13.75")]
    before = contents(tmp_path / "out")
    index(tmp_path / "out")
    assert contents(tmp_path / "out") == before
    assert len(run(video, tmp_path / "all", segment=2.75, min_seconds=0.2)) == 5


@pytest.mark.parametrize("tracks", ["both", "video", "audio"])
def test_max_seconds_is_of_the_video(video, tmp_path, tracks):
    shards = run(video, tmp_path / "out", segment=2.0, max_seconds=5.0, tracks=tracks)
    assert rows(shards) == [("a.mp4", 0.0, 2.0), ("a.mp4", 2.0, 2.0), ("a.mp4", 4.0, 1.0)]
    assert shards.manifest["cut"] == 1
    assert run(video, tmp_path / "long", segment=6.0, max_seconds=60).manifest["cut"] == 0


def test_a_list_names_segments(video, tmp_path):
    """They may overlap; each is the same as alone, and where the list says."""
    table = video.parent / "list.csv"
    table.write_text(LIST)
    shards = run(table, tmp_path / "out")
    found = [(*row[1:], labels["class"]) for row, labels in zip(rows(shards), shards.table(),
                                                                 strict=True)]  # fmt: skip
    assert found == [
        (0.0, 11.3, "z"), (1.0, 8.0, "y"), (2.0, 2.0, "x"), (3.5, 2.7, "q"), (10.0, 1.3, "x")
    ]  # fmt: skip
    whole = pictures(shards, 0)
    for number, (_, start, seconds) in enumerate(rows(shards)[:3]):
        frames = whole[round(start * 10) : round((start + seconds) * 10)]
        assert np.array_equal(pictures(shards, number), frames)
    for number, line in ((0, ",,,z"), (2, ",2,4,x"), (3, ",3.5,6.25,q"), (4, ",10,,x")):
        table.write_text(f"path,start,end,class\na.mp4{line}\n")
        alone = run(table, tmp_path / f"alone{number}")
        assert alone.video_file(0) == shards.video_file(number)
        assert alone.audio_file(0) == shards.audio_file(number)


def test_the_event_is_where_the_clock_says(video, tmp_path):
    """The flash and the burst at second 7 of the file, in both tracks of each segment around it."""
    table = video.parent / "event.csv"
    table.write_text("path,start,end\na.mp4,6.5,8\na.mp4,5.32,9\n")
    shards = run(table, tmp_path / "out", fps=25.0)
    for number, start in ((0, 5.32), (1, 6.5)):
        light = pictures(shards, number).mean(axis=(1, 2, 3))
        assert int(np.argmax(light > 200)) / 25 == pytest.approx(7 - start, abs=0.03)
        loud = np.abs(sound(shards, number)) > 15_000
        assert int(np.argmax(loud)) / 16_000 == pytest.approx(7 - start, abs=0.01)


def test_the_clock_is_a_players(tmp_path):
    """A recording whose time stamps begin at 100 s is played from 0 on."""
    for kind, begin in (("mkv", 0.0), ("nut", 100.0), ("ts", 100.0)):
        path = tmp_path / f"x.{kind}"
        make_media(path, seconds=6, event=3.0 + begin, video_start=begin, audio_start=begin)
        (tmp_path / "list.csv").write_text(f"path,start,end\nx.{kind},2,5\n")
        shards = run(tmp_path / "list.csv", tmp_path / kind, fps=25.0)
        light = pictures(shards, 0).mean(axis=(1, 2, 3))
        assert int(np.argmax(light > 200)) / 25 == pytest.approx(1, abs=0.06)
        assert rows(shards)[0][1] == 2.0
        assert shards.meta(0)["start"] == pytest.approx(2 + begin, abs=0.1)


def test_beyond_the_file_is_refused_and_a_bit_beyond_is_cut(video, tmp_path):
    table = video.parent / "beyond.csv"
    table.write_text("path,start,end\na.mp4,9,12\na.mp4,11.2,13\na.mp4,20,30\na.mp4,1e8,2e8\n")
    shards = run(table, tmp_path / "out")
    assert rows(shards) == [("a.mp4", 9.0, 2.3)]
    assert refused(tmp_path / "out") == [
        ("a.mp4", "too short", "11.2", "13.0"),
        ("a.mp4", "not in the file", "20.0", "30.0"),
        ("a.mp4", "not in the file", "100000000.0", "200000000.0"),
    ]
    for tracks in ("video", "audio"):
        run(table, tmp_path / tracks, tracks=tracks)
        reasons = [reason for _, reason, _, _ in refused(tmp_path / tracks)]
        assert reasons == ["too short", "not in the file", "not in the file"]


@pytest.mark.parametrize(
    ("cells", "words"),
    [
        ("5,5", r"line 3 \(a\.mp4\): it ends at 5 s, and starts at 5 s"),
        ("7,3", "it ends at 3 s, and starts at 7 s"),
        ("-1,3", "start '-1' is no number of seconds"),
        ("nan,3", "start 'nan' is no number"),
        ("1,inf", "end 'inf' is no number"),
        ("1,0:30", "end '0:30' is no number"),
        ("one,3", "start 'one' is no number"),
    ],
)
def test_a_segment_that_cannot_be_is_told_with_its_row(video, tmp_path, cells, words):
    table = tmp_path / "list.csv"
    table.write_text(f"path,start,end\na.mp4,1,2\na.mp4,{cells}\n")
    with pytest.raises(UserError, match=words):
        collect([table], None, tmp_path / "out")
    table.write_text("path,start\na.mp4,1\n")
    table.write_text("path,Start\na.mp4,1\n")
    with pytest.raises(UserError, match=r"list\.csv: a column 'Start' alone"):
        collect([table], None, tmp_path / "out")


def test_lines_that_contradict_each_other_are_refused(video, tmp_path):
    table = video.parent / "twice.csv"
    table.write_text("path, Start ,END,class\na.mp4,1,3,x\na.mp4,3,5,y\n./a.mp4,1.0,3,x\n")
    inputs = collect([table], None, tmp_path / "out")
    assert [(s.span, s.labels["class"]) for s in inputs.sources] == [((1, 3), "x"), ((3, 5), "y")]
    assert "1 inputs were given twice and are taken once" in inputs.notes
    table.write_text(f"path,start,end\na.mp4,1,3\n../{video.parent.name}/a.mp4,3,5\n./a.mp4,5,7\n")
    inputs = collect([table], None, tmp_path / "out")
    assert [s.name for s in inputs.sources] == ["a.mp4"] * 3  # one file, whatever it is called
    table.write_text("path,start,end,class\na.mp4,1,3,x\n./a.mp4,1.0,3,y\n")
    with pytest.raises(UserError, match=r"lines 2 and 3 give 'a\.mp4' other labels; keep one"):
        collect([table], None, tmp_path / "out")
    table.write_text("path,class\na.mp4,x\n")
    (video.parent / "other.csv").write_text("path,class\na.mp4,y\n")
    with pytest.raises(UserError, match=r"a\.mp4: two lists give it other labels"):
        collect([table, video.parent / "other.csv"], None, tmp_path / "out")
    (source,) = collect([video, table], None, tmp_path / "out").sources
    assert source.labels == {"class": "x"}


def test_segments_are_labelled_by_where_they_start(video, tmp_path):
    """By a table beside a list, and in a packed set; a line without a start is of all."""
    source, labels = video.parent / "plain.csv", tmp_path / "labels.csv"
    source.write_text("path,start,end\na.mp4,1,3\na.mp4,3,5\na.mp4,5,7\n")
    labels.write_text("file,start,end,class\na.mp4,3,5,y\na.mp4,1.0,3,x\na.mp4,,,rest\n")
    inputs = collect([source], labels, tmp_path / "out")
    assert [s.labels["class"] for s in inputs.sources] == ["x", "y", "rest"]
    run(video, tmp_path / "set", segment=2.0)
    labels.write_text("path,start,end,class\na.mp4,0,2,x\na.mp4,4,6,y\na.mp4,5,6,no\n")
    told = relabel(tmp_path / "set", labels)
    assert (told["labeled"], told["unused_lines"]) == (2, 1)
    assert [row["class"] for row in ShardSet(tmp_path / "set").table()][:4] == ["x", "", "y", ""]
    with pytest.raises(UserError, match="lines name segments, and the sources are whole files"):
        collect([video], labels, tmp_path / "out")


def test_settings_that_contradict_segments(video, tmp_path):
    with pytest.raises(UserError, match="codec=copy packs whole videos; leave segment out"):
        PackSettings(codec="copy", segment=5.0).check()
    for length, least in ((0.5, 1), (0.04, 0), (0.0, 0), (-1.0, 0), (math.nan, 1), (math.inf, 1)):
        with pytest.raises(UserError, match="segment="):
            PackSettings(segment=length, min_seconds=least).check()
    (video.parent / "one.csv").write_text("path,start,end\na.mp4,1,3\n")
    with pytest.raises(UserError, match="codec=copy packs whole videos, and segments are listed"):
        run(video.parent / "one.csv", tmp_path / "out", codec="copy")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("tracks", ["both", "video", "audio"])
def test_one_pass_as_far_as_it_is_needed(video, tmp_path, monkeypatch, tracks):
    """Each frame is decoded once, however many segments there are, and none after the last."""
    ends = Counter()

    def counted(stream, packets=None, shows=None):
        for item in decoded(stream, packets, shows):
            ends[stream.type, item[1]] += 1
            yield item

    decoded = track_passes.decoded
    monkeypatch.setattr(track_passes, "decoded", counted)
    settings = PackSettings(**SMALL, tracks=tracks)
    spans = [(0.5 * k, 0.5 * k + 2) for k in range(10)]

    def sink_of(number):
        return Files(tmp_path / f"{number}.mp4", tmp_path / f"{number}.wav")

    made = list(convert_all(video, settings, spans, sink_of))
    assert [outcome.span for outcome in made] == spans
    assert all(isinstance(outcome.answer, dict) for outcome in made)
    assert set(ends.values()) == {1} and 6.4 < max(end for _, end in ends) < 6.8
    both = {"video", "audio"}
    assert {kind for kind, _ in ends} == (both if tracks == "both" else {tracks})


def test_damage_costs_what_comes_after_it(tmp_path):
    """The segments before it are packed; what remains is one refusal, open to the end."""
    path = make_media(tmp_path / "a.mp4", seconds=12, size=(48, 32), rate=16000)
    with av.open(str(path)) as container:
        packet = next(p for p in container.demux(video=0) if p.pts * p.time_base >= 7)
    content = bytearray(path.read_bytes())
    content[packet.pos : packet.pos + packet.size] = b"\xff" * packet.size
    path.write_bytes(content)
    shards = run(path, tmp_path / "out", segment=2.0)
    assert [start for _, start, _ in rows(shards)] == [0.0, 2.0, 4.0]
    assert refused(tmp_path / "out") == [("a.mp4", "damaged", "6.0", "")]
    (tmp_path / "list.csv").write_text("path,start,end\na.mp4,1,3\na.mp4,9,11\na.mp4,5,9\n")
    listed = run(tmp_path / "list.csv", tmp_path / "listed")
    assert rows(listed) == [("a.mp4", 1.0, 2.0)]
    assert [row[1:] for row in refused(tmp_path / "listed")] == [
        ("damaged", "5.0", "9.0"), ("damaged", "9.0", "11.0")
    ]  # fmt: skip


@pytest.mark.parametrize(("pictures_end", "sound_end"), [(6, 9), (9, 6), (6.04, 9), (5.5, 9)])
def test_what_one_track_has_alone_is_told_once(tmp_path, pictures_end, sound_end):
    times = np.arange(0, pictures_end - 0.01, 0.04)
    lecture(tmp_path / "x.mkv", times=times, sound=sound_end)
    shards = run(tmp_path / "x.mkv", tmp_path / "out", segment=2.0, fps=10.0)
    shorter = min(pictures_end, sound_end)
    assert [start for _, start, _ in rows(shards)] == [0.0, 2.0, 4.0]
    assert refused(tmp_path / "out") == []
    told = shards.manifest["unpaired"]
    assert told["samples"] == 1
    assert told["seconds"] == pytest.approx(max(pictures_end, sound_end) - shorter, abs=0.1)


def test_segments_begin_where_both_tracks_do(tmp_path):
    """Of a sound that begins after 5 s."""
    lecture(tmp_path / "x.mkv", times=np.arange(0, 12, 0.04), sound=7, audio_start=5.0)
    shards = run(tmp_path / "x.mkv", tmp_path / "out", segment=3.0)
    assert rows(shards) == [("x.mkv", 5.0, 3.0), ("x.mkv", 8.0, 3.0), ("x.mkv", 11.0, 1.0)]
    assert shards.manifest["unpaired"] == {"samples": 1, "seconds": pytest.approx(5, abs=0.1)}
    (tmp_path / "list.csv").write_text("path,start,end\nx.mkv,0,4\nx.mkv,4,8\n")
    assert rows(run(tmp_path / "list.csv", tmp_path / "listed")) == [("x.mkv", 4.0, 3.0)]
    assert refused(tmp_path / "listed") == [("x.mkv", "not in the file", "0.0", "4.0")]
    lecture(tmp_path / "apart.mkv", times=np.arange(0, 4, 0.04), sound=7, audio_start=5.0)
    with pytest.raises(UserError, match="no manifest"):
        run(tmp_path / "apart.mkv", tmp_path / "apart", segment=3.0)
    assert refused(tmp_path / "apart") == [("apart.mkv", "no overlap", "", "")]


@pytest.mark.parametrize("kind", ["webm", "mp3", "mkv"])
def test_the_first_segment_is_whole(tmp_path, kind):
    """Codecs begin before 0 or a little after it; each segment has all its frames."""
    path, tracks = tmp_path / f"x.{kind}", "both"
    if kind == "mp3":
        make_media(path, seconds=4, video=None, audio="libmp3lame")
        tracks = "audio"
    elif kind == "webm":
        make_media(path, seconds=4.03, video="libvpx", audio="libopus", rate=48000)
    else:
        make_media(path, seconds=4.1, video_start=0.06)
    shards = run(path, tmp_path / "out", segment=2.0, tracks=tracks)
    assert [seconds for _, _, seconds in rows(shards)][:2] == [2.0, 2.0]
    assert rows(shards)[1][1] - rows(shards)[0][1] == pytest.approx(2)
    if kind == "webm":
        (tmp_path / "list.csv").write_text("path,start,end\nx.webm,2,4\n")
        listed = run(tmp_path / "list.csv", tmp_path / "listed")
        assert np.array_equal(pictures(listed, 0), pictures(shards, 1))


def test_a_slide_is_held_in_every_segment(tmp_path):
    """The third one stays for 75 s; no segment has another picture in that time."""
    lecture(tmp_path / "x.mkv")
    shards = run(tmp_path / "x.mkv", tmp_path / "out", segment=10.0, fps=2.0)
    assert len(shards) == 8
    for number in range(1, 7):
        assert shards.meta(number)["frames"] == 20
        assert abs(pictures(shards, number).mean() - 110) < 4
    assert abs(pictures(shards, 7)[-1].mean() - 190) < 4


def test_a_turned_phone_and_channels_that_cancel_out(tmp_path):
    """Each segment has the shape of its first picture, and the sound that it needs."""
    write_parts(tmp_path / "turned.mp4", "libx264", ["wide", "tall"], seconds=2)
    shards = run(tmp_path / "turned.mp4", tmp_path / "turned", segment=2.0, short_side=96)
    sizes = [(shards.meta(k)["width"], shards.meta(k)["height"]) for k in range(2)]
    assert sizes == [(192, 96), (96, 192)]
    write_channels(tmp_path / "anti.mkv", [0.4, -0.4], "stereo", "pcm_s16le", 4.0)
    shards = run(tmp_path / "anti.mkv", tmp_path / "anti", segment=2.0)
    for number in range(2):
        wanted = 0.4 * 32767 * tone(2.0, 16000, 1.0)
        assert np.abs(sound(shards, number) - wanted).max() < 40


def test_other_inputs_or_segments_are_another_set(video, tmp_path):
    out = tmp_path / "out"
    run(video, out, segment=4.0)
    run(video, out, segment=4.0)  # it is complete: 3 samples of one file
    with pytest.raises(UserError, match=r"other settings \(segment was 4\.0, now 5\.0\)"):
        run(video, out, segment=5.0)
    table = video.parent / "again.csv"
    table.write_text("path,start,end\na.mp4,1,3\n")
    run(table, tmp_path / "listed")
    table.write_text("path,start,end\na.mp4,1,4\n")
    with pytest.raises(UserError, match="other inputs"):
        run(table, tmp_path / "listed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four videos of which each gives three segments or four, and a short rest."""
    folder = tmp_path_factory.mktemp("videos")
    for k in range(4):
        path = folder / f"{k}.mp4"
        make_media(path, seconds=6.5 + k, size=(48, 32), rate=16000, level=0.1 + 0.1 * k)
    return folder


def fill_disk(path, settings, spans, sink_of):
    """The disk is full after the second segment of the third video."""
    for count, outcome in enumerate(convert_all(path, settings, spans, sink_of)):
        if path.name == "2.mp4" and count == 2:
            raise OSError(28, "No space left on device", str(sink_of(0).video))
        yield outcome


@pytest.mark.parametrize(("workers", "listed"), [(1, False), (3, False), (1, True)])
def test_continued_in_the_middle_of_a_video_it_has_the_same_bytes(
    folder, tmp_path, workers, listed
):
    """A shard ends after each sample: the run stops after one that is not its video's last."""
    source, options = folder, {"segment": 2.0, "shard_mb": 0}
    if listed:
        source, options = tmp_path / "list.csv", {"shard_mb": 0}
        lines = [f"{folder}/{k}.mp4,{t},{t + 2}" for t in (4, 0, 2) for k in range(4)]
        source.write_text("\n".join(["path,start,end", *lines]) + "\n")
    out, whole = tmp_path / "out", tmp_path / "whole"
    with pytest.raises(UserError, match="run the same command again"):
        run(source, out, task=fill_disk, workers=workers, **options)
    if workers == 1:
        last = json.loads(max((out / ".packing/000000").glob("0*.json")).read_text())
        assert 1 <= last["told"] <= 2 and last["next"] == (6 if listed else 2)
    run(source, out, workers=4 - workers, **options)
    run(source, whole, workers=2, **options)
    assert contents(out) == contents(whole)
    assert len(ShardSet(out)) == (12 if listed else 16)


def die_now_and_then(path, settings, spans, sink_of):
    """A decoder that the kernel kills at each file once, in its middle."""
    for count, outcome in enumerate(convert_all(path, settings, spans, sink_of)):
        mark = Path(f"{sink_of(0).video.parents[2]}.{path.stem}")
        if count == 1 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        yield outcome


def test_a_killed_worker_loses_nothing(folder, tmp_path):
    out, quiet = tmp_path / "out", tmp_path / "quiet"
    run(folder, out, segment=2.0, task=die_now_and_then, workers=2)
    assert len(list(tmp_path.glob("out.*"))) == 4
    run(folder, quiet, segment=2.0)
    assert contents(out) == contents(quiet)


def die_or_hang(path, settings, spans, sink_of):
    for count, outcome in enumerate(convert_all(path, settings, spans, sink_of)):
        if count == 2 and path.name == "1.mp4":
            os.kill(os.getpid(), signal.SIGKILL)
        if count == 1 and path.name == "2.mp4":
            time.sleep(600)
        yield outcome


def test_a_decoder_that_dies_twice_or_hangs_costs_the_rest_of_a_video(folder, tmp_path):
    """Seconds may pass until the next segment, not until the last."""
    out = tmp_path / "out"
    shards = run(folder, out, segment=2.0, task=die_or_hang, workers=2, time_limit=2)
    packed = Counter(source for source, _, _ in rows(shards))
    assert packed == {"0.mp4": 3, "1.mp4": 2, "2.mp4": 1, "3.mp4": 5}
    with (out / "refused.csv").open() as file:
        found = {row["source"]: tuple(row.values())[1:] for row in csv.DictReader(file)}
    assert found["1.mp4"] == ("decoder died", "signal 9, twice", "4.0", "")
    assert found["2.mp4"] == ("time limit", "2 s", "2.0", "")


def go_on(path, settings, spans, sink_of):
    """Passes over the beginning of a file for longer than a segment may take."""
    for _ in range(4):
        time.sleep(0.5)
        yield None
    yield from convert_all(path, settings, spans, sink_of)


def test_what_is_passed_over_takes_its_time(video, tmp_path):
    """An hour before a segment is no hang, if the decoder says that it goes on."""
    assert len(run(video, tmp_path / "out", task=go_on, time_limit=1.5)) == 1
    make_media(tmp_path / "long.mkv", seconds=90, size=(32, 32), audio="pcm_s16le", rate=8000)
    settings = PackSettings(**SMALL)

    def sink_of(number):
        return Files(tmp_path / "v.mp4", tmp_path / "a.wav")

    told = list(convert_all(tmp_path / "long.mkv", settings, [(85.0, 87.0)], sink_of))
    assert told[:-1] == [None, None] and isinstance(told[-1].answer, dict)


def lack_memory(path, settings, spans, sink_of):
    """FFmpeg finds no memory for each file the first time, and for 1.mp4 every time."""
    mark = Path(f"{sink_of(0).video.parents[2]}.{path.stem}")
    if path.name == "1.mp4" or not mark.exists():
        mark.touch()
        raise av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")
    yield from convert_all(path, settings, spans, sink_of)


def test_want_of_memory_is_no_fault_of_the_file(folder, tmp_path, monkeypatch):
    """It is tried again; a file that never finds enough is refused at last."""
    shards = run(folder, tmp_path / "out", task=lack_memory, workers=2)
    assert [row[0] for row in rows(shards)] == ["0.mp4", "2.mp4", "3.mp4"]
    with (tmp_path / "out" / "refused.csv").open() as file:
        details = [(row["source"], row["reason"], row["detail"]) for row in csv.DictReader(file)]
    assert details == [("1.mp4", "decoder died", "out of memory, twice")]

    def fail(*_, **__):
        raise av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(av, "open", fail)
    with pytest.raises(MemoryError):
        list(convert_all(folder / "0.mp4", PackSettings(), [None], lambda number: None))


@pytest.mark.parametrize("begins", [(-math.inf, -math.inf), (-math.inf, 3.0), (2.0, 90.0), (3.0,)])
def test_no_frame_is_held_longer_than_it_is_read(begins):
    """However many segments overlap, and however long they are."""

    class Frame:
        pass

    @dataclass
    class Part:
        begin: float

    alive, most, counts = weakref.WeakSet(), [0], []

    def items():
        for second in range(200):
            frame = Frame()
            alive.add(frame)
            most[0] = max(most[0], len(alive))
            yield float(second), second + 1.0, frame

    def read(part, found):
        counts.append(sum(1 for _ in found))

    for _ in share(items(), map(Part, begins), read, Clock(0, 0)):
        pass
    assert sorted(counts) == sorted(200 - max(0, begin) for begin in begins)
    assert most[0] < 8
