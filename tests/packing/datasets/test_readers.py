"""Data sets by their official lists: small copies of exactly the official form."""

import csv
import json
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.common.media import make_media
from xdc_fast.errors import UserError
from xdc_fast.packing.datasets.collect import READERS, collect_dataset
from xdc_fast.packing.datasets.listing import Holding
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.tools.shard import main

ESC10 = Path(__file__).parents[4] / "shared/data/esc10"


def lay(root, *media, **lists):
    """Empty media files, and lists given as {name with __ for a slash: text}."""
    for name in media:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
    for name, text in lists.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def read(name, root):
    """{name: labels} of what is there, {name: list} of what is missing, and the notes."""
    inputs = collect_dataset(name, root, root / "out")
    assert all(source.path == root / source.name for source in inputs.sources)
    assert all(set(source.labels) <= set(inputs.columns) for source in inputs.sources)
    return {s.name: s.labels for s in inputs.sources}, dict(inputs.missing), inputs.notes


def lay_ucf101(root):
    lists = "ucfTrainTestlist__"
    makeup = "ApplyEyeMakeup/v_ApplyEyeMakeup_g0{}_c01.avi"
    stand = "HandstandPushups/v_HandStandPushups_g0{}_c02.avi"
    texts = {f"{lists}classInd.txt": "1 ApplyEyeMakeup\r\n37 HandstandPushups\r\n"}
    for split, (tests, trains) in enumerate((("1", "23"), ("2", "13"), ("3", "12")), 1):
        texts[f"{lists}testlist0{split}.txt"] = "".join(
            f"{name.format(g)}\r\n" for name in (makeup, stand) for g in tests
        )
        texts[f"{lists}trainlist0{split}.txt"] = "".join(
            f"{name.format(g)} {number}\r\n"
            for name, number in ((makeup, 1), (stand, 37))
            for g in trains
        )
    media = [f"UCF-101/{name.format(g)}" for name in (makeup, stand) for g in "123"]
    return lay(root, *media, **texts)


def test_ucf101_has_three_splits_and_groups(tmp_path):
    root = lay_ucf101(tmp_path)
    there, missing, notes = read("ucf101", root)
    assert len(there) == 6 and not missing and not notes
    assert there["UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g02_c01.avi"] == {
        "class": "ApplyEyeMakeup",
        "group": "ApplyEyeMakeup/g02",
        "split1": "train",
        "split2": "test",
        "split3": "train",
    }
    for split in "123":
        parts = Counter(labels[f"split{split}"] for labels in there.values())
        assert parts == {"train": 4, "test": 2}


def test_ucf101_copies_that_were_renamed_or_converted(tmp_path):
    root = lay_ucf101(tmp_path)
    old = root / "UCF-101/HandstandPushups/v_HandStandPushups_g01_c02.avi"
    old.rename(old.with_name("v_HandstandPushups_g01_c02.mp4"))
    (root / "UCF-101/ApplyEyeMakeup/v_ApplyEyeMakeup_g03_c01.avi").unlink()
    (root / "UCF-101/ApplyEyeMakeup/holiday.mp4").touch()
    there, missing, notes = read("ucf101", root)
    found = there["UCF-101/HandstandPushups/v_HandstandPushups_g01_c02.mp4"]
    assert (found["class"], found["split1"]) == ("HandstandPushups", "test")
    assert missing == {"ApplyEyeMakeup/v_ApplyEyeMakeup_g03_c01.avi": "trainlist01.txt"}
    assert notes == [
        f"ucf101: 1 of 6 videos are missing; {root}/out/missing.csv lists them",
        f"ucf101: 1 files under {root} are in no list",
    ]


def test_two_different_lists_of_one_name_are_refused(tmp_path):
    """The detection task of UCF101 has lists of the same names, of fewer classes."""
    root = lay_ucf101(tmp_path)
    shutil.copytree(root / "ucfTrainTestlist", root / "copy")
    assert len(read("ucf101", root)[0]) == 6
    lay(root, **{"detection__trainlist02.txt": "Biking/v_Biking_g08_c01.avi\n"})
    with pytest.raises(UserError, match=r"trainlist02\.txt and .*detection/trainlist02\.txt diff"):
        read("ucf101", root)


