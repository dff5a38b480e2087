"""The layout of a packed set.

    SET/part-000000-00000.tar          USTAR; each sample's files adjacent: KEY.mp4, KEY.wav,
                                       KEY.json (a set of one track has no wav, or no mp4)
    SET/part-000000-00000.idx          DALI's index of the tar ("v1.2")
    SET/part-000000-00000.samples.npy  one SAMPLE row per sample: where its bytes lie
    SET/part-000000-00000.packets.npy  where the frames of a JPEG-packet track begin
    SET/shards.npy                     one row per tar: its name, its samples, checksums
    SET/samples.csv                    index, key, shard, source, start, seconds, frames, a column
                                       per label; start is in seconds into the source
    SET/label-000.npy, label-000.json  the first label as codes, and its classes
    SET/refused.csv                    source, reason, detail, and of a segment its start and end
    SET/manifest.json                  settings, counts, checksums; where it is, the set is complete

A part is a run of inputs. KEY is the input's number in nine digits, and of a segment that was cut
out of it, its number too: unique over the set, without dots, known before anything is converted.
"""

from __future__ import annotations

import numpy as np

FORMAT = 3
MANIFEST = "manifest.json"
LOCK = ".lock"  # there while a process writes the tables
SAMPLES = "samples.csv"
REFUSED = "refused.csv"
SHARDS = "shards.npy"
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
        ("place", "<i8"),  # the sample's number in its tar, from 0
        ("video", "<i8"),  # byte offset of the video file's content in the tar; -1: none
        ("video_bytes", "<i8"),
        ("audio", "<i8"),  # byte offset of the audio file's content; -1: none
        ("audio_bytes", "<i8"),
        ("meta", "<i8"),  # byte offset of the metadata JSON
        ("meta_bytes", "<i8"),
        ("pcm", "<i8"),  # byte offset of the first 16-bit mono sample; -1: not stored as such
        ("samples", "<i8"),  # audio samples at the set's rate
        ("packet", "<i8"),  # its first number in the packets file; -1: not JPEG packets
        ("frames", "<i4"),
        ("width", "<i4"),  # pixels
        ("height", "<i4"),
        ("fps", "<f8"),
        ("origin", "<f8"),  # seconds on the video file's clock where the sample begins
        ("hold", "<f8"),  # seconds that a frame stays on screen at most
    ]
)
PACKET = np.dtype("<u4")  # bytes from the video file's beginning to a JPEG; at last, to their end


def shard_name(part: int, number: int) -> str:
    """The stem of a part's shard; .tar, .idx, .samples.npy and .packets.npy follow it."""
    return f"part-{part:06d}-{number:05d}"


def sample_key(number: int, segment: int | None = None) -> str:
    """The key of a sample; number: of its input. segment: its place among those cut out of it."""
    return f"{number:09d}" if segment is None else f"{number:09d}-{segment:05d}"


def label_name(number: int) -> str:
    """The stem of a label's files, .npy and .json; number: of the column."""
    return f"label-{number:03d}"
