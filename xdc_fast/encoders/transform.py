"""From a batch as loaded to what the encoders read, on the batch's device."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.sampler import uniform
from xdc_fast.clips.windows import ClipShape
from xdc_fast.errors import UserError
from xdc_fast.kernels.logmel import MelSpec, log_mel
from xdc_fast.recipe import Recipe

GAIN, SHIFT, LEVEL = 16, 17, 18  # streams of random draws, apart from those of the windows


class ClipTransform:
    """Makes encoder inputs as a recipe describes them."""

    def __init__(self, recipe: Recipe):
        self.video, self.audio, self.seed = recipe.video, recipe.audio, recipe.seed
        self.precision = recipe.train.precision
        self._constants: dict[torch.device, tuple[torch.Tensor, torch.Tensor]] = {}
        audio = recipe.audio
        try:
            self.spec = MelSpec(
                sample_rate=audio.sample_rate,
                n_fft=max(16, 1 << (audio.win_length - 1).bit_length()),
                win_length=audio.win_length,
                hop_length=audio.hop_length,
                n_mels=audio.n_mels,
            )
        except ValueError as error:
            raise UserError(f"audio: {error}") from None
        self.shape = ClipShape(
            frames=recipe.video.frames,
            fps=recipe.video.fps,
            crop=recipe.video.crop,
            samples=self.spec.samples(audio.frames),
            sample_rate=audio.sample_rate,
        )

    def of(self, modality: str, batch: Batch, epoch: int | None = None) -> torch.Tensor:
        """Encoder input of a batch: video (B, 3, T, H, W), audio (B, 1, mels, frames), float32.

        modality: one that the batch has.
        epoch: training, where the recipe's jitters are drawn per (seed, epoch, sample); None:
        evaluation, without them.
        """
        return self._pictures(batch, epoch) if modality == "video" else self._sound(batch, epoch)

    def _draw(self, batch: Batch, epoch: int, stream: int) -> torch.Tensor:
        """Uniform in [-1, 1), float32 (B,) on the batch's device."""
        draws = 2 * uniform(self.seed, epoch, batch.index.numpy(), stream) - 1
        return send(draws.astype(np.float32), batch.device)

    def _mean_and_std(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Those of the pictures, float32 (3,) each, sent to a device once."""
        if device not in self._constants:
            mean, std = (torch.tensor(v, device=device) for v in (self.video.mean, self.video.std))
            self._constants[device] = mean, std
        return self._constants[device]

    def _pictures(self, batch: Batch, epoch: int | None) -> torch.Tensor:
        assert batch.frames is not None, "a batch without pictures"
        x = batch.frames.permute(0, 4, 1, 2, 3)  # channels_last_3d without a copy
        # of three channels, a CPU reads either order as fast, and takes its own from the weights
        order = torch.preserve_format if x.is_cuda else torch.contiguous_format
        x = x.to(torch.float32, memory_format=order)
        mean, std = self._mean_and_std(x.device)
        gain, shift = torch.ones(len(batch), device=x.device), torch.zeros(1, device=x.device)
        if epoch is not None and self.video.jitter:
            gain = 1 + self.video.jitter * self._draw(batch, epoch, GAIN)
            shift = 0.5 * self.video.jitter * self._draw(batch, epoch, SHIFT)
        # ((x / 255) * gain + shift - mean) / std, as one multiply-add
        scale = gain[:, None] / (255 * std)
        offset = (shift[:, None] - mean) / std
        full = (slice(None), slice(None), None, None, None)
        return torch.addcmul(offset[full], x, scale[full])

    def _sound(self, batch: Batch, epoch: int | None) -> torch.Tensor:
        mel = batch.spectrogram
        if mel is None:
            assert batch.waveform is not None, "a batch without sound"
            mel = spectrogram(batch.waveform, self.spec)
        x = plain(mel) - self.audio.mean
        if epoch is not None and self.audio.jitter:
            normal = 3**0.5 * self._draw(batch, epoch, LEVEL)  # uniform of unit variance
            x += plain(self.audio.jitter * normal[:, None, None])
        x /= self.audio.std
        return torch.as_tensor(x).unsqueeze(1)


def plain(tensor: torch.Tensor) -> Any:
    """A tensor on the host as an array: NumPy has one thread, those of PyTorch would go on
    spinning where the loader decodes."""
    return tensor if tensor.is_cuda else tensor.numpy()


def send(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """An array on a device, in the order of a GPU's current stream.

    The caller goes on at once: a copy from pageable memory would wait for all that the GPU has
    still to do.
    """
    tensor = torch.from_numpy(array)
    if device.type == "cuda":
        return tensor.pin_memory().to(device, non_blocking=True)
    return tensor.to(device)


def spectrogram(waveform: torch.Tensor, spec: MelSpec) -> torch.Tensor:
    """Log-mel of int16 or float32 (B, S) on its own device: float32 (B, mels, frames)."""
    out = waveform.new_empty(
        (len(waveform), spec.n_mels, spec.frames(waveform.shape[1])), dtype=torch.float32
    )
    if waveform.is_cuda:
        from xdc_fast.kernels.logmel_cuda import log_mel_cuda  # numba.cuda only where it is used

        stream = torch.cuda.current_stream(waveform.device).cuda_stream
        log_mel_cuda(waveform, spec, out, stream=stream)
    else:
        log_mel(waveform.numpy(), spec, out.numpy(), threads=torch.get_num_threads())
    return out