HMDB = {
    "cartwheel": (
        "#122_Beach__Japan_cartwheel_f_cm_np1_fr_med_1.avi 1 \n"
        "Acrobacias_cartwheel_f_cm_np1_ba_bad_8.avi 2 \nBest-Of_(2)_cartwheel_u_0.avi 0 \n",
        "#122_Beach__Japan_cartwheel_f_cm_np1_fr_med_1.avi 2 \n"
        "Acrobacias_cartwheel_f_cm_np1_ba_bad_8.avi 0 \nBest-Of_(2)_cartwheel_u_0.avi 1 \n",
        "#122_Beach__Japan_cartwheel_f_cm_np1_fr_med_1.avi 0 \n"
        "Acrobacias_cartwheel_f_cm_np1_ba_bad_8.avi 1 \nBest-Of_(2)_cartwheel_u_0.avi 2 \n",
    ),
    "brush_hair": ("April_09_goo_0.avi 1 \n", "April_09_goo_0.avi 2 \n", "April_09_goo_0.avi 0 \n"),
}
HMDB_LISTS = {
    f"testTrainMulti_7030_splits__{label}_test_split{split}.txt": text
    for label, texts in HMDB.items()
    for split, text in enumerate(texts, 1)
}
HMDB_MEDIA = (
    "hmdb51_org/cartwheel/#122_Beach__Japan_cartwheel_f_cm_np1_fr_med_1.avi",
    "hmdb51_org/cartwheel/Acrobacias_cartwheel_f_cm_np1_ba_bad_8.avi",
    "hmdb51_org/cartwheel/Best-Of_(2)_cartwheel_u_0.avi",
    "hmdb51_org/brush_hair/April_09_goo_0.avi",
)


def test_hmdb51_has_three_splits_with_unused_videos(tmp_path):
    there, missing, notes = read("hmdb51", lay(tmp_path, *HMDB_MEDIA, **HMDB_LISTS))
    columns = ("class", "split1", "split2", "split3")
    assert [tuple(there[name].get(c) for c in columns) for name in HMDB_MEDIA] == [
        ("cartwheel", "train", "test", ""),
        ("cartwheel", "test", "", "train"),
        ("cartwheel", "", "train", "test"),
        ("brush_hair", "train", "test", ""),
    ]
    assert not missing and not notes


def test_hmdb51_never_takes_a_video_of_another_class(tmp_path):
    root = lay(tmp_path, *HMDB_MEDIA, **HMDB_LISTS)
    (root / HMDB_MEDIA[3]).rename(root / "hmdb51_org/cartwheel/April_09_goo_0.avi")
    there, missing, _ = read("hmdb51", root)
    assert {labels["class"] for labels in there.values()} == {"cartwheel"}
    assert missing == {"brush_hair/April_09_goo_0.avi": "brush_hair_test_split1.txt"}
    (root / "testTrainMulti_7030_splits/cartwheel_test_split3.txt").unlink()
    with pytest.raises(UserError, match=r"no cartwheel_test_split3\.txt .* Serre Lab"):
        read("hmdb51", root)


KINETICS = {
    "annotations__train.csv": (
        "label,youtube_id,time_start,time_end,split\n"
        '"testifying",---QUuC4vJs,84,94,train\n'
        "air drumming,-0Ihvw2ZxDc,7,17,train\nair drumming,_gone0000aa,0,10,train\n"
    ),
    "annotations__validate.csv": (
        "label,youtube_id,time_start,time_end,split,is_cc\n"
        "air drumming,0wR5jVB-WPk,417,427,validate,0\n"
    ),
    "annotations__test.csv": "youtube_id,time_start,time_end,split\nzzzzzzzzzzz,1000,1010,test\n",
}
KINETICS_MEDIA = (
    "train/air_drumming/-0Ihvw2ZxDc_000007_000017.mp4",
    "train/testifying/---QUuC4vJs_000084_000094.mkv",
    "val/0wR5jVB-WPk_000417_000427.mp4",
    "test/zzzzzzzzzzz_001000_001010.mp4",
)


