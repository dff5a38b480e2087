"""Proof that a sample is read as it plays: every frame, all sound, and windows at random."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import av
import numpy as np
import simplejpeg

from xdc_fast.shards.dataset import ShardSet, clock_of
from xdc_fast.shards.decode import each_picture

WINDOW = 8  # frames
STRIDE = 64  # frames; a window begins at a random place in each


def decoding_faults(shards: ShardSet, index: int) -> Iterator[str]:
    """Yield what is wrong with a sample's pictures and sound.

    Decodes all of both. Windows at random must have the pictures that decoding through gives.
    """
    name, row = shards.row(index)
    for track, check in (("video", _check_pictures), ("audio", _check_sound)):
        if row[track] >= 0:
            try:
                check(shards, name, row)
            except (av.FFmpegError, ValueError) as error:
                yield f"{track}: {error}"


def _check_pictures(shards: ShardSet, name: str, row: np.void) -> None:
    numbers = np.arange(row["frames"])
    if row["packet"] >= 0:
        for number, packet in enumerate(shards.packets(name, row, numbers)):
            _check_size(simplejpeg.decode_jpeg(packet, strict=True), row, number)
        return
    file = shards.read(name, row["video"], row["video_bytes"]).tobytes()
    through = []
    for number, picture in enumerate(each_picture(file, range(row["frames"]), clock_of(row))):
        _check_size(picture, row, number)
        through.append(_checksum(picture))
    draw = np.random.default_rng(int(row["place"]))
    for first in range(0, len(numbers), STRIDE):
        start = min(first + int(draw.integers(STRIDE)), max(len(numbers) - WINDOW, 0))
        window = numbers[start : start + WINDOW]
        for number, picture in zip(window, shards.pictures(name, row, window), strict=True):
            if _checksum(picture) != through[number]:
                raise ValueError(f"frame {number} is another one after a seek")


def _check_size(picture: np.ndarray, row: np.void, number: int) -> None:
    if picture.shape[:2] != (row["height"], row["width"]):
        raise ValueError(f"frame {number} is {picture.shape[1]} x {picture.shape[0]}")


def _checksum(picture: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(picture).data)


def _check_sound(shards: ShardSet, name: str, row: np.void) -> None:
    if row["pcm"] >= 0:
        return  # its bytes are its samples
    samples = len(shards.decoded_sound(name, row))
    if samples != row["samples"]:
        raise ValueError(f"{samples} samples, {int(row['samples'])} were found before")
