"""Copies of JPEG packets against slices, and the look at their headers against libjpeg."""

import numpy as np
import pytest
import simplejpeg

from xdc_fast.kernels.packets import copy_packets

rng = np.random.default_rng(0)


def picture(height, width):
    return rng.integers(0, 256, (height, width, 3), dtype=np.uint8)


def copied(packets, height, width, room=0):
    data = np.frombuffer(b"..." + b"".join(packets), np.uint8)
    sizes = np.array([len(packet) for packet in packets])
    offsets = 3 + np.cumsum(sizes) - sizes
    out = np.full((len(packets), sizes.max() + room), 7, np.uint8)
    copy_packets(data, offsets, sizes, out, height, width)
    return out


def test_packets_lie_in_rows_with_zeros_behind():
    packets = [simplejpeg.encode_jpeg(picture(24, 40), quality=q) for q in (20, 95, 60)]
    for row, packet in zip(copied(packets, 24, 40, room=5), packets, strict=True):
        assert row[: len(packet)].tobytes() == packet and not row[len(packet) :].any()


def test_every_kind_of_jpeg_is_taken():
    image = picture(24, 40)
    plain = simplejpeg.encode_jpeg(image)
    kinds = [
        simplejpeg.encode_jpeg(image, colorsubsampling="444"),
        simplejpeg.encode_jpeg(image[:, :, :1].copy(), colorspace="GRAY", colorsubsampling="Gray"),
        plain[:2] + b"\xff\xfe\x00\x0b" + b"a comment" + plain[2:],
        plain[:2] + b"\xff\xe1\x00\x08" + b"Exif\0\0" + plain[2:],
        plain[:2] + b"\xff\xff\xff" + plain[2:],  # fill bytes
    ]
    for packet in kinds:
        assert simplejpeg.decode_jpeg_header(packet)[:2] == (24, 40)
        copied([packet], 24, 40)


def test_other_sizes_and_other_bytes_are_refused():
    packet = simplejpeg.encode_jpeg(picture(24, 40))
    for height, width in ((40, 24), (24, 41), (25, 40)):
        with pytest.raises(ValueError, match="another size"):
            copied([packet], height, width)
    scan = packet.index(b"\xff\xda")
    for bad in (b"", b"\xff\xd8", b"x" * 500, packet[1:], packet[:scan], b"\xff\xd8" * 50):
        with pytest.raises(ValueError, match="not a JPEG picture"):
            copied([packet, bad], 24, 40)


def test_a_packet_with_a_damaged_header_is_taken_at_its_true_size_alone():
    """Bytes of the headers changed at random; libjpeg tells the size, or refuses it too."""
    packet = simplejpeg.encode_jpeg(picture(24, 40))
    scan = packet.index(b"\xff\xda")
    taken = 0
    for _ in range(2000):
        bad = bytearray(packet)
        bad[rng.integers(scan)] = rng.integers(256)
        try:
            copied([bytes(bad)], 24, 40)
            found = simplejpeg.decode_jpeg_header(bytes(bad))[:2]
        except ValueError:  # libjpeg looks at tables and components too
            continue
        assert found == (24, 40)
        taken += 1
    assert 200 < taken < 1800
