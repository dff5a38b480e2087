"""`xdc bench`: each part of a run measured alone, the time of an iteration, and advice."""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path

import numpy as np

from xdc_fast.clips.loader import choose_device, open_loader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import fixed_windows, random_windows
from xdc_fast.encoders.build import MODALITIES, build_encoders
from xdc_fast.encoders.features import encode_each, widths_of
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.files import check_writable
from xdc_fast.planner.advice import advise
from xdc_fast.planner.rates import (
    calls_per_second,
    clustering_seconds,
    endless_batches,
    profile_steps,
    reading,
)
from xdc_fast.pretraining.check import check_recipe
from xdc_fast.pretraining.learner import Learner
from xdc_fast.pretraining.methods import clustering_name, clusterings_of, encoders_of
from xdc_fast.pretraining.schedule import steps_per_iteration
from xdc_fast.recipe import Recipe

PARTS = {
    "reading": "bytes of random windows, undecoded (once read, files stay in memory)",
    "clips": "the loader alone: read, decoded, cropped, on the device; on a CPU with spectrograms",
    "inputs": "what encoders read of a batch: normalised, on a GPU with spectrograms",
    "step": "a training step alone, on one batch again and again",
    "training": "both together, as in a run",
    "features": "the loader and the encoders in the pass before clustering",
}


def measure_speed(recipe: Recipe, seconds: float = 5.0, trace: Path | None = None) -> dict:
    """Runs each part of a recipe for `seconds` on its shards; nothing is written but `trace`.

    trace: a file for PyTorch's profile of rates.TRACED training steps (gzipped with the suffix
    .gz), to be opened in Perfetto or chrome://tracing.
    Returns device, rates (clips per second of each of PARTS), wait (share of training in which the
    loop waits for data; on a GPU, in which the GPU is idle), iteration (seconds that an iteration
    over the whole set spends on features, clustering and training, by these rates), verdict and
    advice (lines of text), and with a trace, operations: the dearest as (name, share of the time in
    operations).
    Raises UserError, before anything is measured, where the trace cannot be written.
    """
    if trace is not None:
        if trace.exists() and not trace.is_file():  # a device would be replaced by the trace
            raise UserError(f"{trace}: a folder or a device; give the path of a file for the trace")
        check_writable(trace.parent)
    device = choose_device(recipe.device)
    shards = check_recipe(recipe, device)
    inputs = ClipTransform(recipe)
    encoders = build_encoders(recipe, device, encoders_of(recipe.method))
    loader = open_loader(
        shards, inputs.shape, device=device, loader=recipe.loader, threads=recipe.threads,
        decoder_load=recipe.decoder_load, spec=inputs.spec, read=recipe.read,
        max_unreadable=recipe.max_unreadable,
    )  # fmt: skip
    size, seed = recipe.train.group_size, recipe.seed
    sampler = EpochSampler(shards.shard_sizes, size, seed=seed)
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

    clock = partial(calls_per_second, seconds=seconds, device=device)
    rates = {"reading": size * clock(reading(shards, inputs.shape.samples, sampler, drawn))}
    batches = endless_batches(loader, sampler, drawn)
    rates["clips"] = size * clock(partial(next, batches))
    batch = next(batches)
    batches.close()
    rates["inputs"] = size * clock(lambda: [inputs.of(m, batch, 0) for m in MODALITIES])
    rates["step"] = size * clock(lambda: learner.step([batch], 0, 0.0))
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

    iteration = {
        "features": len(shards) / rates["features"],
        "clustering": clustering_seconds(
            recipe.method, recipe.k, recipe.cluster, widths_of(encoders), len(shards), seed,
            device=device,
        ),
        "training": steps_per_iteration(recipe.train, sampler.steps) * size / rates["training"],
    }  # fmt: skip
    verdict, advice = advise(recipe, shards, device, rates, wait, iteration)
    result = {"device": device.type, "rates": rates, "wait": wait, "iteration": iteration,
              "verdict": verdict, "advice": advice}  # fmt: skip
    return result | ({"operations": operations} if operations else {})
