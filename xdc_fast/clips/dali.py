"""The DALI path: the same plan and windows as the host path, decoded by NVIDIA DALI.

DALI's own tar reader shuffles by its own rules, so the bytes come from here, in the plan's order:
JPEG packets by offset, whole files of any other codec. On a GPU, packets go through DALI's mixed
image decoder and files through NVDEC; without one, packets decode on the CPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import simplejpeg
import torch
from nvidia.dali import fn, pipeline_def

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.host import UNREADABLE, HostFeed, Sampling
from xdc_fast.clips.plan import EpochPlan
from xdc_fast.clips.windows import ClipShape
from xdc_fast.errors import UserError
from xdc_fast.shards.dataset import SampleError, ShardSet

DEPTH = 2  # batches that DALI works on at a time
# Threads that gather packets, which is Python's work. On 16 cores beside an H200, two of them and
# two of DALI's gave 5,700 clips a second, eight and eight 4,000, sixteen and sixteen 3,200.
GATHERERS = 2


class DaliFeed(HostFeed):
    """Batches of a shard set that has video, decoded by DALI.

    One bad sample kills a DALI pipeline, so bytes that are no picture are replaced before it sees
    them; a batch that it still fails on is read by the host path, and the pipeline built anew.
    Threads of our own gather what it reads; `threads` are those that decode for it.
    Arguments as of HostFeed. Raises UserError for shards that DALI cannot decode on this device.
    """

    def __init__(
        self, shards: ShardSet, shape: ClipShape, *, device: str = "cuda", threads: int = 2
    ):
        super().__init__(shards, shape, device=device, threads=threads)
        if "video" not in shards.modalities:
            raise UserError(f"{shards.root}: there is no video for DALI to decode; set loader=host")
        self._idle: dict[int, list[Line]] = {}  # by batch
        self.by_packet = shards.settings["codec"] == "jpeg"
        if not self.by_packet and self.device.type != "cuda":
            raise UserError(
                f"{shards.root}: without a GPU, DALI decodes JPEG packets only, not "
                f"{shards.settings['codec']}; set loader=host"
            )

    def batches(self, plan: EpochPlan, sampling: Sampling, start: int = 0) -> Iterator[Batch]:
        """The batches of a plan from step `start` on, in order; reading begins with the call."""
        pool = ThreadPoolExecutor(GATHERERS, thread_name_prefix="clips")
        tasks = (
            pool.submit(self._gather, plan.indices(step), sampling)
            for step in range(start, plan.steps)
        )
        ahead = deque(islice(tasks, GATHERERS + 1))

        def gathered() -> Iterator[Work]:
            for task in tasks:
                ahead.append(task)
                yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()

        def deliver() -> Iterator[Batch]:
            idle = self._idle.setdefault(plan.batch, [])
            line = idle.pop() if idle else Line(partial(self._build, plan.batch), self.device)
            try:
                for work in gathered():
                    line.push(work)
                    if len(line.under_way) == DEPTH:
                        yield self._finish(line, sampling)
                while line.under_way:
                    yield self._finish(line, sampling)
            finally:
                pool.shutdown(wait=True, cancel_futures=True)
                if line.drain():
                    idle.append(line)

        return deliver()

    def _finish(self, line: Line, sampling: Sampling) -> Batch:
        """The oldest batch that is under way."""
        work = line.under_way[0]
        try:
            frames = line.pop()
        except RuntimeError as error:  # the host path finds the sample and the cause
            *parts, errors = self.read(work.asked, sampling)
            if not errors:
                raise UserError(
                    f"DALI fails where the host path does not: {str(error).strip()}; "
                    "set loader=host, and look at `xdc doctor`"
                ) from error
            line.restart()
            return self._deliver(*parts, errors)
        shape = self.shape
        frames = frames.view(-1, shape.frames, shape.crop, shape.crop, 3)
        return self._deliver(frames, work.waveform, work.index, work.errors)

    def _build(self, batch: int):
        """A pipeline from `Work.inputs` to uint8 (B x T, crop, crop, 3)."""
        gpu = self.device.type == "cuda"
        decoder = "mixed" if gpu else "cpu"
        crop = [self.shape.crop, self.shape.crop]

        @pipeline_def(
            batch_size=batch * (self.shape.frames if self.by_packet else 1),
            num_threads=self.threads,
            device_id=(self.device.index or 0) if gpu else None,
            prefetch_queue_depth=DEPTH,
        )
        def pipeline():
            data, corner, flip = (
                fn.external_source(name=name, no_copy=True) for name in ("data", "corner", "flip")
            )
            if self.by_packet:
                out = fn.decoders.image(data, device=decoder)
            else:
                frames = fn.external_source(name="frames", no_copy=True)
                out = fn.decoders.video(data, device=decoder, frames=frames)
            out = fn.slice(out, start=corner, shape=crop, axis_names="HW")
            return fn.flip(out, horizontal=flip)

        pipe = pipeline()
        pipe.build()
        return pipe

    def _gather(self, indices: np.ndarray, sampling: Sampling) -> Work:
        """One batch as the pipeline reads it."""
        names, rows = self.locate(indices)
        windows = sampling(rows)
        waveform = None
        if "audio" in self.shards.modalities:
            pin = self.device.type == "cuda"
            waveform = torch.zeros(len(rows), self.shape.samples, dtype=torch.int16, pin_memory=pin)
        corner = np.stack([windows.top, windows.left], axis=1).astype(np.int32)
        flip, frames = windows.flip.astype(np.int32), windows.frames.astype(np.int32)
        data: list[list[np.ndarray]] = [[] for _ in rows]
        errors: dict[int, SampleError] = {}
        for slot, (name, row) in enumerate(zip(names, rows, strict=True)):
            try:
                if waveform is not None:
                    waveform.numpy()[slot] = self._read_sound(name, row, windows.start[slot])
                data[slot] = self._read_encoded(name, row, windows.frames[slot])
            except SampleError as error:
                errors[slot] = error
        index = torch.from_numpy(indices.copy())
        self._replace(errors, waveform, index, corner, flip, frames, data)
        inputs = {"data": [part for parts in data for part in parts], "corner": corner}
        inputs["flip"] = flip
        if self.by_packet:
            # one array is fed in a tenth of the time of as many as there are packets
            inputs = {
                "data": padded(inputs["data"]),
                "corner": np.repeat(corner, self.shape.frames, axis=0),
                "flip": np.repeat(flip, self.shape.frames),
            }
        else:
            inputs["frames"] = frames
        return Work(indices, inputs, waveform, index, list(errors.values()))

    def _read_encoded(self, name, row, numbers: np.ndarray) -> list[np.ndarray]:
        """A clip's JPEG packets, or its whole file, looked at first.

        DALI (2.4) may crash the process on bytes that are no picture at all; their headers tell.
        """
        try:
            if not self.by_packet:
                file = self.shards.read(name, row["video"], row["video_bytes"])
                if file[4:8].tobytes() != b"ftyp":
                    raise ValueError("not an mp4 file")
                return [file]
            if row["packet"] < 0:
                raise ValueError("no JPEG packets, unlike the set's first sample")
            packets = self.shards.packets(name, row, numbers)
            for packet in packets:
                if simplejpeg.decode_jpeg_header(packet)[:2] != (row["height"], row["width"]):
                    raise ValueError("a packet of another size")
            return packets
        except UNREADABLE as error:
            raise self._unreadable(error, name, row, "video") from error


def padded(packets: list[np.ndarray]) -> np.ndarray:
    """Packets of any length as rows, zeros behind them."""
    out = np.zeros((len(packets), max(map(len, packets))), np.uint8)
    for row, packet in zip(out, packets, strict=True):
        row[: len(packet)] = packet
    return out


@dataclass
class Work:
    """A batch on its way: what was asked for, and as the pipeline reads it."""

    asked: np.ndarray
    inputs: dict[str, np.ndarray | list[np.ndarray]]
    waveform: torch.Tensor | None
    index: torch.Tensor
    errors: list[SampleError]


class Line:
    """A pipeline and the batches it works on, oldest first.

    Building one took 0.2 to 1.8 s on an H200, so it serves pass after pass.
    """

    def __init__(self, build: Callable, device: torch.device):
        self.build, self.device = build, device
        self.under_way: deque[Work] = deque()
        self._pipe = None

    def push(self, work: Work) -> None:
        if self._pipe is None:
            self._pipe = self.build()
            for _ in range(DEPTH):  # the first call of schedule_run takes as many
                self._feed(work)
            self._pipe.schedule_run()
            for _ in range(DEPTH):
                with suppress(RuntimeError):  # again when it counts
                    self._pipe.outputs()
        self._feed(work)
        self._pipe.schedule_run()
        self.under_way.append(work)

    def _feed(self, work: Work) -> None:
        for name, array in work.inputs.items():
            self._pipe.feed_input(name, array)

    def pop(self) -> torch.Tensor:
        """The oldest batch's pictures, in order with the current stream of a GPU.

        RuntimeError where DALI fails on it.
        """
        if self.device.type == "cuda":
            (out,) = self._pipe.outputs(torch.cuda.current_stream(self.device))
            frames = torch.from_dlpack(out.as_tensor())
        else:
            (out,) = self._pipe.outputs()
            frames = torch.from_numpy(np.array(out.as_tensor()))
        self.under_way.popleft()  # until here DALI reads its arrays
        return frames

    def restart(self) -> None:
        """A new pipeline, without the batch that the old one failed on."""
        self._pipe = None
        rest = list(self.under_way)[1:]
        self.under_way.clear()
        for work in rest:
            self.push(work)

    def drain(self) -> bool:
        """Lets go of what is under way; whether the pipeline may be used again."""
        try:
            while self.under_way:
                self.pop()
        except RuntimeError:
            return False
        return True
