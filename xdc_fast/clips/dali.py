"""The DALI path: the same plan and windows as the host path, decoded by NVIDIA DALI.

DALI's own tar reader shuffles by its own rules, so the bytes come from here, in the plan's order:
JPEG packets by offset, whole files of any other codec. On a GPU, packets go through DALI's mixed
image decoder and files through NVDEC; without one, packets decode on the CPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import torch
from nvidia.dali import fn, pipeline_def

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.host import HostFeed, Sampling
from xdc_fast.clips.plan import EpochPlan
from xdc_fast.clips.windows import ClipShape
from xdc_fast.errors import UserError
from xdc_fast.shards.dataset import SampleError, ShardSet

AHEAD = 2  # batches that DALI works on while the caller computes


class DaliFeed(HostFeed):
    """Batches of a shard set, decoded by DALI.

    One bad sample kills a DALI pipeline: the batch it came in is then read by the host path, which
    replaces and counts it, and the pipeline is built anew. Arguments as of HostFeed; raises
    UserError for shards that DALI cannot decode on this device.
    """

    name = "dali"

    def __init__(
        self, shards: ShardSet, shape: ClipShape, *, device: str = "cuda", threads: int = 2
    ):
        super().__init__(shards, shape, device=device, threads=threads)
        self.by_packet = shards.settings["codec"] == "jpeg"
        if not self.by_packet and self.device.type != "cuda":
            raise UserError(
                f"{shards.root}: without a GPU, DALI decodes JPEG packets only, not "
                f"{shards.settings['codec']}; set loader=host"
            )

    def batches(self, plan: EpochPlan, sampling: Sampling, start: int = 0) -> Iterator[Batch]:
        """The batches of a plan from step `start` on, in order."""
        pipe = self._build(plan.batch)
        ahead: deque[np.ndarray] = deque()
        sound: deque[torch.Tensor] = deque()
        steps = iter(range(start, plan.steps))
        while True:
            while len(ahead) < AHEAD and (step := next(steps, None)) is not None:
                ahead.append(plan.indices(step))
                sound.append(self._schedule(pipe, ahead[-1], sampling))
            if not ahead:
                return
            try:
                frames = self._take(pipe)
            except RuntimeError:  # all that DALI raises; the host path finds sample and cause
                yield self._deliver(*self.read(ahead.popleft(), sampling))
                pipe = self._build(plan.batch)
                sound = deque(self._schedule(pipe, indices, sampling) for indices in ahead)
            else:
                index = torch.from_numpy(ahead.popleft().copy())
                yield Batch(frames, sound.popleft().to(self.device, non_blocking=True), index)

    def _build(self, batch: int):
        """A pipeline for batches of `batch` clips; its output is uint8 (B x T, crop, crop, 3)."""
        gpu = self.device.type == "cuda"
        decoder = "mixed" if gpu else "cpu"
        crop = [self.shape.crop, self.shape.crop]

        @pipeline_def(
            batch_size=batch * (self.shape.frames if self.by_packet else 1),
            num_threads=self.threads,
            device_id=(self.device.index or 0) if gpu else None,
            prefetch_queue_depth=AHEAD,
        )
        def pipeline():
            data, corner, flip, frames = (
                fn.external_source(name=name) for name in ("data", "corner", "flip", "frames")
            )
            if self.by_packet:
                out = fn.decoders.image_slice(
                    data, device=decoder, start=corner, shape=crop, axis_names="HW"
                )
            else:
                out = fn.decoders.video(data, device=decoder, frames=frames)
                out = fn.slice(out, start=corner, shape=crop, axis_names="HW")
            return fn.flip(out, horizontal=flip)

        pipe = pipeline()
        pipe.build()
        return pipe

    def _schedule(self, pipe, indices: np.ndarray, sampling: Sampling) -> torch.Tensor:
        """Gives DALI one batch to work on; returns the batch's waveform, int16 (B, S)."""
        names, rows = self.locate(indices)
        windows = sampling(rows)
        repeat = 1
        data: list[np.ndarray] = []
        waveform = torch.zeros(
            len(indices),
            self.shape.samples,
            dtype=torch.int16,
            pin_memory=self.device.type == "cuda",
        )
        for slot, (name, row) in enumerate(zip(names, rows, strict=True)):
            try:
                waveform.numpy()[slot] = self._read_sound(name, row, windows.start[slot])
                if self.by_packet:
                    data += self.shards.packets(name, row, windows.frames[slot])
                else:
                    data.append(self.shards.read(name, row["video"], row["video_bytes"]))
            except (SampleError, ValueError):  # not to be had: let DALI fail, as for bad bytes
                data += [np.zeros(1, np.uint8)] * (self.shape.frames if self.by_packet else 1)
        if self.by_packet:
            repeat = self.shape.frames
        corner = np.stack([windows.top, windows.left], axis=1).astype(np.int32)
        pipe.feed_input("data", data)
        pipe.feed_input("corner", list(np.repeat(corner, repeat, axis=0)))
        pipe.feed_input("flip", list(np.repeat(windows.flip.astype(np.int32), repeat)))
        if not self.by_packet:
            pipe.feed_input("frames", list(windows.frames.astype(np.int32)))
        pipe.schedule_run()
        return waveform

    def _take(self, pipe) -> torch.Tensor:
        """The oldest scheduled batch: uint8 (B, T, crop, crop, 3) on the device."""
        shape = self.shape
        size = (-1, shape.frames, shape.crop, shape.crop, 3)
        (out,) = pipe.share_outputs()
        try:
            if self.device.type == "cuda":
                frames = torch.from_dlpack(out.as_tensor()).clone()
                torch.cuda.current_stream(self.device).synchronize()  # before DALI reuses it
            else:
                frames = torch.from_numpy(np.array(out.as_tensor()))
        finally:
            pipe.release_outputs()
        return frames.view(size)