def test_kinetics400_has_its_split_and_test_videos_without_class(tmp_path):
    root = lay(tmp_path, *KINETICS_MEDIA, "replacement/zzzzzzzzzzz_001000_001010.mp4", **KINETICS)
    there, missing, notes = read("kinetics400", root)
    names = list(there)
    columns = ("class", "split", "youtube_id")
    assert {name: tuple(there[name][c] for c in columns) for name in names} == {
        "replacement/zzzzzzzzzzz_001000_001010.mp4": ("", "test", "zzzzzzzzzzz"),
        KINETICS_MEDIA[0]: ("air drumming", "train", "-0Ihvw2ZxDc"),
        KINETICS_MEDIA[1]: ("testifying", "train", "---QUuC4vJs"),
        KINETICS_MEDIA[2]: ("air drumming", "val", "0wR5jVB-WPk"),
    }
    assert names == sorted(names)
    assert missing == {"_gone0000aa_000000_000010": "train.csv"}
    assert notes[0].startswith("kinetics400: 1 of 5 videos are missing;")
    assert notes[1].startswith("kinetics400: 1 files have the same name as another file;")


@pytest.mark.parametrize(
    "name",
    (
        "kinetics_train.csv",
        "k400_train.csv",
        "Train.csv",
        "train_256.csv",
        "kinetics-400_train.csv",
    ),
)
def test_kinetics400_lists_under_their_other_names(tmp_path, name):
    """The first release has kinetics_train.csv, and mirrors have names of their own."""
    text = KINETICS["annotations__train.csv"]
    root = lay(tmp_path, *KINETICS_MEDIA, **{name: text})
    there, _, notes = read("kinetics400", root)
    assert {labels["split"] for labels in there.values()} == {"train"}
    assert notes[-1] == f"kinetics400: 2 files under {root} are in no list"


AUDIOSET = {
    "class_labels_indices.csv": (
        'index,mid,display_name\n0,/m/09x0r,"Speech"\n1,/m/05zppz,"Male speech, man speaking"\n'
        '137,/m/04rlf,"Music"\n'
    ),
    "balanced_train_segments.csv": (
        "# Segments csv created Sun Mar  5 10:54:25 2017\n"
        "# num_ytids=2, num_segs=2, num_unique_labels=3, num_positive_labels=4\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
        '--PJHxphWEs, 30.000, 40.000, "/m/04rlf,/m/09x0r"\n'
        'YYYYYYYYYYY, 0.000, 10.000, "/m/05zppz"\n'
    ),
    "unbalanced_train_segments.csv": (
        "# Segments csv created Sun Mar  5 10:54:31 2017\n# x\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
        '---1_cCGK4M, 0.000, 10.000, "/m/04rlf"\n-04QPTzzdyQ, 110.000, 120.000, "/m/04rlf"\n'
    ),
    "eval_segments.csv": (
        "# Segments csv created Sun Mar  5 10:54:37 2017\n# x\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
        '-0SdAVK79lg, 30.500, 40.500, "/m/04rlf,/m/05zppz,/m/09x0r"\n'
    ),
}


def test_audioset_joins_names_in_the_order_of_its_class_list(tmp_path):
    root = lay(
        tmp_path,
        *("balanced/--PJHxphWEs_30.000_40.000.mp4", "balanced/YYYYYYYYYYY.mkv"),
        *("unbalanced/---1_cCGK4M_0_10000.mp4", "eval/Y-0SdAVK79lg.wav"),
        **AUDIOSET,
    )
    there, missing, _ = read("audioset", root)
    columns = ("classes", "split", "split_balanced")
    assert {name: tuple(labels[c] for c in columns) for name, labels in there.items()} == {
        "balanced/--PJHxphWEs_30.000_40.000.mp4": ("Speech;Music", "train", "train"),
        "balanced/YYYYYYYYYYY.mkv": ("Male speech, man speaking", "train", "train"),
        "unbalanced/---1_cCGK4M_0_10000.mp4": ("Music", "train", ""),
        "eval/Y-0SdAVK79lg.wav": ("Speech;Male speech, man speaking;Music", "test", "test"),
    }
    assert missing == {"-04QPTzzdyQ": "unbalanced_train_segments.csv"}


