"""Encoder inputs, against the plain formulas."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from xdc_fast.clips.batch import Batch
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.kernels import log_mel
from xdc_fast.recipe import Audio, Recipe, Video

PLAIN = Recipe()
JITTERED = Recipe(video=Video(jitter=0.3), audio=Audio(jitter=0.5), seed=4)


@pytest.fixture(scope="module")
def batch():
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (6, 3, 10, 12, 3), dtype=np.uint8)
    waveform = rng.integers(-8000, 8000, (6, 16096), dtype=np.int16)
    index = np.array([3, 900, 17, 5, 8, 40])
    return Batch(*map(torch.from_numpy, (frames, waveform, index)))


def parts(batch, slots):
    return Batch(batch.frames[slots], batch.waveform[slots], batch.index[slots])


def test_pictures_are_normalised_by_channel(batch):
    x = ClipTransform(PLAIN).of("video", batch)
    assert x.shape == (6, 3, 3, 10, 12) and x.dtype == torch.float32
    expected = batch.frames.numpy().astype(np.float64) / 255
    expected = (expected - PLAIN.video.mean) / PLAIN.video.std
    np.testing.assert_allclose(x.numpy(), expected.transpose(0, 4, 1, 2, 3), atol=1e-5)


def test_sound_is_the_normalised_log_mel(batch):
    transform = ClipTransform(PLAIN)
    x = transform.of("audio", batch)
    assert x.shape == (6, 1, 40, 100) and transform.shape.samples == 16096
    expected = (
        log_mel(batch.waveform.numpy(), transform.spec) - PLAIN.audio.mean
    ) / PLAIN.audio.std
    np.testing.assert_allclose(x[:, 0].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("epoch", [None, 2])
def test_a_spectrogram_that_is_there_is_taken_and_left_as_it_is(batch, epoch):
    transform = ClipTransform(JITTERED)
    mel = torch.from_numpy(log_mel(batch.waveform.numpy(), transform.spec))
    ready = replace(batch, waveform=None, spectrogram=mel.clone())
    x = transform.of("audio", batch, epoch)
    assert torch.equal(transform.of("audio", ready, epoch), x)
    assert torch.equal(ready.spectrogram, mel)


def test_jitter_of_pictures_is_one_contrast_and_one_brightness_for_each_clip(batch):
    transform, jitter, video = ClipTransform(JITTERED), JITTERED.video.jitter, JITTERED.video
    x = transform.of("video", batch, epoch=2).numpy().astype(np.float64).transpose(0, 2, 3, 4, 1)
    shown = (x * video.std + video.mean).reshape(6, -1)  # on [0, 1]
    given = batch.frames.numpy().reshape(6, -1) / 255
    lines = [np.polyfit(a, b, 1) for a, b in zip(given, shown, strict=True)]
    for (gain, shift), a, b in zip(lines, given, shown, strict=True):
        np.testing.assert_allclose(gain * a + shift, b, atol=1e-5)
    gains, shifts = np.array(lines).T
    assert (abs(gains - 1) <= jitter).all() and (abs(shifts) <= jitter / 2 + 1e-6).all()
    assert np.ptp(gains) > 0.1 * jitter and np.ptp(shifts) > 0.1 * jitter


def test_jitter_of_sound_is_one_level_of_the_asked_deviation(batch):
    transform = ClipTransform(JITTERED)
    many = parts(batch, [0] * 400)
    many = replace(many, index=torch.arange(400))
    levels = transform.of("audio", many, epoch=0) - transform.of("audio", many)
    offsets = levels.mean(dim=(1, 2, 3)) * JITTERED.audio.std
    assert levels.std(dim=(1, 2, 3)).max() < 1e-5
    assert offsets.std().item() == pytest.approx(JITTERED.audio.jitter, rel=0.1)


@pytest.mark.parametrize("modality", ["video", "audio"])
def test_jitter_depends_on_seed_epoch_and_sample_alone(modality, batch):
    transform = ClipTransform(JITTERED)
    x = transform.of(modality, batch, epoch=2)
    assert torch.equal(transform.of(modality, parts(batch, [4, 1]), epoch=2), x[[4, 1]])
    assert not torch.equal(transform.of(modality, batch, epoch=3), x)
    other = ClipTransform(replace(JITTERED, seed=5))
    assert not torch.equal(other.of(modality, batch, epoch=2), x)
    still = ClipTransform(PLAIN).of(modality, batch)
    assert torch.equal(transform.of(modality, batch), still)  # none in evaluation


def test_a_spectrogram_without_meaning_is_refused():
    with pytest.raises(UserError, match=r"^audio: hop_length must be at least 1, got 0$"):
        ClipTransform(Recipe(audio=Audio(hop_length=0)))
    assert ClipTransform(Recipe(audio=Audio(win_length=5))).spec.n_fft == 16
