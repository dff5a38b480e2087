import threading

import numba
import numpy as np
import pytest
import torch
import torchaudio
from conftest import run_script

from xdc_fast.kernels import MelSpec, filter_bank, log_mel

PAPER = MelSpec()
WIDE = MelSpec(n_fft=512, window=400, mels=64)
SPECS = {
    "paper": PAPER,
    "wide": WIDE,
    "paper-center": MelSpec(center=True),
    "wide-center": MelSpec(n_fft=512, window=400, mels=64, center=True),
    "band": MelSpec(n_fft=1024, window=777, hop=123, mels=20, fmin=100, fmax=6000, floor=1e-3),
    "smallest": MelSpec(n_fft=16, window=16, hop=5, mels=3),
    "largest": MelSpec(n_fft=4096, window=4096, hop=1000, mels=64),
}


def reference(waveform, spec):
    """The definition in float64."""
    x = waveform / 32768 if waveform.dtype == np.int16 else waveform.astype(np.float64)
    if spec.center:
        x = np.pad(x, ((0, 0), (spec.n_fft // 2, spec.n_fft // 2)), mode="reflect")
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(spec.window) / spec.window)
    left = (spec.n_fft - spec.window) // 2
    window = np.pad(window, (left, spec.n_fft - spec.window - left))
    frames = np.lib.stride_tricks.sliding_window_view(x, spec.n_fft, axis=1)[:, :: spec.hop]
    power = np.abs(np.fft.rfft(frames * window)) ** 2

    def mel_to_hz(mel):
        return 700 * (10 ** (mel / 2595) - 1)

    def hz_to_mel(hz):
        return 2595 * np.log10(1 + hz / 700)

    top = spec.rate / 2 if spec.fmax is None else spec.fmax
    edges = mel_to_hz(np.linspace(hz_to_mel(spec.fmin), hz_to_mel(top), spec.mels + 2))
    bins = np.fft.rfftfreq(spec.n_fft, 1 / spec.rate)
    bank = [np.interp(bins, edges[m : m + 3], [0, 1, 0]) for m in range(spec.mels)]
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
    for parallel in (True, False):
        result = log_mel(waveform, spec, parallel=parallel)
        assert result.dtype == np.float32
        assert_close(result, expected)


@pytest.mark.filterwarnings("ignore:At least one mel filterbank has all zero values")
@pytest.mark.parametrize("name", ["paper", "wide", "paper-center", "wide-center", "band"])
def test_equals_torchaudio(name):
    spec = SPECS[name]
    mel = torchaudio.transforms.MelSpectrogram(
        spec.rate, spec.n_fft, spec.window, spec.hop, spec.fmin, spec.fmax,
        n_mels=spec.mels, center=spec.center,
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
    assert result.shape == (3, spec.mels, spec.frames(waveform.shape[1]))
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
            spec.n_fft // 2 + 1, spec.fmin, spec.top, spec.mels, spec.rate
        )
        np.testing.assert_allclose(filter_bank(spec).T, expected, atol=2e-5)
        assert ((filter_bank(spec) > 0).sum(axis=0) <= 2).all()


def test_a_frame_does_not_depend_on_its_neighbours():
    waveform = as_int16(waves(16096, clips=5))
    together = log_mel(waveform, PAPER)
    for clip in range(5):
        alone = log_mel(waveform[clip : clip + 1], PAPER, parallel=False)
        np.testing.assert_array_equal(alone[0], together[clip])


def test_writes_into_out():
    waveform = waves(4000)
    out = np.full((3, 40, PAPER.frames(4000)), np.nan, np.float32)
    assert log_mel(waveform, PAPER, out) is out
    np.testing.assert_array_equal(out, log_mel(waveform, PAPER))
    assert log_mel(waveform[:0], PAPER).shape == (0, 40, 24)


@pytest.mark.parametrize("parallel", [True, False])
def test_many_threads_may_call(parallel):
    waveforms = [waves(16096, seed=i) for i in range(4)]
    expected = [log_mel(waveform, PAPER) for waveform in waveforms]
    results = [None] * 4

    def work(i):
        for _ in range(5):
            results[i] = log_mel(waveforms[i], PAPER, parallel=parallel)

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
        ({"n_fft": 8, "window": 8}, "at least 16, got 8"),
        ({"window": 257}, "n_fft=256 samples, got 257"),
        ({"hop": 0}, "hop must be at least 1, got 0"),
        ({"mels": 0}, "mels must be at least 1"),
        ({"fmax": 9000.0}, "8000 Hz, got 0 and 9000"),
        ({"fmin": 5000.0, "fmax": 4000.0}, "5000 and 4000"),
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
spec = MelSpec(n_fft=32, window=30, hop=16, mels=6, center=True)
waveform = rng.integers(-32768, 32768, (2, 150)).astype(np.int16)
"""


def test_runs_uncompiled(tmp_path):
    run_script(
        SMALL + f"from xdc_fast.kernels import log_mel\n"
        f"np.savez({str(tmp_path / 'x.npz')!r}, waveform=waveform, "
        f"result=log_mel(waveform, spec), serial=log_mel(waveform, spec, parallel=False))",
        NUMBA_DISABLE_JIT="1",
    )
    with np.load(tmp_path / "x.npz") as saved:
        spec = MelSpec(n_fft=32, window=30, hop=16, mels=6, center=True)
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
for kernel in (logmel._parallel_blocks, labels._contingency, labels._gather):
    assert not kernel.stats.cache_misses if SECOND else kernel.stats.cache_misses, kernel
"""


def test_a_second_process_compiles_nothing(tmp_path):
    for second in (False, True):
        run_script(f"SECOND = {second}" + CACHED, NUMBA_CACHE_DIR=str(tmp_path))


ENTERED_AT_ONCE = """
import threading
import numba
import numpy as np
from xdc_fast.kernels import MelSpec, contingency, log_mel
rng = np.random.default_rng(0)
waveform = rng.uniform(-1, 1, (8, 16096)).astype(np.float32)
a = rng.integers(0, 9, 100_000)
expected = log_mel(waveform, MelSpec(), parallel=False)
pairs = np.histogram2d(a, a, 9)[0]
right = []

def work(i):
    for _ in range(20):
        np.testing.assert_array_equal(log_mel(waveform, MelSpec()), expected)
        np.testing.assert_array_equal(contingency(a, a, 9, 9), pairs)
    right.append(i)

threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
assert len(right) == 4
assert numba.threading_layer() == LAYER
"""


@pytest.mark.parametrize("layer", ["workqueue", "omp", "tbb"])
def test_parallel_kernels_entered_at_once(layer):
    # workqueue aborts the process when two threads are inside
    module = {"workqueue": "workqueue", "omp": "omppool", "tbb": "tbbpool"}[layer]
    pytest.importorskip(f"numba.np.ufunc.{module}", exc_type=ImportError)
    run_script(f"LAYER = {layer!r}" + ENTERED_AT_ONCE, NUMBA_THREADING_LAYER=layer)


SIMULATED = """
from numba import cuda
from xdc_fast.kernels import log_mel
from xdc_fast.kernels.logmel_cuda import log_mel_cuda
for spec, dtype in ((spec, np.int16), (MelSpec(n_fft=64, window=64, hop=40, mels=4), np.float32)):
    wave = waveform if dtype == np.int16 else (waveform / 32768).astype(dtype)
    expected = log_mel(wave, spec, parallel=False)
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
stage.SPECS = [stage.MelSpec(n_fft=32, window=30, hop=16, mels=6)] if "{stage}" == "logmel" else ()
items = [measure(case, 1, 0) for case in stage.cuda_cases(True, 1, device="cpu")]
assert len(items) == 2
for item in items:
    assert "failed" not in item, item
""",
        NUMBA_ENABLE_CUDASIM="1",
    )


@pytest.mark.parametrize("dtype", [numba.int16, numba.float32])
def test_cuda_kernel_compiles_for_hopper(dtype):
    from numba import cuda

    from xdc_fast.kernels.logmel_cuda import log_mel_kernel

    f1, i1 = numba.float32[::1], numba.int32[::1]
    signature = (
        dtype[:, ::1], numba.int64, numba.int64, numba.int64, numba.float32,
        f1, f1, numba.float32[:, ::1], i1, i1, i1, f1, numba.float32[:, :, ::1],
    )  # fmt: skip
    ptx, _ = cuda.compile_ptx(log_mel_kernel.py_func, signature, cc=(9, 0))
    assert ".target sm_90" in ptx
    # A constant or an index in the wrong type would move the arithmetic to float64.
    assert ".f64" not in ptx


@pytest.mark.gpu
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
@pytest.mark.parametrize("dtype", ["int16", "float32"])
def test_cuda_equals_cpu(spec, dtype):
    from xdc_fast.kernels.logmel_cuda import log_mel_cuda

    waveform = as_int16(waves(9001)) if dtype == "int16" else waves(9001)
    out = torch.full((3, spec.mels, spec.frames(9001)), torch.nan, device="cuda")
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
