"""How fast one part of a run is by itself."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Generator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.loader import Loader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import WindowFunction
from xdc_fast.clusters.kmeans import cluster
from xdc_fast.files import write
from xdc_fast.pretraining.methods import LABEL, clusterings_of
from xdc_fast.recipe import Cluster
from xdc_fast.shards.dataset import ShardSet

TRACED, TOP = 10, 8  # training steps in a trace; operations that are named
POINTS = 20_000  # samples that k-means is timed on


def calls_per_second(call: Callable[[], object], seconds: float, device: torch.device) -> float:
    """Calls per second of a function over about `seconds`, after one call for warm-up.

    The device is waited for at both ends alone, so that it works beside the host as in a run.
    """
    call()
    wait_for(device)
    began, calls = time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - began < seconds:
        call()
        calls += 1
    wait_for(device)
    return calls / (time.perf_counter() - began)


def wait_for(device: torch.device) -> None:
    """Returns when the device has done all its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def endless_batches(
    loader: Loader, sampler: EpochSampler, windows: WindowFunction
) -> Generator[Batch, None, None]:
    """The batches of one epoch, again and again."""
    while True:
        yield from loader.batches(sampler, windows)


def reading(
    shards: ShardSet, samples: int, sampler: EpochSampler, windows: WindowFunction
) -> Callable[[], None]:
    """A function that reads the bytes of a batch's windows; each call reads the next batch's.

    samples: sound samples per clip. Files without an index of packets are read whole.
    """
    steps = itertools.cycle(range(sampler.steps))

    def read() -> None:
        indices = sampler.indices(next(steps))
        places = [shards.row(int(index)) for index in indices]
        laid = windows(indices, np.array([row for _, row in places]))
        for (name, row), frames, start in zip(places, laid.frames, laid.start, strict=True):
            if row["packet"] >= 0:
                for packet in shards.packets(name, row, frames):
                    packet.tobytes()
                shards.waveform(name, row, int(start), samples)
            else:
                shards.read(name, row["video"], row["video_bytes"]).tobytes()
                shards.read(name, row["audio"], row["audio_bytes"]).tobytes()

    return read


def profile_steps(
    step: Callable[[], None], device: torch.device, trace: Path
) -> list[tuple[str, float]]:
    """The dearest operations of TRACED training steps, (name, share of the time in operations).

    trace: the file that PyTorch's profile is written to.
    """
    kinds = [ProfilerActivity.CPU]
    kinds += [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with profile(activities=kinds, acc_events=True) as profiler:
        for _ in range(TRACED):
            step()
        wait_for(device)
    with TemporaryDirectory() as folder:  # the profiler raises no error for a file it cannot write
        made = Path(folder, "trace.gz" if trace.suffix == ".gz" else "trace")
        profiler.export_chrome_trace(str(made))
        trace.parent.mkdir(parents=True, exist_ok=True)
        write(trace, made.read_bytes())
    times: dict[str, float] = {
        event.key: event.self_device_time_total
        if device.type == "cuda"
        else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    total = sum(times.values())
    dearest = sorted(times, key=times.__getitem__, reverse=True)[:TOP]
    return [(name, times[name] / total) for name in dearest]


def clustering_seconds(
    method: str,
    k: int,
    settings: Cluster,
    widths: Mapping[str, int],
    samples: int,
    seed: int,
    device: torch.device,
) -> float:
    """Seconds for a method's clusterings of `samples` samples.

    widths: {encoder: features per sample}. The features are drawn at random, of POINTS samples at
    most; the time for more is taken to grow in proportion.
    """
    count = min(samples, max(POINTS, k))
    valid = np.ones(count, dtype=bool)
    rng = np.random.default_rng(seed)
    spent = 0.0
    for clustering in clusterings_of(method):
        if clustering == LABEL:
            continue
        parts = [rng.standard_normal((count, widths[name]), np.float32) for name in clustering]
        began = time.perf_counter()
        cluster(parts, valid, k, settings, seed, device)
        spent += time.perf_counter() - began
    return spent * samples / count