@pytest.mark.parametrize(
    "stem",
    [
        *("ID", "YID", "ID_30.000", "ID_30.000_40.000", "ID_30000", "ID_30000_40000", "ID_30_40"),
        *("YID_30.000", "ID_30", "ID_000030", "ID_000030_000040", "YID_30000_40000"),
    ],
)
def test_names_of_audioset_files(tmp_path, stem):
    root = lay(tmp_path, f"{stem.replace('ID', '--PJHxphWEs')}.flac", **AUDIOSET)
    assert len(read("audioset", root)[0]) == 1


def test_vggsound_has_labels_with_commas(tmp_path):
    text = '---g-f_I2yQ,1,people marching,test\n--0PQM4-hqg,30,"cattle, bovinae lowing",train\n'
    media = ("video/---g-f_I2yQ_000001.mp4", "video/--0PQM4-hqg_000030.mp4")
    root = lay(tmp_path, *media, **{"vggsound.csv": text + "0aaaaaaaaaa,0,x,train\n"})
    there, missing, _ = read("vggsound", root)
    assert there == {
        media[0]: {"class": "people marching", "split": "test", "youtube_id": "---g-f_I2yQ"},
        media[1]: {
            "class": "cattle, bovinae lowing",
            "split": "train",
            "youtube_id": "--0PQM4-hqg",
        },
    }
    assert missing == {"0aaaaaaaaaa_000000": "vggsound.csv"}


ESC = {
    "meta__esc50.csv": (
        "filename,fold,target,category,esc10,src_file,take\n"
        "1-100032-A-0.wav,1,0,dog,True,100032,A\n1-100038-A-14.wav,1,14,chirping_birds,False,"
        "100038,A\n5-9032-A-0.wav,5,0,dog,True,9032,A\n"
    )
}
ESC_MEDIA = ("audio/1-100032-A-0.wav", "audio/1-100038-A-14.wav", "audio_16k/1-100032-A-0.wav")


def test_esc50_and_the_ten_classes_of_it(tmp_path):
    root = lay(tmp_path, *ESC_MEDIA, **ESC)
    there, missing, notes = read("esc50", root)
    assert there == {
        "audio/1-100032-A-0.wav": {"class": "dog", "fold": "1", "group": "100032"},
        "audio/1-100038-A-14.wav": {"class": "chirping_birds", "fold": "1", "group": "100038"},
    }
    assert missing == {"5-9032-A-0.wav": "esc50.csv"}
    assert notes[0].startswith("esc50: 1 of 3 recordings are missing")
    assert list(read("esc10", root)[0]) == ["audio/1-100032-A-0.wav"]


def test_esc10_as_folders(tmp_path):
    root = lay(tmp_path, "001 - Dog bark/1-30226-A.ogg", "010 - Fire crackling/5-4160-B.ogg")
    there, missing, _ = read("esc10", root)
    assert there == {
        "001 - Dog bark/1-30226-A.ogg": {"class": "001 - Dog bark", "fold": "1", "group": "30226"},
        "010 - Fire crackling/5-4160-B.ogg": {
            "class": "010 - Fire crackling",
            "fold": "5",
            "group": "4160",
        },
    }
    assert not missing
    with pytest.raises(UserError, match=r"no esc50\.csv in any folder there; .* ESC-50 repository"):
        read("esc50", root)


@pytest.mark.skipif(not ESC10.is_dir(), reason="needs shared/data/esc10")
def test_esc10_whole():
    there, missing, notes = read("esc10", ESC10)
    assert len(there) == 400 and not missing and not notes
    assert set(Counter(labels["class"] for labels in there.values()).values()) == {40}
    assert Counter(labels["fold"] for labels in there.values()) == dict.fromkeys("12345", 80)
    folds = {(labels["group"], labels["fold"]) for labels in there.values()}
    assert len({group for group, _ in folds}) == len(folds)  # no source is in two folds


