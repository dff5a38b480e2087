"""`xdc bench`: each part of a run measured alone, the time of an iteration, and advice."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from xdc_fast.clips.loader import choose_device, open_loader
from xdc_fast.clips.sampler import EpochSampler, Groups
from xdc_fast.clips.windows import fixed_windows, random_windows
from xdc_fast.encoders.build import MODALITIES, build_encoders
from xdc_fast.encoders.features import encode_each
from xdc_fast.encoders.memory import memory_of
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.files import check_writable
from xdc_fast.planner.advice import advise
from xdc_fast.planner.formulas import FLOAT, ring_bytes
from xdc_fast.planner.measure import (
    calls_per_second,
    endless_batches,
    machine_name,
    pack_rates,
    profile_steps,
    reading,
    set_sizes,
    sum_seconds,
    time_clustering,
)
from xdc_fast.planner.work import work_of
from xdc_fast.pretraining.check import check_recipe
from xdc_fast.pretraining.learner import Learner
from xdc_fast.pretraining.methods import clustering_name, clusterings_of, encoders_of
from xdc_fast.pretraining.schedule import steps_per_iteration
from xdc_fast.ranks import Ranks, open_ranks
from xdc_fast.recipe import Recipe

PARTS = {
    "reading": "bytes of random windows, undecoded (once read, files stay in memory)",
    "clips": "the loader alone: read, decoded, cropped, on the device; on a CPU with spectrograms",
    "inputs": "what encoders read of a batch: normalised, on a GPU with spectrograms",
    "step": "a training step alone, on one batch again and again",
    "training": "both together, as in a run",
    "features": "the loader and the encoders in the pass before clustering",
}


def measure_speed(
    recipe: Recipe,
    seconds: float = 5.0,
    trace: Path | None = None,
    sources: Path | None = None,
) -> dict:
    """Runs each part of a recipe for `seconds` on its shards; nothing is written but `trace`.

    Of several ranks, all call this. They work side by side, and rates are those of one of them.
    trace: a file for PyTorch's profile of measure.TRACED training steps (gzipped with the suffix
    .gz), to be opened in Perfetto or chrome://tracing.
    sources: a folder of videos, some of which are converted with each codec on one core.
    Returns device, rates (clips per second of each of PARTS), wait (share of training in which the
    loop waits for data; on a GPU, in which the GPU is idle), iteration (seconds that an iteration
    over the whole set spends on features, clustering and training, by these rates), verdict and
    advice (lines of text), planning (rates for rates.save_rates, by name) and about (the machine,
    the recipe and the set, in a line), and with a trace, operations: the dearest as (name, share of
    the time in operations).
    Raises UserError, before anything is measured, where the trace cannot be written.
    """
    if trace is not None:
        if trace.exists() and not trace.is_file():  # a device would be replaced by the trace
            raise UserError(f"{trace}: a folder or a device; give the path of a file for the trace")
        check_writable(trace.parent)
    with open_ranks() as ranks:
        return _measure(recipe, seconds, trace, sources, ranks)


def _measure(
    recipe: Recipe, seconds: float, trace: Path | None, sources: Path | None, ranks: Ranks
) -> dict:
    device = choose_device(recipe.device)
    shards = check_recipe(recipe, device, ranks)
    inputs = ClipTransform(recipe)
    encoders = build_encoders(recipe, device, encoders_of(recipe.method))
    loader = open_loader(
        shards, inputs.shape, device=device, loader=recipe.loader, threads=recipe.threads,
        decoder_load=recipe.decoder_load, spec=inputs.spec, read=recipe.read,
        max_unreadable=recipe.max_unreadable,
    )  # fmt: skip
    size, batch, seed = recipe.train.group_size, recipe.train.batch, recipe.seed
    epoch = EpochSampler(shards.shard_sizes, batch, seed=seed)
    sampler = Groups(epoch, size, ranks.rank, ranks.world)
    draw = np.random.default_rng(seed).integers(recipe.k, size=len(shards)).astype(np.int32)
    labels = {clustering_name(names): draw for names in clusterings_of(recipe.method)}
    learner = Learner(encoders, inputs, labels, recipe.method, recipe.k, recipe.train, seed)
    drawn = partial(random_windows, shape=loader.shape, seed=seed, epoch=0, flip=recipe.video.flip)
    fixed = partial(fixed_windows, shape=loader.shape)
    waited = 0.0

    def train() -> None:
        nonlocal waited
        asked = time.perf_counter()
        batch = next(batches)
        waited += time.perf_counter() - asked
        learner.step([batch], 0, 0.0)

    def clock(call: Callable[[], object]) -> float:
        ranks.barrier()
        return float(np.mean(ranks.gather(calls_per_second(call, seconds, device))))

    rates = {"reading": size * clock(reading(shards, inputs.shape.samples, sampler, drawn))}
    batches = endless_batches(loader, sampler, drawn)
    rates["clips"] = size * clock(partial(next, batches))
    clips = next(batches)
    batches.close()
    rates["inputs"] = size * clock(lambda: [inputs.of(m, clips, 0) for m in MODALITIES])
    rates["step"] = size * clock(lambda: learner.step([clips], 0, 0.0))
    batches = endless_batches(loader, sampler, drawn)
    began = time.perf_counter()
    rates["training"] = size * clock(train)
    wait = waited / (time.perf_counter() - began)
    if device.type == "cuda":  # the host may wait while the GPU works: what it does not work counts
        wait = max(0.0, 1 - rates["training"] / rates["step"])
    operations = [] if trace is None else profile_steps(train, device, trace)
    batches.close()
    for encoder in encoders.values():
        encoder.eval()
    batches = endless_batches(loader, sampler, fixed)
    rates["features"] = size * clock(partial(next, encode_each(encoders, inputs, batches)))
    batches.close()

    work = work_of(recipe)
    clustering, kmeans = time_clustering(
        recipe.method, recipe.k, recipe.cluster, work.widths, len(shards), seed, device=device
    )
    summing = sum_seconds(ranks, work.weights, device)
    share, steps = batch // ranks.world, steps_per_iteration(recipe.train, epoch.steps)
    iteration = {
        "features": len(shards) / ranks.world / rates["features"],
        "clustering": clustering / ranks.world,
        "training": steps * (share / rates["training"] + summing),
    }
    verdict, advice = advise(recipe, shards, device, rates, wait, iteration)
    sizes, pixels = set_sizes(shards)
    planning = {
        **sizes,
        "feed": rates["clips"] * inputs.shape.frames * pixels,
        "step": rates["step"] * work.step,
        "encode": rates["features"] * work.encode,
        "together": rates["training"] / min(rates["clips"], rates["step"]),
        "device_memory": float(memory_of(device)),
    }
    if kmeans:
        planning["kmeans"] = kmeans
    if summing:
        planning["network"] = ring_bytes(FLOAT * work.weights, ranks.world) / summing
    if sources is not None and ranks.first:
        planning |= pack_rates(sources, shards.settings, seconds)
    video = recipe.video
    about = (
        f"xdc bench on {machine_name(device)}, processes {ranks.world}, threads {recipe.threads}; "
        f"{video.encoder} and {recipe.audio.encoder}, {video.frames} x {video.crop} x {video.crop},"
        f" groups of {size}, {recipe.train.precision}; {len(shards):,} samples"
    )
    result = {"device": device.type, "rates": rates, "wait": wait, "iteration": iteration,
              "verdict": verdict, "advice": advice, "planning": planning,
              "about": about}  # fmt: skip
    return result | ({"operations": operations} if operations else {})
