"""Features of sets of one track."""

import numpy as np
import pytest

from tests.common.one_track import strip
from xdc_fast.clips.host import HostLoader
from xdc_fast.encoders.build import build_encoders
from xdc_fast.encoders.calibrate import calibrate
from xdc_fast.encoders.features import compute_features
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.recipe import load_recipe


@pytest.fixture(scope="module")
def encoders():
    tiny = ("video.encoder=r2plus1d_tiny", "video.crop=32", "audio.encoder=audio_tiny")
    recipe = load_recipe(None, tiny)
    return ClipTransform(recipe), build_encoders(recipe)


@pytest.mark.parametrize(("modality", "lost"), [("video", ".wav"), ("audio", ".mp4")])
def test_features_of_one_track_are_those_of_both(toy_shards, encoders, modality, lost, tmp_path):
    inputs, both = encoders
    alone = strip(toy_shards, tmp_path / "set", lost)
    assert alone.modalities == (modality,)
    one, found = {modality: both[modality]}, []
    for shards in (toy_shards, alone):
        loader = HostLoader(shards, inputs.shape)
        calibrate(one, loader, inputs, 24)
        features = compute_features(one, loader, inputs, 24)
        assert list(features.arrays) == [modality] and features.valid.all()
        found.append(features.arrays[modality])
    assert np.ptp(found[0]) > 0.01
    np.testing.assert_allclose(*found, atol=1e-6)


def test_encoders_of_a_missing_track_are_a_mistake(sounds, pictures, encoders):
    inputs, both = encoders
    for shards, words in (
        (sounds, "holds audio only, and the video is asked for; take a set with video, or pack"),
        (pictures, "holds video only, and the audio is asked for; take a set with audio, or pack"),
    ):
        loader = HostLoader(shards, inputs.shape)
        for ask in (compute_features, calibrate):
            with pytest.raises(UserError, match=words) as caught:
                ask(both, loader, inputs, 2)
            assert str(shards.root) in str(caught.value) and "--tracks both" in str(caught.value)
