"""Log-mel spectrograms of a batch of one-second clips."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from dataclasses import replace
from functools import partial

import numpy as np
import torch

from benchmarks.harness import Case, device_clock
from xdc_fast.kernels import MelSpec, log_mel

THREADS = (1, 2)
SPECS = (MelSpec(), MelSpec(n_fft=512, window=400, mels=64))
MANY = 16_384  # clips: a second each, 527 MB of int16


def cases(quick: bool, threads: int) -> Iterator[Case]:
    for spec in SPECS:
        sound = draw_sound(4 if quick else 64, spec.samples(100))
        for waveform in (sound, np.round(sound * 32767).astype(np.int16)):
            size = f"{spec.n_fft}/{spec.window}/{spec.hop}, {spec.mels} mels"
            yield Case(
                f"{size}, {waveform.dtype}, {len(waveform)} clips of 100 frames",
                "frames per second",
                len(waveform) * spec.frames(waveform.shape[1]),
                partial(log_mel, waveform, spec),
                {name: partial(make, waveform, spec) for name, make in PEERS.items()},
                assert_same,
                ("torch.fft.rfft of the frames", bare_transform(waveform, spec)),
            )


def cuda_cases(quick: bool, threads: int, device: str = "cuda") -> Iterator[Case]:
    """Waveforms and results stay on the device.

    A batch of training lies in the device's cache, and its time is that of the launch: the wall
    clock tells what training waits for, the device's own what the kernel takes. MANY clips are
    several times the cache.
    """
    for spec in SPECS:
        for dtype in (torch.float32, torch.int16):
            for clips in (1,) if quick else (64, MANY):
                source = draw_sound_on(device, clips, spec.samples(2 if quick else 100), dtype)
                case = contest_on(source, spec)
                if clips < MANY:
                    yield case
                if source.is_cuda:
                    yield replace(case, name=f"{case.name}, device time", clock=device_clock)
                del source, case


def contest_on(source: torch.Tensor, spec: MelSpec) -> Case:
    from xdc_fast.kernels.logmel_cuda import log_mel_cuda

    clips, frames = len(source), spec.frames(source.shape[1])
    out = torch.empty(clips, spec.mels, frames, device=source.device)
    size = f"{spec.n_fft}/{spec.window}/{spec.hop}, {spec.mels} mels"
    dtype = str(source.dtype).removeprefix("torch.")

    def ours() -> torch.Tensor:
        stream = torch.cuda.current_stream(source.device).cuda_stream if source.is_cuda else 0
        return log_mel_cuda(source, spec, out, stream)

    return Case(
        f"{size}, {dtype}, {clips:,} clips of {frames} frames",
        "frames per second",
        clips * frames,
        ours,
        {"torchaudio": partial(make_torchaudio_on, source, spec)},
        assert_same_on_device,
        ("device copy of as many bytes", copy_bytes(source, out)),
    )


def draw_sound_on(device: str, clips: int, samples: int, dtype: torch.dtype) -> torch.Tensor:
    """As draw_sound, on a device; of many clips, each is a quieter copy of one of the first."""
    sound = torch.from_numpy(draw_sound(min(clips, 1024), samples)).to(device)
    sound = sound.repeat(-(-clips // len(sound)), 1)[:clips]
    sound *= torch.linspace(1, 0.5, clips, device=device)[:, None]
    return sound if dtype == torch.float32 else (sound * 32767).round().to(dtype)


def draw_sound(clips: int, samples: int) -> np.ndarray:
    """Tones in noise, float32 (clips, samples) within -1 to 1."""
    rng = np.random.default_rng(0)
    time = np.arange(samples) / 16000
    tones = 0.3 * np.sin(2 * np.pi * rng.uniform(100, 4000, (clips, 1)) * time)
    return (tones + rng.uniform(-0.1, 0.1, tones.shape)).astype(np.float32)


def as_float(waveform: np.ndarray) -> torch.Tensor:
    """What the peers take: float32, full scale 1."""
    tensor = torch.from_numpy(waveform)
    return tensor if waveform.dtype == np.float32 else tensor.float() / 32768


def make_torchaudio(waveform: np.ndarray, spec: MelSpec):
    transform = torchaudio_transform(spec)

    @torch.inference_mode()
    def run():
        return (transform(as_float(waveform)) + spec.floor).log().numpy()

    return run


def make_torchaudio_on(source: torch.Tensor, spec: MelSpec):
    transform = torchaudio_transform(spec).to(source.device)
    scale = 1 if source.dtype == torch.float32 else 1 / 32768

    @torch.inference_mode()
    def run():
        wave = source if scale == 1 else source.float() * scale
        return (transform(wave) + spec.floor).log()

    return run


def torchaudio_transform(spec: MelSpec) -> torch.nn.Module:
    import torchaudio

    with warnings.catch_warnings():  # the lowest filters are narrower than a bin
        warnings.filterwarnings("ignore", "At least one mel filterbank has all zero values")
        return torchaudio.transforms.MelSpectrogram(
            spec.rate, spec.n_fft, spec.window, spec.hop, spec.fmin, spec.top,
            n_mels=spec.mels, center=spec.center,
        )  # fmt: skip


def make_librosa(waveform: np.ndarray, spec: MelSpec):
    from librosa.feature import melspectrogram

    options = {"sr": spec.rate, "n_fft": spec.n_fft, "win_length": spec.window}
    options |= {"hop_length": spec.hop, "n_mels": spec.mels, "center": spec.center}

    def run():
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Empty filters detected")
            power = melspectrogram(y=as_float(waveform).numpy(), htk=True, norm=None, **options)
        return np.log(power + np.float32(spec.floor))

    return run


def make_nnaudio(waveform: np.ndarray, spec: MelSpec):
    from nnAudio.features.mel import MelSpectrogram

    transform = MelSpectrogram(
        spec.rate, spec.n_fft, spec.window, spec.mels, spec.hop, center=spec.center,
        htk=True, norm=None, fmin=spec.fmin, fmax=spec.top, verbose=False,
    )  # fmt: skip

    @torch.inference_mode()
    def run():
        return (transform(as_float(waveform)) + spec.floor).log().numpy()

    return run


PEERS = {"torchaudio": make_torchaudio, "librosa": make_librosa, "nnAudio": make_nnaudio}


def bare_transform(waveform: np.ndarray, spec: MelSpec):
    """The real transform of the frames, already cut out and windowed."""
    frames = as_float(waveform).unfold(1, spec.n_fft, spec.hop).reshape(-1, spec.n_fft)
    frames = frames * torch.hann_window(spec.n_fft)
    out = torch.fft.rfft(frames)
    return lambda: torch.fft.rfft(frames, out=out)


def copy_bytes(source: torch.Tensor, out: torch.Tensor):
    """Reads and writes together as many bytes as the waveform and the result have."""
    half = (source.nbytes + out.nbytes) // 2
    from_, to = (torch.zeros(half, dtype=torch.uint8, device=out.device) for _ in range(2))
    return lambda: to.copy_(from_)


def assert_same_on_device(ours: torch.Tensor, other: torch.Tensor) -> None:
    """As assert_same, a thousand clips at a time: all in float64 would fill the device."""
    assert ours.shape == other.shape, f"shape {other.shape}, ours {ours.shape}"
    for some, others in zip(ours.split(1024), other.split(1024), strict=True):
        some, others = some.double(), others.double()
        quiet = 1e-12 * (some.amax(dim=1, keepdim=True) - some).exp()
        worst = float(((others - some).expm1().abs() - quiet).max())
        assert worst <= 1e-3, f"mel power differs by {worst:.1%}"


def assert_same(ours: np.ndarray, other: np.ndarray) -> None:
    """Mel power within 0.1 %, or 120 dB below the loudest filter of the frame."""
    assert ours.shape == other.shape, f"shape {other.shape}, ours {ours.shape}"
    ours, other = ours.astype(np.float64), other.astype(np.float64)
    quiet = 1e-12 * np.exp(ours.max(axis=1, keepdims=True) - ours)
    worst = (np.abs(np.expm1(other - ours)) - quiet).max()
    assert worst <= 1e-3, f"mel power differs by {worst:.1%}"
