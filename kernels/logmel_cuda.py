"""Log-mel spectrograms on a CUDA device, by a kernel that is compiled for each MelSpec.

A frame of n_fft samples is a complex transform of n = n_fft / 2 points, n = rows x columns with
rows = columns or 2 columns. A few neighbouring threads share a frame, and each keeps its points in
registers: it transforms columns, the threads exchange points through shared memory, and it
transforms rows. Every loop has a constant number of turns and is unrolled, so that indices are
constants of the instructions. `python -m benchmarks sass` counts these.
"""

from collections.abc import Callable
from functools import lru_cache, reduce
from math import log
from typing import Any, NamedTuple

import numba
import numpy as np
from numba import cuda

from ._arrays import CudaArray
from ._cuda import THREADS, as_device, as_stream
from .logmel import check_log_mel
from .mel import MelSpec, filter_bank, window

MOST = 4096  # n_fft; beyond, a frame fits neither the registers nor the shared memory of a block
SHARED_BYTES = 48 * 1024  # what every device grants without asking
BANKS = 32  # of shared memory

# Signed indices would be tested for negative ones, and sums of narrow ones would not fold into
# the offsets of loads and stores.
U = numba.uint64
inlined = cuda.jit(device=True, inline="always")


class Tables(NamedTuple):
    """What a thread reads, laid out so that neighbouring threads read neighbours.

    One-dimensional: strides of numba's arrays would cost registers and instructions.
    """

    window: np.ndarray
    """float32 (n_fft,): zeros where no sample counts."""
    twiddles: np.ndarray
    """float32 (2 x rows x columns): cos, then sin, of -2 pi row column / n."""
    unpack: np.ndarray
    """float32 (2 x n): cos, then sin, of 2 pi k / n_fft."""
    first: np.ndarray
    """int32 (rounds x threads): the first bin of each filter. Thread t has the filters t,
    t + threads, ..., one a round."""
    weights: np.ndarray
    """float32 (widths x threads): the weights of all rounds, a quarter of their value."""


class Kernel(NamedTuple):
    """A compiled specification. A block has frames x threads threads."""

    function: Any
    frames: int
    """Frames in a block."""
    threads: int
    """Threads for a frame."""
    tables: Tables


