"""A small audio-visual world with a known answer, as mp4 files.

Both tracks of a video show its class. Every other factor is drawn independently of the class and
of the other track.

Video, 64x64, 15 frames/s, X and Y in (0, 1), t in seconds:
  class       shape = class mod 5 is the carrier of a striped disc (horizontal, vertical, two
              diagonals, rings); motion = class div 5 is a swing (0) or an on-off flicker (1),
              both at 1.875 Hz, two cycles in 8 frames at 7.5 frames/s.
  background  .38 + BACKGROUND * (hue - .5) + TEXTURE * sin(2 pi f u + phase): a hue and a
              grating of one of 8 directions that drifts one of 4 ways.
  picture     background * (1 - window / 2) + window * colour * (CARRIER * carrier + .25)
Sound, 16 kHz mono, F in (0, 1) on the mel scale from 0 to 8 kHz:
  class       kind = class mod 5 is the event (tone, down-chirp, up-chirp, three partials, noise
              burst); rate = class div 5 is 2 (0) or 6 (1) events per second.
  noise       Gaussian, equal power per mel, times exp(COLOUR * exp(-((F - centre) / .16)^2)).
  event       EVENT nats over the uncoloured noise in its mel rows at the onset, then decaying
              by DECAY nats until the next one.
labels.csv holds the index of each factor; hues, angles and pitches vary within their index, and
the swing's, flicker's and events' phases, the disc's size and the grating's width are unlabelled.

Why these amplitudes: clusters of random features must hold a little of the class, or cross-modal
clustering never starts, and more of a distractor, or there is nothing to show. Measured with
seed 0: 40x40 JPEG frames, clips of 8 32x32 frames and 100 log-mel frames, untrained encoders of
48 features, 5 seeds, k-means with k = 20 on 1,500 videos, mutual information (NMI) with
  the class .14 to .18 (video), .17 to .20 (sound); background_hue .22 to .31; noise_level .23
  to .27; noise_colour .07 to .12; object_hue .04 to .08; any other distractor at most .04.
With BACKGROUND .14 and SATURATION .5 the class led in the video (.18 to .24, hue .10 to .19); with
EVENT 4 the class in the sound was at .12 to .14. 15 epochs of XDC in 5 iterations (two seeds) took
linear probes of the class from 40 and 42 % to 87 and 86 % (video), 38 and 33 % to 79 and 53 %
(sound); 500 videos to fit, 1,000 to test.
"""

import colorsys
import csv
import math
import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from pathlib import Path
from typing import IO

import av
import numpy as np

from xdc_fast import progress
from xdc_fast.errors import UserError
from xdc_fast.files import locked, remove_leftovers, replacing
from xdc_fast.interrupt import blocked
from xdc_fast.packing.workers import end_with_parent
from xdc_fast.shards.tables import read_csv, write_csv

DISTRACTORS = {
    "background_hue": 8,
    "object_hue": 8,
    "texture": 8,
    "drift": 4,
    "position": 4,
    "noise_colour": 8,
    "noise_level": 4,
    "pitch": 4,
    "loudness": 4,
}
MOST_CLASSES = 10
LABELS = "labels.csv"

SIZE = 64
FRAMES_PER_SECOND = 15
SAMPLE_RATE = 16_000
SECONDS = 3
CYCLES_PER_SECOND = 1.875
EVENTS_PER_SECOND = (2, 6)

BACKGROUND = 0.22
TEXTURE = 0.12
CARRIER = 0.675
SATURATION = 0.6
GRAIN = 0.04

COLOUR = 1.5
EVENT = 4.5
DECAY = 6.0
NOISE_RMS = 0.03
SINE = 0.25  # puts a sine's peak 0 to 0.4 nats under the noise in its mel row


