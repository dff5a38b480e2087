"""HDR pictures as SDR ones: PQ and HLG (ITU-R BT.2100) with BT.2020 primaries to BT.709."""

from __future__ import annotations

import av
import numpy as np

from xdc_fast.packing.media import UNSPECIFIED

PQ, HLG = 16, 18  # FFmpeg's numbers of their transfer characteristics
BT2020 = 9  # and of primaries
WHITE = 203.0  # cd/m2, HDR reference white (BT.2408): SDR's white, but for the highlights above it
PEAK = 1000.0  # cd/m2, the nominal peak of HLG, and for which PQ is mastered most often
SDR_GAMMA = 2.4  # BT.1886

M1, M2 = 2610 / 16384, 2523 / 32  # of PQ, as are C1 to C3 (BT.2100, table 4)
C1, C2, C3 = 3424 / 4096, 2413 / 128, 2392 / 128
A, B, C = 0.17883277, 0.28466892, 0.55991073  # of HLG (BT.2100, table 5)
HLG_GAMMA = 1.2  # at PEAK
LUMA = np.array([0.2627, 0.6780, 0.0593], np.float32)
TO_BT709 = np.array(  # light of BT.2020 primaries (BT.2087)
    [[1.6605, -0.5876, -0.0728], [-0.1246, 1.1329, -0.0083], [-0.0182, -0.1006, 1.1187]],
    np.float32,
)


def is_hdr(frame: av.VideoFrame) -> bool:
    """Whether a frame says that it is coded with PQ or HLG."""
    return frame.color_trc in (PQ, HLG)


def to_sdr(signal: np.ndarray, transfer: int, primaries: int) -> np.ndarray:
    """A picture, uint16 RGB (H, W, 3), as uint8 BT.709.

    transfer: PQ or HLG. primaries: FFmpeg's number; BT.2020 where it is unspecified.
    """
    signal = signal.astype(np.float32) / 65535
    light = _tone(_pq_light(signal) if transfer == PQ else _hlg_light(signal)) / WHITE
    if primaries in (BT2020, UNSPECIFIED):
        light = light @ TO_BT709.T
    return (255 * light.clip(0, 1) ** (1 / SDR_GAMMA)).round().astype(np.uint8)


def _pq_light(signal: np.ndarray) -> np.ndarray:
    """The EOTF of PQ: cd/m2."""
    power = signal ** (1 / M2)
    return 10_000 * (np.maximum(power - C1, 0) / (C2 - C3 * power)) ** (1 / M1)


def _pq_signal(light: np.ndarray | float) -> np.ndarray:
    """The inverse of `_pq_light`."""
    power = (np.asarray(light) / 10_000) ** M1
    return ((C1 + C2 * power) / (1 + C3 * power)) ** M2


def _hlg_light(signal: np.ndarray) -> np.ndarray:
    """The EOTF of HLG on a display of PEAK: cd/m2."""
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - C) / A) + B) / 12)
    return PEAK * (scene @ LUMA)[..., None] ** (HLG_GAMMA - 1) * scene


def _tone(light: np.ndarray) -> np.ndarray:
    """Highlights up to PEAK rolled off to WHITE: the EETF of BT.2390, black being 0."""
    top = float(_pq_signal(PEAK))
    most = float(_pq_signal(WHITE)) / top
    knee = 1.5 * most - 0.5
    level = np.minimum(_pq_signal(light) / top, 1)
    t = np.maximum(level - knee, 0) / (1 - knee)
    rolled = (
        (2 * t**3 - 3 * t**2 + 1) * knee
        + (t**3 - 2 * t**2 + t) * (1 - knee)
        + (3 * t**2 - 2 * t**3) * most
    )
    return _pq_light(top * np.where(level < knee, level, rolled))
