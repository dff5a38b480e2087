import threading

import numpy as np
import pytest
import torch
import torchaudio

from benchmarks.stages import sass
from tests.common.scripts import run_script
from xdc_fast.kernels import MelSpec, filter_bank, log_mel
from xdc_fast.kernels.logmel_cuda import specialise

PAPER = MelSpec()
WIDE = MelSpec(n_fft=512, win_length=400, n_mels=64)
SPECS = {
    "paper": PAPER,
    "wide": WIDE,
    "paper-center": MelSpec(center=True),
    "wide-center": MelSpec(n_fft=512, win_length=400, n_mels=64, center=True),
    "band": MelSpec(
        n_fft=1024, win_length=777, hop_length=123, n_mels=20, f_min=100, f_max=6000, floor=1e-3
    ),
    "smallest": MelSpec(n_fft=16, win_length=16, hop_length=5, n_mels=3),
    "largest": MelSpec(n_fft=4096, win_length=4096, hop_length=1000, n_mels=64),
}


def reference(waveform, spec):
    """The definition in float64."""
    x = waveform / 32768 if waveform.dtype == np.int16 else waveform.astype(np.float64)
    if spec.center:
        x = np.pad(x, ((0, 0), (spec.n_fft // 2, spec.n_fft // 2)), mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.win_length) / spec.win_length)
    left = (spec.n_fft - spec.win_length) // 2
    window = np.pad(window, (left, spec.n_fft - spec.win_length - left))
    frames = np.lib.stride_tricks.sliding_window_view(x, spec.n_fft, axis=1)[:, :: spec.hop_length]
    power = np.abs(np.fft.rfft(frames * window)) ** 2

    def mel_to_hz(mel):
        return 700 * (10 ** (mel / 2595) - 1)

    def hz_to_mel(hz):
        return 2595 * np.log10(1 + hz / 700)

    top = spec.sample_rate / 2 if spec.f_max is None else spec.f_max
    edges = mel_to_hz(np.linspace(hz_to_mel(spec.f_min), hz_to_mel(top), spec.n_mels + 2))
    bins = np.fft.rfftfreq(spec.n_fft, 1 / spec.sample_rate)
    bank = [np.interp(bins, edges[m : m + 3], [0, 1, 0]) for m in range(spec.n_mels)]
    return np.log(np.einsum("btk,mk->bmt", power, bank) + spec.floor)


def assert_close(result, expected):
    """Within 1e-3, or 120 dB below the loudest filter of the frame, where float32 ends."""
    result, expected = result.astype(np.float64), np.asarray(expected, np.float64)
    quiet = 1e-12 * np.exp(expected.max(axis=1, keepdims=True) - expected)
    assert result.shape == expected.shape
    assert (np.abs(np.expm1(result - expected)) <= 1e-3 + quiet).all()


def waves(samples, clips=3, seed=0):
    """Noise, a full-scale sine, a full-scale square: float32 within -1 to 1."""
    rng = np.random.default_rng(seed)
    t = np.arange(samples) / 16000
    kinds = [rng.uniform(-1, 1, samples), np.sin(2 * np.pi * 440 * t), np.sign(np.sin(3000 * t))]
    return np.stack([kinds[i % 3] for i in range(clips)]).astype(np.float32)


def as_int16(waveform):
    return np.round(waveform * 32767).astype(np.int16)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_equals_float64_reference(spec, dtype):
    waveform = waves(9001)
    if dtype == "int16":
        waveform = as_int16(waveform)
    expected = reference(waveform, spec)
    for threads in (1, 3):
        result = log_mel(waveform, spec, threads=threads)
        assert result.dtype == np.float32
        assert_close(result, expected)


@pytest.mark.filterwarnings("ignore:At least one mel filterbank has all zero values")
@pytest.mark.parametrize("name", ["paper", "wide", "paper-center", "wide-center", "band"])
def test_equals_torchaudio(name):
    spec = SPECS[name]
    mel = torchaudio.transforms.MelSpectrogram(
        spec.sample_rate, spec.n_fft, spec.win_length, spec.hop_length, spec.f_min, spec.f_max,
        n_mels=spec.n_mels, center=spec.center,
    )  # fmt: skip
    for samples, clips in ((16096, 4), (5001, 1)):
        waveform = waves(samples, clips)
        expected = (mel(torch.from_numpy(waveform)) + spec.floor).log().numpy()
        assert_close(log_mel(waveform, spec), expected)


@pytest.mark.parametrize("spec", [PAPER, WIDE, SPECS["wide-center"]])
@pytest.mark.parametrize("extra", [0, 1, 159, 160, 161])
def test_lengths_around_a_frame(spec, extra):
    waveform = waves(spec.samples(3) + extra)
    result = log_mel(waveform, spec)
    assert result.shape == (3, spec.n_mels, spec.frames(waveform.shape[1]))
    assert_close(result, reference(waveform, spec))


def test_paper_input_is_100_frames_of_16096_samples():
    assert PAPER.samples(100) == 16096
    assert PAPER.frames(16096) == 100
    assert PAPER.frames(16095) == 99


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_samples_is_the_fewest_for_the_frames(spec):
    for frames in (1, 2, 7):
        samples = spec.samples(frames)
        assert spec.frames(samples) >= frames
        if samples > spec.samples(1):
            assert spec.frames(samples - 1) == frames - 1


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_silence_is_ln_floor(dtype):
    result = log_mel(np.zeros((2, 4000), dtype), PAPER)
    np.testing.assert_allclose(result, np.log(1e-6), rtol=1e-6)


def test_full_scale_clicks():
    waveform = np.zeros((2, 6000), np.int16)
    waveform[0, ::500] = -32768
    waveform[1, 3000] = 32767
    assert_close(log_mel(waveform, PAPER), reference(waveform, PAPER))


@pytest.mark.parametrize("scale", [1e-8, 1e-3, 1e4, 1e15])
def test_any_level(scale):
    waveform = waves(4000) * np.float32(scale)
    assert_close(log_mel(waveform, WIDE), reference(waveform, WIDE))


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_samples_are_not_hidden(value):
    waveform = waves(16096)
    waveform[1, 8000] = value
    bad = np.isnan(log_mel(waveform, WIDE)).any(axis=1)
    starts = np.arange(bad.shape[1]) * 160
    touched = (starts + 56 < 8000) & (starts + 56 + 400 > 8000)
    np.testing.assert_array_equal(bad[1], touched)
    assert not bad[[0, 2]].any()


@pytest.mark.filterwarnings("ignore:At least one mel filterbank has all zero values")
def test_filter_bank_equals_torchaudio():
    for spec in SPECS.values():
        expected = torchaudio.functional.melscale_fbanks(
            spec.n_fft // 2 + 1, spec.f_min, spec.top, spec.n_mels, spec.sample_rate
        )
        np.testing.assert_allclose(filter_bank(spec).T, expected, atol=2e-5)
        assert ((filter_bank(spec) > 0).sum(axis=0) <= 2).all()


def test_a_frame_does_not_depend_on_its_neighbours():
    waveform = as_int16(waves(16096, clips=5))
    together = log_mel(waveform, PAPER)
    for clip in range(5):
        alone = log_mel(waveform[clip : clip + 1], PAPER)
        np.testing.assert_array_equal(alone[0], together[clip])


def test_writes_into_out():
    waveform = waves(4000)
    out = np.full((3, 40, PAPER.frames(4000)), np.nan, np.float32)
    assert log_mel(waveform, PAPER, out) is out
    np.testing.assert_array_equal(out, log_mel(waveform, PAPER))
    assert log_mel(waveform[:0], PAPER).shape == (0, 40, 24)


@pytest.mark.parametrize("own", [1, 2])
def test_many_threads_may_call(own):
    waveforms = [waves(16096, seed=i) for i in range(4)]
    expected = [log_mel(waveform, PAPER) for waveform in waveforms]
    results = [None] * 4

    def work(i):
        for _ in range(5):
            results[i] = log_mel(waveforms[i], PAPER, threads=own)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    np.testing.assert_array_equal(results, expected)


def test_errors_name_the_numbers():
    with pytest.raises(ValueError, match="255 samples is shorter than the 256"):
        log_mel(waves(255), PAPER)
    with pytest.raises(ValueError, match="128 samples is shorter than the 129"):
        log_mel(waves(128), MelSpec(center=True))
    with pytest.raises(ValueError, match=r"float64 \(3, 4000\)"):
        log_mel(waves(4000).astype(np.float64), PAPER)
    with pytest.raises(ValueError, match=r"float32 \(4000,\)"):
        log_mel(waves(4000)[0], PAPER)
    with pytest.raises(ValueError, match=r"out must be float32 \(3, 40, 24\)"):
        log_mel(waves(4000), PAPER, np.empty((3, 40, 25), np.float32))
    with pytest.raises(ValueError, match="C-contiguous"):
        log_mel(waves(4000)[:, ::2], PAPER)


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"n_fft": 400}, "power of two.* 400"),
        ({"n_fft": 8, "win_length": 8}, "at least 16, got 8"),
        ({"win_length": 257}, "n_fft=256 samples, got 257"),
        ({"hop_length": 0}, "hop_length must be at least 1, got 0"),
        ({"n_mels": 0}, "n_mels must be at least 1"),
        ({"f_max": 9000.0}, "8000 Hz, got 0 and 9000"),
        ({"f_min": 5000.0, "f_max": 4000.0}, "5000 and 4000"),
        ({"floor": 0.0}, "floor .* got 0"),
    ],
)
def test_settings_without_meaning(setting, message):
    with pytest.raises(ValueError, match=message):
        MelSpec(**setting)


