"""One window of one sample, decoded on the host."""

from __future__ import annotations

from math import prod

import numpy as np
import simplejpeg

from xdc_fast.clips.windows import ClipShape, Windows
from xdc_fast.errors import UserError
from xdc_fast.kernels.pictures import crop_pictures
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.format import SAMPLE
from xdc_fast.shards.sample import UNREADABLE, sample_error


class SampleReader:
    """Reads windows of a shard set's samples: JPEG packets and PCM by offset, the rest by PyAV.

    modalities: the tracks that are read, those of the set that the shape has room for.
    Raises UserError when there are none, when the set's audio rate is not the shape's, or when it
    has fewer pictures per second. May be used by several threads.
    """

    def __init__(self, shards: ShardSet, shape: ClipShape):
        self.shards, self.shape = shards, shape
        self.modalities = tuple(m for m in shards.modalities if m in shape.modalities)
        if not self.modalities:
            raise UserError(
                f"{shards.root}: holds {' and '.join(shards.modalities)} only, and a clip of "
                f"{' and '.join(shape.modalities) or 'nothing'} is asked for; take another set"
            )
        if "audio" in self.modalities and shards.sample_rate != shape.sample_rate:
            raise UserError(
                f"{shards.root}: sound at {shards.sample_rate} Hz, the recipe asks for "
                f"{shape.sample_rate}; set audio.sample_rate={shards.sample_rate} or pack with "
                f"--audio-rate {shape.sample_rate}"
            )
        settings = shards.settings
        if (
            "video" in self.modalities
            and settings["codec"] != "copy"  # has the sources' own rates
            and settings["fps"] < shape.fps
        ):
            raise UserError(
                f"{shards.root}: at most {settings['fps']:g} pictures a second, the recipe asks "
                f"for {shape.fps:g}; set video.fps={settings['fps']:.10g} or pack with "
                f"--fps {shape.fps:g}"
            )

    def locate(self, samples: np.ndarray) -> tuple[list[str], np.ndarray]:
        """The tar names and SAMPLE rows (B,) of samples int64 (B,).

        Raises UserError for a picture smaller than the crop.
        """
        found = [self.shards.row(i) for i in samples.tolist()]
        rows = np.array([row for _, row in found], SAMPLE)
        sides = np.minimum(rows["height"], rows["width"])
        small = int(sides.argmin())
        if sides[small] < self.shape.crop and "video" in self.modalities:
            raise UserError(
                f"{self.shards.root}: sample {self.shards.key_of(found[small][0], rows[small])} is "
                f"{rows['width'][small]}x{rows['height'][small]} pixels, the recipe crops "
                f"{self.shape.crop}; set video.crop={sides[small]} or less, or pack with "
                f"--short-side {max(16, self.shape.crop + self.shape.crop % 2)} or more"
            )
        return [name for name, _ in found], rows

    def ranges(self, name: str, row: np.void, windows: Windows, slot: int) -> list[tuple[int, int]]:
        """(offset, size) in its tar of what window number `slot` needs: its pictures, its sound.

        Of JPEG packets and PCM it is what lies in the window, of other tracks the whole file.
        """
        found = []
        if "video" in self.modalities:
            place, size = int(row["video"]), int(row["video_bytes"])
            if row["packet"] >= 0:
                packets = self.shards.packet_places(name, row, windows.frames[slot])
                place = int(packets["offset"][0])
                size = int(packets["offset"][-1]) + int(packets["bytes"][-1]) - place
            found.append((place, size))
        if "audio" in self.modalities:
            place, size = int(row["audio"]), int(row["audio_bytes"])
            if row["pcm"] >= 0:
                start, length = int(windows.start[slot]), int(row["samples"])
                first, last = max(start, 0), min(start + self.shape.samples, length)
                place, size = int(row["pcm"]) + 2 * first, 2 * max(last - first, 0)
            if size and (place, size) not in found:
                found.append((place, size))
        return found

    def read_frames(
        self,
        name: str,
        row: np.void,
        windows: Windows,
        slot: int,
        buffer: np.ndarray,
        out: np.ndarray,
    ) -> None:
        """Decodes the frames of window number `slot` into `out`, uint8 (T, crop, crop, 3).

        name, row: the sample, as of `locate`. buffer: room for T whole pictures, `picture_buffer`.
        Raises SampleError when they cannot be decoded; `out` may then hold some of them.
        """
        numbers = windows.frames[slot]
        try:
            if row["packet"] >= 0:
                packets = self.shards.packets(name, row, numbers)
                shape = int(row["height"]), int(row["width"]), 3
                pictures = buffer[: len(packets) * prod(shape)].reshape(-1, *shape)
                for packet, picture in zip(packets, pictures, strict=True):
                    if simplejpeg.decode_jpeg(packet, buffer=picture).shape != shape:
                        raise ValueError("a packet of another size")
            else:
                pictures = self.shards.pictures(name, row, numbers)
            top, left, mirrored = windows.top[slot], windows.left[slot], windows.flip[slot]
            crop_pictures(pictures, int(top), int(left), bool(mirrored), out)
        except UNREADABLE as error:
            raise sample_error(error, name, self.shards.key_of(name, row), "video") from error

    def read_waveform(self, name: str, row: np.void, start: int, out: np.ndarray) -> None:
        """The sound from sample `start` on into `out`, int16 (S,); zeros beyond either end.

        Raises SampleError when it cannot be decoded.
        """
        try:
            self.shards.waveform(name, row, int(start), self.shape.samples, out)
        except UNREADABLE as error:
            raise sample_error(error, name, self.shards.key_of(name, row), "audio") from error
