"""Reading samples of packed shards: from page cache, in one thread, nothing decoded."""

from __future__ import annotations

import tarfile
import tempfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.harness import Case
from benchmarks.media import describe_shards, find_videos, pack_videos
from xdc_fast.shards.dataset import ShardSet

THREADS = (1,)
FRAMES, STEP, SAMPLES = 8, 2, 16096  # of a window


def cases(quick: bool, threads: int) -> Iterator[Case]:
    with tempfile.TemporaryDirectory() as folder:
        what, videos = find_videos(Path(folder), 8 if quick else 300)
        shards = pack_videos(videos, Path(folder) / "set")
        paths = [shards.root / name for name in shards.shards]
        what = describe_shards(what, shards)
        streams = {
            "webdataset": partial(make_webdataset, paths),
            "tarfile": partial(make_tarfile, paths),
        }
        yield Case(
            f"whole samples in order, {what}",
            "samples per second",
            len(shards),
            partial(read_samples, shards),
            streams,
            assert_same_samples,
            ("copy from page cache", copy_samples(shards)),
        )
        starts = np.random.default_rng(0).integers(
            shards.rows()["frames"] - (FRAMES - 1) * STEP, dtype=np.int64
        )
        yield Case(
            f"what a window of {FRAMES} frames and {SAMPLES} sound samples needs, {what}",
            "samples per second",
            len(shards),
            partial(read_windows, shards, starts),
            streams,
            partial(assert_windows_of, shards, starts),
            ("copy from page cache", copy_windows(shards, starts)),
        )


def read_samples(shards: ShardSet) -> list[tuple[bytes, ...]]:
    """The video, audio and metadata file of every sample."""
    return [_files(shards, index) for index in range(len(shards))]


def _files(shards: ShardSet, index: int) -> tuple[bytes, ...]:
    name, row = shards.row(index)
    return tuple(
        shards.read(name, row[part], row[f"{part}_bytes"]).tobytes()
        for part in ("video", "audio", "meta")
    )


def read_windows(shards: ShardSet, starts: np.ndarray) -> list[tuple[list[bytes], np.ndarray]]:
    """The packets and sound of a window of every sample, copied out of the map."""
    windows = []
    for index, start in enumerate(starts):
        name, row = shards.row(index)
        packets = shards.packets(name, row, start + STEP * np.arange(FRAMES))
        sound = shards.pcm(name, row, _first_sound(shards, row, start), SAMPLES)
        windows.append(([packet.tobytes() for packet in packets], sound))
    return windows


def _first_sound(shards: ShardSet, row: np.void, start: int) -> int:
    return round(start / row["fps"] * shards.rate)


def copy_samples(shards: ShardSet):
    """Copies the stretch of every sample into one buffer."""
    stretches = []
    for index in range(len(shards)):
        name, row = shards.row(index)
        end = row["meta"] + row["meta_bytes"]
        stretches.append(shards.read(name, row["video"], end - row["video"]))
    return _copy(stretches)


def copy_windows(shards: ShardSet, starts: np.ndarray):
    """Copies the bytes of every window into one buffer."""
    stretches = []
    for index, start in enumerate(starts):
        name, row = shards.row(index)
        stretches += shards.packets(name, row, start + STEP * np.arange(FRAMES))
        begin = _first_sound(shards, row, start)
        count = min(SAMPLES, row["samples"] - begin)
        stretches.append(shards.read(name, row["pcm"] + 2 * begin, 2 * count))
    return _copy(stretches)


def _copy(stretches: list[np.ndarray]):
    buffer = np.empty(max(map(len, stretches)), np.uint8)
    targets = [buffer[: len(stretch)] for stretch in stretches]

    def run():
        for target, stretch in zip(targets, stretches, strict=True):
            np.copyto(target, stretch)

    return run


def make_webdataset(paths: list[Path]):
    import webdataset

    def run():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves files open
            samples = webdataset.WebDataset([str(path) for path in paths], shardshuffle=False)
            return [(sample["mp4"], sample["wav"], sample["json"]) for sample in samples]

    return run


def make_tarfile(paths: list[Path]):
    """Python's tarfile as a stream, the files of a sample by their order."""

    def run():
        files = []
        for path in paths:
            with tarfile.open(path, "r|") as tar:
                files += [tar.extractfile(member).read() for member in tar]
        return list(zip(*[iter(files)] * 3, strict=True))

    return run


def assert_same_samples(ours: list, other: list) -> None:
    assert len(ours) == len(other), f"{len(other)} samples, ours {len(ours)}"
    for index, (a, b) in enumerate(zip(ours, other, strict=True)):
        assert a == b, f"sample {index} has other bytes"


def assert_windows_of(shards: ShardSet, starts: np.ndarray, ours: list, other: list) -> None:
    """Our windows lie in the peer's samples, where the format says."""
    assert len(ours) == len(other), f"{len(other)} samples, ours {len(ours)}"
    for index, ((packets, sound), (video, audio, _)) in enumerate(zip(ours, other, strict=True)):
        row = shards.row(index)[1]
        assert all(packet in video for packet in packets), f"sample {index}: not its packets"
        begin = row["pcm"] - row["audio"] + 2 * _first_sound(shards, row, starts[index])
        inside = np.frombuffer(audio[begin:][: 2 * SAMPLES], "<i2")
        assert np.array_equal(sound[: len(inside)], inside), f"sample {index}: other sound"