SMALL = """
import numpy as np
from xdc_fast.kernels import MelSpec
rng = np.random.default_rng(0)
spec = MelSpec(n_fft=32, win_length=30, hop_length=16, n_mels=6, center=True)
waveform = rng.integers(-32768, 32768, (2, 150)).astype(np.int16)
"""


def test_runs_uncompiled(tmp_path):
    run_script(
        SMALL + f"from xdc_fast.kernels import log_mel\n"
        f"np.savez({str(tmp_path / 'x.npz')!r}, waveform=waveform, "
        f"result=log_mel(waveform, spec, threads=2), serial=log_mel(waveform, spec))",
        NUMBA_DISABLE_JIT="1",
    )
    with np.load(tmp_path / "x.npz") as saved:
        spec = MelSpec(n_fft=32, win_length=30, hop_length=16, n_mels=6, center=True)
        expected = reference(saved["waveform"], spec)
        np.testing.assert_allclose(saved["result"], expected, atol=1e-3)
        np.testing.assert_array_equal(saved["result"], saved["serial"])


def test_compiles_where_nothing_can_be_cached():
    # A function without a source file has no place for a cache either.
    run_script(
        """
import numba
from xdc_fast.kernels._jit import njit
def successor(x):
    return x + 1
try:
    numba.njit(cache=True)(successor)
except RuntimeError as error:
    assert "no locator available" in str(error)
else:
    raise AssertionError("cached a function without a file")
assert njit()(successor)(1) == 2
"""
    )