def test_dcase_tells_the_two_sets_apart(tmp_path):
    root = lay(
        tmp_path,
        *("scenes_stereo/scenes_stereo/bus01.wav", "scenes_stereo_testset/bus01.wav"),
        *("scenes_stereo_testset/tubestation10.wav", "elsewhere/park03.wav"),
    )
    there, missing, notes = read("dcase", root)
    assert there == {
        "scenes_stereo/scenes_stereo/bus01.wav": {"class": "bus", "split": "train"},
        "scenes_stereo_testset/bus01.wav": {"class": "bus", "split": "test"},
        "scenes_stereo_testset/tubestation10.wav": {"class": "tubestation", "split": "test"},
    }
    assert len(missing) == 197 and missing["scenes_stereo/park03.wav"] == "scenes_stereo"
    assert notes[0].startswith("dcase: 197 of 200 recordings are missing")
    assert notes[1].startswith("dcase: 1 files")


def test_thumos14_has_its_two_parts(tmp_path):
    annotation = "TH14_Temporal_annotations_validation__annotation__"
    root = lay(
        tmp_path,
        "TH14_validation_set_mp4/video_validation_0000051.mp4",
        "TH14_test_set_mp4/video_test_0000004.mp4",
        "TH14_test_set_mp4/video_background_0000001.mp4",
    )
    there, missing, _ = read("thumos14", root)
    assert {name.rpartition("/")[2]: labels["split"] for name, labels in there.items()} == {
        "video_validation_0000051.mp4": "validation",
        "video_test_0000004.mp4": "test",
    }
    assert not missing
    text = "video_validation_0000051  67.5 75.9\nvideo_validation_0000266  72.8 76.4\n"
    lay(root, **{f"{annotation}BaseballPitch_val.txt": text})
    assert read("thumos14", root)[1] == {"video_validation_0000266.mp4": "BaseballPitch_val.txt"}


MALFORMED = [
    ("ucf101", lay_ucf101, "ucfTrainTestlist/trainlist02.txt", "v_Biking_g08_c01.avi 2\n", 5,
     "is not CLASS/v_NAME"),
    ("ucf101", lay_ucf101, "ucfTrainTestlist/testlist03.txt",
     "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi\n", 3, "is 'test' here, 'train' in an earlier"),
    ("hmdb51", HMDB_LISTS, "testTrainMulti_7030_splits/cartwheel_test_split1.txt", "a.avi 3\n", 4,
     "is not a name.avi with 0, 1 or 2"),
    ("kinetics400", KINETICS, "annotations/train.csv", "x,---QUuC4vJs,84\n", 5,
     "3 fields instead of 5"),
    ("kinetics400", KINETICS, "annotations/train.csv", "x,---QUuC4vJs,a,94,train\n", 5,
     "'a' is not a number"),
    ("kinetics400", KINETICS, "annotations/train.csv", "x,---QUuC4vJs,8,9,holdout\n", 5,
     "a split 'holdout'"),
    ("kinetics400", KINETICS, "annotations/train.csv", "x,short,8,9,train\n", 5, "not a YouTube"),
    ("audioset", AUDIOSET, "eval_segments.csv", '-0SdAVK79lg, 3, 13, "/m/no"\n', 5,
     "'/m/no' is not in class_labels"),
    ("vggsound", {"vggsound.csv": ""}, "vggsound.csv", "---g-f_I2yQ,1,a, b,test\n", 1, "5 fields"),
    ("vggsound", {"vggsound.csv": ""}, "vggsound.csv", "---g-f_I2yQ,1,a,eval\n", 1, "'eval'"),
    ("esc50", ESC, "meta/esc50.csv", "1-1-A-1.wav,6,1,dog,True,1,A\n", 5, "a fold '6'"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "lists", "file", "line", "number", "reason"), MALFORMED)
def test_a_malformed_line_is_named(tmp_path, name, lists, file, line, number, reason):
    if callable(lists):
        lists(tmp_path)
    else:
        lay(tmp_path, **lists)
    with (tmp_path / file).open("a") as text:
        text.write(line)
    with pytest.raises(UserError) as caught:
        collect_dataset(name, tmp_path, tmp_path / "out")
    assert str(caught.value).startswith(f"{tmp_path / file}:{number}: ")
    assert reason in str(caught.value)


