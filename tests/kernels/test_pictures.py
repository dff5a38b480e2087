"""Crops, against NumPy's slices."""

import numpy as np
import pytest

from xdc_fast.kernels.pictures import crop_pictures


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("corner", [(0, 0), (3, 5), (7, 10)])
def test_crops_are_the_slices_of_every_picture(mirrored, corner):
    pictures = np.random.default_rng(0).integers(256, size=(4, 20, 27, 3), dtype=np.uint8)
    out = np.zeros((4, 13, 17, 3), np.uint8)
    top, left = corner
    crop_pictures(pictures, top, left, mirrored, out)
    expected = pictures[:, top : top + 13, left : left + 17]
    assert np.array_equal(out, expected[:, :, ::-1] if mirrored else expected)


@pytest.mark.parametrize(("top", "left"), [(-1, 0), (0, -1), (8, 0), (0, 11)])
def test_a_crop_beyond_the_pictures_is_refused(top, left):
    with pytest.raises(ValueError, match=r"^no "):
        crop_pictures(
            np.zeros((4, 20, 27, 3), np.uint8), top, left, False, np.empty((4, 13, 17, 3))
        )