CACHED = """
import numpy as np
from xdc_fast.kernels import MelSpec, contingency, gather_labels, log_mel
from xdc_fast.kernels import labels, logmel
log_mel(np.zeros((1, 256), np.int16), MelSpec())
a = np.zeros(3, np.int32)
contingency(a, a, 1, 1)
gather_labels(a, a)
for kernel in (logmel._blocks, labels._count_pairs, labels._gather):
    assert not kernel.stats.cache_misses if SECOND else kernel.stats.cache_misses, kernel
"""


def test_a_second_process_compiles_nothing(tmp_path):
    for second in (False, True):
        run_script(f"SECOND = {second}" + CACHED, NUMBA_CACHE_DIR=str(tmp_path))


SIMULATED = """
from numba import cuda
from xdc_fast.kernels import log_mel
from xdc_fast.kernels.logmel_cuda import log_mel_cuda
others = (
    MelSpec(n_fft=16, win_length=16, hop_length=5, n_mels=3),
    MelSpec(n_fft=64, win_length=51, hop_length=40, n_mels=4),
    MelSpec(n_fft=128, win_length=128, hop_length=9, n_mels=9, center=True),
)
for spec, dtype in ((spec, np.int16), *((other, np.float32) for other in others)):
    wave = waveform if dtype == np.int16 else (waveform / 32768).astype(dtype)
    expected = log_mel(wave, spec)
    out = cuda.to_device(np.zeros_like(expected))
    assert log_mel_cuda(cuda.to_device(wave), spec, out) is out
    np.testing.assert_allclose(out.copy_to_host(), expected, atol=1e-3)
"""