def test_a_list_that_is_no_list(tmp_path):
    for text, reason in ((b"\xff\xfe\x00l", "not a text file"), (b"label,id\nx,y\n", "no column")):
        (tmp_path / "train.csv").write_bytes(text)
        with pytest.raises(UserError, match=reason):
            read("kinetics400", tmp_path)


@pytest.mark.parametrize("name", sorted(READERS))
def test_an_empty_folder_says_what_is_wanted(tmp_path, name):
    with pytest.raises(UserError, match=r"get the lists of the data set from|looked for as"):
        collect_dataset(name, tmp_path, tmp_path / "out")
    with pytest.raises(UserError, match=f"the one that holds the data set {name}"):
        collect_dataset(name, tmp_path / "nowhere", tmp_path / "out")


def test_lists_without_any_video(tmp_path):
    root = lay(tmp_path, **KINETICS)
    with pytest.raises(UserError, match=r"none of the videos .* \(5 are listed\); .*000010_000020"):
        read("kinetics400", root)


def cli(*arguments):
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_pack_brings_labels_and_lists_what_is_missing(tmp_path):
    """The command, on two real videos and one that no decoder reads, beside one missing."""
    root = lay(tmp_path / "k400", KINETICS_MEDIA[1], **KINETICS)
    for name in (KINETICS_MEDIA[0], KINETICS_MEDIA[2]):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        make_media(root / name, seconds=1.2, size=(48, 32), rate=16000)
    out = root / "shards"
    arguments = ("pack", "--dataset", "kinetics400", root, out, "--short-side", 32, "--json")
    done = cli(*arguments, "--workers", 1)
    assert done.exit_code == 0, done.output
    assert f"kinetics400: 2 of 5 videos are missing; {out}/missing.csv lists them" in done.stderr
    summary = json.loads(done.stdout)
    assert [summary[key] for key in ("inputs", "packed", "refused")] == [3, 2, 1]
    with (out / "missing.csv").open(newline="") as file:
        assert list(csv.DictReader(file)) == [
            {"name": "zzzzzzzzzzz_001000_001010", "list": "test.csv"},
            {"name": "_gone0000aa_000000_000010", "list": "train.csv"},
        ]
    shards = ShardSet(out)
    assert shards.label_names == ["class", "split", "youtube_id"]
    assert shards.meta(1)["labels"] == {
        "class": "air drumming",
        "split": "val",
        "youtube_id": "0wR5jVB-WPk",
    }
    again = cli(*arguments)
    assert again.exit_code == 0 and "already packed" in again.stderr
    assert cli("verify", out).exit_code == 0


def test_pack_takes_the_tracks_that_a_data_set_has(tmp_path):
    """HMDB51 is silent: video alone, unless --tracks says otherwise."""
    root = lay(tmp_path / "hmdb", **HMDB_LISTS)
    (root / "videos").mkdir()
    for name, seconds in zip(HMDB_MEDIA[:2], (1.2, 0.6), strict=True):  # some are as short
        path = root / "videos" / Path(name).name
        make_media(path, seconds=seconds, size=(48, 32), video="mpeg4", audio=None)
    arguments = ("pack", "--dataset", "hmdb51", root, "--short-side", 32, "--workers", 1)
    done = cli(*arguments, tmp_path / "out")
    assert done.exit_code == 0, done.output
    shards = ShardSet(tmp_path / "out")
    assert shards.modalities == ("video",) and len(shards) == 2
    codes, names = shards.label("split3")
    assert [names[code] if code >= 0 else "" for code in codes] == ["", "train"]
    long = cli(*arguments, tmp_path / "long", "--min-seconds", 1)
    assert long.exit_code == 0 and len(ShardSet(tmp_path / "long")) == 1
    both = cli(*arguments, tmp_path / "both", "--tracks", "both")
    assert both.exit_code == 2 and "nothing was packed" in both.output
    wrong = cli(*arguments, root, tmp_path / "three")
    assert wrong.exit_code == 2 and "dataset takes one local folder" in wrong.output


