"""The official lists of data sets: the videos that they name, their labels and splits."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator

from xdc_fast.packing.datasets.listing import Holding, Row, malformed, parent
from xdc_fast.shards.format import LABEL_SEPARATOR
from xdc_fast.shards.parts import TEST, TRAIN, VALIDATION, part_of

UCF = re.compile(r"(\w+)[/\\](v_\w+_(g\d+)_c\d+)\.avi(?:\s+\d+)?")
HMDB = re.compile(r"(\S.*)\.avi\s+([012])")
HMDB_LIST = re.compile(r"(.+)_test_split[123]\.txt")
KINETICS_LIST = re.compile(
    r"(?:k(?:inetics)?[-_]?(\d+)?[-_])?(train|validate|validation|val|test)(?:[-_]\w+)?\.csv", re.I
)
AUDIOSET_LIST = re.compile(r"(?:.*[-_])?(balanced_train|unbalanced_train|eval)_segments\.csv")
EPIC_LIST = re.compile(r"EPIC_Sounds_(train|validation|recognition_test_timestamps)\.csv")
EPIC_TIME = re.compile(r"(\d+):(\d\d):(\d\d(?:\.\d+)?)")
YOUTUBE = re.compile(r"[\w-]{11}")
ESC = re.compile(r"([1-5])-(\d+)-[A-Z](?:-\d+)?")
VGG_FILE = re.compile(r"([\w-]{11})_(\d{6})\.\w+")
MOST_MIDS = 64  # fields of a line of AudioSet
THUMOS_TABLE = re.compile(r"(val|test)_(Annotation|video_info).*\.csv|thumos14_\w+\.csv")
THUMOS = re.compile(r"video_(validation|test)_\d{7}")
THUMOS_LINE = re.compile(r"(video_(?:validation|test)_\d{7})\s+[\d.]+\s+[\d.]+")

KINETICS_SPLITS = {TRAIN: "train", VALIDATION: "val", TEST: "test"}
AUDIOSET_SPLITS = {
    "balanced_train": ("train", "train"),  # columns split, split_balanced
    "unbalanced_train": ("train", ""),
    "eval": ("test", "test"),
}
AVE_LISTS = {"trainSet.txt": "train", "valSet.txt": "val", "testSet.txt": "test"}
DCASE2018_LISTS = {
    "train_weak.csv": "train",
    "train_unlabel_in_domain.csv": "train",
    "train_unlabel_out_of_domain.csv": "train",
    "test_test.csv": "test",
    "eval_eval.csv": "eval",
}
EPIC_SPLITS = {"train": "train", "validation": "val", "recognition_test_timestamps": "test"}
SCENES = (
    *("bus", "busystreet", "office", "openairmarket", "park", "quietstreet", "restaurant"),
    *("supermarket", "tube", "tubestation"),
)


def ucf101(holding: Holding) -> Iterator[Row]:
    """class, split1 to split3, and group: videos of one group are cut from one recording."""
    rows: dict[str, Row] = {}
    for split in "123":
        for part in ("train", "test"):
            listed = f"{part}list0{split}.txt"
            for where, line in holding.lines(listed):
                if not (match := UCF.fullmatch(line)):
                    raise malformed(where, f"'{line}' is not CLASS/v_NAME_gNN_cNN.avi")
                label, stem, group = match.groups()
                if stem not in rows:
                    # lists and archive say HandStandPushups, some copies what the class says
                    paths = holding.find(stem, stem.replace("HandStand", "Handstand"), folder=label)
                    labels = {"class": label, "group": f"{label}/{group}"}
                    rows[stem] = Row(f"{label}/{stem}.avi", listed, labels, paths)
                rows[stem].put(f"split{split}", part, where)
    return iter(rows.values())


def hmdb51(holding: Holding) -> Iterator[Row]:
    """class, and split1 to split3, empty where a split leaves a video out."""
    classes = {match[1] for name in holding.lists if (match := HMDB_LIST.fullmatch(name))}
    if not classes:
        raise holding.absent("CLASS_test_split1.txt to CLASS_test_split3.txt")
    for label in sorted(classes):
        rows: dict[str, Row] = {}
        for split in "123":
            listed = f"{label}_test_split{split}.txt"
            for where, line in holding.lines(listed):
                if not (match := HMDB.fullmatch(line)):
                    raise malformed(where, f"'{line}' is not a name.avi with 0, 1 or 2")
                stem, part = match[1], ("", "train", "test")[int(match[2])]
                if stem not in rows:
                    paths = holding.find(stem, folder=label)
                    paths = [p for p in paths if parent(p) not in classes - {label}]
                    rows[stem] = Row(f"{label}/{stem}.avi", listed, {"class": label}, paths)
                rows[stem].put(f"split{split}", part, where)
        yield from rows.values()


def kinetics(holding: Holding, size: str) -> Iterator[Row]:
    """class, split (train, val, test) and youtube_id; a test list may come without classes.

    size: 400, 600 or 700; lists whose names have another number are not read.
    """
    lists = {
        name: match[2]
        for name in sorted(holding.lists)
        if (match := KINETICS_LIST.fullmatch(name)) and match[1] in (None, size)
    }
    if not lists:
        raise holding.absent("train.csv", "validate.csv", "val.csv", "test.csv")
    rows: dict[str, Row] = {}
    for listed in lists:
        for where, line in holding.rows(listed, "youtube_id", "time_start", "time_end"):
            video = _youtube(line["youtube_id"], where)
            start, end = (int(_number(line[f"time_{edge}"], where)) for edge in ("start", "end"))
            split = line.get("split") or lists[listed]
            part = part_of(split)
            if part not in KINETICS_SPLITS:
                raise malformed(where, f"a split '{split}'")
            stem = f"{video}_{start:06d}_{end:06d}"
            if stem not in rows:
                rows[stem] = Row(stem, listed, {}, holding.find(stem))
                rows[stem].whole, rows[stem].part = holding.find(video), (start, end)
            row = rows[stem]
            row.put("class", line.get("label", ""), where)
            row.put("split", KINETICS_SPLITS[part], where)
            row.put("youtube_id", video, where)
    return iter(rows.values())


def audioset(holding: Holding) -> Iterator[Row]:
    """classes, split (train: both lists, test: eval) and split_balanced (train: its list alone).

    classes: the names joined by ";" in the order of the class list. A file name may be the bare
    id, or id and span (see _cuts), with or without a Y before it.
    """
    names = {}
    for where, line in holding.rows("class_labels_indices.csv", "index", "mid", "display_name"):
        names[line["mid"]] = (_number(line["index"], where), line["display_name"])
    lists = {
        name: match[1] for name in sorted(holding.lists) if (match := AUDIOSET_LIST.fullmatch(name))
    }
    if not lists:
        raise holding.absent(*(f"{name}_segments.csv" for name in AUDIOSET_SPLITS))
    rows: dict[tuple[str, float], Row] = {}
    for listed, kind in lists.items():
        for where, (video, begin, stop, *told) in holding.records(listed, 4, MOST_MIDS):
            _youtube(video, where)
            start, end = _number(begin, where), _number(stop, where)
            # a spreadsheet that saves the list cuts the quoted field at its commas
            mids = [mid for mid in ",".join(told).replace('"', "").split(",") if mid]
            if unknown := [mid for mid in mids if mid not in names]:
                raise malformed(where, f"'{unknown[0]}' is not in class_labels_indices.csv")
            if (video, start) not in rows:
                paths = holding.find(*_cuts(video, start, end))
                row = rows[video, start] = Row(video, listed, {}, paths)
                row.whole, row.part = holding.find(video, f"Y{video}"), (start, end)
            classes = [name for _, name in sorted(names[mid] for mid in mids)]
            split, balanced = AUDIOSET_SPLITS[kind]
            rows[video, start].put("classes", LABEL_SEPARATOR.join(classes), where)
            rows[video, start].put("split", split, where)
            rows[video, start].put("split_balanced", balanced, where)
    return iter(rows.values())


def vggsound(holding: Holding) -> Iterator[Row]:
    """class, split (train, test) and youtube_id.

    By vggsound.csv (id, start, class, split), or else by train.csv and test.csv (file, class).
    """
    if "vggsound.csv" in holding.lists:
        for where, (video, start, label, split) in holding.records("vggsound.csv", 4):
            if split not in ("train", "test"):
                raise malformed(where, f"a split '{split}'")
            yield _vgg_row(
                holding, "vggsound.csv", where, video, _number(start, where), label, split
            )
        return
    lists = [name for name in ("train.csv", "test.csv") if name in holding.lists]
    if not lists:
        raise holding.absent("vggsound.csv", "train.csv", "test.csv")
    for listed in lists:
        for where, (file, label) in holding.records(listed, 2):
            if not (match := VGG_FILE.fullmatch(file)):
                raise malformed(where, f"'{file}' is not ID_SECONDS.mp4")
            split = listed.removesuffix(".csv")
            yield _vgg_row(holding, listed, where, match[1], int(match[2]), label, split)


def _vgg_row(
    holding: Holding, listed: str, where: str, video: str, start: float, label: str, split: str
) -> Row:
    labels = {"class": label, "split": split, "youtube_id": _youtube(video, where)}
    part = (start, start + 10)
    cuts = _cuts(video, *part)
    row = Row(cuts[0], listed, labels, holding.find(*cuts))
    row.whole, row.part = holding.find(video), part
    return row


def ave(holding: Holding) -> Iterator[Row]:
    """class, youtube_id and, by the lists of the splits where they are, split (train, val, test).

    A line is an event: CLASS&ID&QUALITY&START&END, in seconds of a cut of ten. Where a video has
    several events, each is a sample of its own, from its start to its end.
    """
    splits: dict[tuple[str, str], str] = {}
    for listed, split in AVE_LISTS.items():
        for _, line in holding.lines(listed) if listed in holding.lists else ():
            label, video, *_ = [*line.split("&"), ""]
            splits[label, video] = split
    lines = [
        (where, line.split("&"))
        for where, line in holding.lines("Annotations.txt")
        if not line.startswith("Category&")
    ]
    if wrong := next((where for where, fields in lines if len(fields) != 5), None):
        raise malformed(wrong, "not CLASS&ID&QUALITY&START&END")
    events = Counter(video for _, (_, video, *_) in lines)
    for where, (label, video, _, begin, end) in lines:
        labels = {"class": label, "youtube_id": _youtube(video, where)}
        labels |= {"split": splits.get((label, video), "")} if splits else {}
        row = Row(video, "Annotations.txt", labels, holding.find(video))
        if events[video] > 1:
            row.span = _number(begin, where), _number(end, where)
        yield row


def urbansound8k(holding: Holding) -> Iterator[Row]:
    """class, fold (1 to 10) and group: slices of one group are cut from one recording."""
    columns = ("slice_file_name", "fsID", "fold", "class")
    for where, line in holding.rows("UrbanSound8K.csv", *columns):
        if line["fold"] not in map(str, range(1, 11)):
            raise malformed(where, f"a fold '{line['fold']}'")
        labels = {"class": line["class"], "fold": line["fold"], "group": line["fsID"]}
        stem = os.path.splitext(line["slice_file_name"])[0]
        paths = holding.find(stem, folder=f"fold{line['fold']}")
        yield Row(line["slice_file_name"], "UrbanSound8K.csv", labels, paths)


def epic_sounds(holding: Holding) -> Iterator[Row]:
    """class, split (train, val, test) and participant; the test list comes without classes.

    A line is a part of a video of hours, VIDEO.*; a cut of it is called by its annotation.
    """
    lists = {name: match[1] for name in holding.lists if (match := EPIC_LIST.fullmatch(name))}
    if not lists:
        raise holding.absent(*(f"EPIC_Sounds_{name}.csv" for name in EPIC_SPLITS))
    columns = ("annotation_id", "participant_id", "video_id", "start_timestamp", "stop_timestamp")
    for listed in sorted(lists):
        for where, line in holding.rows(listed, *columns):
            labels = {"split": EPIC_SPLITS[lists[listed]], "class": line.get("class", "")}
            labels["participant"] = line["participant_id"]
            row = Row(line["annotation_id"], listed, labels, holding.find(line["annotation_id"]))
            row.whole = holding.find(line["video_id"])
            row.part = (
                _time(line["start_timestamp"], where),
                _time(line["stop_timestamp"], where),
            )
            yield row


def esc(holding: Holding, ten: bool) -> Iterator[Row]:
    """class, fold (1 to 5) and group: recordings of one group are cut from one source.

    ESC-10 is the part of ESC-50 that its list marks, or, without that list, a folder per class.
    """
    if ten and "esc50.csv" not in holding.lists:
        for stem, paths in holding.media.items():
            if match := ESC.fullmatch(stem):
                for path in paths:
                    labels = {"class": parent(path), "fold": match[1], "group": match[2]}
                    yield Row(path, "", labels, [path])
        return
    columns = ("filename", "fold", "category", "esc10", "src_file")
    for where, line in holding.rows("esc50.csv", *columns):
        if line["fold"] not in tuple("12345"):
            raise malformed(where, f"a fold '{line['fold']}'")
        if not ten or line["esc10"] == "True":
            labels = {"class": line["category"], "fold": line["fold"], "group": line["src_file"]}
            paths = holding.find(os.path.splitext(line["filename"])[0], folder="audio")
            yield Row(line["filename"], "esc50.csv", labels, paths)


def dcase(holding: Holding) -> Iterator[Row]:
    """class, and split: train (the development set) or test. File names are the list."""
    for folder, split in (("scenes_stereo", "train"), ("scenes_stereo_testset", "test")):
        for scene in SCENES:
            for number in range(1, 11):
                stem = f"{scene}{number:02d}"
                paths = [path for path in holding.find(stem) if parent(path) == folder]
                labels = {"class": scene, "split": split}
                yield Row(f"{folder}/{stem}.wav", folder, labels, paths)


def dcase2018(holding: Holding) -> Iterator[Row]:
    """classes, joined by ";", and split (train, test, eval) of task 4; most have no classes.

    Recordings of test_files_to_remove.csv are left out.
    """
    lists = [name for name in DCASE2018_LISTS if name in holding.lists]
    if not lists:
        raise holding.absent(*DCASE2018_LISTS)
    removed = set()
    if "test_files_to_remove.csv" in holding.lists:
        rows = holding.rows("test_files_to_remove.csv", "filename", separator="\t")
        removed = {line["filename"] for _, line in rows}
    for listed in lists:
        classes: dict[str, set[str]] = {}
        for _, line in holding.rows(listed, "filename", separator="\t"):
            told = line.get("event_labels") or line.get("event_label") or ""
            classes.setdefault(line["filename"], set()).update(filter(None, told.split(",")))
        for name in sorted(classes.keys() - removed):
            labels = {"classes": LABEL_SEPARATOR.join(sorted(classes[name]))}
            labels["split"] = DCASE2018_LISTS[listed]
            yield Row(name, listed, labels, holding.find(os.path.splitext(name)[0]))


def thumos14(holding: Holding) -> Iterator[Row]:
    """split: validation or test, of the videos there and those of the temporal annotations.

    These are the official ones, a text file for each class, or a CSV with a column of videos.
    """
    listed = {stem: "" for stem in holding.media if THUMOS.fullmatch(stem)}
    for name in sorted(holding.lists):
        if THUMOS_TABLE.fullmatch(name):
            for _, fields in holding.records(name):
                if THUMOS.fullmatch(fields[0]):  # the first line names the columns
                    listed.setdefault(fields[0], name)
    for name, paths in holding.lists.items():
        if name.endswith(("_val.txt", "_test.txt")) and parent(paths[0]).startswith("annotation"):
            for where, line in holding.lines(name):
                if not (match := THUMOS_LINE.fullmatch(line)):
                    raise malformed(where, f"'{line}' is not a video with a start and an end")
                listed[match[1]] = name
    for stem in sorted(listed):
        _, split, _ = stem.split("_")
        yield Row(f"{stem}.mp4", listed[stem], {"split": split}, holding.find(stem))


def _cuts(video: str, start: float, end: float) -> list[str]:
    """What downloaders call a YouTube video's part from `start` to `end` seconds.

    For 30 to 40: ID_000030, ID_000030_000040, ID_30.000, ID_30.000_40.000, ID_30000_40000,
    ID_30000, ID_30_40, ID_30, and these with a Y before the id.
    """
    begin, stop = int(start), int(end)
    spans = (
        *(f"{begin:06d}", f"{begin:06d}_{stop:06d}", f"{start:.3f}", f"{start:.3f}_{end:.3f}"),
        *(f"{1000 * start:.0f}_{1000 * end:.0f}", f"{1000 * start:.0f}"),
        *(f"{begin}_{stop}", f"{begin}"),
    )
    return [f"{prefix}{video}_{span}" for prefix in ("", "Y") for span in spans]


def _youtube(text: str, where: str) -> str:
    if not YOUTUBE.fullmatch(text):
        raise malformed(where, f"'{text}' is not a YouTube id")
    return text


def _time(text: str, where: str) -> float:
    """Seconds of HH:MM:SS.mmm."""
    if not (match := EPIC_TIME.fullmatch(text)):
        raise malformed(where, f"'{text}' is not HH:MM:SS.mmm")
    return 3600 * int(match[1]) + 60 * int(match[2]) + float(match[3])


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise malformed(where, f"'{text}' is not a number of 0 or more")
    return value
