"""Reading samples of packed shards: from page cache, in one thread, nothing decoded.

Every contestant copies the bytes of one sample after the other; each copy is dropped when the next
comes, as in training. Keeping all copies would time the system instead: it clears new memory page
by page, which takes longer than copying into it, on a virtual machine several times as long.
"""

from __future__ import annotations

import tarfile
import tempfile
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, repeat
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
            stream(partial(read_samples, shards)),
            streams,
            assert_same_samples,
            ("copy from page cache", copy_samples(shards)),
        )
        windows = draw_windows(shards)
        yield Case(
            f"what a window of {FRAMES} frames and {SAMPLES} sound samples needs, {what}",
            "samples per second",
            len(shards),
            stream(partial(read_windows, shards, *windows)),
            streams,
            partial(assert_windows_of, shards, windows[1]),
            ("copy from page cache", copy_windows(shards, *windows)),
        )


def stream(read: Callable[[], Iterable]) -> Callable[[], Iterable]:
    """A call that reads to the end; the first keeps its items for the comparison."""
    ends = chain([list], repeat(partial(deque, maxlen=0)))
    return lambda: next(ends)(read())


def draw_windows(shards: ShardSet) -> tuple[np.ndarray, np.ndarray]:
    """A window of every sample: frame numbers (N, FRAMES), the first of its sound samples (N,)."""
    rows = shards.rows()
    first = np.random.default_rng(0).integers(rows["frames"] - (FRAMES - 1) * STEP, dtype=np.int64)
    numbers = first[:, None] + STEP * np.arange(FRAMES)
    return numbers, np.rint(first / rows["fps"] * shards.sample_rate).astype(np.int64)


def read_samples(shards: ShardSet) -> Iterator[tuple[bytes, ...]]:
    """The video, audio and metadata file of every sample."""
    for index in range(len(shards)):
        name, row = shards.row(index)
        yield tuple(
            shards.read(name, row[part], row[f"{part}_bytes"]).tobytes()
            for part in ("video", "audio", "meta")
        )


def read_windows(
    shards: ShardSet, numbers: np.ndarray, sounds: np.ndarray
) -> Iterator[tuple[list[bytes], np.ndarray]]:
    """The packets and sound of a window of every sample, copied out of the map."""
    for index, start in enumerate(sounds.tolist()):
        name, row = shards.row(index)
        packets = shards.packets(name, row, numbers[index])
        yield [packet.tobytes() for packet in packets], shards.waveform(name, row, start, SAMPLES)


def copy_samples(shards: ShardSet) -> Callable[[], None]:
    """Copies the stretch of every sample into one buffer."""
    stretches = []
    for index in range(len(shards)):
        name, row = shards.row(index)
        end = row["meta"] + row["meta_bytes"]
        stretches.append(shards.read(name, row["video"], end - row["video"]))
    return _copy(stretches)


def copy_windows(shards: ShardSet, numbers: np.ndarray, sounds: np.ndarray) -> Callable[[], None]:
    """Copies the bytes of every window into one buffer."""
    stretches = []
    for index, start in enumerate(sounds):
        name, row = shards.row(index)
        stretches += shards.packets(name, row, numbers[index])
        count = min(SAMPLES, row["samples"] - start)
        stretches.append(shards.read(name, row["pcm"] + 2 * start, 2 * count))
    return _copy(stretches)


def _copy(stretches: list[np.ndarray]) -> Callable[[], None]:
    buffer = np.empty(max(map(len, stretches)), np.uint8)
    targets = [buffer[: len(stretch)] for stretch in stretches]

    def run() -> None:
        for target, stretch in zip(targets, stretches, strict=True):
            np.copyto(target, stretch)

    return run


def make_webdataset(paths: list[Path]) -> Callable[[], Iterable]:
    import webdataset

    def read() -> Iterator[tuple[bytes, ...]]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # it leaves files open
            samples = webdataset.WebDataset([str(path) for path in paths], shardshuffle=False)
            for sample in samples:
                yield sample["mp4"], sample["wav"], sample["json"]

    return stream(read)


def make_tarfile(paths: list[Path]) -> Callable[[], Iterable]:
    """Python's tarfile as a stream, the files of a sample by their order."""

    def read() -> Iterator[tuple[bytes, ...]]:
        for path in paths:
            with tarfile.open(path, "r|") as tar:
                files = (tar.extractfile(member).read() for member in tar)
                yield from zip(files, files, files, strict=True)

    return stream(read)


def assert_same_samples(ours: list, other: list) -> None:
    assert len(ours) == len(other), f"{len(other)} samples, ours {len(ours)}"
    for index, (a, b) in enumerate(zip(ours, other, strict=True)):
        assert a == b, f"sample {index} has other bytes"


def assert_windows_of(shards: ShardSet, sounds: np.ndarray, ours: list, other: list) -> None:
    """Our windows lie in the peer's samples, where the format says."""
    assert len(ours) == len(other), f"{len(other)} samples, ours {len(ours)}"
    for index, ((packets, sound), (video, audio, _)) in enumerate(zip(ours, other, strict=True)):
        row = shards.row(index)[1]
        assert all(packet in video for packet in packets), f"sample {index}: not its packets"
        begin = row["pcm"] - row["audio"] + 2 * sounds[index]
        inside = np.frombuffer(audio[begin:][: 2 * SAMPLES], "<i2")
        assert np.array_equal(sound[: len(inside)], inside), f"sample {index}: other sound"
