"""The DALI loader: the same steps and windows as the host loader, decoded by NVIDIA DALI.

DALI's own tar reader shuffles by its own rules, so the bytes come from here, in the sampler's
order: JPEG packets by offset, whole files of any other codec. On a GPU, packets go through DALI's
mixed image decoder and files through NVDEC; without one, packets decode on the CPU.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import simplejpeg
import torch
from nvidia.dali import Pipeline, fn, pipeline_def

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.failures import NothingRead, replace_unreadable
from xdc_fast.clips.host import HostBatch, HostLoader
from xdc_fast.clips.reader import undecodable
from xdc_fast.clips.sampler import Sampler
from xdc_fast.clips.windows import ClipShape, WindowFunction
from xdc_fast.errors import UserError
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.sample import UNREADABLE, SampleError


class Request(NamedTuple):
    """What `batches` was asked for."""

    sampler: Sampler
    windows: WindowFunction
    samples: np.ndarray | None


class DaliLoader:
    """A Loader of shards that have video, whose frames DALI decodes.

    One bad sample kills a DALI pipeline, so bytes that are no picture are replaced before it sees
    them; a batch that it still fails on is read by the host loader, and the pipeline built anew.
    Arguments as of HostLoader. Raises UserError for shards that DALI cannot decode on this device.
    """

    def __init__(
        self,
        shards: ShardSet,
        shape: ClipShape,
        *,
        device: torch.device | str = "cuda",
        threads: int = 2,
    ):
        self._host = HostLoader(shards, shape, device=device, threads=threads)
        self._reader = self._host.reader
        self.shards, self.shape, self.modalities = shards, shape, self._host.modalities
        self.device, self.threads = self._host.device, threads
        if "video" not in self.modalities:
            raise UserError(f"{shards.root}: there is no video for DALI to decode; set loader=host")
        if self.device.type == "cuda":
            self._copies = torch.cuda.Stream(self.device)
        self.by_packet = shards.settings["codec"] == "jpeg"
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
        """As of Loader."""
        request, step = Request(sampler, windows, samples), start
        while step < sampler.steps:
            ready: deque[HostBatch] = deque()  # of batches that DALI works on: all but the frames
            pipe = self._build(request, step, ready)
            while step < sampler.steps:
                try:
                    frames = self._run(pipe)
                except (NothingRead, RuntimeError) as error:
                    # DALI reads ahead: nothing to read may also mean a later step
                    yield self._read_on_host(request, step, error)
                    step += 1
                    break
                batch = self._host.deliver(ready.popleft())
                yield Batch(frames, batch.waveform, batch.index)
                step += 1

    def _read_on_host(self, request: Request, step: int, cause: Exception) -> Batch:
        """A batch that the pipeline failed on; the host loader finds the sample and the reason."""
        sampler, windows, samples = request
        try:
            batch = self._host.read(sampler.indices(step), windows, samples)
        except NothingRead as error:
            self._host.log.add(error.errors)
            raise
        if not batch.errors and not isinstance(cause, NothingRead):
            raise UserError(
                f"DALI fails where the host path does not: {str(cause).strip()}; "
                "set loader=host, and look at `xdc doctor`"
            ) from cause
        return self._host.deliver(batch)

    def _build(self, request: Request, start: int, ready: deque[HostBatch]) -> Pipeline:
        """A pipeline over the sampler's steps from `start`: uint8 (B x T, crop, crop, 3) each."""
        gpu, sampler = self.device.type == "cuda", request.sampler
        decoder = "mixed" if gpu else "cpu"
        crop = [self.shape.crop, self.shape.crop]

        def source() -> Iterator[tuple[list, ...]]:
            for step in range(start, sampler.steps):
                yield self._gather(request, step, ready)

        @pipeline_def(
            batch_size=sampler.batch * (self.shape.frames if self.by_packet else 1),
            num_threads=self.threads,
            device_id=(self.device.index or 0) if gpu else None,  # type: ignore[arg-type]  # no GPU
        )
        def pipeline():  # type: ignore[no-untyped-def]  # DALI's own nodes
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

    def _gather(self, request: Request, step: int, ready: deque[HostBatch]) -> tuple[list, ...]:
        """What the pipeline reads of one batch; the rest of the batch goes to `ready`."""
        reader, samples = self._reader, request.samples
        indices = request.sampler.indices(step)
        names, rows = reader.locate(indices if samples is None else samples[indices])
        windows = request.windows(indices, rows)
        waveform = None
        if "audio" in self.modalities:
            pin = self.device.type == "cuda"
            waveform = torch.zeros(len(rows), self.shape.samples, dtype=torch.int16, pin_memory=pin)
        corner = np.stack([windows.top, windows.left], axis=1).astype(np.int32)
        flip, frames = windows.flip.astype(np.int32), windows.frames.astype(np.int32)
        data: list[list[np.ndarray]] = [[] for _ in rows]
        errors: dict[int, SampleError] = {}
        for slot, (name, row) in enumerate(zip(names, rows, strict=True)):
            try:
                if waveform is not None:
                    sound = reader.read_waveform(name, row, windows.start[slot])
                    waveform.numpy()[slot] = sound
                data[slot] = self._read_encoded(name, row, windows.frames[slot])
            except SampleError as error:
                errors[slot] = error
        index = torch.from_numpy(indices.copy())
        replace_unreadable(errors, self.shards.root, waveform, index, corner, flip, frames, data)
        ready.append(HostBatch(None, waveform, index, list(errors.values())))
        repeat = self.shape.frames if self.by_packet else 1
        out = (
            [part for parts in data for part in parts],
            list(np.repeat(corner, repeat, axis=0)),
            list(np.repeat(flip, repeat)),
        )
        return out if self.by_packet else (*out, list(frames))

    def _read_encoded(self, name: str, row: np.void, numbers: np.ndarray) -> list[np.ndarray]:
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
            raise undecodable(error, name, row, "video") from error

    def _run(self, pipe: Pipeline) -> torch.Tensor:
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
