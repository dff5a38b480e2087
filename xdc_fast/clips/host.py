"""The host loader: threads that decode batches ahead of the caller."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch

from xdc_fast.clips.ahead import ReadAhead
from xdc_fast.clips.batch import Batch
from xdc_fast.clips.buffers import Buffers, picture_buffer
from xdc_fast.clips.failures import Failures, NothingRead, replace_unreadable
from xdc_fast.clips.reader import SampleReader
from xdc_fast.clips.sampler import Sampler
from xdc_fast.clips.windows import ClipShape, WindowFunction
from xdc_fast.kernels.logmel import log_mel
from xdc_fast.kernels.mel import MelSpec
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.sample import SampleError


@dataclass(frozen=True)
class HostBatch:
    """A batch on the host, its tensors as in Batch, and the errors of the clips replaced in it."""

    frames: torch.Tensor | None
    waveform: torch.Tensor | None
    index: torch.Tensor
    spectrogram: torch.Tensor | None
    errors: list[SampleError]

    def to(self, device: torch.device) -> Batch:
        """The batch on its device; from pinned memory, the copy may still be under way."""
        frames, waveform = (
            None if track is None else track.to(device, non_blocking=True)
            for track in (self.frames, self.waveform)
        )
        return Batch(frames, waveform, self.index, self.spectrogram)


class HostLoader:
    """A Loader that decodes on the CPU, by SampleReader.

    threads: batches decoded at a time. spec: of the spectrogram that a batch on the CPU carries; on
    another device it is computed there, from the waveform. read, max_unreadable: as of a recipe.
    Raises UserError as SampleReader does.
    """

    def __init__(
        self,
        shards: ShardSet,
        shape: ClipShape,
        *,
        device: torch.device | str = "cpu",
        threads: int = 2,
        spec: MelSpec | None = None,
        read: str = "auto",
        max_unreadable: float = 1.0,
    ):
        self.reader = SampleReader(shards, shape)
        self.ahead = ReadAhead(self.reader, read)
        self.shards, self.shape, self.modalities = shards, shape, self.reader.modalities
        self.device, self.threads = torch.device(device), threads
        self.spec = spec if self.device.type == "cpu" else None
        self.log = Failures(max_unreadable)
        self._buffers = Buffers()

    @property
    def failures(self) -> Counter[str]:
        return self.log.counts

    @property
    def examples(self) -> dict[str, str]:
        return self.log.examples

    def batches(
        self,
        sampler: Sampler,
        windows: WindowFunction,
        start: int = 0,
        samples: np.ndarray | None = None,
    ) -> Iterator[Batch]:
        """As of Loader; reading begins with the call."""
        self.log.begin(sampler.steps * sampler.batch, anew=start == 0)
        pool = ThreadPoolExecutor(self.threads, thread_name_prefix="clips")
        steps = map(sampler.indices, range(start, sampler.steps))
        tasks = self.ahead.start(pool, self.read, steps, windows, samples)
        ahead = deque(islice(tasks, self.threads + 1))

        def deliver() -> Iterator[Batch]:
            try:
                for task in tasks:
                    ahead.append(task)
                    yield self.deliver(ahead.popleft().result())
                while ahead:
                    yield self.deliver(ahead.popleft().result())
            except NothingRead as error:
                self.log.add(error.errors)
                raise
            finally:
                tasks.close()
                pool.shutdown(wait=True, cancel_futures=True)

        return deliver()

    def read(
        self, indices: np.ndarray, windows: WindowFunction, samples: np.ndarray | None = None
    ) -> HostBatch:
        """One batch of clips with these indices, int64 (B,); arguments as of `batches`.

        Raises NothingRead when none of them can be read.
        """
        reader, shape, size = self.reader, self.shape, len(indices)
        names, rows = reader.locate(indices if samples is None else samples[indices])
        places = windows(indices, rows)
        frames = waveform = None
        if "video" in self.modalities:
            frames = self._empty(torch.uint8, size, shape.frames, shape.crop, shape.crop, 3)
            pictures, buffer = frames.numpy(), picture_buffer(rows, shape.frames)
        if "audio" in self.modalities:
            waveform = self._empty(torch.int16, size, shape.samples)
            sound = waveform.numpy()
        errors: dict[int, SampleError] = {}
        for slot in range(size):
            name, row = names[slot], rows[slot]
            try:
                if frames is not None:
                    reader.read_frames(name, row, places, slot, buffer, pictures[slot])
                if waveform is not None:
                    reader.read_waveform(name, row, places.start[slot], sound[slot])
            except SampleError as error:
                errors[slot] = error
        index = torch.from_numpy(indices.copy())
        replace_unreadable(errors, self.shards.root, frames, waveform, index)
        return self.finish(frames, waveform, index, errors)

    def finish(
        self,
        frames: torch.Tensor | None,
        waveform: torch.Tensor | None,
        index: torch.Tensor,
        errors: dict[int, SampleError],
    ) -> HostBatch:
        """A batch of what was read, with its spectrogram where one is asked for."""
        mel = None
        if self.spec is not None and waveform is not None:
            shape = len(waveform), self.spec.n_mels, self.spec.frames(waveform.shape[1])
            mel = self._empty(torch.float32, *shape)
            log_mel(waveform.numpy(), self.spec, mel.numpy())
        return HostBatch(frames, waveform, index, mel, list(errors.values()))

    def deliver(self, batch: HostBatch) -> Batch:
        """A batch that was read, its errors counted, on the device."""
        self.log.add(batch.errors)
        return batch.to(self.device)

    def _empty(self, dtype: torch.dtype, *shape: int) -> torch.Tensor:
        if self.device.type == "cuda":
            return torch.empty(shape, dtype=dtype, pin_memory=True)
        return self._buffers.empty(dtype, *shape)
