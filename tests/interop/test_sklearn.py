"""scikit-learn on the features of media files."""

import csv

import numpy as np
import pytest
from sklearn.cluster import KMeans
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import normalized_mutual_info_score
from sklearn.neighbors import NearestNeighbors
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import xdc_fast
from tests.common.runs import make_trained_run
from xdc_fast.evaluation.extract import extract_features


@pytest.fixture(scope="module")
def model(toy_shards, tmp_path_factory):
    run = make_trained_run(tmp_path_factory.mktemp("interop") / "run", f"data={toy_shards.root}")
    return xdc_fast.load(run.root)


@pytest.fixture(scope="module")
def labelled(model, toy_videos):
    """Features of all toy videos, (48, 48) each, and their classes."""
    with (toy_videos / "labels.csv").open() as file:
        rows = list(csv.DictReader(file))
    features = model([toy_videos / row["file"] for row in rows], clips=2)
    return features, np.array([row["class"] for row in rows])


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_a_classifier_fits_them(labelled, modality):
    features, classes = labelled
    classifier = make_pipeline(StandardScaler(), LogisticRegression(C=1e3, max_iter=5000))
    classifier.fit(features[modality][:24], classes[:24])
    assert classifier.score(features[modality][:24], classes[:24]) == 1
    assert set(classifier.predict(features[modality][24:])) <= set(classes)


def test_its_kmeans_stays_where_ours_ended(labelled):
    features, classes = labelled
    points = features["audio"]
    ours = xdc_fast.kmeans(points, 4, n_init=5)
    theirs = KMeans(4, init=ours.centroids, n_init=1, max_iter=1).fit(points)
    assert np.array_equal(theirs.labels_, ours.assignment)
    score = normalized_mutual_info_score(classes, ours.assignment)
    codes = np.unique(classes, return_inverse=True)[1]
    assert xdc_fast.nmi(codes, ours.assignment) == pytest.approx(score)


def test_features_of_extract_know_their_video(model, labelled, toy_shards, tmp_path):
    """The first and the last clip of each: the nearest video by their mean is the video itself."""
    extract_features(model, toy_shards, tmp_path / "out", stride=3 - 8 / 7.5)
    parts = [np.load(file) for file in sorted((tmp_path / "out").glob("*.npz"))]
    index = np.concatenate([part["index"] for part in parts])
    clips = np.concatenate([part["audio"] for part in parts])
    means = np.stack([clips[index == sample].mean(axis=0) for sample in range(48)])
    features, _ = labelled
    nearest = NearestNeighbors(n_neighbors=1).fit(means).kneighbors(features["audio"])[1]
    assert np.array_equal(nearest[:, 0], np.arange(48))
