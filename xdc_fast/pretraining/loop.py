"""Pretraining: extract, cluster, label, train, repeat."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import torch

from xdc_fast import progress
from xdc_fast.clips.batch import Batch
from xdc_fast.clips.loader import Loader, choose_device, open_loader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import random_windows
from xdc_fast.clusters.kmeans import Clustering, cluster, concat_features, update_centroids
from xdc_fast.clusters.quality import against_labels, agreement, sizes
from xdc_fast.encoders.build import MODALITIES, build_encoders
from xdc_fast.encoders.calibrate import calibrate
from xdc_fast.encoders.features import compute_features
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.interrupt import Interrupt
from xdc_fast.pretraining.learner import Learner, learning_rate, steps_of
from xdc_fast.pretraining.memory_bank import MemoryBank
from xdc_fast.pretraining.methods import (
    LABEL,
    clustering_name,
    clusterings_of,
    encoders_of,
    heads_of,
)
from xdc_fast.pretraining.run import Run, load_encoder_weights
from xdc_fast.pretraining.summary import Log, summarise
from xdc_fast.recipe import Recipe
from xdc_fast.shards.dataset import ShardSet


@dataclass
class State:
    """Where a run stands: with the encoders' weights, all that a checkpoint holds."""

    iteration: int = 0
    step: int = 0  # within the iteration
    clusters: dict | None = None  # figures of this iteration's clusterings; None: not yet made
    learner: dict | None = None  # heads and optimizer; None: not yet trained
    heads: dict | None = None  # of the last iteration, to go on with; None: to be drawn
    bank: dict | None = None  # features that training gathered; None: it gathers none
    sums: dict = field(default_factory=dict)  # of this iteration's steps
    records: list = field(default_factory=list)  # of finished iterations
    seconds: float = 0.0


def pretrain(recipe: Recipe) -> dict:
    """Runs a recipe, or goes on with the run that its folder holds; returns the summary.

    On the CPU a resumed run ends with the weights of an uninterrupted one, bit for bit.
    Raises UserError for what the user can mend, Interrupted after SIGINT or SIGTERM.
    """
    device = choose_device(recipe.device)
    shards = check(recipe, device)
    settings = recipe.train
    per_epoch = EpochSampler(shards.shard_sizes, settings.batch).steps
    steps = steps_of(settings, per_epoch)
    names = encoders_of(recipe.method)
    inputs, encoders = ClipTransform(recipe), build_encoders(recipe, device, names)
    loader = open_loader(
        shards, inputs.shape, device=device, loader=recipe.loader, threads=recipe.threads
    )
    run = Run.start(recipe, shards.fingerprint)
    state = restore(run, encoders)
    fresh = state is None
    if fresh:
        state = State()
    began = time.perf_counter() - state.seconds
    bank = None
    if recipe.cluster.features == "training":
        bank = MemoryBank(
            len(shards), {name: e.features for name, e in encoders.items()}, state.bank
        )

    def save() -> None:
        state.bank = bank and bank.state_dict()
        weights = {m: encoder.state_dict() for m, encoder in encoders.items()}
        run.save_checkpoint({"state": vars(state), "encoders": weights})

    with (
        run.hold(),
        Interrupt() as interrupt,
        Log(run, state.iteration, state.step, steps) as log,
    ):
        if fresh:
            calibrate(encoders, loader, inputs, settings.batch, stop=interrupt.check)
            save()
        while state.iteration < settings.iterations:
            name = f"iteration {state.iteration + 1}/{settings.iterations}"
            if state.clusters is None:
                state.clusters = make_clusters(run, state.iteration, encoders, loader, inputs, bank,
                                               interrupt.check, name)  # fmt: skip
                save()
            run.remove_features()
            labels = {
                clustering: arrays["assignment"]
                for clustering, arrays in run.clusters(state.iteration).items()
            }
            learner = Learner(recipe, encoders, inputs, labels, state.iteration, state.heads, bank)
            if state.learner is not None:
                learner.load_state_dict(state.learner)
            bar = progress.bar(
                total=steps, initial=state.step, desc=f"{name} training", unit="step"
            )
            tick = time.perf_counter()
            for epoch, batch, wait in training_batches(recipe, loader, state, per_epoch):
                figures = learner.step(batch, epoch, learning_rate(settings, state.step, steps))
                state.step += 1
                now = time.perf_counter()
                figures |= {"steps": 1, "seconds": now - tick, "wait": wait}
                tick = now
                state.sums = {key: state.sums.get(key, 0) + value for key, value in figures.items()}
                bar.update()
                asked = interrupt.received is not None
                saving = asked or state.step % settings.checkpoint_steps == 0
                log.step(state.iteration, state.step, figures, bar, saving)
                if (saving or state.step == steps) and not learner.sound(batch):
                    raise UserError(
                        f"{run.root}: the encoders' outputs are not finite after iteration "
                        f"{state.iteration + 1}, step {state.step}; the checkpoint before it is "
                        "kept; lower train.lr in a new run"
                    )
                if saving:
                    state.learner = learner.state_dict()
                    state.seconds = time.perf_counter() - began
                    save()
                interrupt.check()
            bar.close()
            state.records.append(log.iteration(state, loader))
            state.iteration, state.step = state.iteration + 1, 0
            state.clusters, state.learner, state.sums = None, None, {}
            state.seconds = time.perf_counter() - began
            heads = {name: head.state_dict() for name, head in learner.heads.items()}
            run.save_heads(heads)
            state.heads = heads if keep_heads(recipe) else None
            run.save_summary(summarise(run, shards, state))
            save()
    run.save_encoders(encoders)
    return run.summary()