def make_toy(
    out: Path, videos: int, classes: int = 10, seed: int = 0, workers: int | None = None
) -> None:
    """Write `OUT/000000.mp4 ...` (H.264, AAC) and `OUT/labels.csv`.

    The columns of labels.csv are file, class and the index of each of `DISTRACTORS`. A video is
    a function of (seed, number, classes) alone, so neither `videos` nor `workers` (default: one
    process per core) changes its bytes. Every `classes` consecutive videos hold each class once.

    What an interrupted call left of the same world is completed. Raises UserError where a number is
    out of range, OUT holds anything else, or no process lives long enough to write a video.
    """
    out = Path(out)
    if not 2 <= classes <= MOST_CLASSES:
        raise UserError(f"{classes} classes: the toy world has 2 to {MOST_CLASSES}")
    if videos < 1:
        raise UserError(f"{videos} videos: ask for at least one")
    if seed < 0:
        raise UserError(f"seed {seed}: give a number from 0 up")
    names = [f"{number:06d}.mp4" for number in range(videos)]
    rows = [
        [name, *draw_factors(number, classes, seed)[0].values()]
        for number, name in enumerate(names)
    ]
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give a new folder")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock", f"{out}: another process is writing there; wait for it"):
        found = {path.name for path in out.glob("[!.]*")}
        if found and (found - {LABELS, *names} or not _holds(out / LABELS, rows)):
            raise UserError(f"{out}: is not an empty folder; give a new one, or remove it first")
        write_csv(out / LABELS, ("file", "class", *DISTRACTORS), rows)
        make = partial(make_video, out, classes=classes, seed=seed)
        workers = workers or len(os.sched_getaffinity(0))
        missing = [number for number, name in enumerate(names) if name not in found]
        while missing:
            before = len(missing)
            try:
                _make_all(make, missing, workers)
            except BrokenProcessPool:  # the kernel may kill one when memory is short
                remove_leftovers(out)
                missing = [number for number in missing if not (out / names[number]).exists()]
                if len(missing) == before:
                    raise UserError(
                        f"{out}: the processes that write videos die at once; what is finished is "
                        "kept, run the same command again to continue"
                    ) from None
            else:
                return


def _make_all(make: Callable[[int], None], numbers: list[int], workers: int) -> None:
    """Write videos in processes; raises BrokenProcessPool where one of them dies."""
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=spawn, initializer=end_with_parent) as pool:
        with blocked():
            made = pool.map(make, numbers, chunksize=8)
        for _ in progress.bar(made, total=len(numbers), unit="video", desc="toy", leave=True):
            pass


def _holds(path: Path, rows: list[list]) -> bool:
    """Whether these are the rows of a table."""
    try:
        found = [list(row.values()) for row in read_csv(path)]
    except (OSError, ValueError, csv.Error):
        return False
    return found == [[str(cell) for cell in row] for row in rows]


def make_video(out: Path, number: int, classes: int, seed: int) -> None:
    """Write video `number` of the world."""
    factors, rng = draw_factors(number, classes, seed)
    with replacing(out / f"{number:06d}.mp4", "wb") as file:
        write_mp4(file, draw_frames(factors, rng), draw_waveform(factors, rng))


def draw_factors(number: int, classes: int, seed: int) -> tuple[dict, np.random.Generator]:
    """The class and distractors of a video, and the generator that draws the rest of it."""
    block, place = divmod(number, classes)
    order = np.random.default_rng([seed, block, classes]).permutation(classes)
    rng = np.random.default_rng([seed, number])
    factors = {"class": int(order[place])}
    return factors | {name: int(rng.integers(n)) for name, n in DISTRACTORS.items()}, rng


def draw_frames(factors: dict, rng: np.random.Generator) -> np.ndarray:
    """The frames of a video: uint8 [frame, 64, 64, 3], RGB."""
    motion, shape = divmod(factors["class"], 5)
    t = np.arange(SECONDS * FRAMES_PER_SECOND, dtype=np.float32)[:, None, None] / FRAMES_PER_SECOND
    y, x = (np.mgrid[:SIZE, :SIZE].astype(np.float32) + 0.5) / SIZE

    hue = _hue((factors["background_hue"] + rng.uniform(-0.5, 0.5)) / 8)
    theta = (factors["texture"] + rng.uniform(-0.3, 0.3)) * math.pi / 8
    heading = (factors["drift"] + rng.uniform(-0.4, 0.4)) * math.pi / 2
    way = rng.uniform(0, 0.19) * math.cos(heading - theta) * t
    frequency = rng.uniform(1, 2.5)
    u = x * math.cos(theta) + y * math.sin(theta) - way
    grating = np.sin(2 * math.pi * (frequency * u + rng.uniform()))
    background = 0.38 + BACKGROUND * (hue - 0.5) + TEXTURE * grating

    down, right = divmod(factors["position"], 2)
    wave = np.sin(2 * math.pi * (CYCLES_PER_SECOND * t + rng.uniform()))
    swing, visible = (0.09 * wave, 1.0) if motion == 0 else (0.0, wave > 0)
    x = x - 0.5 - (2 * right - 1) * rng.uniform(0, 0.16) - swing
    y = y - 0.5 - (2 * down - 1) * rng.uniform(0, 0.16)
    r = np.hypot(x, y)
    along = (y, x, (x + y) / math.sqrt(2), (x - y) / math.sqrt(2), r)[shape]
    carrier = np.sin(2 * math.pi * (7.8 * along + rng.uniform()))
    radius = 0.245 * rng.uniform(0.85, 1.2)
    window = visible / (1 + np.exp((r - radius) * 32))
    colour = _hue((factors["object_hue"] + rng.uniform(-0.3, 0.3)) / 8)
    colour = 1 - SATURATION + SATURATION * colour

    picture = background * (1 - window / 2)
    picture += colour * window * (CARRIER * carrier + 0.25)
    picture += GRAIN * rng.standard_normal(picture.shape, dtype=np.float32)
    picture = (np.clip(picture, 0, 1) * 255).round().astype(np.uint8)
    return np.ascontiguousarray(picture.transpose(1, 2, 3, 0))


