"""The DALI loader: the same steps and windows as the host loader, decoded by NVIDIA DALI.

DALI's own tar reader shuffles by its own rules, so the bytes come from here, in the sampler's
order: JPEG packets by offset, whole files of any other codec. On a GPU, packets go through DALI's
mixed image decoder and files through NVDEC; without one, packets decode on the CPU.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice

import numpy as np
import torch
from nvidia.dali import Pipeline, fn, pipeline_def

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.failures import NothingRead, replace_unreadable
from xdc_fast.clips.host import HostBatch, HostLoader
from xdc_fast.clips.sampler import Sampler
from xdc_fast.clips.windows import ClipShape, WindowFunction
from xdc_fast.errors import UserError
from xdc_fast.kernels.mel import MelSpec
from xdc_fast.kernels.packets import copy_packets
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.sample import UNREADABLE, SampleError, sample_error

DEPTH = 2  # batches that DALI works on at a time
# Threads that gather packets, which is Python's work. On 16 cores beside an H200, two of them and
# two of DALI's gave 5,700 clips a second, eight and eight 4,000, sixteen and sixteen 3,200.
GATHERERS = 2


class DaliLoader:
    """A Loader of shards that have video, whose frames DALI decodes.

    Bytes that are no picture are replaced before DALI sees them. A batch that it still fails on is
    read by the host loader. `threads` are those that decode for DALI; threads of the loader's own
    gather what it reads. decoder_load: the share of JPEG packets that the hardware decoder of a GPU
    takes, 0 to 1. Other arguments as of HostLoader.
    Raises UserError for shards that DALI cannot decode on this device.
    """

    def __init__(
        self,
        shards: ShardSet,
        shape: ClipShape,
        *,
        device: torch.device | str = "cuda",
        threads: int = 2,
        decoder_load: float = 0.65,
        spec: MelSpec | None = None,
        read: str = "auto",
        max_unreadable: float = 1.0,
    ):
        self._host = HostLoader(
            shards, shape, device=device, threads=threads, spec=spec, read=read,
            max_unreadable=max_unreadable,
        )  # fmt: skip
        self._reader = self._host.reader
        self.shards, self.shape, self.modalities = shards, shape, self._host.modalities
        self.device, self.threads = self._host.device, threads
        self.decoder_load = decoder_load
        if "video" not in self.modalities:
            raise UserError(f"{shards.root}: there is no video for DALI to decode; set loader=host")
        self._idle: dict[int, list[PipelineQueue]] = {}  # by the number of clips in a batch
        self.by_packet = shards.settings["codec"] == "jpeg"
        if not self.by_packet and not shards.manifest["packer"]:
            raise UserError(
                f"{shards.root}: `xdc-shard index` made it; its frames are found by their times, "
                "which DALI does not do; set loader=host"
            )
        if not self.by_packet and self.device.type != "cuda":
            raise UserError(
                f"{shards.root}: without a GPU, DALI decodes JPEG packets only, not "
                f"{shards.settings['codec']}; set loader=host"
            )

    @property
    def failures(self) -> Counter[str]:
        return self._host.failures

    @property
    def examples(self) -> dict[str, str]:
        return self._host.examples

    def batches(
        self,
        sampler: Sampler,
        windows: WindowFunction,
        start: int = 0,
        samples: np.ndarray | None = None,
    ) -> Iterator[Batch]:
        """As of Loader; reading begins with the call."""
        self._host.log.begin(sampler.steps * sampler.batch, anew=start == 0)
        pool = ThreadPoolExecutor(GATHERERS, thread_name_prefix="clips")
        steps = map(sampler.indices, range(start, sampler.steps))
        tasks = self._host.ahead.start(pool, self._gather, steps, windows, samples)
        ahead = deque(islice(tasks, GATHERERS + 1))

        def gathered() -> Iterator[EncodedBatch]:
            for task in tasks:
                ahead.append(task)
                yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

        def deliver() -> Iterator[Batch]:
            idle = self._idle.setdefault(sampler.batch, [])
            build = partial(self._build, sampler.batch)
            queue = idle.pop() if idle else PipelineQueue(build, self.device)
            nothing: NothingRead | None = None
            batches = gathered()
            try:
                while True:
                    try:
                        batch = next(batches, None)
                    except NothingRead as error:  # of a later step: first what is under way
                        nothing, batch = error, None
                    if batch is None:
                        break
                    queue.push(batch)
                    if len(queue.pending) == DEPTH:
                        yield self._finish(queue, windows, samples)
                while queue.pending:
                    yield self._finish(queue, windows, samples)
                if nothing is not None:
                    self._host.log.add(nothing.errors)
                    raise nothing
            finally:
                tasks.close()
                pool.shutdown(wait=True, cancel_futures=True)
                if queue.drain():
                    idle.append(queue)

        return deliver()

    def _finish(
        self, queue: PipelineQueue, windows: WindowFunction, samples: np.ndarray | None
    ) -> Batch:
        """The oldest batch that is under way; by the host loader where DALI fails on it."""
        encoded = queue.pending[0]
        try:
            frames = queue.pop()
        except RuntimeError as error:
            queue.restart()
            return self._read_on_host(encoded.indices, windows, samples, error)
        shape, batch = self.shape, self._host.deliver(encoded.rest)
        frames = frames.view(-1, shape.frames, shape.crop, shape.crop, 3)
        return replace(batch, frames=frames)

    def _read_on_host(
        self,
        indices: np.ndarray,
        windows: WindowFunction,
        samples: np.ndarray | None,
        cause: RuntimeError,
    ) -> Batch:
        """A batch that the pipeline failed on; the host loader finds the sample and the reason."""
        try:
            batch = self._host.read(indices, windows, samples)
        except NothingRead as error:
            self._host.log.add(error.errors)
            raise
        if not batch.errors:
            raise UserError(
                f"DALI fails where the host loader does not: {str(cause).strip()}; "
                "set loader=host, and look at `xdc doctor`"
            ) from cause
        return self._host.deliver(batch)

    def _build(self, batch: int) -> Pipeline:
        """A pipeline from `EncodedBatch.inputs` to uint8 (B x T, crop, crop, 3)."""
        gpu = self.device.type == "cuda"
        decoder = "mixed" if gpu else "cpu"
        crop = [self.shape.crop, self.shape.crop]
        first = self.shards.row(0)[1]  # most sets have pictures of one size

        @pipeline_def(
            batch_size=batch * (self.shape.frames if self.by_packet else 1),
            num_threads=self.threads,
            device_id=(self.device.index or 0) if gpu else None,  # type: ignore[arg-type]  # no GPU
            prefetch_queue_depth=DEPTH,
        )
        def pipeline():  # type: ignore[no-untyped-def]  # DALI's own nodes
            data, corner, flip = (
                fn.external_source(name=name, no_copy=True) for name in ("data", "corner", "flip")
            )
            if self.by_packet:
                out = fn.decoders.image(
                    data,
                    device=decoder,
                    hw_decoder_load=self.decoder_load,
                    preallocate_width_hint=int(first["width"]),
                    preallocate_height_hint=int(first["height"]),
                )
            else:
                frames = fn.external_source(name="frames", no_copy=True)
                out = fn.decoders.video(data, device=decoder, frames=frames)
            out = fn.slice(out, start=corner, shape=crop, axis_names="HW")
            return fn.flip(out, horizontal=flip)

        pipe = pipeline()
        pipe.build()
        return pipe

    def _gather(
        self, indices: np.ndarray, windows: WindowFunction, samples: np.ndarray | None
    ) -> EncodedBatch:
        """The clips with these indices, as the pipeline reads them."""
        reader = self._reader
        names, rows = reader.locate(indices if samples is None else samples[indices])
        places = windows(indices, rows)
        waveform = None
        if "audio" in self.modalities:
            pin = self.device.type == "cuda"
            waveform = torch.empty(len(rows), self.shape.samples, dtype=torch.int16, pin_memory=pin)
        corner = np.stack([places.top, places.left], axis=1).astype(np.int32)
        flip, frames = places.flip.astype(np.int32), places.frames.astype(np.int32)
        # DALI takes one array ten times faster than as many as there are packets
        encoded = self._read_packets if self.by_packet else self._read_files
        data, errors = encoded(names, rows, places.frames)
        if waveform is not None:
            sound = waveform.numpy()
            for slot, (name, row) in enumerate(zip(names, rows, strict=True)):
                try:
                    reader.read_waveform(name, row, places.start[slot], sound[slot])
                except SampleError as error:
                    errors.setdefault(slot, error)
        index = torch.from_numpy(indices.copy())
        replace_unreadable(errors, self.shards.root, waveform, index, corner, flip, frames, data)
        inputs: dict[str, np.ndarray | list[np.ndarray]]
        if isinstance(data, np.ndarray):
            inputs = {
                "data": data.reshape(-1, data.shape[2]),
                "corner": np.repeat(corner, self.shape.frames, axis=0),
                "flip": np.repeat(flip, self.shape.frames),
            }
        else:
            inputs = {"data": data, "corner": corner, "flip": flip, "frames": frames}
        return EncodedBatch(indices, inputs, self._host.finish(None, waveform, index, errors))

    def _read_packets(
        self, names: list[str], rows: np.ndarray, frames: np.ndarray
    ) -> tuple[np.ndarray, dict[int, SampleError]]:
        """The JPEG packets of the clips, uint8 (B, T, longest), and what is wrong with some.

        DALI (2.4) may crash the process on bytes that are no picture at all; their headers tell.
        """
        places: dict[int, np.ndarray] = {}
        errors: dict[int, SampleError] = {}
        for slot, (name, row) in enumerate(zip(names, rows, strict=True)):
            try:
                if row["packet"] < 0:
                    raise ValueError("no JPEG packets, unlike the set's first sample")
                places[slot] = self.shards.packet_places(name, row, frames[slot])
            except UNREADABLE as error:
                errors[slot] = sample_error(error, name, self.shards.key_of(name, row), "video")
        longest = max((int(found["bytes"].max()) for found in places.values()), default=0)
        data = np.empty((*frames.shape, longest), np.uint8)
        for slot, found in places.items():
            name, row = names[slot], rows[slot]
            offsets, sizes = found["offset"].astype(np.int64), found["bytes"].astype(np.int64)
            first = int(offsets.min())
            try:
                tar = self.shards.read(name, first, int((offsets + sizes).max()) - first)
                height, width = int(row["height"]), int(row["width"])
                copy_packets(tar, offsets - first, sizes, data[slot], height, width)
            except UNREADABLE as error:
                errors[slot] = sample_error(error, name, self.shards.key_of(name, row), "video")
        return data, errors

    def _read_files(
        self, names: list[str], rows: np.ndarray, frames: np.ndarray
    ) -> tuple[list[np.ndarray], dict[int, SampleError]]:
        """The whole file of each clip, and what is wrong with some."""
        data = [np.zeros(0, np.uint8) for _ in rows]
        errors: dict[int, SampleError] = {}
        for slot, (name, row) in enumerate(zip(names, rows, strict=True)):
            try:
                data[slot] = self.shards.read(name, row["video"], row["video_bytes"])
                if data[slot][4:8].tobytes() != b"ftyp":
                    raise ValueError("not an mp4 file")
            except UNREADABLE as error:
                errors[slot] = sample_error(error, name, self.shards.key_of(name, row), "video")
        return data, errors


@dataclass(frozen=True)
class EncodedBatch:
    """A batch on its way through the pipeline.

    indices: the clips that were asked for, int64 (B,). inputs: what the pipeline reads. rest: the
    batch without its frames.
    """

    indices: np.ndarray
    inputs: dict[str, np.ndarray | list[np.ndarray]]
    rest: HostBatch


class PipelineQueue:
    """A pipeline and the batches that it works on, `pending`, the oldest first.

    Building a pipeline takes up to two seconds on a GPU, so one serves pass after pass.
    """

    def __init__(self, build: Callable[[], Pipeline], device: torch.device):
        self.build, self.device = build, device
        self.pending: deque[EncodedBatch] = deque()
        self._pipe: Pipeline | None = None

    def push(self, batch: EncodedBatch) -> None:
        pipe = self._pipe
        if pipe is None:
            pipe = self._pipe = self.build()
            for _ in range(DEPTH):  # the first schedule_run takes as many inputs
                self._feed(pipe, batch)
            pipe.schedule_run()
            for _ in range(DEPTH):
                with suppress(RuntimeError):  # the same batch comes again, and counts then
                    pipe.outputs()
        self._feed(pipe, batch)
        pipe.schedule_run()
        self.pending.append(batch)

    @staticmethod
    def _feed(pipe: Pipeline, batch: EncodedBatch) -> None:
        for name, array in batch.inputs.items():
            pipe.feed_input(name, array)

    def pop(self) -> torch.Tensor:
        """The frames of the oldest batch, in the order of a GPU's current stream.

        RuntimeError where DALI fails on it.
        """
        assert self._pipe is not None, "nothing was pushed"
        if self.device.type == "cuda":
            (out,) = self._pipe.outputs(torch.cuda.current_stream(self.device))
            frames = torch.from_dlpack(out.as_tensor())
        else:
            (out,) = self._pipe.outputs()
            frames = torch.from_dlpack(out.as_tensor())
        self.pending.popleft()  # until here DALI reads its arrays
        return frames

    def restart(self) -> None:
        """A new pipeline, without the batch that the old one failed on."""
        self._pipe = None
        later = list(self.pending)[1:]
        self.pending.clear()
        for batch in later:
            self.push(batch)

    def drain(self) -> bool:
        """Lets go of what is pending; whether the pipeline may be used again."""
        try:
            while self.pending:
                self.pop()
        except RuntimeError:
            return False
        return True
