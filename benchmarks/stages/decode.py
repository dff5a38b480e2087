"""Windows of packed samples, decoded and cropped, with their sound.

All contestants read the same bytes through the shard set's offsets, with equally many threads.
"""

from __future__ import annotations

import io
import tempfile
import time
import wave
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

import av
import numpy as np
import simplejpeg
from av.container import InputContainer
from av.video.reformatter import VideoReformatter

from benchmarks.harness import Case, Figure
from benchmarks.media import describe_shards, find_videos, pack_videos
from xdc_fast.clips.buffers import picture_buffer
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.windows import ClipShape, WindowFunction, Windows, random_windows
from xdc_fast.kernels import MelSpec, logmel
from xdc_fast.kernels import pictures as kernel
from xdc_fast.shards.dataset import ShardSet

if TYPE_CHECKING:
    from nvidia.dali.data_node import DataNode
    from nvidia.dali.pipeline import Pipeline

THREADS = (1, 2)
BATCH = 16
RUNS = 20
SHAPE = ClipShape(frames=8, fps=7.5, crop=112, samples=16096, sample_rate=16000)

Clips = list[tuple[np.ndarray, np.ndarray]]  # frames (T, H, W, 3) and waveform (S,) of each


def cases(quick: bool, threads: int) -> Iterator[Case | Figure]:
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(threads) as pool:
        what, videos = find_videos(Path(folder), 8 if quick else 100)
        shards = pack_videos(videos, Path(folder) / "set")
        batches = draw_batches(shards, 2 if quick else 8)
        lay_windows = partial(random_windows, shape=SHAPE, seed=0, epoch=0, flip=False)
        located = [[shards.row(int(i)) for i in indices] for indices in batches]
        rows = [np.array([row for _, row in batch]) for batch in located]
        windows = [lay_windows(*batch) for batch in zip(batches, rows, strict=True)]
        work = list(zip(batches, windows, strict=True))

        def spread(read: Callable[[ShardSet, np.ndarray, Windows], Clips]) -> Callable[[], Clips]:
            """A call that reads all batches, one per thread at a time."""
            return lambda: [
                clip for clips in pool.map(lambda job: read(shards, *job), work) for clip in clips
            ]

        loader = HostLoader(shards, SHAPE)

        def read_ours(_: ShardSet, indices: np.ndarray, __: Windows) -> Clips:
            batch = loader.read(indices, lay_windows)
            return list(zip(batch.frames.numpy(), batch.waveform.numpy(), strict=True))

        packets = [
            [shards.packets(*place, numbers) for place, numbers in zip(b, w.frames, strict=True)]
            for b, w in zip(located, windows, strict=True)
        ]
        yield Case(
            f"8 x 112 x 112 and 16096 sound samples, {describe_shards(what, shards)}",
            "clips per second",
            sum(len(batch) for batch in batches),
            spread(read_ours),
            {
                "PyAV": lambda: spread(read_pyav),
                "torchcodec": lambda: spread(make_torchcodec()),
                "DALI CPU, videos": partial(make_dali_videos, shards, work, threads),
                "DALI CPU, packets": partial(make_dali_packets, shards, work, threads),
            },
            assert_same,
            ("simplejpeg on the packets", lambda: list(pool.map(decode_packets, packets, rows))),
        )
        if threads == 1:
            hearing = HostLoader(shards, SHAPE, spec=MelSpec())
            shares = [locked_share(hearing, batches, lay_windows) for _ in range(RUNS)]
            yield Figure(
                "under the interpreter's lock, with spectrograms", "% of a clip's time", shares
            )


def draw_batches(shards: ShardSet, count: int) -> list[np.ndarray]:
    """Random samples, int64 (BATCH,) each; none twice in a batch where there are enough."""
    rng = np.random.default_rng(0)
    few = len(shards) < BATCH
    return [rng.choice(len(shards), BATCH, replace=few) for _ in range(count)]


def decode_packets(clips: list[list[np.ndarray]], rows: np.ndarray) -> None:
    """The limit: the packets of clips, whose SAMPLE rows these are, into the same memory again."""
    buffer = picture_buffer(rows, 1)
    for packets in clips:
        for packet in packets:
            simplejpeg.decode_jpeg(packet, buffer=buffer)


