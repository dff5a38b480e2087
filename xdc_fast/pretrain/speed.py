"""How fast each part of a run is alone, what an iteration's time goes to, and what to change."""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.feed import choose_device, open_feed
from xdc_fast.clips.host import Sampling
from xdc_fast.clips.plan import EpochPlan
from xdc_fast.clips.windows import fixed_windows, random_windows
from xdc_fast.clusters.kmeans import cluster
from xdc_fast.encoders.build import MODALITIES, build_encoders, modality_of
from xdc_fast.encoders.inputs import Inputs
from xdc_fast.pretrain.learner import Learner, steps_of
from xdc_fast.pretrain.loop import check
from xdc_fast.pretrain.methods import LABEL, clustering_name, clusterings_of, encoders_of
from xdc_fast.recipe import Recipe
from xdc_fast.shards.dataset import ShardSet

PARTS = {
    "reading": "bytes of random windows, undecoded (once read, files stay in memory)",
    "clips": "the loader alone: read, decoded, cropped, on the device",
    "inputs": "spectrograms and normalised pictures alone",
    "step": "a training step alone, on one batch again and again",
    "training": "both together, as in a run",
    "features": "the loader and the encoders in the pass before clustering",
}
TRACED, TOP = 10, 8  # training steps in a trace; operations that are named
POINTS = 20_000  # samples that k-means is timed on
WAIT = 0.05  # share of waiting above which the loader is too slow


def measure_speed(recipe: Recipe, seconds: float = 5.0, trace: Path | None = None) -> dict:
    """Runs each part of a recipe for `seconds` on its shards; nothing is written but `trace`.

    trace: a file for PyTorch's profile of TRACED training steps (gzipped with the suffix .gz), to
    be opened in Perfetto or chrome://tracing.
    Returns device, rates (clips per second of each part), wait (share of training that waits
    for data), iteration (seconds that an iteration over the whole set spends on each of its three
    parts, from these rates), verdict and advice (lines of text), and with a trace, operations:
    the dearest as (name, share of the time in operations).
    """
    device = choose_device(recipe)
    shards = check(recipe, device)
    inputs, encoders = Inputs(recipe), build_encoders(recipe, device, encoders_of(recipe.method))
    feed = open_feed(recipe, shards, inputs.shape, device)
    size = recipe.train.batch
    plan = EpochPlan(shards.shard_sizes, size, seed=recipe.seed)
    labels = {
        clustering_name(clustering): np.random.default_rng(recipe.seed)
        .integers(recipe.k, size=len(shards))
        .astype(np.int32)
        for clustering in clusterings_of(recipe.method)
    }
    learner = Learner(recipe, encoders, inputs, labels, iteration=0)
    sampling = partial(
        random_windows, shape=feed.shape, seed=recipe.seed, epoch=0, flip=recipe.video.flip
    )

    def endless(sampling) -> Iterator[Batch]:
        while True:
            yield from feed.batches(plan, sampling)

    def clock(call: Callable[[], object]) -> float:
        """Clips per second of a call that handles a batch, after one for warm-up."""
        call()
        wait_for(device)
        begun, calls = time.perf_counter(), 0
        while calls < 2 or time.perf_counter() - begun < seconds:
            call()
            wait_for(device)
            calls += 1
        return calls * size / (time.perf_counter() - begun)

    rates = {"reading": clock(reading(shards, inputs.shape.samples, plan, sampling))}
    batches = endless(sampling)
    rates["clips"] = clock(partial(next, batches))
    batch = next(batches)
    batches.close()
    rates["inputs"] = clock(lambda: [inputs.of(m, batch, 0) for m in MODALITIES])
    rates["step"] = clock(lambda: learner.step(batch, 0, 0.0))
    waited = 0.0

    def train() -> None:
        nonlocal waited
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        learner.step(batch, 0, 0.0)

    batches = endless(sampling)
    begun = time.perf_counter()
    rates["training"] = clock(train)
    wait = waited / (time.perf_counter() - begun)
    operations = profile_steps(train, device, trace) if trace is not None else None
    batches.close()
    for encoder in encoders.values():
        encoder.eval()
    batches = endless(partial(fixed_windows, shape=feed.shape))

    @torch.no_grad()
    def extract() -> None:
        batch = next(batches)
        for name, encoder in encoders.items():
            encoder(inputs.of(modality_of(name), batch)).float().cpu()

    rates["features"] = clock(extract)
    batches.close()
    iteration = {
        "features": len(shards) / rates["features"],
        "clustering": clustering_seconds(recipe, encoders, len(shards), device),
        "training": steps_of(recipe.train, plan.steps) * size / rates["training"],
    }
    verdict, advice = judge(recipe, shards, device, rates, wait, iteration)
    return {
        "device": device.type,
        "rates": rates,
        "wait": wait,
        "iteration": iteration,
        "verdict": verdict,
        "advice": advice,
    } | ({"operations": operations} if operations else {})


