"""The log-mel definition, and the tables of the CPU kernel."""

from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np


@dataclass(frozen=True)
class MelSpec:
    """A log-mel spectrogram: ln(mel power + floor) of a mono waveform.

    Periodic Hann window, power spectrum, HTK mel scale, triangular filters without
    normalisation: the definition of torchaudio.transforms.MelSpectrogram. The defaults are
    the input of XDC (16 ms windows, 10 ms apart, 40 filters); at this resolution the lowest
    filters are narrower than a bin, and the ones between two bins stay at ln(floor).

    Raises ValueError for a setting that has no meaning.

    >>> spec = xdc_fast.MelSpec(n_mels=64, n_fft=512, win_length=400)
    >>> spec.frames(16000), spec.samples(97)
    (97, 15872)
    """

    sample_rate: int = 16000
    """Samples per second."""
    n_fft: int = 256
    """Samples per transform, a power of two."""
    win_length: int = 256
    """Samples under the Hann window, centred in the transform."""
    hop_length: int = 160
    """Samples from one frame to the next."""
    n_mels: int = 40
    """Number of filters."""
    f_min: float = 0.0
    """Lower edge of the first filter in Hz."""
    f_max: float | None = None
    """Upper edge of the last filter in Hz; None is half the rate."""
    center: bool = False
    """Centre frame t on sample t * hop, with n_fft / 2 samples reflected at both ends."""
    floor: float = 1e-6
    """Added to the mel power before the logarithm."""

    def __post_init__(self) -> None:
        if self.n_fft < 16 or self.n_fft & (self.n_fft - 1):
            raise ValueError(f"n_fft must be a power of two and at least 16, got {self.n_fft}")
        if not 1 <= self.win_length <= self.n_fft:
            raise ValueError(
                f"win_length must be 1 to n_fft={self.n_fft} samples, got {self.win_length}"
            )
        for name in ("sample_rate", "hop_length", "n_mels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 <= self.f_min < self.top <= self.sample_rate / 2:
            raise ValueError(
                f"need 0 <= f_min < f_max <= {self.sample_rate / 2:g} Hz, "
                f"got {self.f_min:g} and {self.top:g}"
            )
        if not self.floor >= 1e-37:  # the kernels' logarithm takes normal float32 numbers
            raise ValueError(f"floor must be at least 1e-37, got {self.floor:g}")

    @property
    def top(self) -> float:
        """Upper edge of the last filter in Hz."""
        return self.sample_rate / 2 if self.f_max is None else self.f_max

    @property
    def pad(self) -> int:
        """Samples reflected at each end."""
        return self.n_fft // 2 if self.center else 0

    def frames(self, samples: int) -> int:
        """Number of frames of a waveform. Raises ValueError where it is too short for one."""
        least = self.samples(1)
        if samples < least:
            raise ValueError(f"waveform of {samples} samples is shorter than the {least} needed")
        return 1 + (samples + 2 * self.pad - self.n_fft) // self.hop_length

    def samples(self, frames: int) -> int:
        """Fewest samples that give this many frames (reflection needs more than `pad`)."""
        if frames < 1:
            raise ValueError(f"frames must be at least 1, got {frames}")
        return max((frames - 1) * self.hop_length + self.n_fft - 2 * self.pad, self.pad + 1)


class Tables(NamedTuple):
    """Constants of a kernel. Rows are rows of the transform buffer: real parts at even rows,
    imaginary parts at odd ones."""

    window: np.ndarray
    """float32 (window,)."""
    twiddles: np.ndarray
    """float32: for each radix-4 stage and each j, cos and sin of w^j, w^2j and w^3j."""
    unpack: np.ndarray
    """float32 (n_fft / 4 + 1, 2): cos and sin of 2 pi k / n_fft."""
    rows: np.ndarray
    """int32 (n_fft / 2 + 1,): row of each bin after the in-place transform."""
    offsets: np.ndarray
    """int32 (mels + 1,): where each filter starts in `taps` and `weights`; multiples of 4."""
    taps: np.ndarray
    """int32: row of the bin that a weight belongs to."""
    weights: np.ndarray
    """float32: weights of the filters, a quarter of their value (see `unpack` in the kernels)."""


def filter_bank(spec: MelSpec) -> np.ndarray:
    """Triangular HTK mel filters, float64 (mels, n_fft / 2 + 1)."""
    low, high = 2595 * np.log10(1 + np.array([spec.f_min, spec.top]) / 700)
    edges = 700 * (10 ** (np.linspace(low, high, spec.n_mels + 2) / 2595) - 1)
    bins = np.arange(spec.n_fft // 2 + 1) * (spec.sample_rate / spec.n_fft)
    rising = (bins - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    falling = (edges[2:, None] - bins) / (edges[2:] - edges[1:-1])[:, None]
    return np.maximum(0, np.minimum(rising, falling))


def window(spec: MelSpec) -> np.ndarray:
    """The periodic Hann window, float64 (n_fft,): zeros beyond win_length, which is centred."""
    hann = np.sin(np.pi * np.arange(spec.win_length) / spec.win_length) ** 2
    left = (spec.n_fft - spec.win_length) // 2
    return np.pad(hann, (left, spec.n_fft - spec.win_length - left))


@lru_cache
def tables(spec: MelSpec) -> Tables:
    """The tables of a specification, made once."""
    half = spec.n_fft // 2
    left = (spec.n_fft - spec.win_length) // 2
    angle = 2 * np.pi * np.arange(half // 2 + 1) / spec.n_fft
    position = _positions(half)
    rows = np.append(2 * position, 1)
    offsets = [0]
    taps: list[np.ndarray] = []
    weights: list[np.ndarray] = []
    for line in filter_bank(spec):
        used = np.flatnonzero(line)
        spare = -len(used) % 4  # the CPU kernel takes four bins at a time
        taps += [rows[used], np.zeros(spare)]
        weights += [line[used] / 4, np.zeros(spare)]
        offsets.append(offsets[-1] + len(used) + spare)
    return Tables(
        window(spec)[left : left + spec.win_length].astype(np.float32),
        _twiddles(half).astype(np.float32),
        np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32),
        rows.astype(np.int32),
        np.array(offsets, np.int32),
        np.concatenate(taps).astype(np.int32),
        np.concatenate(weights).astype(np.float32),
    )


def _twiddles(n: int) -> np.ndarray:
    """Twiddle factors of the radix-4 stages of an n-point transform, in the order of use."""
    stages = []
    while n >= 4:
        angle = -2 * np.pi / n * np.outer(np.arange(n // 4), [1, 2, 3])
        stages.append(np.stack([np.cos(angle), np.sin(angle)], axis=-1).ravel())
        n //= 4
    return np.concatenate(stages)


def _positions(n: int) -> np.ndarray:
    """Where decimation in frequency (radix 4, last stage 2 if need be) leaves each bin."""
    if n <= 2:
        return np.arange(n)
    k = np.arange(n)
    return _positions(n // 4)[k // 4] + (k % 4) * (n // 4)
