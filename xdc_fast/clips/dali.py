"""The DALI path: the same plan and windows as the host path, decoded by NVIDIA DALI.

DALI's own tar reader shuffles by its own rules, so the bytes come from here, in the plan's order:
JPEG packets by offset, whole files of any other codec. On a GPU, packets go through DALI's mixed
image decoder and files through NVDEC; without one, packets decode on the CPU.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
import simplejpeg
import torch
from nvidia.dali import fn, pipeline_def

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.host import HostLoader, Sampling
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import ClipShape
from xdc_fast.errors import UserError
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.sample import UNREADABLE, SampleError


class DaliLoader(HostLoader):
    """Batches of a shard set that has video, decoded by DALI.

    One bad sample kills a DALI pipeline, so bytes that are no picture are replaced before it sees
    them; a batch that it still fails on is read by the host path, and the pipeline built anew.
    Arguments as of HostLoader. Raises UserError for shards that DALI cannot decode on this device.
    """

    def __init__(
        self, shards: ShardSet, shape: ClipShape, *, device: str = "cuda", threads: int = 2
    ):
        super().__init__(shards, shape, device=device, threads=threads)
        if "video" not in shards.modalities:
            raise UserError(f"{shards.root}: there is no video for DALI to decode; set loader=host")
        if self.device.type == "cuda":
            self._copies = torch.cuda.Stream(self.device)
        self.by_packet = shards.settings["codec"] == "jpeg"
        if not self.by_packet and self.device.type != "cuda":
            raise UserError(
                f"{shards.root}: without a GPU, DALI decodes JPEG packets only, not "
                f"{shards.settings['codec']}; set loader=host"
            )

    def batches(self, plan: EpochSampler, sampling: Sampling, start: int = 0) -> Iterator[Batch]:
        """The batches of a plan from step `start` on, in order."""
        step = start
        while step < plan.steps:
            ready: deque = deque()  # waveform, index, errors of the batches that DALI works on
            pipe = self._build(plan, sampling, step, ready)
            while step < plan.steps:
                try:
                    frames = self._run(pipe)
                except RuntimeError as error:  # the host path finds the sample and the cause
                    *parts, errors = self.read(plan.indices(step), sampling)
                    if not errors:
                        raise UserError(
                            f"DALI fails where the host path does not: {str(error).strip()}; "
                            "set loader=host, and look at `xdc doctor`"
                        ) from error
                    yield self._deliver(*parts, errors)
                    step += 1
                    break
                yield self._deliver(frames, *ready.popleft())
                step += 1

    def _build(self, plan: EpochSampler, sampling: Sampling, start: int, ready: deque):
        """A pipeline over the plan's steps from `start`: uint8 (B x T, crop, crop, 3) each."""
        gpu = self.device.type == "cuda"
        decoder = "mixed" if gpu else "cpu"
        crop = [self.shape.crop, self.shape.crop]

        def source():
            for step in range(start, plan.steps):
                yield self._gather(plan.indices(step), sampling, ready)

        @pipeline_def(
            batch_size=plan.batch * (self.shape.frames if self.by_packet else 1),
            num_threads=self.threads,
            device_id=(self.device.index or 0) if gpu else None,
        )
        def pipeline():
            data, corner, flip, *frames = fn.external_source(
                source=source(), num_outputs=3 if self.by_packet else 4
            )
            if self.by_packet:
                out = fn.decoders.image(data, device=decoder)
            else:
                out = fn.decoders.video(data, device=decoder, frames=frames[0])
            out = fn.slice(out, start=corner, shape=crop, axis_names="HW")
            return fn.flip(out, horizontal=flip)

        pipe = pipeline()
        pipe.build()
        return pipe

    def _gather(self, indices: np.ndarray, sampling: Sampling, ready: deque) -> tuple[list, ...]:
        """What the pipeline reads of one batch; the rest of the batch goes to `ready`."""
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
        ready.append((waveform, index, list(errors.values())))
        repeat = self.shape.frames if self.by_packet else 1
        out = (
            [part for parts in data for part in parts],
            list(np.repeat(corner, repeat, axis=0)),
            list(np.repeat(flip, repeat)),
        )
        return out if self.by_packet else (*out, list(frames))

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

    def _run(self, pipe) -> torch.Tensor:
        """The next batch: uint8 (B, T, crop, crop, 3) on the device."""
        shape = self.shape
        (out,) = pipe.run()
        if self.device.type == "cuda":
            # on a stream of its own: waiting for the copy is not to wait for the training step
            with torch.cuda.stream(self._copies):
                frames = torch.from_dlpack(out.as_tensor()).clone()
            self._copies.synchronize()  # before DALI reuses the memory
            frames.record_stream(torch.cuda.current_stream(self.device))
        else:
            frames = torch.from_numpy(np.array(out.as_tensor()))
        return frames.view(-1, shape.frames, shape.crop, shape.crop, 3)