def reading(
    shards: ShardSet, samples: int, plan: EpochPlan, sampling: Sampling
) -> Callable[[], None]:
    """A call that reads the bytes of one batch's windows, and the next batch's when called again.

    Files without an index of packets are read whole.
    """
    steps = itertools.cycle(range(plan.steps))

    def read() -> None:
        places = [shards.row(int(index)) for index in plan.indices(next(steps))]
        windows = sampling(np.array([row for _, row in places]))
        for (name, row), frames, start in zip(places, windows.frames, windows.start, strict=True):
            if row["packet"] >= 0:
                for packet in shards.packets(name, row, frames):
                    packet.tobytes()
                shards.pcm(name, row, int(start), samples)
            else:
                shards.read(name, row["video"], row["video_bytes"]).tobytes()
                shards.read(name, row["audio"], row["audio_bytes"]).tobytes()

    return read


def profile_steps(
    step: Callable[[], None], device: torch.device, trace: Path
) -> list[tuple[str, float]]:
    """The dearest operations of some training steps and their shares; the trace of it all."""
    kinds = [ProfilerActivity.CPU]
    kinds += [ProfilerActivity.CUDA] if device.type == "cuda" else []
    with profile(activities=kinds, acc_events=True) as profiler:
        for _ in range(TRACED):
            step()
        wait_for(device)
    profiler.export_chrome_trace(str(trace))
    times = {
        event.key: event.self_device_time_total
        if device.type == "cuda"
        else event.self_cpu_time_total
        for event in profiler.key_averages()
    }
    total = sum(times.values())
    dearest = sorted(times, key=times.get, reverse=True)[:TOP]
    return [(name, times[name] / total) for name in dearest]


def wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def clustering_seconds(recipe: Recipe, encoders, samples: int, device: torch.device) -> float:
    """k-means of random points as wide as the features; beyond POINTS, in proportion."""
    count = min(samples, max(POINTS, recipe.k))
    seen = np.ones(count, dtype=bool)
    rng = np.random.default_rng(recipe.seed)
    spent = 0.0
    for clustering in clusterings_of(recipe.method):
        if clustering == LABEL:
            continue
        parts = [rng.standard_normal((count, encoders[m].features), np.float32) for m in clustering]
        begun = time.perf_counter()
        cluster(parts, seen, recipe.k, recipe.cluster, recipe.seed, gpu=device.type == "cuda")
        spent += time.perf_counter() - begun
    return spent * samples / count


def judge(
    recipe: Recipe, shards, device: torch.device, rates: dict, wait: float, iteration: dict
) -> tuple[str, list[str]]:
    """The bottleneck in one sentence, and what to change."""
    total = sum(iteration.values())
    largest = max(iteration, key=iteration.get)
    share = iteration[largest] / total
    if largest == "clustering":
        return (
            f"k-means takes {share:.0%} of an iteration",
            [f"cluster.points={max(100_000, 256 * recipe.k)} lets it see a random part of the set"],
        )
    if wait > WAIT or rates["clips"] < rates["step"]:
        return (
            f"the loader: alone it delivers {rates['clips']:.0f} clips/s, the training step alone "
            f"takes {rates['step']:.0f}; training waits {wait:.0%} of its time",
            loader_advice(recipe, shards, device),
        )
    advice = []
    if device.type == "cpu":
        smaller = "r2plus1d_small" if recipe.video.encoder == "r2plus1d_18" else "r2plus1d_tiny"
        if recipe.video.encoder != smaller:
            advice.append(f"a smaller encoder: video.encoder={smaller}")
        advice.append("smaller clips: video.crop, video.frames, audio.frames")
        advice.append("a GPU")
    else:
        if recipe.train.precision != "bfloat16":
            advice.append("train.precision=bfloat16")
        if not recipe.train.compile:
            advice.append("train.compile=true")
        advice.append("a larger train.batch, as far as memory allows")
    spare = rates["clips"] / rates["step"]
    return (
        f"the encoders: a training step alone takes {rates['step']:.0f} clips/s, the loader alone "
        f"delivers {spare:.1f} times that; training waits {wait:.0%} of its time",
        advice,
    )


def loader_advice(recipe: Recipe, shards, device: torch.device) -> list[str]:
    advice = []
    cores, codec = len(os.sched_getaffinity(0)), shards.settings["codec"]
    if recipe.threads < cores:
        advice.append(f"threads={cores}, as many as there are cores")
    if device.type == "cuda" and recipe.loader == "host" and codec == "jpeg":
        advice.append("loader=dali, which decodes on the GPU")
    if codec != "jpeg":
        advice.append("pack the videos with --codec jpeg: its windows decode far faster")
    row = shards.row(0)[1]
    side, fits = min(int(row["height"]), int(row["width"])), round(recipe.video.crop * 8 / 7)
    if side > 1.25 * fits:
        advice.append(
            f"pack with --short-side {fits}: pictures of {side} are decoded for crops of "
            f"{recipe.video.crop}"
        )
    advice.append("shards on a local disk, where they come over a network or from a slow one")
    return advice