def locked_share(loader: HostLoader, batches: list[np.ndarray], windows: WindowFunction) -> float:
    """The part of a batch's time, in %, in which a thread holds the interpreter's lock.

    It is what remains when the compiled work, done without the lock, is left out: the kernels
    return at once, and the decoder reads the header of a tiny picture.
    """
    tiny = simplejpeg.encode_jpeg(np.zeros((8, 8, 3), np.uint8))

    def look(_: np.ndarray, buffer: np.ndarray) -> np.ndarray:
        simplejpeg.decode_jpeg_header(tiny)
        return buffer

    def seconds() -> float:
        begun = time.perf_counter()
        for indices in batches:
            loader.read(indices, windows)
        return time.perf_counter() - begun

    seconds()
    whole = seconds()
    with (
        patch.object(simplejpeg, "decode_jpeg", look),
        patch.object(kernel, "_crop", lambda *_: None),
        patch.object(logmel, "_blocks", lambda *_: None),
    ):
        return 100 * seconds() / whole


def crop(frames: np.ndarray, windows: Windows, slot: int) -> np.ndarray:
    top, left = windows.top[slot], windows.left[slot]
    return frames[..., top : top + SHAPE.crop, left : left + SHAPE.crop, :]


def read_pyav(shards: ShardSet, indices: np.ndarray, windows: Windows) -> Clips:
    clips = []
    for slot, index in enumerate(indices):
        with av.open(io.BytesIO(shards.video_file(int(index)))) as container:
            frames = _pyav_frames(container, windows.frames[slot].tolist())
        waveform = read_wav(shards.audio_file(int(index)), int(windows.start[slot]))
        clips.append((np.stack([crop(frame, windows, slot) for frame in frames]), waveform))
    return clips


def _pyav_frames(container: InputContainer, numbers: list[int]) -> list[np.ndarray]:
    stream = container.streams.video[0]
    stream.thread_count = 1
    tick = float(stream.average_rate * stream.time_base)  # frames per tick
    container.seek(int(numbers[0] / tick), stream=stream)
    found, reformatter = {}, VideoReformatter()
    for frame in container.decode(stream):
        number = round(frame.pts * tick)
        if number in numbers:
            found[number] = reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
        if number >= numbers[-1]:
            break
    return [found[number] for number in numbers]


def read_wav(file: bytes, start: int) -> np.ndarray:
    """A window of the sound, zeros beyond both ends, by Python's wave module.

    It is far faster than the peers' own decoders.
    """
    out = np.zeros(SHAPE.samples, np.int16)
    before = max(-start, 0)
    with wave.open(io.BytesIO(file)) as sound:
        sound.setpos(start + before)
        found = np.frombuffer(sound.readframes(SHAPE.samples - before), "<i2")
    out[before : before + len(found)] = found
    return out


def make_torchcodec() -> Callable[[ShardSet, np.ndarray, Windows], Clips]:
    try:
        from torchcodec.decoders import VideoDecoder
    except (RuntimeError, OSError) as error:  # its libraries do not load
        raise ImportError(error) from None

    def read(shards: ShardSet, indices: np.ndarray, windows: Windows) -> Clips:
        clips = []
        for slot, index in enumerate(indices):
            video = VideoDecoder(
                shards.video_file(int(index)),
                dimension_order="NHWC",
                num_ffmpeg_threads=1,
                seek_mode="approximate",
            )
            frames = video.get_frames_at(windows.frames[slot].tolist()).data.numpy()
            waveform = read_wav(shards.audio_file(int(index)), int(windows.start[slot]))
            clips.append((np.ascontiguousarray(crop(frames, windows, slot)), waveform))
        return clips

    return read


