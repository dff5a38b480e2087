"""HDR pictures become SDR ones that mean the same."""

import av
import numpy as np
import pytest

from tests.common.odd_media import write_hdr
from xdc_fast.packing.convert import convert
from xdc_fast.packing.hdr import to_sdr
from xdc_fast.packing.media import Refusal
from xdc_fast.packing.settings import PackSettings
from xdc_fast.shards.decode import decode_frames

PQ, HLG = 16, 18
BT709, UNSPECIFIED, BT2020 = 1, 2, 9
TO_BT2020 = np.array(  # BT.2087
    [[0.6274, 0.3293, 0.0433], [0.0691, 0.9195, 0.0114], [0.0164, 0.0880, 0.8956]]
)


def pq(light):
    """SMPTE ST 2084, cd/m2 to signal."""
    y = (light / 10_000) ** 0.1593017578125
    return ((0.8359375 + 18.8515625 * y) / (1 + 18.6875 * y)) ** 78.84375


def hlg(light):
    """BT.2100, cd/m2 on a display of 1000 to signal."""
    luma = (light @ [0.2627, 0.6780, 0.0593])[..., None] / 1000
    scene = luma ** (-0.2 / 1.2) * light / 1000
    root, log = np.sqrt(3 * scene), 0.17883277 * np.log(np.maximum(12 * scene - 0.28466892, 1e-9))
    return np.where(scene <= 1 / 12, root, log + 0.55991073)


CODED = {PQ: pq, HLG: hlg}


def shown(path, tmp_path, codec):
    settings = PackSettings(short_side=64, codec=codec)
    facts = convert(path, settings, tmp_path / "v.mp4", tmp_path / "a.wav")
    return decode_frames((tmp_path / "v.mp4").read_bytes(), np.arange(facts["frames"]))[10]


@pytest.mark.parametrize("codec", ["jpeg", "h264"])
@pytest.mark.parametrize(("transfer", "white"), [(PQ, 0.5806), (HLG, 0.75)])
def test_white_is_white_and_grey_is_grey(tmp_path, codec, transfer, white):
    """The levels of BT.2408: reference white, and a grey card at 38 % of either signal.

    SDR has the card at 42.5 %.
    """
    greys = np.repeat(np.repeat([[0, 0.38, white, 1.0]], 64, 0), 32, 1)[..., None].repeat(3, 2)
    path = write_hdr(tmp_path / "x.mp4", greys, transfer)
    black, card, white, peak = shown(path, tmp_path, codec)[32, 16::32].astype(int)
    assert black.max() < 6 and peak.min() > 249
    assert np.abs(card - 0.425 * 255).max() < 6
    assert white.min() > 222 and white.max() < 245
    with pytest.raises(Refusal, match="HDR") as refused:
        convert(path, PackSettings(codec="copy"), tmp_path / "v.mp4", tmp_path / "a.wav")
    assert refused.value.reason == "cannot be copied"


@pytest.mark.parametrize("transfer", [PQ, HLG])
@pytest.mark.parametrize("primaries", [BT2020, BT709])
def test_colours_are_those_of_the_light(tmp_path, transfer, primaries):
    """Below the highlights, a colour is the one of an SDR display whose white has 203 cd/m2."""
    colours = np.array([[190, 60, 50], [50, 150, 70], [60, 70, 170], [120, 120, 120]])
    light = 203 * (colours / 255) ** 2.4
    signal = CODED[transfer](light @ TO_BT2020.T if primaries == BT2020 else light)
    picture = np.repeat(np.repeat(signal[None], 64, 0), 32, 1)
    path = write_hdr(tmp_path / "x.mp4", picture, transfer, primaries)
    found = shown(path, tmp_path, "jpeg")[32, 16::32].astype(int)
    assert np.abs(found - colours).max() < 9


def test_the_containers_word_is_enough(tmp_path):
    """mp4 and mkv name the transfer function where the coded video does not."""
    signal = np.full((64, 64, 3), 0.5806)
    plain = write_hdr(tmp_path / "plain.mp4", signal, UNSPECIFIED, UNSPECIFIED)
    for name in ("x.mp4", "x.mkv"):
        with av.open(str(plain)) as source, av.open(str(tmp_path / name), "w") as container:
            tracks = {s.index: container.add_stream_from_template(s) for s in source.streams}
            context = tracks[source.streams.video[0].index].codec_context
            context.color_trc, context.color_primaries, context.colorspace = PQ, BT2020, BT2020
            for packet in source.demux():
                if packet.size:
                    packet.stream = tracks[packet.stream.index]
                    container.mux(packet)
        assert 222 < shown(tmp_path / name, tmp_path, "jpeg").mean() < 245
    assert 140 < shown(plain, tmp_path, "jpeg").mean() < 155


@pytest.mark.parametrize("transfer", [PQ, HLG])
def test_brighter_light_is_never_darker(transfer):
    ramp = np.linspace(0, 65535, 4096).astype(np.uint16)[None, :, None].repeat(3, 2)
    greys = to_sdr(ramp, transfer, BT2020)[0].astype(int)
    assert np.diff(greys, axis=0).min() >= 0 and np.diff(greys, axis=0).max() <= 2
    assert np.ptp(greys, axis=1).max() <= 1
