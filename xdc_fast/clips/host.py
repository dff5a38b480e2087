"""The host path: threads read JPEG packets and PCM by offset, anything else through PyAV."""

from __future__ import annotations

import weakref
from collections import Counter, defaultdict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from math import prod

import numpy as np
import simplejpeg
import torch

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import ClipShape, Windows
from xdc_fast.errors import UserError
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.decode import decode_frames
from xdc_fast.shards.format import SAMPLE, sample_key
from xdc_fast.shards.sample import UNREADABLE, SampleError

Sampling = Callable[[np.ndarray], Windows]  # SAMPLE rows (B,) -> their windows


class Memory:
    """Room for tensors, used again once nothing refers to the tensor that had it, nor to a view.

    Memory new from the system costs its first touch: measured on a virtual machine, a fifth of the
    decoding on one thread and a third on two.
    """

    def __init__(self):
        self._free: dict[int, list[np.ndarray]] = defaultdict(list)  # by bytes

    def empty(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        size = prod(shape) * dtype.itemsize
        free = self._free[size]
        try:
            room = free.pop()
        except IndexError:
            room = np.empty(size, np.uint8)
        owner = room[:]  # an array that lives as long as the storage made of it
        weakref.finalize(owner, free.append, room)
        return torch.from_numpy(owner).view(dtype).view(shape)


def _room_for_a_picture(rows: np.ndarray) -> np.ndarray:
    """Bytes for the largest picture of these samples, at an odd address.

    Rows that begin at multiples of 32 libjpeg-turbo writes past the cache; decoding and cropping
    then take a quarter longer.
    """
    size = int((3 * rows["height"].astype(np.int64) * rows["width"]).max())
    room = np.empty(size + 32, np.uint8)
    start = -room.ctypes.data % 32 + 1
    return room[start : start + size]


class NothingRead(UserError):
    """No sample of a batch can be read."""


class HostLoader:
    """Batches of a shard set, of the tracks it has, decoded on the CPU while the caller computes.

    shape: what a clip holds. device: where batches go. threads: batches decoded at a time.
    failures counts unreadable samples by reason; examples keeps the first message of each.
    Raises UserError when the set's audio rate is not the shape's, or its pictures are fewer.
    """

    def __init__(
        self, shards: ShardSet, shape: ClipShape, *, device: str = "cpu", threads: int = 2
    ):
        if "audio" in shards.modalities and shards.sample_rate != shape.sample_rate:
            raise UserError(
                f"{shards.root}: sound at {shards.sample_rate} Hz, the recipe asks for "
                f"{shape.sample_rate}; set audio.sample_rate={shards.sample_rate} or pack with "
                f"--audio-rate {shape.sample_rate}"
            )
        settings = shards.settings
        if (
            "video" in shards.modalities
            and settings["codec"] != "copy"  # has the sources' own rates
            and settings["fps"] < shape.fps
        ):
            raise UserError(
                f"{shards.root}: at most {settings['fps']:g} pictures a second, the recipe asks "
                f"for {shape.fps:g}; set video.fps={settings['fps']:g} or pack with "
                f"--fps {shape.fps:g}"
            )
        self.shards, self.shape = shards, shape
        self.device, self.threads = torch.device(device), threads
        self.failures: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self._memory = Memory()

    def batches(self, plan: EpochSampler, sampling: Sampling, start: int = 0) -> Iterator[Batch]:
        """The batches of a plan from step `start` on, in order; reading begins with the call."""
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="clips")
        tasks = (
            pool.submit(self.read, plan.indices(step), sampling)
            for step in range(start, plan.steps)
        )
        ahead = deque(islice(tasks, self.threads + 1))

        def deliver() -> Iterator[Batch]:
            try:
                for task in tasks:
                    ahead.append(task)
                    yield self._deliver(*ahead.popleft().result())
                while ahead:
                    yield self._deliver(*ahead.popleft().result())
            finally:
                pool.shutdown(wait=True, cancel_futures=True)

        return deliver()

    def read(self, indices: np.ndarray, sampling: Sampling) -> tuple:
        """One batch on the host: frames, waveform, index as in Batch, and the errors met.

        Raises NothingRead when no sample of the batch can be read.
        """
        names, rows = self.locate(indices)
        windows = sampling(rows)
        shape, size = self.shape, len(indices)
        frames = waveform = None
        if "video" in self.shards.modalities:
            frames = self._empty(torch.uint8, size, shape.frames, shape.crop, shape.crop, 3)
            pictures, room = frames.numpy(), _room_for_a_picture(rows)
        if "audio" in self.shards.modalities:
            waveform = self._empty(torch.int16, size, shape.samples)
            sound = waveform.numpy()
        errors: dict[int, SampleError] = {}
        for slot in range(size):
            try:
                if frames is not None:
                    self._read_frames(names[slot], rows[slot], windows, slot, room, pictures[slot])
                if waveform is not None:
                    sound[slot] = self._read_sound(names[slot], rows[slot], windows.start[slot])
            except SampleError as error:
                errors[slot] = error
        index = torch.from_numpy(indices.copy())
        self._replace(errors, frames, waveform, index)
        return frames, waveform, index, list(errors.values())

    def _empty(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        if self.device.type == "cuda":
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        return self._memory.empty(dtype, *shape)

    def locate(self, indices: np.ndarray) -> tuple[list[str], np.ndarray]:
        """The tar names and SAMPLE rows of a batch; UserError for one smaller than the crop."""
        found = [self.shards.row(i) for i in indices.tolist()]
        rows = np.array([row for _, row in found], SAMPLE)
        sides = np.minimum(rows["height"], rows["width"])
        small = int(sides.argmin())
        if sides[small] < self.shape.crop and "video" in self.shards.modalities:
            raise UserError(
                f"{self.shards.root}: sample {sample_key(rows['index'][small])} is "
                f"{rows['width'][small]}x{rows['height'][small]} pixels, the recipe crops "
                f"{self.shape.crop}; set video.crop={sides[small]} or less, or pack with "
                f"--short-side {self.shape.crop} or more"
            )
        return [name for name, _ in found], rows

    def _read_frames(self, name, row, windows: Windows, slot: int, room, out) -> None:
        numbers, flip = windows.frames[slot], bool(windows.flip[slot])
        top, left, crop = int(windows.top[slot]), int(windows.left[slot]), self.shape.crop
        # to mirror, take the bytes of a BGR row from last to first: a fifth of NumPy's time to turn
        # pixels around
        way = -1 if flip else 1
        try:
            if row["packet"] >= 0:
                packets, order = self.shards.packets(name, row, numbers), "BGR" if flip else "RGB"
                room = room[: 3 * int(row["height"]) * int(row["width"])]
                pictures = (simplejpeg.decode_jpeg(p, order, buffer=room) for p in packets)
            else:
                file = self.shards.read(name, row["video"], row["video_bytes"]).tobytes()
                pictures = decode_frames(file, numbers)[..., ::way]
            for k, picture in enumerate(pictures):
                out[k] = picture[top : top + crop, left : left + crop][:, ::way, ::way]
        except UNREADABLE as error:
            raise self._unreadable(error, name, row, "video") from error

    def _read_sound(self, name, row, start: int) -> np.ndarray:
        try:
            return self.shards.waveform(name, row, int(start), self.shape.samples)
        except UNREADABLE as error:
            raise self._unreadable(error, name, row, "audio") from error

    def _unreadable(self, error: Exception, name: str, row, stream: str) -> SampleError:
        return SampleError("undecodable", name, sample_key(row["index"]), stream, str(error))

    def _replace(self, errors: dict[int, SampleError], *parts) -> None:
        """Fills unreadable slots of a batch's parts, where not None, with readable ones."""
        parts = [part for part in parts if part is not None]
        good = [slot for slot in range(len(parts[0])) if slot not in errors]
        for slot, error in errors.items():
            if not good:
                raise NothingRead(
                    f"no sample of a whole batch can be read: {error}; "
                    f"run `xdc-shard verify {self.shards.root}`"
                ) from error
            for part in parts:
                part[slot] = part[good[slot % len(good)]]

    def _deliver(self, frames, waveform, index, errors: list[SampleError]) -> Batch:
        for error in errors:
            self.failures[error.reason] += 1
            self.examples.setdefault(error.reason, str(error))
        tracks = (
            None if track is None else track.to(self.device, non_blocking=True)
            for track in (frames, waveform)
        )
        return Batch(*tracks, index)
