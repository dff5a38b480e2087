"""method=supervised: the classes of a label as clusters."""

import numpy as np
import pytest

from tests.common.pretraining import recipe
from tests.common.relabel import relabel
from xdc_fast.errors import UserError
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.pretraining.run import Run


def test_supervised_pretraining_learns_the_labels_and_no_clusters(toy_shards, tmp_path):
    chosen = recipe(
        toy_shards, tmp_path / "run", "method=supervised", "label=class", "k=4",
        "train.iterations=1", "train.epochs=8",
    )  # fmt: skip
    record = pretrain(chosen)["iterations"][0]
    codes, _ = toy_shards.label("class")
    kept = Run.open(tmp_path / "run").clusters(0, 48)["label"]
    assert np.array_equal(kept["assignment"], codes)
    own = np.array([kept["distance"][codes == c].mean() for c in range(4)])
    assert (own > 0).all() and record["clusters"]["label"][
        "mean_squared_distance"
    ] == pytest.approx(kept["distance"].mean(), rel=1e-5)
    # of unit vectors, the mean squared distance to their mean m is 1 - |m|^2
    length = np.linalg.norm(kept["centroids"], axis=1) ** 2
    np.testing.assert_allclose(own, 1 - length, atol=1e-4)
    assert record["clusters"]["label"]["labels"]["class"]["nmi"] == pytest.approx(1)
    lines = [line for line in Run.open(tmp_path / "run").metrics() if "step" in line]
    first, last = lines[:4], lines[-4:]
    for name in ("video_from_label_loss", "audio_from_label_loss"):
        assert sum(x[name] for x in last) < 0.8 * sum(x[name] for x in first)


def test_supervised_pretraining_leaves_the_test_part_out(toy_shards, tmp_path):
    part = ["test" if i // 4 % 3 == 0 else "train" for i in range(48)]
    shards = relabel(toy_shards, tmp_path / "set", part=part)
    supervised = ("method=supervised", "label=class", "k=4", "train.iterations=1")
    pretrain(recipe(shards, tmp_path / "run", *supervised, "split=part"))
    codes = shards.label("class")[0]
    kept = Run.open(tmp_path / "run").clusters(0, 48)["label"]["assignment"]
    assert np.array_equal(kept, np.where(np.array(part) == "train", codes, -1))
    with pytest.raises(UserError, match="no sample with a label 'class' is `train` in column 'cl"):
        pretrain(recipe(shards, tmp_path / "other", *supervised, "split=class"))
    assert not (tmp_path / "other").exists()


def test_of_several_labels_each_iteration_draws_one(toy_shards, tmp_path):
    shards = relabel(toy_shards, tmp_path / "set", tags=["a;b", "a", "", "c"] * 12)
    chosen = recipe(shards, tmp_path / "run", "method=supervised", "label=tags", "k=3",
                    "train.epochs=1", "train.iterations=6")  # fmt: skip
    pretrain(chosen)
    drawn = np.array(
        [Run.open(tmp_path / "run").clusters(n, 48)["label"]["assignment"] for n in range(6)]
    ).reshape(6, 12, 4)
    assert (drawn[:, :, 1:] == [0, -1, 2]).all()
    assert set(drawn[:, :, 0].flat) == {0, 1}
    assert 20 < drawn[:, :, 0].sum() < 52  # of 72, half are b
    assert (drawn[0, :, 0] != drawn[1, :, 0]).any()
