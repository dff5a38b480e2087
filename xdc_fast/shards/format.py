"""The layout of a packed set.

    SET/shard-000000.tar           USTAR; each sample's files adjacent: KEY.mp4, KEY.wav, KEY.json
                                   (a set of one track has no wav, or no mp4)
    SET/shard-000000.idx           DALI's index of the tar ("v1.2")
    SET/shard-000000.samples.npy   one SAMPLE row per sample: where its bytes lie
    SET/shard-000000.packets.npy   one PACKET row per frame of a JPEG-packet track
    SET/samples.csv                index, key, shard, source, start, seconds, frames, a column per
                                   label; start is in seconds into the source
    SET/refused.csv                source, reason, detail, and of a segment its start and end
    SET/manifest.json              settings, counts, checksums; written last: the set is complete

KEY is the sample's index in nine digits: generated, unique over the set, without dots.
"""

from __future__ import annotations

import numpy as np

FORMAT = 2
MANIFEST = "manifest.json"
LOCK = ".lock"  # there while a process writes the tables
SAMPLES = "samples.csv"
REFUSED = "refused.csv"
MISSING = "missing.csv"  # only where official lists name what the user lacks
LABEL_SEPARATOR = (
    ";"  # between several labels in a cell; no AudioSet name has one, many have commas
)
SAMPLE_COLUMNS = ("index", "key", "shard", "source", "start", "seconds", "frames")
MISSING_COLUMNS = ("name", "list")
REFUSED_COLUMNS = ("source", "reason", "detail", "start", "end")

CODECS = ("jpeg", "h264", "copy")
TRACKS = {"both": ("video", "audio"), "video": ("video",), "audio": ("audio",)}

SAMPLE = np.dtype(
    [
        ("index", "<i8"),  # 0 to N-1 over the whole set, in packing order
        ("video", "<i8"),  # byte offset of the video file's content in the tar; -1: none
        ("video_bytes", "<i8"),
        ("audio", "<i8"),  # byte offset of the audio file's content; -1: none
        ("audio_bytes", "<i8"),
        ("meta", "<i8"),  # byte offset of the metadata JSON
        ("meta_bytes", "<i8"),
        ("pcm", "<i8"),  # byte offset of the first 16-bit mono sample; -1: not stored as such
        ("samples", "<i8"),  # audio samples at the set's rate
        ("packet", "<i8"),  # first row of this sample in the packets file; -1: not JPEG packets
        ("frames", "<i4"),
        ("width", "<i4"),  # pixels
        ("height", "<i4"),
        ("fps", "<f8"),
        ("origin", "<f8"),  # seconds on the video file's clock where the sample begins
        ("hold", "<f8"),  # seconds that a frame stays on screen at most
    ]
)
PACKET = np.dtype([("offset", "<i8"), ("bytes", "<i4")])  # of one JPEG in the tar


def shard_name(number: int) -> str:
    """The stem of shard `number`; .tar, .idx, .samples.npy and .packets.npy follow it."""
    return f"shard-{number:06d}"


def sample_key(index: int) -> str:
    return f"{index:09d}"
