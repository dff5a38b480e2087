"""What the loader delivers."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Batch:
    """Clips on the device.

    Attributes:
        frames: uint8 (B, T, H, W, 3), RGB. Permuted to (B, 3, T, H, W) it is channels_last_3d.
            None where the clips have no pictures.
        waveform: int16 (B, S), full scale 32768, at the clip shape's sample rate. None where the
            clips have no sound.
        index: int64 (B,), the sample of each clip, on the host. A sample that could not be read is
            replaced by another of its batch, and its place here names that other one. A loader
            that was given `samples` counts those.
        spectrogram: float32 (B, mels, frames), the log-mel of the waveform, where the loader was
            asked for it and computes it on the CPU; else None.

    >>> clip = xdc_fast.ClipShape(frames=8, fps=7.5, crop=32, samples=16000, sample_rate=16000)
    >>> batch = next(xdc_fast.ClipLoader("shards", clip, batch_size=4, device="cpu").epoch(0))
    >>> len(batch), batch.frames.shape, batch.waveform.dtype
    (4, torch.Size([4, 8, 32, 32, 3]), torch.int16)
    """

    frames: torch.Tensor | None
    waveform: torch.Tensor | None
    index: torch.Tensor
    spectrogram: torch.Tensor | None = None

    @property
    def device(self) -> torch.device:
        """Where the clips are."""
        track = self.waveform if self.frames is None else self.frames
        assert track is not None
        return track.device

    def __len__(self) -> int:
        return len(self.index)
