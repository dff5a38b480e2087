"""The official lists of data sets: the videos that they name, their labels and splits."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from xdc_fast.packing.datasets.listing import Holding, Row, malformed, parent
from xdc_fast.shards.format import LABEL_SEPARATOR

UCF = re.compile(r"(\w+)/(v_\w+_(g\d+)_c\d+)\.avi(?:\s+\d+)?")
HMDB = re.compile(r"(\S.*)\.avi\s+([012])")
HMDB_LIST = re.compile(r"(.+)_test_split[123]\.txt")
KINETICS_LIST = re.compile(r"(?:kinetics[-_]?(?:400)?[-_])?(train|validate|val|test)\.csv")
YOUTUBE = re.compile(r"[\w-]{11}")
ESC = re.compile(r"([1-5])-(\d+)-[A-Z](?:-\d+)?")
THUMOS = re.compile(r"video_(validation|test)_\d{7}")
THUMOS_LINE = re.compile(r"(video_(?:validation|test)_\d{7})\s+[\d.]+\s+[\d.]+")

KINETICS_SPLITS = {"train": "train", "val": "val", "validate": "val", "test": "test"}
AUDIOSET_LISTS = {
    "balanced_train_segments.csv": ("train", "train"),  # columns split, split_balanced
    "unbalanced_train_segments.csv": ("train", ""),
    "eval_segments.csv": ("test", "test"),
}
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


def kinetics400(holding: Holding) -> Iterator[Row]:
    """class, split (train, val, test) and youtube_id; a test list may come without classes."""
    lists = {
        name: match[1] for name in sorted(holding.lists) if (match := KINETICS_LIST.fullmatch(name))
    }
    if not lists:
        raise holding.absent("train.csv", "validate.csv", "val.csv", "test.csv")
    rows: dict[str, Row] = {}
    for listed in lists:
        for where, line in holding.rows(listed, "youtube_id", "time_start", "time_end"):
            video = _youtube(line["youtube_id"], where)
            start, end = (int(_number(line[f"time_{edge}"], where)) for edge in ("start", "end"))
            split = line.get("split") or lists[listed]
            if split not in KINETICS_SPLITS:
                raise malformed(where, f"a split '{split}'")
            stem = f"{video}_{start:06d}_{end:06d}"
            row = rows.setdefault(stem, Row(stem, listed, {}, holding.find(stem)))
            row.put("class", line.get("label", ""), where)
            row.put("split", KINETICS_SPLITS[split], where)
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
    lists = [name for name in AUDIOSET_LISTS if name in holding.lists]
    if not lists:
        raise holding.absent(*AUDIOSET_LISTS)
    for listed in lists:
        split, balanced = AUDIOSET_LISTS[listed]
        for where, (video, start, end, mids) in holding.records(listed, 4):
            _youtube(video, where)
            if unknown := [mid for mid in mids.split(",") if mid not in names]:
                raise malformed(where, f"'{unknown[0]}' is not in class_labels_indices.csv")
            classes = [name for _, name in sorted(names[mid] for mid in mids.split(","))]
            labels = {
                "classes": LABEL_SEPARATOR.join(classes),
                "split": split,
                "split_balanced": balanced,
            }
            cuts = _cuts(video, _number(start, where), _number(end, where))
            yield Row(video, listed, labels, holding.find(video, f"Y{video}", *cuts))


def vggsound(holding: Holding) -> Iterator[Row]:
    """class, split (train, test) and youtube_id."""
    for where, (video, start, label, split) in holding.records("vggsound.csv", 4):
        if split not in ("train", "test"):
            raise malformed(where, f"a split '{split}'")
        begin = _number(start, where)
        labels = {"class": label, "split": split, "youtube_id": _youtube(video, where)}
        cuts = _cuts(video, begin, begin + 10)
        yield Row(cuts[0], "vggsound.csv", labels, holding.find(*cuts))


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


def thumos14(holding: Holding) -> Iterator[Row]:
    """split: validation or test, of the videos there and those of the temporal annotations."""
    listed = {stem: "" for stem in holding.media if THUMOS.fullmatch(stem)}
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


def _number(text: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e6:
        raise malformed(where, f"'{text}' is not a number of 0 or more")
    return value