@lru_cache
def specialise(spec: MelSpec, integer: bool) -> Kernel:
    """The kernel of a specification, for int16 waveforms or for float32.

    Raises ValueError for n_fft above MOST.
    """
    if spec.n_fft > MOST:
        raise ValueError(f"n_fft must be at most {MOST} on a CUDA device, got {spec.n_fft}")
    n = spec.n_fft // 2
    columns = 1 << (n.bit_length() - 1) // 2
    rows = n // columns
    threads = rows // 2
    each = columns // threads  # columns of a thread, 1 or 2; rows are always 2
    points = 2 * columns
    bins, widths, weights = lay_out_filters(spec, threads)
    angle = 2 * np.pi / n * np.outer(np.arange(rows), np.arange(columns))
    turn = 2 * np.pi / spec.n_fft * np.arange(n)
    table = Tables(
        (window(spec) / (32768 if integer else 1)).astype(np.float32),
        np.append(np.cos(angle), -np.sin(angle)).astype(np.float32),
        np.append(np.cos(turn), np.sin(turn)).astype(np.float32),
        bins,
        weights,
    )
    # One more column, and frames as far apart as they have threads: the banks of a warp differ.
    row = columns + 1
    imaginary = rows * row
    pitch = max(2 * imaginary, n + 1)
    pitch += (threads - pitch) % BANKS
    frames = max(1, min(THREADS // threads, SHARED_BYTES // (4 * pitch)))
    frames = 1 << (frames.bit_length() - 1)

    floats = frames * pitch
    half, center, pad, hop = columns // 2, spec.center, spec.pad, spec.hop_length
    left = (spec.n_fft - spec.win_length) // 2
    right, span = left + spec.win_length, 2 * threads - 1
    zero = np.float32(0)
    along_column, along_row = transform(rows), transform(columns)
    row_of, column_of = reversed_bits(rows), reversed_bits(columns)
    project = filters(spec, threads, widths)

    def log_mel_kernel(
        waveform: np.ndarray,
        total: int,
        window: np.ndarray,
        twiddles: np.ndarray,
        unpack: np.ndarray,
        first: np.ndarray,
        weights: np.ndarray,
        out: np.ndarray,
    ) -> None:
        """Grid: blocks of `frames` frames, counted over all clips, `total` of them."""
        shared = cuda.shared.array(floats, numba.float32)
        re, im = cuda.local.array(points, numba.float32), cuda.local.array(points, numba.float32)
        zr, zi = cuda.local.array(points, numba.float32), cuda.local.array(points, numba.float32)
        rows_at, columns_at = cuda.const.array_like(row_of), cuda.const.array_like(column_of)
        lane = numba.uint32(cuda.threadIdx.x)
        slot = lane // numba.uint32(threads)
        t = U(lane % numba.uint32(threads))
        number = numba.uint32(cuda.blockIdx.x) * numba.uint32(frames) + slot
        frame = min(number, numba.uint32(total - 1))  # the last block may have idle threads
        clip = frame // numba.uint32(out.shape[2])
        place = frame - clip * numba.uint32(out.shape[2])
        clip, place = U(clip), U(place)

        # Column t: even samples are real parts, odd ones imaginary.
        begin = place * U(hop)
        last = numba.int64(waveform.shape[1] - 1)
        for i in range(each):
            for j in range(rows):
                for part in range(2):
                    sample = 2 * (j * columns + i * threads) + part  # of thread 0
                    value = zero
                    if left < sample + span and sample < right:
                        at = U(sample) + U(2) * t
                        weight = window[at]
                        # what is outside of the window may be NaN
                        if (left <= sample and sample + span <= right) or weight != zero:
                            if center:
                                mirrored = abs(numba.int64(begin + at) - pad)
                                at = U(min(mirrored, 2 * last - mirrored))
                            else:
                                at += begin
                            value = numba.float32(waveform[clip, at]) * weight
                    if part == 0:
                        re[i * rows + j] = value
                    else:
                        im[i * rows + j] = value
        for i in range(each):
            along_column(re, im, i * rows)

        base = U(slot) * U(pitch)
        for i in range(each):
            for j in range(rows):
                k = rows_at[j]
                xr, xi = re[i * rows + j], im[i * rows + j]
                if k != 0:
                    c = twiddles[t + U(k * columns + i * threads)]
                    s = twiddles[t + U(n + k * columns + i * threads)]
                    xr, xi = xr * c - xi * s, xr * s + xi * c
                to = base + t + U(k * row + i * threads)
                shared[to], shared[to + U(imaginary)] = xr, xi
        cuda.syncthreads()

        # Rows t and rows - t, so that the bins k and n - k are at hand; thread 0 has the rows 0
        # and rows / 2, which hold their own counterparts.
        own = t == 0
        mate = U(threads) if own else U(rows) - t
        here, there = base + t * U(row), base + mate * U(row)
        for j in range(columns):
            zr[j], zi[j] = shared[here + U(j)], shared[here + U(imaginary + j)]
            zr[columns + j] = shared[there + U(j)]
            zi[columns + j] = shared[there + U(imaginary + j)]
        along_row(zr, zi, 0)
        along_row(zr, zi, columns)
        cuda.syncthreads()

        # Four times the power spectrum (see logmel._power).
        for j in range(columns):
            low, high = columns_at[j], columns + columns_at[columns - 1 - j]
            ar, ai, br, bi = zr[low], zi[low], zr[high], zi[high]
            k = t + U(j * rows)
            if own:
                if j < half:  # of row 0
                    high = columns_at[(columns - j) % columns]
                    br, bi = zr[high], zi[high]
                else:
                    low = columns + columns_at[j]
                    ar, ai = zr[low], zi[low]
                    k = U(threads + j * rows)
            c, s = unpack[k], unpack[k + U(n)]
            er, ei = ar + br, ai - bi
            fr, fi = ar - br, ai + bi
            tr = c * fi - s * fr
            ti = -s * fi - c * fr
            shared[base + k] = (er + tr) * (er + tr) + (ei + ti) * (ei + ti)
            shared[base + U(n) - k] = (er - tr) * (er - tr) + (ei - ti) * (ei - ti)
        if own:
            ar, ai = zr[columns_at[half]], zi[columns_at[half]]
            ar, ai = ar + ar, ai + ai
            shared[base + U(n // 2)] = ar * ar + ai * ai
        cuda.syncthreads()

        if number < numba.uint32(total):
            project(shared, base, t, first, weights, out, clip, place)

    return Kernel(cuda.jit(log_mel_kernel), frames, threads, table)


def transform(size: int) -> Callable:
    """A transform of `size` points of arrays of real and imaginary parts, from a place on.

    Decimation in frequency, in place: bin k is left at reversed_bits(size)[k].
    """
    return reduce(in_turn, (butterflies(size, size >> s) for s in range(1, size.bit_length())))


def in_turn(f: Callable, g: Callable) -> Callable:
    """One stage after the other."""

    @inlined
    def both(re: np.ndarray, im: np.ndarray, base: int) -> None:
        f(re, im, base)
        g(re, im, base)

    return both


def butterflies(size: int, h: int) -> Callable:
    """A stage over `size` points: butterflies of points h apart."""
    angle = np.pi / h * np.arange(h)
    cos, sin = np.cos(angle).astype(np.float32), -np.sin(angle).astype(np.float32)
    count = size // 2

    @inlined
    def stage(re: np.ndarray, im: np.ndarray, base: int) -> None:
        c, s = cuda.const.array_like(cos), cuda.const.array_like(sin)
        for i in range(count):
            j = i & (h - 1)
            a = base + 2 * (i - j) + j
            b = a + h
            xr, xi = re[a] - re[b], im[a] - im[b]
            re[a], im[a] = re[a] + re[b], im[a] + im[b]
            if j == 0:
                re[b], im[b] = xr, xi
            elif 2 * j == h:
                re[b], im[b] = xi, -xr
            else:
                re[b], im[b] = xr * c[j] - xi * s[j], xr * s[j] + xi * c[j]

    return stage


def reversed_bits(size: int) -> np.ndarray:
    """Where decimation in frequency, radix 2, leaves each of `size` bins: int64 (size,)."""
    places = np.zeros(1, np.int64)
    while len(places) < size:
        places = np.concatenate([2 * places, 2 * places + 1])
    return places


def lay_out_filters(spec: MelSpec, threads: int) -> tuple[np.ndarray, list[int], np.ndarray]:
    """Tables.first, the widths of the rounds in bins, and Tables.weights.

    A round is as wide as its widest filter; zeros fill up the others.
    """
    bank = filter_bank(spec) / 4
    rounds = -(-spec.n_mels // threads)
    first, widths, weights = np.zeros((rounds, threads), np.int32), [], []
    for r in range(rounds):
        lines = bank[r * threads : (r + 1) * threads]
        used = [np.flatnonzero(line) for line in lines]
        width = max(1, *(len(bins) for bins in used))
        part = np.zeros((width, threads), np.float32)
        for t, (line, bins) in enumerate(zip(lines, used, strict=True)):
            if len(bins):
                first[r, t] = min(bins[0], bank.shape[1] - width)
                part[:, t] = line[first[r, t] :][:width]
        widths.append(width)
        weights.append(part)
    return first.ravel(), widths, np.concatenate(weights).ravel()


def filters(spec: MelSpec, threads: int, widths: list[int]) -> Callable:
    """What turns the power spectrum of a frame into its column of the output."""
    ends = np.cumsum(widths).tolist()
    return reduce(
        rounds_in_turn,
        (
            one_round(spec, threads, r, end - width, width)
            for r, (width, end) in enumerate(zip(widths, ends, strict=True))
        ),
    )


def rounds_in_turn(f: Callable, g: Callable) -> Callable:
    """One round of filters after the other."""

    @inlined
    def both(power, base, t, first, weights, out, clip, place):  # type: ignore[no-untyped-def]
        f(power, base, t, first, weights, out, clip, place)
        g(power, base, t, first, weights, out, clip, place)

    return both


def one_round(spec: MelSpec, threads: int, r: int, begin: int, width: int) -> Callable:
    """Round r of the filters, `width` bins wide; its weights start at line `begin`."""
    n_mels, floor = spec.n_mels, np.float32(spec.floor)
    whole = (r + 1) * threads <= n_mels

    @inlined
    def project(power, base, t, first, weights, out, clip, place):  # type: ignore[no-untyped-def]
        mel = t + U(r * threads)
        if whole or mel < U(n_mels):
            at = base + U(first[t + U(r * threads)])
            total = floor
            for j in range(width):
                total += weights[t + U((begin + j) * threads)] * power[at + U(j)]
            out[clip, mel, place] = log(total)

    return project


@lru_cache
def _device_tables(spec: MelSpec, integer: bool, device: str) -> tuple[CudaArray, ...]:
    """The tables on the current device.

    device: its UUID. The object that numba gives is a weak proxy, and no key of a cache.
    """
    return tuple(map(cuda.to_device, specialise(spec, integer).tables))


def log_mel_cuda(waveform: CudaArray, spec: MelSpec, out: CudaArray, stream: Any = 0) -> CudaArray:
    """Log-mel spectrograms of a batch of clips on a device; see `logmel.log_mel`.

    waveform: int16 or float32 (clips, samples); out: float32 (clips, mels, frames), both
    C-contiguous and anything with __cuda_array_interface__. stream: a numba stream or the
    handle of one. Returns out, filled once the stream gets there.

    Raises TypeError for arrays elsewhere, ValueError as `log_mel` and for n_fft above 4096.
    """
    source, result = as_device(waveform), as_device(out)
    check_log_mel(source, spec, result)
    total = result.shape[0] * result.shape[2]
    if total:
        integer = source.dtype == np.int16
        kernel = specialise(spec, integer)
        table = _device_tables(spec, integer, cuda.get_current_device().uuid)
        grid, block = -(-total // kernel.frames), kernel.frames * kernel.threads
        kernel.function[grid, block, as_stream(stream)](source, total, *table, result)
    return out