def test_a_large_copy_takes_no_look_at_each_file(tmp_path, monkeypatch):
    """20,000 listed videos, half of them there: the folder is read, no file is."""
    rows = [f"clapping,{number:011d},0,10,train" for number in range(20_000)]
    text = "\n".join(["label,youtube_id,time_start,time_end,split", *rows, ""])
    root = lay(tmp_path, **{"train.csv": text})
    (root / "train").mkdir()
    for number in range(0, 20_000, 2):
        (root / "train" / f"{number:011d}_000000_000010.mp4").touch()
    looks = []
    for look in (os.stat, os.lstat):

        def spy(*arguments, look=look, **options):
            looks.append(arguments)
            return look(*arguments, **options)

        monkeypatch.setattr(os, look.__name__, spy)
    there, missing, _ = read("kinetics400", root)
    monkeypatch.undo()
    assert len(there) == len(missing) == 10_000
    assert 0 < len(looks) < 100


LISTS = Path(__file__).parents[4] / "shared/data/lists"
OFFICIAL = {  # the folder, and how many rows have each value of a column
    "ucf101": ("ucfTrainTestlist", "split1", {"train": 9537, "test": 3783}),
    "hmdb51": ("hmdb51_testTrainMulti_7030_splits", "split1", {"train": 3570, "test": 1530}),
    "kinetics400": ("kinetics", "split", {"val": 19906, "test": 38685}),
    "kinetics600": ("kinetics", "split", {"val": 30000, "test": 72924}),
    "audioset": ("audioset", "split", {"train": 22160, "test": 20371}),
    "vggsound": ("vggsound", "split", {"test": 15446}),
    "esc50": ("esc50", "fold", dict.fromkeys("12345", 400)),
    "ave": ("ave", "split", {"": 4143}),
    "epic_sounds": ("epic_sounds", "split", {"val": 8035, "test": 5131}),
    "dcase2018": ("dcase2018_task4", "split", {"train": 55943, "test": 288, "eval": 880}),
    "thumos14": ("thumos14_afsd", "split", {"validation": 200, "test": 213}),
}


@pytest.mark.skipif(not LISTS.is_dir(), reason="needs the official lists")
@pytest.mark.parametrize("name", [*OFFICIAL, "urbansound8k"])
def test_official_lists_are_read_as_they_are(name, tmp_path):
    folder, column, counts = OFFICIAL.get(name, (name, "", {}))
    rows = list(READERS[name].rows(Holding(LISTS / folder, tmp_path, "")))
    found = Counter(row.labels.get(column, "") for row in rows)
    if name == "urbansound8k":
        assert len(rows) == 8732 and {row.labels["fold"] for row in rows} == {
            *map(str, range(1, 11))
        }
    elif name == "hmdb51":  # a split leaves the others out
        assert {part: found[part] for part in counts} == counts
    else:
        assert found == counts
    if name == "ucf101":
        for split, parts in (("split2", (9586, 3734)), ("split3", (9624, 3696))):
            count = Counter(row.labels[split] for row in rows)
            assert (count["train"], count["test"]) == parts


@pytest.mark.skipif(not LISTS.is_dir(), reason="needs the official lists")
def test_a_list_that_a_spreadsheet_saved_says_the_same(tmp_path):
    """official_eval_segments.csv is eval_segments.csv with its quoted field in pieces."""
    names = LISTS / "audioset/class_labels_indices.csv"
    found = []
    for listed in ("eval_segments.csv", "official_eval_segments.csv"):
        root = tmp_path / listed
        root.mkdir()
        (root / names.name).symlink_to(names)
        (root / listed).symlink_to(LISTS / "audioset" / listed)
        rows = READERS["audioset"].rows(Holding(root, tmp_path / "out", ""))
        found.append({(row.name, row.part): row.labels["classes"] for row in rows})
    assert found[0] == found[1] and len(found[0]) == 20371


