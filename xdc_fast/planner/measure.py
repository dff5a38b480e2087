"""How fast one part of a run is by itself."""

from __future__ import annotations

import itertools
import os
import platform
import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.loader import Loader
from xdc_fast.clips.sampler import Sampler
from xdc_fast.clips.windows import WindowFunction
from xdc_fast.clusters.kmeans import cluster
from xdc_fast.files import write
from xdc_fast.packing.convert import convert_all
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import PackInputs, collect
from xdc_fast.packing.tracks import Outcome
from xdc_fast.planner.formulas import fit_operations, start_operations
from xdc_fast.pretraining.methods import LABEL, clusterings_of
from xdc_fast.ranks import Ranks
from xdc_fast.recipe import Cluster
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.format import CODECS

TRACED, TOP = 10, 8  # training steps in a trace; operations that are named
POINTS = 20_000  # samples that k-means is timed on
SUMS = 11  # over the ranks, that are timed
SOME = 200  # samples of a set whose sizes are looked at
FEW = 8  # videos that are packed to see how many more are worth it


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
    loader: Loader, sampler: Sampler, windows: WindowFunction
) -> Generator[Batch, None, None]:
    """The batches of one epoch, again and again."""
    while True:
        yield from loader.batches(sampler, windows)


def reading(
    shards: ShardSet, samples: int, sampler: Sampler, windows: WindowFunction
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


def time_clustering(
    method: str,
    k: int,
    settings: Cluster,
    widths: Mapping[str, int],
    samples: int,
    seed: int,
    device: torch.device,
) -> tuple[float, float]:
    """Seconds for a method's clusterings of `samples` samples, and operations per second.

    widths: {encoder: features per sample}. The features are drawn at random, of POINTS samples at
    most; the time for more is taken to grow in proportion. Operations are counted as a plan does;
    0 a second where nothing is clustered.
    """
    count = min(samples, max(POINTS, k))
    valid = np.ones(count, dtype=bool)
    rng = np.random.default_rng(seed)
    spent = operations = 0.0
    for clustering in clusterings_of(method):
        if clustering == LABEL:
            continue
        parts = [rng.standard_normal((count, widths[name]), np.float32) for name in clustering]
        width = sum(widths[name] for name in clustering)
        began = time.perf_counter()
        found = cluster(parts, valid, k, settings, seed, device)
        spent += time.perf_counter() - began
        operations += start_operations(count, k, width, settings.max_iter, settings.n_init)
        operations += fit_operations(count, k, width, found.rounds, 0)
    return spent * samples / count, operations / spent if spent else 0.0


def sum_seconds(ranks: Ranks, count: int, device: torch.device) -> float:
    """Seconds in which ranks add up `count` float32 numbers, as gradients; 0 for one rank."""
    if ranks.world == 1:
        return 0.0
    numbers = torch.zeros(count, device=device)
    spent = []
    for _ in range(SUMS):
        wait_for(device)
        ranks.barrier()
        began = time.perf_counter()
        ranks.sum(numbers)
        wait_for(device)
        spent.append(time.perf_counter() - began)
    return float(np.median(spent))


def set_sizes(shards: ShardSet) -> tuple[dict[str, float], float]:
    """Rates of a plan that are sizes of a set's pictures, by name, and pixels of a picture.

    SOME samples are looked at.
    """
    chosen = np.unique(np.linspace(0, len(shards) - 1, SOME).astype(int))
    rows = np.array([shards.row(int(index))[1] for index in chosen])
    width, height = rows["width"].astype(float), rows["height"].astype(float)
    pixels = float((width * height).mean())
    codec, size = shards.settings["codec"], float(rows["video_bytes"].sum())
    whole = rows["frames"] / rows["fps"] if codec == "copy" else rows["frames"] * width * height
    aspect = pixels / float(np.square(np.minimum(width, height)).mean())
    return {f"{codec}_bytes": size / float(whole.sum()), "aspect": aspect}, pixels


def pack_rates(sources: Path, settings: Mapping, seconds: float) -> dict[str, float]:
    """How fast a core packs a folder's videos with each codec, and their size, by name of a rate.

    It counts the seconds in which cores work, so that others on the machine do not disturb it.
    settings: those of a set, of which fps, short_side and audio_rate are taken. seconds: for each
    codec, about. Videos that are refused do not count.
    """
    found: dict[str, float] = {}
    chosen = {name: settings[name] for name in ("fps", "short_side", "audio_rate")}
    with TemporaryDirectory() as folder:
        every = collect([sources], None, Path(folder))
        for codec in CODECS:
            wanted = PackSettings(codec=codec, **chosen)
            few = replace(every, sources=every.sources[:FEW])
            spent = pack_seconds(few, Path(folder, f"{codec}-few"), wanted)
            count = min(len(every.sources), max(FEW, int(FEW * seconds / spent)))
            more = replace(every, sources=every.sources[:count])
            spent = pack_seconds(more, Path(folder, codec), wanted)
            rows = ShardSet(Path(folder, codec)).rows()
            if not len(rows):
                continue
            if codec == "copy":
                units = float((rows["frames"] / rows["fps"]).sum())
            else:
                units = float((rows["frames"].astype(float) * rows["width"] * rows["height"]).sum())
            size = float(rows["video_bytes"].sum())
            found |= {f"{codec}_pack": units / spent, f"{codec}_bytes": size / units}
    return found


def pack_seconds(inputs: PackInputs, out: Path, settings: PackSettings) -> float:
    """Seconds of cores that packing takes: of the process that writes and of its worker."""
    record = out.with_suffix(".seconds")
    record.touch()
    began = time.process_time()
    pack(inputs, out, settings, workers=1, task=partial(timed, record))
    return time.process_time() - began + sum(map(float, record.read_text().split()))


def timed(record: Path, *arguments: Any) -> Iterator[Outcome | None]:
    """What a worker does with a file; its seconds of a core become a line of `record`."""
    began = time.process_time()
    yield from convert_all(*arguments)
    with record.open("a") as file:
        file.write(f"{time.process_time() - began}\n")


def machine_name(device: torch.device) -> str:
    """The device and the processor, for people."""
    name = platform.processor() or platform.machine()
    with suppress(OSError, StopIteration):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        name = next(line for line in lines if line.startswith("model name")).split(": ")[1]
    cores = f"{name}, {len(os.sched_getaffinity(0))} cores"
    return f"{torch.cuda.get_device_name(device)}, {cores}" if device.type == "cuda" else cores
