"""Splits by columns, by folds and at random; and that none leaks."""

import numpy as np
import pytest

from tests.common.relabel import relabel
from xdc_fast.errors import UserError
from xdc_fast.evaluation.splits import over_splits, splits_of

N = 48


def split(shards, *columns, label="class", **options):
    return splits_of(shards, label, *shards.label(label), columns, **options)


def test_a_column_of_train_and_test_is_one_split(toy_shards, tmp_path):
    part = ["test" if i % 4 == 0 else "train" for i in range(N)]
    part[1], part[2] = "validation", ""
    shards = relabel(toy_shards, tmp_path / "set", part=part)
    (only,) = split(shards, "part", label="drift")
    assert only.name == "part"
    assert only.test.tolist() == list(range(0, N, 4))
    assert only.train.tolist() == [i for i in range(N) if i % 4 and i not in (1, 2)]


def test_validation_is_the_test_part_where_there_is_no_other(toy_shards, tmp_path):
    part = ["validation" if i % 6 == 0 else "train" for i in range(N)]
    (only,) = split(relabel(toy_shards, tmp_path / "set", part=part), "part")
    assert only.test.tolist() == list(range(0, N, 6))


def test_validation_is_the_test_part_where_the_test_part_has_no_labels(toy_shards, tmp_path):
    part = [("test", "val", "train", "train")[i // 4 % 4] for i in range(N)]
    known = ["" if p == "test" else str(i % 4) for i, p in enumerate(part)]
    (only,) = split(relabel(toy_shards, tmp_path / "set", part=part, known=known), "part",
                    label="known")  # fmt: skip
    assert only.test.tolist() == [i for i, p in enumerate(part) if p == "val"]


@pytest.mark.parametrize(
    ("train", "test"),
    [("Train", "Test"), ("training", "testing"), ("TRAIN", "val"), (" train", "dev "),
     ("tr", "te"), ("train", "Validation"), ("train", "eval")],
)  # fmt: skip
def test_parts_in_their_usual_spellings(train, test, toy_shards, tmp_path):
    part = [test if i % 4 == 0 else train for i in range(N)]
    (only,) = split(relabel(toy_shards, tmp_path / "set", part=part), "part", label="drift")
    assert only.name == "part" and only.test.tolist() == list(range(0, N, 4))
    assert len(only.train) == N - len(only.test)


def test_folds_may_be_called_folds(toy_shards, tmp_path):
    spelled = ("Fold_{}", "{}", "fold {:02}", "{:03}")
    fold = [spelled[i % 4].format(i // 4 % 3 + 1) for i in range(N)]
    splits = split(relabel(toy_shards, tmp_path / "set", fold=fold), "fold")
    assert [s.name for s in splits] == ["fold=1", "fold=2", "fold=3"]


def test_a_random_split_keeps_recordings_together(toy_shards, tmp_path):
    """Segments of one source, and sources of one group: a chain of both stays on one side."""
    source = [f"v{i // 2}.mp4" for i in range(N)]
    group = [f"g{(i + 1) // 4}" for i in range(N)]
    even = [str(i // 24) for i in range(N)]
    shards = relabel(toy_shards, tmp_path / "a", source=source, even=even)
    for share in (0.25, 0.5, 0.75):
        (only,) = split(shards, label="even", test_share=share)
        assert abs(len(only.test) / N - share) < 0.1
        assert not {source[i] for i in only.train} & {source[i] for i in only.test}
    (usual,) = split(shards, label="even")
    assert abs(len(usual.test) / N - 0.3) <= 0.05  # not a third
    one = relabel(toy_shards, tmp_path / "c", source=source, group=group, even=even)
    with pytest.raises(UserError, match=r"cannot be divided|no test video|leaks|0 training videos"):
        split(one, label="even")  # the chain takes in all of them


def test_folds_are_held_out_once_each_and_columns_add_up(toy_shards, tmp_path):
    fold = [str(i // 4 % 3 + 1) for i in range(N)]
    fold[5] = ""
    part = ["test" if i % 5 == 0 else "train" for i in range(N)]
    shards = relabel(toy_shards, tmp_path / "set", fold=fold, part=part)
    splits = split(shards, "fold", "part")
    assert [s.name for s in splits] == ["fold=1", "fold=2", "fold=3", "part"]
    for number, (_, train, test) in enumerate(splits[:3], 1):
        assert test.tolist() == [i for i in range(N) if fold[i] == str(number)]
        assert sorted([*train, *test]) == [i for i in range(N) if i != 5]


def test_a_random_split_is_stratified_and_seeded(toy_shards):
    codes, _ = toy_shards.label("class")
    (only,) = split(toy_shards, test_share=0.25)
    assert sorted([*only.train, *only.test]) == list(range(N))
    assert np.bincount(codes[only.test]).tolist() == [3, 3, 3, 3]
    (again,), (other,) = split(toy_shards, test_share=0.25), split(toy_shards, seed=1)
    assert np.array_equal(again.test, only.test) and not np.array_equal(other.test, only.test)


def test_leaks_are_refused(toy_shards, tmp_path):
    part = ["test" if i % 4 == 0 else "train" for i in range(N)]
    source = [f"v{i - 1 if i in (1, 9) else i:02}.mp4" for i in range(N)]
    shards = relabel(toy_shards, tmp_path / "source", source=source, part=part)
    with pytest.raises(UserError, match=r"split 'part' leaks: source 'v00.mp4' .* \(2 in all\)"):
        split(shards, "part", label="drift")
    group = [f"g{i}" for i in range(N)]
    group[4] = group[3]
    for column in ("group", "youtube_id"):
        shards = relabel(toy_shards, tmp_path / column, part=part, **{column: group})
        with pytest.raises(UserError, match=rf"leaks: {column} 'g3' .* \(1 in all\)"):
            split(shards, "part", label="drift")
    group = ["" if i in (3, 4) else g for i, g in enumerate(group)]  # unknown is not equal
    shards = relabel(toy_shards, tmp_path / "unknown", part=part, group=group)
    assert len(split(shards, "part", label="drift")) == 1


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"part": ["train"] * N}, "column 'part' has no 'test'"),
        ({"part": ["test"] * N}, "column 'part' has no 'train'"),
        ({"part": ["1"] * N}, "column 'part' holds one fold"),
        ({"part": [""] * N}, "column 'part' is empty"),
        ({"part": ["a", "b"] * 24}, "column 'part' holds 'a'; a split column holds train and test"),
        ({"part": ["train", "test", "unused"] * 16}, "column 'part' holds 'unused'"),
        ({"part": ["1", "2", "train"] * 16}, "column 'part' holds '1'"),
        ({"class": ["a"] * N, "part": ["1", "2"] * 24}, "'class' has 1 class; a classifier"),
        (
            {"class": ["a", *"bc" * 23, "b"], "part": ["test"] + ["train"] * (N - 1)},
            "class 'a' of 'class' has 0 training videos in split 'part', and needs 1",
        ),
        (
            {"class": ["a", *"bc" * 23, "b"], "part": ["1", *"12" * 23, "2"]},
            "class 'a' of 'class' has 0 training videos in split 'part=1'",
        ),
        (
            {"class": [""] + ["a", "b"] * 23 + ["a"], "part": ["test"] + ["train"] * (N - 1)},
            "no test video of split 'part' has the label 'class'",
        ),
    ],
)
def test_columns_that_make_no_split_are_refused(toy_shards, tmp_path, columns, message):
    with pytest.raises(UserError, match=message):
        split(relabel(toy_shards, tmp_path / "set", **columns), "part")


def test_a_class_of_one_video_cannot_be_split_at_random(toy_shards, tmp_path):
    lonely = ["a"] + ["b", "c"] * 23 + ["b"]
    shards = relabel(toy_shards, tmp_path / "set", lonely=lonely)
    with pytest.raises(UserError, match="class 'a' of 'lonely' has 1 training videos"):
        split(shards, label="lonely")
    with pytest.raises(UserError, match="no label 'parts'; did you mean 'part'"):
        split(relabel(toy_shards, tmp_path / "more", part=["1", "2"] * 24), "parts")


def test_figures_over_splits():
    scores = [{"a": 0.1, "b": None}, {"a": 0.4, "b": None}, {"a": 0.7, "b": 1.0}]
    over = over_splits(scores, ("a", "b"))
    assert over["mean"] == {"a": pytest.approx(0.4), "b": None}
    assert over["spread"] == {"a": pytest.approx(0.3), "b": None}
    assert over_splits(scores[:1], ("a",))["spread"] == {"a": None}
