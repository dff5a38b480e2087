"""Log-mel spectrograms on the CPU.

Sixteen frames are computed together, one per SIMD lane: the buffer has one row of sixteen numbers
per sample, so that bit-reversed order and sparse filters cost nothing. The real
transform is a complex one of half the size (even samples real, odd ones imaginary), radix 4,
decimation in frequency, in place; the power spectrum replaces it in place as well.

Indices are unsigned because numba wraps signed ones, which hides the constant distance between
rows from LLVM's vectoriser.
"""

import numpy as np

from ._arrays import Shaped
from ._jit import njit
from ._threads import share
from .mel import MelSpec, Tables, tables

LANES = 16
PAIR = 2 * LANES  # floats of one complex row
U = np.uintp
# Everything that moves or merges operations, nothing that assumes away NaN or infinity.
FAST = {"contract", "reassoc", "nsz", "arcp"}


@njit(fastmath=FAST, forceinline=True)
def _radix4(z: np.ndarray, n: int, h: int | np.int64, twiddles: np.ndarray) -> None:
    """One stage over n complex rows: butterflies of rows h apart."""
    im, b, c, d = U(LANES), U(h * PAIR), U(2 * h * PAIR), U(3 * h * PAIR)
    for j in range(h):
        c1, s1 = twiddles[6 * j], twiddles[6 * j + 1]
        c2, s2 = twiddles[6 * j + 2], twiddles[6 * j + 3]
        c3, s3 = twiddles[6 * j + 4], twiddles[6 * j + 5]
        for row in range(j, n, 4 * h):
            first = U(row * PAIR)
            for lane in range(LANES):
                a = first + U(lane)
                er, ei = z[a] + z[a + c], z[a + im] + z[a + c + im]
                fr, fi = z[a] - z[a + c], z[a + im] - z[a + c + im]
                gr, gi = z[a + b] + z[a + d], z[a + b + im] + z[a + d + im]
                hr, hi = z[a + b] - z[a + d], z[a + b + im] - z[a + d + im]
                z[a] = er + gr
                z[a + im] = ei + gi
                xr, xi = fr + hi, fi - hr
                z[a + b] = xr * c1 - xi * s1
                z[a + b + im] = xr * s1 + xi * c1
                xr, xi = er - gr, ei - gi
                z[a + c] = xr * c2 - xi * s2
                z[a + c + im] = xr * s2 + xi * c2
                xr, xi = fr - hi, fi + hr
                z[a + d] = xr * c3 - xi * s3
                z[a + d + im] = xr * s3 + xi * c3


@njit(fastmath=FAST, forceinline=True)
def _radix2(z: np.ndarray, n: int) -> None:
    """The last stage where log2(n) is odd."""
    b, lanes = U(PAIR), z.size // n & -PAIR  # PAIR, but not a constant: see _filter
    for row in range(0, n, 2):
        first = U(row * PAIR)
        for lane in range(lanes):
            a = first + U(lane)
            z[a], z[a + b] = z[a] + z[a + b], z[a] - z[a + b]


@njit(fastmath=FAST)
def _transform(z: np.ndarray, n: int, twiddles: np.ndarray) -> None:
    """Complex transform of n rows, in place, bins left at `tables(spec).rows`."""
    h, start = n // 4, 0
    while h >= 1:
        stage = twiddles[start:]
        # The distance must be a constant for the vectoriser; sizes beyond run, but slower. As a
        # literal, each would be compiled alone before it is inlined.
        if h == 1:
            _radix4(z, n, np.int64(1), stage)
        elif h == 2:
            _radix4(z, n, np.int64(2), stage)
        elif h == 4:
            _radix4(z, n, np.int64(4), stage)
        elif h == 8:
            _radix4(z, n, np.int64(8), stage)
        elif h == 16:
            _radix4(z, n, np.int64(16), stage)
        elif h == 32:
            _radix4(z, n, np.int64(32), stage)
        elif h == 64:
            _radix4(z, n, np.int64(64), stage)
        elif h == 128:
            _radix4(z, n, np.int64(128), stage)
        elif h == 256:
            _radix4(z, n, np.int64(256), stage)
        else:
            _radix4(z, n, h, stage)
        if h == 2:
            _radix2(z, n)
        start += 6 * h
        h //= 4


