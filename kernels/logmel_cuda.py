"""Log-mel spectrograms on a CUDA device: the CPU kernel's steps in shared memory.

A block transforms up to 32 frames at once, frames innermost: a warp works on the same
butterfly of all frames, without bank conflicts and with one twiddle for all.
"""

from functools import lru_cache
from math import log

import numba
import numpy as np
from numba import cuda

from ._cuda import THREADS, as_device, as_stream
from .logmel import check_log_mel
from .mel import MelSpec, tables

SHARED_BYTES = 48 * 1024  # what every device grants without asking


@cuda.jit
def log_mel_kernel(
    waveform, shift, hop, pad, floor, window, twiddles, unpack, rows, offsets, taps, weights, out
):
    """Grid: blocks of 2^shift frames, counted over all clips. Arrays as in `mel.Tables`."""
    z = cuda.shared.array(0, numba.float32)
    lanes = 1 << shift
    mask = lanes - 1
    pitch = lanes + 1  # one more, so that a column of samples meets different banks
    n = rows.size - 1
    n_fft = 2 * n
    length, frames = waveform.shape[1], out.shape[2]
    total = waveform.shape[0] * frames
    first = cuda.blockIdx.x << shift
    thread, threads = cuda.threadIdx.x, cuda.blockDim.x

    # Samples innermost here, so that the reads of a warp are neighbours. Divisions are dear: one
    # a frame, none a sample.
    left = (n_fft - window.size) // 2
    for lane in range(lanes):
        frame = first + lane
        clip = frame // frames
        begin = (frame - clip * frames) * hop - pad
        for t in range(thread, n_fft, threads):
            value = numba.float32(0)
            if frame < total and 0 <= t - left < window.size:
                at = abs(begin + t)
                at = min(at, 2 * (length - 1) - at)
                value = numba.float32(waveform[clip, at]) * window[t - left]
            z[t * pitch + lane] = value
    cuda.syncthreads()

    # From here on a thread keeps to one frame: there are a multiple of `lanes` threads.
    lane, row, rows_at_once = thread & mask, thread >> shift, threads >> shift

    h, stage = n >> 2, 0
    while h >= 1:
        step = 2 * h * pitch
        for butterfly in range(row, n >> 2, rows_at_once):
            j = butterfly & (h - 1)
            a = 2 * (4 * (butterfly - j) + j) * pitch + lane
            b, c, d = a + step, a + 2 * step, a + 3 * step
            w = stage + 6 * j
            er, ei = z[a] + z[c], z[a + pitch] + z[c + pitch]
            fr, fi = z[a] - z[c], z[a + pitch] - z[c + pitch]
            gr, gi = z[b] + z[d], z[b + pitch] + z[d + pitch]
            hr, hi = z[b] - z[d], z[b + pitch] - z[d + pitch]
            z[a], z[a + pitch] = er + gr, ei + gi
            xr, xi = fr + hi, fi - hr
            z[b] = xr * twiddles[w] - xi * twiddles[w + 1]
            z[b + pitch] = xr * twiddles[w + 1] + xi * twiddles[w]
            xr, xi = er - gr, ei - gi
            z[c] = xr * twiddles[w + 2] - xi * twiddles[w + 3]
            z[c + pitch] = xr * twiddles[w + 3] + xi * twiddles[w + 2]
            xr, xi = fr - hi, fi + hr
            z[d] = xr * twiddles[w + 4] - xi * twiddles[w + 5]
            z[d + pitch] = xr * twiddles[w + 5] + xi * twiddles[w + 4]
        cuda.syncthreads()
        if h == 2:
            for pair in range(row, n >> 1, rows_at_once):
                a = 4 * pair * pitch + lane
                b = a + 2 * pitch
                ar, ai, br, bi = z[a], z[a + pitch], z[b], z[b + pitch]
                z[a], z[a + pitch], z[b], z[b + pitch] = ar + br, ai + bi, ar - br, ai - bi
            cuda.syncthreads()
        stage += 6 * h
        h >>= 2

    # Four times the power spectrum, each bin in its own row (see logmel._power).
    for k in range(row, n // 2 + 1, rows_at_once):
        a = rows[k] * pitch + lane
        if k == 0:
            plus, minus = z[a] + z[a + pitch], z[a] - z[a + pitch]
            plus, minus = plus + plus, minus + minus
            z[a], z[a + pitch] = plus * plus, minus * minus
        else:
            b = rows[n - k] * pitch + lane
            er, ei = z[a] + z[b], z[a + pitch] - z[b + pitch]
            fr, fi = z[a] - z[b], z[a + pitch] + z[b + pitch]
            tr = unpack[k, 0] * fi - unpack[k, 1] * fr
            ti = -unpack[k, 1] * fi - unpack[k, 0] * fr
            z[a] = (er + tr) * (er + tr) + (ei + ti) * (ei + ti)
            z[b] = (er - tr) * (er - tr) + (ei - ti) * (ei - ti)
    cuda.syncthreads()

    frame = first + lane
    if frame < total:
        clip = frame // frames
        place = frame - clip * frames
        for mel in range(row, out.shape[1], rows_at_once):
            power = floor
            for t in range(offsets[mel], offsets[mel + 1]):
                power += weights[t] * z[taps[t] * pitch + lane]
            out[clip, mel, place] = log(power)


@lru_cache
def _device_tables(spec: MelSpec, integer: bool, device: str):
    """The tables on the current device; the window scaled for the waveform's type.

    device: its UUID. The object that numba gives is a weak proxy, and no key of a cache.
    """
    table = tables(spec)
    if integer:
        table = table._replace(window=table.window * np.float32(1 / 32768))
    return tuple(cuda.to_device(array) for array in table)


def log_mel_cuda(waveform, spec: MelSpec, out, stream=0):
    """Log-mel spectrograms of a batch of clips on a device; see `logmel.log_mel`.

    waveform: int16 or float32 (clips, samples); out: float32 (clips, mels, frames), both
    C-contiguous and anything with __cuda_array_interface__. stream: a numba stream or the
    handle of one. Returns out, filled once the stream gets there.

    Raises TypeError for arrays elsewhere, ValueError as `log_mel` and for n_fft above 4096.
    """
    source, result = as_device(waveform), as_device(out)
    check_log_mel(source, spec, result)
    shift = 5
    while shift and spec.n_fft * ((1 << shift) + 1) * 4 > SHARED_BYTES:
        shift -= 1
    if not shift:
        raise ValueError(f"n_fft {spec.n_fft} does not fit the shared memory of a block")
    frames = result.shape[0] * result.shape[2]
    if frames:
        device = cuda.get_current_device().uuid
        table = _device_tables(spec, source.dtype == np.int16, device)
        grid, shared = -(-frames >> shift), spec.n_fft * ((1 << shift) + 1) * 4
        log_mel_kernel[grid, THREADS, as_stream(stream), shared](
            source, shift, spec.hop, spec.pad, np.float32(spec.floor), *table, result
        )
    return out
