"""The picture's shape: what changes within a source is fitted in without distortion."""

import av
import numpy as np
import pytest

from tests.common.odd_media import write_parts
from xdc_fast.packing.convert import convert
from xdc_fast.packing.encode import Scaler
from xdc_fast.packing.media import Refusal
from xdc_fast.packing.settings import PackSettings
from xdc_fast.shards.decode import decode_frames


def extent(picture):
    """Height and width of the bright disc in a picture."""
    bright = picture.mean(-1) > 150
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    return np.array([np.ptp(rows) + 1, np.ptp(columns) + 1])


@pytest.mark.parametrize(
    ("name", "codec", "parts", "sizes"),
    [
        ("vp8.webm", "libvpx", ("wide", "tall", "wide"), (40, 20, 40)),
        ("h264.ts", "libx264", ("wide", "tall"), (40, 20)),
        ("aspect.ts", "libx264", ("tall", "flat"), (40, 20)),
    ],
)
@pytest.mark.parametrize("packed_as", ["jpeg", "h264"])
def test_a_disc_stays_round_when_the_picture_changes(
    tmp_path, name, codec, parts, sizes, packed_as
):
    path = write_parts(tmp_path / name, codec, parts)
    video, audio = tmp_path / "v.mp4", tmp_path / "a.wav"
    facts = convert(path, PackSettings(short_side=64, codec=packed_as), video, audio)
    frames = decode_frames(video.read_bytes(), np.arange(facts["frames"]))
    for part, size in enumerate(sizes):
        for k in (15 * part + 1, 15 * part + 13):
            assert np.abs(extent(frames[k]) - size).max() <= 2, (part, extent(frames[k]))
    borders = frames[20][:4] if frames.shape[1] > frames.shape[2] else frames[20][:, :4]
    assert borders.max() < 12  # black


def test_a_picture_that_changes_is_not_copied(tmp_path):
    for name, codec, parts in (
        ("x.webm", "libvpx", ("wide", "tall")),
        ("x.ts", "libx264", ("tall", "flat")),
    ):
        path = write_parts(tmp_path / name, codec, parts)
        with pytest.raises(Refusal, match="changes its shape") as caught:
            convert(path, PackSettings(codec="copy"), tmp_path / "v.mp4", tmp_path / "a.wav")
        assert caught.value.reason == "cannot be copied"


@pytest.mark.parametrize("full_range", [True, False])
def test_borders_are_black_and_even(full_range):
    """A grey picture of any shape lies in the middle, of the right shape to a pixel."""
    scale = Scaler(96, 64, full_range)
    for width, height in ((64, 96), (96, 64), (97, 64), (200, 10), (10, 200), (2, 2)):
        frame = av.VideoFrame.from_ndarray(np.full((height, width, 3), 128, np.uint8), "rgb24")
        rgb = scale(frame).to_ndarray(format="rgb24", src_color_range=2 if full_range else 1)
        grey = np.abs(rgb.astype(int) - 128).max(-1) < 8
        rows, columns = grey.any(1).sum(), grey.any(0).sum()
        assert grey.sum() == rows * columns and (rows == 64 or columns == 96)
        assert abs(columns / width - rows / height) * min(width, height) <= 2
        assert rgb[~grey].size == 0 or rgb[~grey].max() < 8