def draw_waveform(factors: dict, rng: np.random.Generator) -> np.ndarray:
    """The sound of a video: float32 [sample], 16 kHz."""
    fast, kind = divmod(factors["class"], 5)
    t = np.arange(SECONDS * SAMPLE_RATE) / SAMPLE_RATE
    bands = _mel(np.fft.rfftfreq(len(t), 1 / SAMPLE_RATE))
    centre = (factors["noise_colour"] + rng.uniform(-0.3, 0.3)) / 7
    noise = _noise(COLOUR * np.exp(-(((bands - centre) / 0.16) ** 2)), rng)

    since = (EVENTS_PER_SECOND[fast] * t + rng.uniform()) % 1
    pitch = 0.22 + 0.11 * factors["pitch"] + 0.07 * rng.uniform()
    if kind == 4:
        event = _noise(-60 + 60 * np.exp(-(((bands - pitch) / 0.3) ** 4)), rng)
    else:
        slide = {1: 0.2, 2: -0.2}.get(kind, 0) * (1 - 2 * since)
        partials = (0, 0.16, 0.32) if kind == 3 else (0,)
        hertz = [_hertz(pitch + slide + above) for above in partials]
        cycles = [np.cumsum(f) / SAMPLE_RATE + rng.uniform() for f in hertz]
        event = SINE * np.sum([np.sin(2 * math.pi * c) for c in cycles], axis=0)
    loudness = (factors["loudness"] - 1.5) / 3
    envelope = np.exp((EVENT + loudness - DECAY * since) / 2)
    level = (factors["noise_level"] - 1.5) / 3 + 0.15 * rng.standard_normal()
    return (NOISE_RMS * np.exp(level / 2) * (noise + envelope * event)).astype(np.float32)


def write_mp4(file: IO, frames: np.ndarray, waveform: np.ndarray) -> None:
    """Write RGB frames and a mono waveform as H.264 yuv420p and AAC."""
    with av.open(file, "w", format="mp4") as container:
        # With mbtree, x264 reads unset memory on frames this small: the bytes differ run by run.
        options = {"preset": "veryfast", "crf": "18", "threads": "1", "mbtree": "0"}
        video = container.add_stream("libx264", rate=FRAMES_PER_SECOND, options=options)
        video.width, video.height, video.pix_fmt = SIZE, SIZE, "yuv420p"
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono", bit_rate=64_000)
        audio.options = {"aac_coder": "fast"}
        sound = av.AudioFrame.from_ndarray(waveform[None], format="fltp", layout="mono")
        sound.sample_rate, sound.pts = SAMPLE_RATE, 0
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        container.mux(audio.encode(sound))
        container.mux(audio.encode())


def _hue(turn: float) -> np.ndarray:
    """A pure colour, [3, 1, 1, 1]: pictures are drawn as planes, which is faster."""
    return np.array(colorsys.hsv_to_rgb(turn % 1, 1, 1), np.float32).reshape(3, 1, 1, 1)


def _mel(hertz: np.ndarray) -> np.ndarray:
    return np.log1p(hertz / 700) / np.log1p(8000 / 700)


def _hertz(mel: np.ndarray) -> np.ndarray:
    return 700 * np.expm1(mel * np.log1p(8000 / 700))


def _noise(nats: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Noise of unit power and equal power per mel where `nats`, the log spectrum, is 0."""
    bins = len(nats)
    spectrum = rng.standard_normal((2, bins)) * np.exp(nats / 2)
    hertz = np.linspace(0, SAMPLE_RATE / 2, bins)
    spectrum = (spectrum[0] + 1j * spectrum[1]) / np.sqrt(1 + hertz / 700)
    samples = 2 * (bins - 1)
    power = 2 * (1 / (1 + hertz / 700)).sum() * 2 / samples**2
    return np.fft.irfft(spectrum, samples) / np.sqrt(power)