@pytest.mark.skipif(not LISTS.is_dir(), reason="needs the official lists and UCF-101's clips")
def test_the_splits_of_real_clips_are_those_of_the_lists(tmp_path):
    (tmp_path / "lists").symlink_to(LISTS / "ucfTrainTestlist")
    (tmp_path / "videos").symlink_to(LISTS.parent / "ucf9")
    inputs = collect_dataset("ucf101", tmp_path, tmp_path / "out")
    assert len(inputs.sources) == 1124
    for number in "123":
        wanted = Counter()
        for part in ("train", "test"):
            text = (LISTS / f"ucfTrainTestlist/{part}list0{number}.txt").read_text()
            clips = {path.stem for path in (LISTS.parent / "ucf9").glob("*/*")}
            wanted[part] = sum(Path(line.split()[0]).stem in clips for line in text.splitlines())
        assert Counter(s.labels[f"split{number}"] for s in inputs.sources) == wanted


def test_a_whole_video_gives_its_listed_part(tmp_path):
    """A file by the bare id is the whole video where it is longer than the part, else the cut."""
    root = lay(
        tmp_path,
        **{
            "vggsound.csv": "aaaaaaaaaaa,1,dog,train\nbbbbbbbbbbb,30,cat,test\n",
            "kinetics-600_val.csv": "label,youtube_id,time_start,time_end,split\n"
            "walk,aaaaaaaaaaa,0,1,val\nrun,aaaaaaaaaaa,2,3,val\nrun,ccccccccccc,2,3,val\n",
            "EPIC_Sounds_validation.csv": "annotation_id,participant_id,video_id,start_timestamp,"
            "stop_timestamp,class\nP01_11_0,P01,P01_11,00:00:00.500,00:00:01.500,rustle\n",
        },
    )
    make_media(root / "aaaaaaaaaaa.mp4", seconds=12.5, fps=5, size=(32, 32))
    make_media(root / "bbbbbbbbbbb.mp4", seconds=10, fps=5, size=(32, 32))
    make_media(root / "ccccccccccc_000002_000003.mp4", seconds=1, fps=5, size=(32, 32))
    make_media(root / "P01_11.mp4", seconds=4, fps=5, size=(32, 32))

    def spans(name):
        inputs = collect_dataset(name, root, tmp_path / "out")
        return [(s.name[:3], s.span, s.labels["class"]) for s in inputs.sources]

    assert spans("vggsound") == [("aaa", (1, 11), "dog"), ("bbb", None, "cat")]
    assert spans("kinetics600") == [
        ("aaa", (0, 1), "walk"),
        ("aaa", (2, 3), "run"),
        ("ccc", None, "run"),
    ]
    assert spans("epic_sounds") == [("P01", (0.5, 1.5), "rustle")]
    out = tmp_path / "set"
    done = cli("pack", "--dataset", "kinetics600", root, out, "--workers", 1, "--short-side", 32)
    assert done.exit_code == 0, done.output
    rows = ShardSet(out).table()
    assert [(row["start"], row["class"]) for row in rows[:2]] == [("0.0", "walk"), ("2.0", "run")]
    assert [float(row["seconds"]) for row in rows] == pytest.approx([1, 1, 1], abs=0.1)


def test_ave_cuts_videos_of_several_events(tmp_path):
    text = "Bark&aaaaaaaaaaa&good&0&3\nBus&aaaaaaaaaaa&good&5&9\nBus&bbbbbbbbbbb&good&2&8\n"
    splits = {"trainSet.txt": "Bark&aaaaaaaaaaa&good&0&3\nBus&aaaaaaaaaaa&good&5&9\n"}
    splits["testSet.txt"] = "Bus&bbbbbbbbbbb&good&2&8\n"
    media = ("AVE/aaaaaaaaaaa.mp4", "AVE/bbbbbbbbbbb.mp4")
    root = lay(tmp_path, *media, **{"Annotations.txt": text, **splits})
    inputs = collect_dataset("ave", root, tmp_path / "out")
    assert [(s.span, s.labels["class"], s.labels["split"]) for s in inputs.sources] == [
        ((0, 3), "Bark", "train"),
        ((5, 9), "Bus", "train"),
        (None, "Bus", "test"),
    ]