def check(recipe: Recipe, device: torch.device) -> ShardSet:
    """The recipe's shards; UserError for what can be refused before anything is written."""
    heads_of(recipe.method)
    if not recipe.data:
        raise UserError("no shards to train on; give data=FOLDER, as `xdc-shard pack` makes it")
    shards = ShardSet(recipe.data)
    if shards.modalities != MODALITIES:
        raise UserError(
            f"{shards.root}: holds {shards.modalities[0]} only, pretraining needs both tracks; "
            "pack with --tracks both"
        )
    if recipe.method == "supervised":
        if not recipe.label:
            raise UserError(
                f"method=supervised: give label=COLUMN; {shards.root} has "
                f"{', '.join(shards.label_names) or 'none'}"
            )
        if (classes := len(shards.memberships(recipe.label)[2])) != recipe.k:
            raise UserError(f"k={recipe.k}, but label '{recipe.label}' has {classes} classes; "
                            f"set k={classes}")  # fmt: skip
        if not len(training_labels(recipe, shards)[0]):
            raise UserError(
                f"{shards.root}: no sample with a label '{recipe.label}' is `train` in column "
                f"'{recipe.split}'; name a column of train and test"
            )
    if recipe.k > len(shards):
        raise UserError(
            f"k={recipe.k} clusters of {len(shards)} samples; set k to {len(shards)} or less"
        )
    if recipe.train.precision == "bfloat16" and device.type == "cpu":
        # torch 2.11 on a CPU: repeated backward passes of one batch differ, and some hold NaN
        raise UserError(
            "train.precision=bfloat16: PyTorch's 3D convolutions are not reliable in it on a CPU; "
            "set train.precision=float32"
        )
    return shards


def restore(run: Run, encoders) -> State | None:
    """The state of the run's checkpoint, its weights loaded; None when there is none.

    Raises UserError when the checkpoint does not fit.
    """
    saved = run.checkpoint()
    if saved is None:
        return None
    file = run.root / "checkpoint.pt"
    try:
        state, weights = State(**saved["state"]), dict(saved["encoders"])
    except (KeyError, TypeError, ValueError):
        raise UserError(
            f"{file}: not a checkpoint of this version of xdc_fast; give another out=FOLDER"
        ) from None
    load_encoder_weights(encoders, weights, run.recipe, file)
    return state


