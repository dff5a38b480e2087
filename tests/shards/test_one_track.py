"""Sets of one track: checked, indexed, read by other programs."""

import json
import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest

from tests.common.media import make_media, tone
from tests.common.one_track import cli, contents, refusals, rewrite
from xdc_fast.errors import UserError
from xdc_fast.shards.dataset import ShardSet


def test_sets_of_both_tracks_are_what_they_were(toy_shards):
    """Their manifests say nothing new, and older ones are read as theirs."""
    assert "tracks" not in toy_shards.settings
    assert toy_shards.modalities == ("video", "audio")


def test_a_manifest_of_unknown_tracks_is_a_mistake(sounds, tmp_path):
    shutil.copytree(sounds.root, tmp_path / "set")
    for tracks in ("smell", ["audio"], None):
        manifest = {**sounds.manifest, "settings": {**sounds.settings, "tracks": tracks}}
        (tmp_path / "set" / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(UserError, match=r"manifest\.json: damaged: "):
            ShardSet(tmp_path / "set")


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
    path = copy / "part-000000-00000.tar"
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


def test_index_lists_samples_that_lack_a_track_of_the_set(toy_shards, tmp_path):
    out, source = tmp_path / "set", toy_shards.root / toy_shards.shards[0]
    out.mkdir()
    for lost, reason in (("000000001.wav", "no audio"), ("000000001.mp4", "no video")):
        rewrite(source, out / "x.tar", lambda name, lost=lost: name != lost)
        assert cli("index", out).exit_code == 0
        assert refusals(ShardSet(out)) == {"x.tar/000000001": reason}
        (out / "manifest.json").unlink()
    rewrite(source, out / "x.tar", lambda name: name.endswith("json"))
    assert "000000000: no video: nor sound" in cli("index", out).stderr


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
    wave = tone(1, 22050, 0.05 * 32768)
    assert np.abs(shards[0].audio().astype(int)).max() == pytest.approx(wave.max(), rel=0.1)
