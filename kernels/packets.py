"""JPEG packets copied side by side, and looked at: a decoder on a GPU takes one array."""

import numpy as np

from ._jit import njit

U = np.uintp  # signed indices would be tested for negative ones, byte by byte

FINE, NO_PICTURE, OTHER_SIZE = 0, 1, 2
SOI, SOS, EOI = 0xD8, 0xDA, 0xD9  # markers: start of image, start of scan, end of image


def copy_packets(
    data: np.ndarray,
    offsets: np.ndarray,
    sizes: np.ndarray,
    out: np.ndarray,
    height: int,
    width: int,
) -> None:
    """Copies T packets of `data`, uint8 (S,), into the rows of `out`, uint8 (T, L), zeros behind.

    offsets, sizes: int64 (T,), where the packets lie, within `data`, and at most L bytes each. The
    interpreter lock is not held.
    Raises ValueError for a packet whose headers are not those of a JPEG picture of this height and
    width. (T.81, annex B: segments of a marker and their length, up to the scan.)
    """
    found = _copy(data, offsets, sizes, out, height, width)
    if found == OTHER_SIZE:
        raise ValueError("a packet of another size")
    if found == NO_PICTURE:
        raise ValueError("not a JPEG picture")


@njit(nogil=True)
def _copy(
    data: np.ndarray,
    offsets: np.ndarray,
    sizes: np.ndarray,
    out: np.ndarray,
    height: int,
    width: int,
) -> int:
    for number in range(len(offsets)):
        packet = data[offsets[number] : offsets[number] + sizes[number]]
        row = out[number]
        size = U(len(packet))
        for i in range(size):
            row[U(i)] = packet[U(i)]
        for i in range(size, U(len(row))):
            row[U(i)] = 0
        found = _look(packet, height, width)
        if found != FINE:
            return found
    return FINE


@njit(nogil=True)
def _look(packet: np.ndarray, height: int, width: int) -> int:
    """FINE, or what is wrong with a packet."""
    if len(packet) < 4 or packet[0] != 0xFF or packet[1] != SOI:
        return NO_PICTURE
    at, sized = 2, False
    while at + 4 <= len(packet):
        if packet[at] != 0xFF:
            return NO_PICTURE
        marker = packet[at + 1]
        if marker == 0xFF:  # a fill byte
            at += 1
            continue
        if marker == SOS:
            return FINE if sized else NO_PICTURE
        if marker < 0xC0 or SOI <= marker <= EOI:  # no segment, in front of the scan
            return NO_PICTURE
        length = (np.int64(packet[at + 2]) << 8) + packet[at + 3]
        if length < 2 or at + 2 + length > len(packet):
            return NO_PICTURE
        frame = 0xC0 <= marker <= 0xCF and marker != 0xC4 and marker != 0xC8 and marker != 0xCC
        if frame:
            if sized or length < 8:
                return NO_PICTURE
            sized = True
            if (np.int64(packet[at + 5]) << 8) + packet[at + 6] != height:
                return OTHER_SIZE
            if (np.int64(packet[at + 7]) << 8) + packet[at + 8] != width:
                return OTHER_SIZE
        at += 2 + length
    return NO_PICTURE
