"""Sets of one track, packed."""

import csv
import json
from io import BytesIO
from pathlib import Path

import av
import numpy as np
import pytest

from tests.common.media import make_media
from tests.common.one_track import (
    AUDIO_ONLY,
    VIDEO_ONLY,
    cli,
    contents,
    decode_sound,
    pack_folder,
    refusals,
)
from xdc_fast.errors import UserError
from xdc_fast.packing.convert import convert, convert_all
from xdc_fast.packing.settings import PackSettings
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.decode import decode_frames

DATA = Path(__file__).parents[3] / "shared/data"
ESC10, ODD = DATA / "esc10", DATA / "odd_media"
BOTH = PackSettings(short_side=32, fps=10)


def test_sound_alone_is_packed_or_refused_with_a_reason(mixed_media, sounds):
    assert sounds.modalities == ("audio",)
    assert sounds.sources == ["a.ogg", "b.wav", "c.m4a", "d.mp4"]
    assert refusals(sounds) == {
        "e mute.mp4": "no audio",
        "f silent.mp4": "silent",
        "g short.wav": "too short",
        "h.mp4": "not media",
    }
    for index, row in enumerate(sounds.table()):
        name, place = sounds.row(index)
        wanted = decode_sound(mixed_media / row["source"])
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


def test_pictures_alone_are_packed_whatever_sounds(mixed_media, pictures):
    assert pictures.modalities == ("video",)
    assert pictures.sources == ["d.mp4", "e mute.mp4", "f silent.mp4"]
    assert refusals(pictures) == {
        **dict.fromkeys(("a.ogg", "b.wav", "c.m4a", "g short.wav"), "no video"),
        "h.mp4": "not media",
    }
    assert pictures.rows()["frames"].tolist() == [24, 16, 12]
    for index, row in enumerate(pictures.table()):
        with av.open(
            str(mixed_media / row["source"])
        ) as container:  # at 25 per second, packed at 10
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
    seen, heard = convert(path, VIDEO_ONLY, *files), convert(path, AUDIO_ONLY, *files)
    assert (seen["start"], seen["seconds"]) == (0.4, 2.0)
    assert (heard["start"], heard["seconds"]) == (1.0, 2.0)
    both = convert(path, BOTH, *files)
    assert (both["start"], both["seconds"]) == (1.0, 1.4)


def test_max_seconds_cuts_a_track_alone(mixed_media, tmp_path):
    files = tmp_path / "v.mp4", tmp_path / "a.wav"
    for tracks, name in (("video", "e mute.mp4"), ("audio", "b.wav")):
        whole = PackSettings(short_side=32, fps=10, tracks=tracks)
        cut = PackSettings(short_side=32, fps=10, tracks=tracks, max_seconds=1.25)
        exact = PackSettings(short_side=32, fps=10, tracks=tracks, max_seconds=1.7)
        seconds = {"video": 1.2, "audio": 1.25}[tracks]  # whole frames
        facts = convert(mixed_media / name, cut, *files)
        assert facts["cut"] and facts["seconds"] == pytest.approx(seconds)
        for settings in (whole, exact):
            assert not convert(mixed_media / name, settings, *files)["cut"]
    assert len(files[1].read_bytes()) == 44 + 2 * 27200


def test_video_copied_alone_keeps_its_packets(mixed_media, tmp_path):
    settings = PackSettings(codec="copy", tracks="video")
    shards = pack_folder(mixed_media, tmp_path / "set", settings)
    assert shards.sources == ["d.mp4", "e mute.mp4", "f silent.mp4"]
    assert shards.rows()["frames"].tolist() == [60, 40, 30]
    with (
        av.open(BytesIO(shards.video_file(0))) as packed,
        av.open(str(mixed_media / "d.mp4")) as source,
    ):
        assert len(packed.streams) == 1
        copied, coded = ([bytes(p) for p in c.demux(video=0) if p.size] for c in (packed, source))
    assert copied == coded
    assert cli("verify", shards.root, "--decode").exit_code == 0


def test_the_command_packs_one_track(mixed_media, sounds, tmp_path):
    result = cli(
        "pack", mixed_media, tmp_path / "set", "--tracks", "audio", "--workers", 2, "--json"
    )
    assert result.exit_code == 0, result.output
    line = json.loads(result.stdout)
    assert (line["inputs"], line["packed"], line["refused"]) == (8, 4, 4)
    assert ShardSet(tmp_path / "set").manifest["shards"] == sounds.manifest["shards"]
    assert "tracks=audio" in cli("ls", tmp_path / "set").stdout
    result = cli("pack", mixed_media, tmp_path / "set", "--tracks", "video")
    assert result.exit_code == 2 and "tracks was audio, now video" in result.stderr
    assert cli("pack", mixed_media, tmp_path / "other", "--tracks", "smell").exit_code == 2


def fill_disk(path, settings, spans, sink_of):
    if path.name == {"audio": "c.m4a", "video": "e mute.mp4"}[settings.tracks]:
        raise OSError(28, "No space left on device", str(sink_of(0).audio))
    yield from convert_all(path, settings, spans, sink_of)


@pytest.mark.parametrize("settings", [AUDIO_ONLY, VIDEO_ONLY], ids=["audio", "video"])
def test_interrupted_and_started_again_it_ends_with_the_same_bytes(mixed_media, tmp_path, settings):
    with pytest.raises(UserError, match="run the same command again"):
        pack_folder(mixed_media, tmp_path / "set", settings, shard_mb=0, task=fill_disk)
    assert (tmp_path / "set" / "part-000000-00000.tar").exists()
    pack_folder(mixed_media, tmp_path / "set", settings, shard_mb=0, workers=2)
    pack_folder(mixed_media, tmp_path / "whole", settings, shard_mb=0)
    assert contents(tmp_path / "set") == contents(tmp_path / "whole")


@pytest.mark.skipif(not ESC10.is_dir(), reason="ESC-10 is not here")
def test_recordings_of_esc10(tmp_path):
    """One of each class: labelled by folder, whole, and heard as PyAV hears them."""
    for folder in sorted(ESC10.iterdir()):
        (tmp_path / "audio" / folder.name).mkdir(parents=True)
        file = min(folder.iterdir())
        (tmp_path / "audio" / folder.name / file.name).symlink_to(file)
    shards = pack_folder(tmp_path / "audio", tmp_path / "set", AUDIO_ONLY)
    assert len(shards) == 10 == len(shards.label("class")[1])
    for index, source in enumerate(shards.sources):
        wanted = decode_sound(tmp_path / "audio" / source)
        found = np.frombuffer(shards.audio_file(index)[44:], "<i2")
        assert len(found) == len(wanted)
        assert np.abs(found.astype(int) - wanted).max() <= 1


@pytest.mark.skipif(not ODD.is_dir(), reason="the odd media are not here")
def test_the_sound_of_odd_media(tmp_path):
    """None stops the run or kills a decoder; whatever has sound is judged by it alone."""
    shards = pack_folder(ODD, tmp_path / "set", AUDIO_ONLY, workers=2, time_limit=120)
    reasons = refusals(shards)
    assert len(shards) + len(reasons) == 248 and len(shards) > 100
    assert not {"decoder died", "time limit", "no video", "cover art"} & set(reasons.values())
    with (ODD / "INDEX.csv").open() as file:
        for row in csv.DictReader(file):
            has = "audio" in row["streams"]
            reason = reasons.get(row["file"], "packed")
            assert (reason != "no audio") if has else reason in ("no audio", "not media"), row
    assert cli("verify", shards.root, "--decode").exit_code == 0