def make_clusters(
    run: Run,
    number: int,
    encoders,
    loader: Loader,
    inputs,
    bank: MemoryBank | None,
    stop,
    name: str,
) -> dict:
    """Clusters the set for one iteration, into the run's folder; returns the figures."""
    recipe, shards, k = run.recipe, loader.shards, run.recipe.k
    began = time.perf_counter()
    if bank is not None and number:
        features, seen = bank.features()
    else:
        found = compute_features(
            encoders,
            loader,
            inputs,
            recipe.train.batch,
            folder=run.features(number),
            stop=stop,
            title=f"{name} features",
        )
        features, seen = found.arrays, found.valid
    extracted = time.perf_counter()
    clusterings = {}
    previous = run.clusters(number - 1) if number else {}
    for order, names in enumerate(clusterings_of(recipe.method)):
        seed = (recipe.seed * 1000 + number) * len(MODALITIES) + order
        clustering = clustering_name(names)
        if names == LABEL:
            clusterings[clustering] = classes_as_clusters(recipe, shards, features, seen, number)
            continue
        parts = [features[name] for name in names]
        before = previous.get(clustering) if recipe.cluster.warm_start else None
        clusterings[clustering] = cluster(
            parts,
            seen,
            k,
            recipe.cluster,
            seed,
            gpu=loader.device.type == "cuda",
            previous=before and before["assignment"],
        )
    run.save_clusters(number, clusterings)
    figures: dict = {
        "unread": int((~seen).sum()),
        "extract_seconds": extracted - began,
        "cluster_seconds": time.perf_counter() - extracted,
    }
    for clustering, c in clusterings.items():
        before = previous.get(clustering)
        figures[clustering] = {
            "mean_squared_distance": c.mean_squared_distance,
            "reassigned": c.reassigned,
            "rounds": c.rounds,
            "sizes": sizes(c.assignment, k),
            "nmi_previous": before and agreement(before["assignment"], c.assignment, k),
            "labels": against_labels(c.assignment, k, shards),
        }
    both = [clusterings[m].assignment for m in MODALITIES if m in clusterings]
    figures["nmi_audio_video"] = agreement(*both, k) if len(both) == len(MODALITIES) else None
    return figures


def training_labels(recipe: Recipe, shards: ShardSet) -> tuple[np.ndarray, np.ndarray]:
    """The labels that supervised pretraining learns: samples int64 (M,), rising, and codes (M,)."""
    samples, codes, _ = shards.memberships(recipe.label)
    if recipe.split:
        parts, names = shards.label(recipe.split)
        train = np.array([name == "train" for name in names] + [False])[parts[samples]]
        samples, codes = samples[train], codes[train]
    return samples, codes


def classes_as_clusters(
    recipe: Recipe, shards: ShardSet, features: dict, seen: np.ndarray, number: int
) -> Clustering:
    """The classes of the recipe's label as clusters about their mean features.

    Of a sample with several labels, each iteration draws one: in expectation the target is uniform
    over them, as in Mahajan et al. 2018 (arXiv 1805.00932).
    """
    samples, every = training_labels(recipe, shards)
    order = np.random.default_rng((recipe.seed, number)).permutation(len(samples))
    codes = np.full(len(shards), -1, dtype=np.int32)
    codes[samples[order]] = every[order]  # the last one written stays
    codes[~seen] = -1
    rows = np.flatnonzero(codes >= 0)
    points = concat_features([features[modality][rows] for modality in MODALITIES], recipe.cluster)
    centroids, _ = update_centroids(points, codes[rows], recipe.k)
    distance = np.full(len(codes), np.inf, dtype=np.float32)
    distance[rows] = np.square(points - centroids[codes[rows]]).sum(axis=1)
    return Clustering(codes, centroids, distance, float(distance[rows].mean()), reassigned=0)


def keep_heads(recipe: Recipe) -> bool:
    """Whether an iteration begins with the last one's heads: their outputs must mean the same."""
    return recipe.train.heads == "kept" and recipe.cluster.warm_start


def training_batches(
    recipe: Recipe, loader: Loader, state: State, per_epoch: int
) -> Iterator[tuple]:
    """(epoch, batch, seconds waited for it) for the rest of the iteration.

    per_epoch: the steps of a whole epoch; the iteration's last one may be cut short.
    """
    settings = recipe.train
    steps = steps_of(settings, per_epoch)
    epochs = math.ceil(steps / per_epoch)
    done, start = divmod(state.step, per_epoch)
    first, end = (state.iteration * epochs + n for n in (done, epochs))

    def open_epoch(epoch: int, start: int = 0) -> Iterator[Batch]:
        sampler = EpochSampler(
            loader.shards.shard_sizes, settings.batch, seed=recipe.seed, epoch=epoch
        )
        windows = partial(
            random_windows,
            shape=loader.shape,
            seed=recipe.seed,
            epoch=epoch,
            flip=recipe.video.flip,
        )
        return loader.batches(sampler, windows, start=start)

    following = open_epoch(first, start) if first < end else None
    for epoch in range(first, end):
        batches = following
        stop = per_epoch if epoch + 1 < end else steps - (epochs - 1) * per_epoch
        for step in range(start, stop):
            if step == per_epoch - 1 and epoch + 1 < end:
                following = open_epoch(epoch + 1)  # read while the last step trains
            asked = time.perf_counter()
            batch: Batch = next(batches)
            yield epoch, batch, time.perf_counter() - asked
        batches.close()
        start = 0
