"""One window in seconds for both tracks."""

import numpy as np
import pytest

from xdc_fast.clips.windows import ClipShape, equal_positions, fixed_windows, random_windows
from xdc_fast.shards.format import SAMPLE

SHAPE = ClipShape(frames=8, fps=7.5, crop=32, samples=16096, sample_rate=16000)


def rows(count=1, *, seconds=4.0, fps=15.0, width=57, height=43, first=0):
    table = np.zeros(count, SAMPLE)
    table["place"] = np.arange(first, first + count)
    table["fps"], table["frames"] = fps, round(seconds * fps)
    table["samples"] = round(seconds * 16000)
    table["width"], table["height"] = width, height
    return table


def lay_random(table, **settings):
    return random_windows(table["place"], table, SHAPE, **settings)


def lay_fixed(table, shape, position=0.5):
    return fixed_windows(table["place"], table, shape, position)


def test_both_spans_share_their_centre():
    w = lay_random(rows(500), seed=1, epoch=0, flip=True)
    picture_centre = (w.frames[:, 0] + 8) / 15  # eight pictures, each two frames long
    sound_centre = (w.start + 8048) / 16000
    # frame numbers are whole: the picture track begins up to one frame early
    late = sound_centre - picture_centre
    assert late.min() > -1e-3 and late.max() < 1 / 15 + 1e-3


def test_frames_are_equally_spaced_at_the_clip_rate():
    w = lay_random(rows(50), seed=1, epoch=0, flip=False)
    assert np.all(np.diff(w.frames, axis=1) == 2)
    w = lay_fixed(rows(1, fps=25.0), ClipShape(5, 10.0, 32, 8000, 16000))
    assert np.array_equal(w.frames[0] - w.frames[0, 0], [0, 2, 5, 7, 10])


@pytest.mark.parametrize("seconds", [1.2, 2.0, 7.3])
def test_windows_stay_inside_and_reach_both_ends(seconds):
    table = rows(4000, seconds=seconds)
    w = lay_random(table, seed=0, epoch=0, flip=False)
    assert w.frames.min() == 0 and w.frames.max() <= table["frames"][0] - 1
    assert w.start.min() >= 0 and (w.start + SHAPE.samples).max() <= table["samples"][0]
    assert w.frames.max() >= table["frames"][0] - 3
    slack = seconds - SHAPE.seconds
    assert np.ptp(w.start) / 16000 == pytest.approx(slack, abs=0.02 + 0.01 * slack)


def test_a_short_sample_repeats_its_last_frame_and_is_centred():
    w = lay_fixed(rows(1, seconds=0.6), SHAPE)
    assert w.frames.max() == 8 and w.frames.min() == 0
    assert w.start[0] == round(0.3 * 16000) - 8048  # negative: read as zeros


def test_evaluation_clips_are_spaced_from_end_to_end():
    table = rows(1, seconds=5.0)
    starts = [lay_fixed(table, SHAPE, position).start[0] for position in equal_positions(3)]
    assert starts[1] - starts[0] == pytest.approx(starts[2] - starts[1], abs=1)
    assert lay_fixed(table, SHAPE, 0.0).frames[0, 0] == 0
    assert lay_fixed(table, SHAPE).start[0] == starts[1]
    assert equal_positions(1).tolist() == [0.5]


def test_crops_cover_the_picture_in_training_and_its_centre_in_evaluation():
    w = lay_random(rows(5000), seed=0, epoch=0, flip=True)
    assert set(w.top) == set(range(12)) and set(w.left) == set(range(26))
    assert 0.45 < w.flip.mean() < 0.55
    still = lay_fixed(rows(1), SHAPE)
    assert (still.top[0], still.left[0], still.flip[0]) == (5, 12, False)


def test_a_window_depends_on_seed_epoch_and_sample_alone():
    many = lay_random(rows(20), seed=4, epoch=2, flip=True)
    one = lay_random(rows(1, first=13), seed=4, epoch=2, flip=True)
    assert np.array_equal(many.frames[13], one.frames[0])
    assert many.top[13] == one.top[0] and many.flip[13] == one.flip[0]
    later = lay_random(rows(20), seed=4, epoch=3, flip=True)
    assert not np.array_equal(many.start, later.start)


def test_a_clip_of_one_track_is_laid_by_that_track_alone():
    table = rows(1, seconds=5.0)
    table["samples"] = 16000 * 9
    sound, pictures = SHAPE.only("audio"), SHAPE.only("video")
    assert sound.modalities == ("audio",) and pictures.modalities == ("video",)
    assert lay_fixed(table, sound, 1.0).start[0] == 16000 * 9 - SHAPE.samples
    assert lay_fixed(table, sound).frames.shape == (1, 0)
    assert (
        lay_fixed(table, pictures, 1.0).frames[0, -1] == lay_fixed(table, SHAPE, 1.0).frames[0, -1]
    )
    assert lay_fixed(table, SHAPE, 1.0).start[0] < 16000 * 5 - SHAPE.samples + 1