def make_dali_videos(shards: ShardSet, work: list, threads: int) -> Callable[[], Clips]:
    """The videos by DALI's video decoder."""
    from nvidia.dali import fn, pipeline_def

    sounds: list[np.ndarray] = []

    def feed() -> Iterator[tuple[list, ...]]:
        sounds.clear()
        for indices, windows in work:
            files = [shards.video_file(int(index)) for index in indices]
            for index, start in zip(indices, windows.start, strict=True):
                sounds.append(read_wav(shards.audio_file(int(index)), int(start)))
            yield (
                [np.frombuffer(file, np.uint8) for file in files],
                list(windows.frames.astype(np.int32)),
                list(corners(windows)),
            )

    @pipeline_def(batch_size=BATCH, num_threads=threads, device_id=None)
    def pipeline() -> DataNode:
        video, numbers, corner = fn.external_source(
            source=Epoch(feed), num_outputs=3, cycle="raise"
        )
        frames = fn.decoders.video(video, device="cpu", frames=numbers)
        return fn.slice(frames, start=corner, shape=[SHAPE.crop] * 2, axis_names="HW")

    pictures = run_dali(pipeline())
    return lambda: list(zip(pictures(), sounds, strict=True))


def make_dali_packets(shards: ShardSet, work: list, threads: int) -> Callable[[], Clips]:
    """The packets that our offsets lead to, by DALI's image decoder."""
    from nvidia.dali import fn, pipeline_def

    sounds: list[np.ndarray] = []

    def feed() -> Iterator[tuple[list, ...]]:
        sounds.clear()
        for indices, windows in work:
            packets = []
            for slot, index in enumerate(indices):
                name, row = shards.row(int(index))
                packets += shards.packets(name, row, windows.frames[slot])
                sounds.append(shards.waveform(name, row, int(windows.start[slot]), SHAPE.samples))
            yield packets, list(np.repeat(corners(windows), SHAPE.frames, axis=0))

    @pipeline_def(batch_size=BATCH * SHAPE.frames, num_threads=threads, device_id=None)
    def pipeline() -> DataNode:
        packets, corner = fn.external_source(source=Epoch(feed), num_outputs=2, cycle="raise")
        frames = fn.decoders.image(packets, device="cpu")
        return fn.slice(frames, start=corner, shape=[SHAPE.crop] * 2, axis_names="HW")

    pictures = run_dali(pipeline())
    return lambda: list(zip(pictures(), sounds, strict=True))


def corners(windows: Windows) -> np.ndarray:
    return np.stack([windows.top, windows.left], axis=1).astype(np.int32)


class Epoch:
    """Iterates over a new generator each time."""

    def __init__(self, generate: Callable[[], Iterator]):
        self.generate = generate

    def __iter__(self) -> Iterator:
        return self.generate()


def run_dali(pipe: Pipeline) -> Callable[[], list[np.ndarray]]:
    """A call that runs a pipeline through its source once: the frames of every clip.

    At its end the pipeline is idle, so that the next contestant has the cores to itself.
    """
    pipe.build()

    def run() -> list[np.ndarray]:
        clips: list[np.ndarray] = []
        try:
            while True:
                (out,) = pipe.run()
                clips.extend(
                    np.array(out.as_tensor()).reshape(-1, SHAPE.frames, *[SHAPE.crop] * 2, 3)
                )
        except StopIteration:
            pipe.reset()
        return clips

    return run


def assert_same(ours: Clips, other: Clips) -> None:
    """The same sound; the same frames but for how colours are interpolated."""
    assert len(ours) == len(other), f"{len(other)} clips, ours {len(ours)}"
    for slot, ((frames, sound), (pictures, heard)) in enumerate(zip(ours, other, strict=True)):
        assert frames.shape == pictures.shape, f"clip {slot}: frames {pictures.shape}"
        off = np.abs(frames.astype(np.int16) - pictures).mean()
        assert off < 2, f"clip {slot}: pixels differ by {off:.1f} on average"
        for k in range(len(frames) - 1):  # still pictures: no other frame may fit better
            turned = np.abs(frames[[k + 1, k]].astype(np.int16) - pictures[[k, k + 1]]).mean()
            straight = np.abs(frames[k : k + 2].astype(np.int16) - pictures[k : k + 2]).mean()
            assert straight <= turned, f"clip {slot}: frame {k} is another"
        assert np.array_equal(sound, heard), f"clip {slot}: other sound"