def test_cuda_kernel_in_the_simulator():
    run_script(SMALL + SIMULATED, NUMBA_ENABLE_CUDASIM="1")


@pytest.mark.parametrize("stage", ["logmel", "labels"])
def test_cuda_cases_in_the_simulator(stage):
    run_script(
        f"""
import warnings
warnings.simplefilter("error")
from benchmarks.harness import measure
from benchmarks.stages import {stage} as stage
small = dict(n_fft=32, win_length=30, hop_length=16, n_mels=6)
stage.SPECS = [stage.MelSpec(**small)] if "{stage}" == "logmel" else ()
items = [measure(case, 1, 0) for case in stage.cuda_cases(True, 1, device="cpu")]
assert len(items) == 2
for item in items:
    assert "failed" not in item, item
""",
        NUMBA_ENABLE_CUDASIM="1",
    )


@pytest.mark.parametrize(
    ("spec", "integer"), [(PAPER, True), pytest.param(WIDE, False, marks=pytest.mark.slow)]
)
def test_cuda_kernel_for_hopper_is_one_line_of_registers(spec, integer):
    """No loop, no call, nothing in local memory: the indices are constants of instructions."""
    ptx = sass.log_mel_ptx(spec, integer)
    assert ".target sm_90" in ptx
    # A constant or an index in the wrong type would move the arithmetic to float64.
    assert ".f64" not in ptx
    code = sass.assemble(ptx)
    assert (code.loops, code.calls, code.local_bytes) == (0, 0, 0)
    # an FFT in registers: 5 n log2 n / 2 operations are 5,120 of 256 samples and 11,520 of 512
    per_frame = code.instructions * specialise(spec, integer).threads
    assert per_frame < {PAPER: 13_000, WIDE: 26_000}[spec]


def test_a_transform_that_does_not_fit_the_device_is_refused():
    with pytest.raises(ValueError, match="at most 4096 on a CUDA device, got 8192"):
        specialise(MelSpec(n_fft=8192, win_length=400), integer=True)


@pytest.mark.gpu
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_cuda_equals_cpu(spec, dtype):
    from xdc_fast.kernels.logmel_cuda import log_mel_cuda

    waveform = as_int16(waves(9001)) if dtype == "int16" else waves(9001)
    shape = (3, spec.n_mels, spec.frames(9001))
    out = torch.full(shape, torch.nan, device="cuda")
    stream = torch.cuda.current_stream().cuda_stream
    assert log_mel_cuda(torch.from_numpy(waveform).cuda(), spec, out, stream) is out
    assert_close(out.cpu().numpy(), reference(waveform, spec))


@pytest.mark.gpu
def test_cuda_keeps_the_order_of_its_stream():
    """The waveform gets there on the same stream, behind work that takes a while."""
    from xdc_fast.kernels.logmel_cuda import log_mel_cuda

    waveform = as_int16(waves(9001, clips=30))
    expected = log_mel(waveform, PAPER)
    waiting = torch.from_numpy(waveform).pin_memory()
    source = torch.zeros(waveform.shape, dtype=torch.int16, device="cuda")
    out = torch.zeros(expected.shape, device="cuda")
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        torch.cuda._sleep(50_000_000)
        source.copy_(waiting, non_blocking=True)
        log_mel_cuda(source, PAPER, out, stream.cuda_stream)
        result = out.cpu()
    np.testing.assert_allclose(result.numpy(), expected, atol=1e-3)