@njit(fastmath=FAST)
def _power(z: np.ndarray, rows: np.ndarray, unpack: np.ndarray) -> None:
    """Four times the power spectrum of the real signal, each bin in its own row.

    With a = Z[k], b = conj Z[n - k] and w = exp(-2 pi i k / 2n), the real signal has the bins
    X[k] = (a + b - i w (a - b)) / 2 and conj X[n - k] = (a + b + i w (a - b)) / 2.
    """
    n = rows.size - 1
    im = U(LANES)
    for lane in range(LANES):
        a = U(lane)
        plus, minus = z[a] + z[a + im], z[a] - z[a + im]
        plus, minus = plus + plus, minus + minus
        z[a], z[a + im] = plus * plus, minus * minus
    for k in range(1, n // 2 + 1):
        cos, sin = unpack[k, 0], unpack[k, 1]
        low, high = U(rows[k] * LANES), U(rows[n - k] * LANES)
        for lane in range(LANES):
            a, b = low + U(lane), high + U(lane)
            er, ei = z[a] + z[b], z[a + im] - z[b + im]
            fr, fi = z[a] - z[b], z[a + im] + z[b + im]
            tr, ti = cos * fi - sin * fr, -sin * fi - cos * fr
            z[a] = (er + tr) * (er + tr) + (ei + ti) * (ei + ti)
            z[b] = (er - tr) * (er - tr) + (ei - ti) * (ei - ti)


@njit(fastmath=FAST)
def _filter(
    z: np.ndarray,
    offsets: np.ndarray,
    taps: np.ndarray,
    weights: np.ndarray,
    floor: np.float32,
    y: np.ndarray,
) -> None:
    """Mel power plus floor: y[mel * LANES + lane]."""
    # LANES, but not a constant: a short constant loop is unrolled before it is vectorised.
    lanes = y.size // (offsets.size - 1) & -LANES
    for mel in range(offsets.size - 1):
        first = U(mel * LANES)
        for lane in range(lanes):
            y[first + U(lane)] = floor
        for t in range(offsets[mel], offsets[mel + 1], 4):
            w0, w1, w2, w3 = weights[t], weights[t + 1], weights[t + 2], weights[t + 3]
            a, b = U(taps[t] * LANES), U(taps[t + 1] * LANES)
            c, d = U(taps[t + 2] * LANES), U(taps[t + 3] * LANES)
            for lane in range(lanes):
                i = U(lane)
                y[first + i] += w0 * z[a + i] + w1 * z[b + i] + w2 * z[c + i] + w3 * z[d + i]


@njit(fastmath={"contract"}, error_model="numpy")
def _log(y: np.ndarray) -> None:
    """Natural logarithm of positive normal float32, in place; NaN where not finite.

    x = 2^e m with m in [sqrt(1/2), sqrt(2)), ln m = 2 atanh(s) with s = (m - 1) / (m + 1),
    four terms of the series. math.log would be one library call per number. Reordering stays
    off: it would cancel the x - x that carries NaN and infinity through.
    """
    half = np.int32(0x3F3504F3)  # the bits of sqrt(1/2)
    for i in range(y.size):
        x = np.float32(y[i])
        bits = x.view(np.int32)
        e = np.int32((bits - half) >> 23)
        m = np.int32(bits - (e << 23)).view(np.float32)
        s = (m - np.float32(1)) / (m + np.float32(1))
        q = s * s
        series = np.float32(1 / 5) + q * np.float32(1 / 7)
        series = np.float32(1) + q * (np.float32(1 / 3) + q * series)
        y[i] = np.float32(e) * np.float32(np.log(2)) + np.float32(2) * s * series + (x - x)


@njit(fastmath=FAST)
def _load(
    flat: np.ndarray,
    length: int,
    first: int,
    last: int,
    frames: int,
    window: np.ndarray,
    hop: int,
    skip: int,
    x: np.ndarray,
    z: np.ndarray,
) -> None:
    """Windowed samples of LANES frames from `first`, transposed: z[sample * LANES + lane].

    Frames are counted over all clips; the ones after `last` repeat it. Every fourth lane is
    interleaved into a quarter of x, then the quarters: LLVM makes shuffles of both.
    """
    n = window.size
    for quarter in range(4):
        inside = True
        for lane in range(quarter, LANES, 4):
            start = min(first + lane, last) % frames * hop + skip
            inside = inside and start >= 0 and start + n <= length
        row = U(4 * n * quarter)
        if inside:
            a = _find(first + quarter, last, frames, length, hop, skip)
            b = _find(first + quarter + 4, last, frames, length, hop, skip)
            c = _find(first + quarter + 8, last, frames, length, hop, skip)
            d = _find(first + quarter + 12, last, frames, length, hop, skip)
            for t in range(n):
                i, to = U(t), row + U(4 * t)
                x[to] = flat[a + i] * window[i]
                x[to + U(1)] = flat[b + i] * window[i]
                x[to + U(2)] = flat[c + i] * window[i]
                x[to + U(3)] = flat[d + i] * window[i]
        else:  # samples reflected at the ends of a clip
            for part in range(4):
                clip, frame = divmod(min(first + quarter + 4 * part, last), frames)
                for t in range(n):
                    at = abs(frame * hop + skip + t)
                    at = min(at, 2 * (length - 1) - at)
                    x[row + U(4 * t + part)] = flat[clip * length + at] * window[t]
    b, c, d = U(4 * n), U(8 * n), U(12 * n)
    for t in range(4 * n):
        i, to = U(t), U(4 * t)
        z[to], z[to + U(1)], z[to + U(2)], z[to + U(3)] = x[i], x[b + i], x[c + i], x[d + i]


@njit(forceinline=True)
def _find(frame: int, last: int, frames: int, length: int, hop: int, skip: int) -> np.uintp:
    """Where a frame begins in the samples of all clips."""
    clip, frame = divmod(min(frame, last), frames)
    return U(clip * length + frame * hop + skip)


@njit(fastmath=FAST, nogil=True, error_model="numpy")
def _blocks(
    waveform: np.ndarray,
    begin: int,
    end: int,
    hop: int,
    pad: int,
    floor: np.float32,
    table: Tables,
    out: np.ndarray,
) -> None:
    """Blocks begin to end (of LANES frames each) of a batch."""
    window, twiddles, unpack, rows, offsets, taps, weights = table
    clips, mels, frames = out.shape
    n_fft, n = 2 * (rows.size - 1), window.size
    raw = np.empty((1 + n_fft + n + mels) * LANES, np.float32)
    start = LANES - np.int64(raw.ctypes.data) // 4 % LANES  # rows begin on cache lines
    z, raw = raw[start : start + n_fft * LANES], raw[start + n_fft * LANES :]
    x, y = raw[: n * LANES], raw[n * LANES : (n + mels) * LANES]
    left = (n_fft - n) // 2
    for block in range(begin, end):
        first, stop = block * LANES, min((block + 1) * LANES, clips * frames)
        z[: left * LANES] = 0
        z[(left + n) * LANES :] = 0
        _load(
            waveform.ravel(), waveform.shape[1], first, stop - 1,
            frames, window, hop, left - pad, x, z[left * LANES :],
        )  # fmt: skip
        _transform(z, n_fft // 2, twiddles)
        _power(z, rows, unpack)
        _filter(z, offsets, taps, weights, floor, y)
        _log(y)
        while first < stop:  # frames of one clip at a time
            clip, frame = divmod(first, frames)
            lane, count = first % LANES, min(stop - first, frames - frame)
            for mel in range(mels):
                for i in range(count):
                    out[clip, mel, frame + i] = y[mel * LANES + lane + i]
            first += count


def check_log_mel(waveform: Shaped, spec: MelSpec, out: Shaped | None) -> None:
    """Raise ValueError where arrays do not fit each other or the specification."""
    if waveform.dtype not in (np.int16, np.float32) or len(waveform.shape) != 2:
        raise ValueError(
            f"waveform must be int16 or float32 (clips, samples), "
            f"got {waveform.dtype} {tuple(waveform.shape)}"
        )
    shape = (waveform.shape[0], spec.n_mels, spec.frames(waveform.shape[1]))
    if out is not None and (out.dtype != np.float32 or tuple(out.shape) != shape):
        raise ValueError(f"out must be float32 {shape}, got {out.dtype} {tuple(out.shape)}")


def log_mel(
    waveform: np.ndarray,
    spec: MelSpec,
    out: np.ndarray | None = None,
    *,
    threads: int = 1,
) -> np.ndarray:
    """Log-mel spectrograms of a batch of clips.

    waveform: int16 (scaled by 1 / 32768) or float32, (clips, samples), C-contiguous.
    out: float32 (clips, mels, frames), made where None.
    threads: how many share the frames; 1 computes on the calling thread. Other threads may run
    meanwhile: the interpreter lock is free.

    Returns out. Raises ValueError for a waveform that is too short or arrays that do not fit.
    """
    check_log_mel(waveform, spec, out)
    if out is None:
        frames = spec.frames(waveform.shape[1])
        out = np.empty((waveform.shape[0], spec.n_mels, frames), np.float32)
    if not (waveform.flags.c_contiguous and out.flags.c_contiguous):
        raise ValueError("waveform and out must be C-contiguous")
    table = tables(spec)
    if waveform.dtype == np.int16:
        table = table._replace(window=table.window * np.float32(1 / 32768))
    blocks = -(-out.shape[0] * out.shape[2] // LANES)
    parts = max(1, min(threads, blocks))
    floor = np.float32(spec.floor)

    def compute(part: int) -> None:
        begin, end = part * blocks // parts, (part + 1) * blocks // parts
        _blocks(waveform, begin, end, spec.hop_length, spec.pad, floor, table, out)

    share(compute, parts)
    return out
