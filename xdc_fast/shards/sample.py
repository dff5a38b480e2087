"""One sample of a shard set: its pictures, its sound and what is known about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
import numpy as np
import simplejpeg

from xdc_fast.errors import UserError

if TYPE_CHECKING:
    from xdc_fast.shards.dataset import ShardSet

UNREADABLE = (ValueError, IndexError, OSError, av.FFmpegError)  # damaged or missing files
UNREADABLE_FILE = "unreadable"  # the reason of a SampleError of a file as a whole


class SampleError(Exception):
    """One sample cannot be read; the message names the shard, the key and the stream.

    reason: "unreadable" where its tar is missing, has another size or is on storage that does not
    answer, "undecodable" where what it holds is damaged.
    """

    def __init__(self, reason: str, shard: str, key: str, stream: str, detail: str = ""):
        super().__init__(f"{shard}: sample {key}: {stream}: {reason}" + (detail and f" ({detail})"))
        self.reason = reason


def sample_error(error: Exception, shard: str, key: str, stream: str) -> SampleError:
    """The SampleError of one of the errors in UNREADABLE."""
    of_the_file = isinstance(error, OSError) and not isinstance(error, av.FFmpegError)
    reason = UNREADABLE_FILE if of_the_file else "undecodable"
    return SampleError(reason, shard, key, stream, str(error))


class Sample:
    """One packed video, made by `shards[index]`; its methods read when they are called.

    Attributes:
        index: 0 to N-1, the sample's row in features, assignments and labels.
    """

    def __init__(self, shards: ShardSet, index: int):
        self._shards, self.index = shards, index

    def __repr__(self) -> str:
        return f"Sample({self.index}, source={self.source!r})"

    @property
    def key(self) -> str:
        """The name of the sample's files in the tar, without extension."""
        return self._shards.line(self.index)["key"]

    @property
    def source(self) -> str:
        """The file that the sample was made of, as samples.csv names it."""
        return self._shards.line(self.index)["source"]

    @property
    def labels(self) -> dict[str, str]:
        """{column: text} for every label column of the set; "" where the sample has no label."""
        return self._shards.labels_of(self.index)

    @property
    def meta(self) -> dict:
        """The sample's JSON document: source, seconds, fps, frames, labels and more."""
        return self._shards.meta(self.index)

    def video(self) -> np.ndarray:
        """All pictures, uint8 (T, H, W, 3), RGB, at `meta["fps"]` pictures a second.

        Raises:
            UserError: where the set has no video.
            SampleError: where the track does not decode.
        """
        self._require("video")
        name, row = self._shards.row(self.index)
        numbers = np.arange(row["frames"])
        try:
            if row["packet"] < 0:
                return self._shards.pictures(name, row, numbers)
            pictures = np.empty((len(numbers), row["height"], row["width"], 3), np.uint8)
            for number, packet in enumerate(self._shards.packets(name, row, numbers)):
                pictures[number] = simplejpeg.decode_jpeg(packet)
            return pictures
        except UNREADABLE as error:
            raise sample_error(error, name, self.key, "video") from error

    def audio(self) -> np.ndarray:
        """The whole sound, int16 (S,), mono, full scale 32768, at the set's `sample_rate` in Hz.

        Raises:
            UserError: where the set has no sound.
            SampleError: where the track does not decode.
        """
        self._require("audio")
        name, row = self._shards.row(self.index)
        try:
            return self._shards.waveform(name, row, 0, int(row["samples"]))
        except UNREADABLE as error:
            raise sample_error(error, name, self.key, "audio") from error

    def _require(self, modality: str) -> None:
        if modality not in self._shards.modalities:
            has = " and ".join(self._shards.modalities)
            raise UserError(
                f"{self._shards.root}: it holds {has} only; pack the media with --tracks both "
                f"for {modality}"
            )
