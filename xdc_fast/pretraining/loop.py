"""Pretraining: compute features, cluster them, train on the clusters, repeat."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter
from contextlib import ExitStack
from signal import SIGTERM

from xdc_fast import progress
from xdc_fast.clips.loader import choose_device, open_loader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.subset import count_by_shard
from xdc_fast.clusters.points import ROWS
from xdc_fast.encoders.build import build_encoders
from xdc_fast.encoders.calibrate import calibrate
from xdc_fast.encoders.features import compute_features, widths_of
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.interrupt import Interrupt, Interrupted
from xdc_fast.pretraining.check import check_recipe
from xdc_fast.pretraining.checkpoint import State
from xdc_fast.pretraining.learner import Learner
from xdc_fast.pretraining.memory_bank import MemoryBank
from xdc_fast.pretraining.methods import clustering_name, clusterings_of, encoders_of
from xdc_fast.pretraining.metrics import MetricsLog, is_logged
from xdc_fast.pretraining.pseudo_labels import (
    draw_classes,
    gather_clusters,
    make_clusters,
    training_samples,
)
from xdc_fast.pretraining.records import cluster_record, iteration_record, one_line, run_record
from xdc_fast.pretraining.run import Run
from xdc_fast.pretraining.schedule import learning_rate, steps_per_iteration, training_batches
from xdc_fast.ranks import Ranks, open_ranks
from xdc_fast.recipe import Recipe

log = logging.getLogger(__name__)


def pretrain(recipe: Recipe) -> dict:
    """Runs a recipe, or continues the run that its folder `recipe.out` holds.

    Of several ranks (`torchrun` starts them), all call this.
    Returns the summary, as RUN/summary.json holds it. On a CPU a resumed run ends with the weights
    of an uninterrupted one, bit for bit. Raises UserError for what the user can mend, Interrupted
    after SIGINT or SIGTERM, when a checkpoint is written.
    """
    with open_ranks() as ranks:
        return _pretrain(recipe, ranks)


def _pretrain(recipe: Recipe, ranks: Ranks) -> dict:
    device = choose_device(recipe.device)
    shards = check_recipe(recipe, device, ranks)
    settings, method, k, seed = recipe.train, recipe.method, recipe.k, recipe.seed
    inputs = ClipTransform(recipe)
    encoders = build_encoders(recipe, device, encoders_of(method))
    loader = open_loader(
        shards, inputs.shape, device=device, loader=recipe.loader, threads=recipe.threads,
        decoder_load=recipe.decoder_load, spec=inputs.spec, read=recipe.read,
        max_unreadable=recipe.max_unreadable,
    )  # fmt: skip
    samples = training_samples(shards, recipe)
    sizes = count_by_shard(shards, samples)
    steps = steps_per_iteration(settings, EpochSampler(sizes, settings.batch).steps)
    names = [clustering_name(clustering) for clustering in clusterings_of(method)]
    run = Run.start(recipe, shards.fingerprint)
    with ExitStack() as held:
        if ranks.first:
            held.enter_context(run.hold())
        interrupt = held.enter_context(Interrupt())
        restored = run.read_state(encoders, steps)
        ranks.barrier()  # until all have read it
        state = restored or State()
        began = time.perf_counter() - state.seconds
        metrics_log = None
        if ranks.first:
            metrics_log = held.enter_context(MetricsLog(run, state.iteration, state.step, steps))
        memory_bank, unit = None, ROWS
        if recipe.cluster.features == "training" and state.iteration < settings.iterations:
            memory_bank = MemoryBank(
                run.bank, samples, widths_of(encoders), recipe.cluster.precision,
                new=not state.iteration and not state.step, ranks=ranks,
            )  # fmt: skip
            unit = memory_bank.unit
        rows = ranks.share(len(samples), unit)  # whose features this rank holds

        def save() -> None:
            if memory_bank is not None:
                memory_bank.flush()
            state.seconds = time.perf_counter() - began
            if ranks.first:
                run.write_state(state, encoders)

        if restored is None:
            calibrate(encoders, loader, inputs, settings.group_size, interrupt.check, samples)
            save()
        while state.iteration < settings.iterations:
            title = f"iteration {state.iteration + 1}/{settings.iterations}"

            if state.clusters is None:
                started = time.perf_counter()
                if memory_bank is not None and state.iteration:
                    features = memory_bank.features()
                else:
                    features = compute_features(
                        encoders, loader, inputs, settings.group_size, samples=samples,
                        folder=run.features(state.iteration), precision=recipe.cluster.precision,
                        stop=interrupt.check, title=f"{title} features", ranks=ranks, unit=unit,
                    )  # fmt: skip
                extracted = time.perf_counter()
                before = (
                    run.assignments(state.iteration - 1, names, len(shards))
                    if state.iteration
                    else {}
                )
                classes = (
                    draw_classes(shards, recipe.label, samples, seed, state.iteration)[rows]
                    if method == "supervised"
                    else None
                )
                clusterings = gather_clusters(
                    make_clusters(
                        features, method, k, recipe.cluster, seed=seed, iteration=state.iteration,
                        previous={name: a[samples[rows]] for name, a in before.items()},
                        classes=classes, device=device, ranks=ranks,
                    ),
                    samples, len(shards), ranks,
                )  # fmt: skip
                unreadable = sum(ranks.gather(features.n_unreadable))
                state.clusters = {}
                if ranks.first:
                    run.save_clusters(state.iteration, clusterings)
                    state.clusters = cluster_record(
                        clusterings, before, k, shards, n_unreadable=unreadable,
                        extract_seconds=extracted - started,
                        cluster_seconds=time.perf_counter() - extracted,
                    )  # fmt: skip
                state.clusters = ranks.broadcast(state.clusters)
                save()
            if ranks.first:
                run.remove_features()

            learner = Learner(
                encoders, inputs, run.assignments(state.iteration, names, len(shards)), method, k,
                settings, seed * 1000 + state.iteration, state.heads, memory_bank, ranks,
            )  # fmt: skip
            if state.learner is not None:
                learner.load_state_dict(state.learner)
            with progress.bar(
                total=steps, initial=state.step, desc=f"{title} training", unit="step"
            ) as bar:
                tick = time.perf_counter()
                for epoch, groups, wait in training_batches(
                    loader, samples, settings, seed=seed, flip=recipe.video.flip,
                    iteration=state.iteration, step=state.step, ranks=ranks,
                ):  # fmt: skip
                    rate = learning_rate(settings, state.step, steps)
                    metrics = learner.step(groups, epoch, rate)
                    state.step += 1
                    now = time.perf_counter()
                    state.add(metrics | {"steps": 1, "seconds": now - tick, "wait": wait})
                    tick = now
                    bar.update()
                    stopped = ranks.any(interrupt.received is not None)
                    saving = stopped or state.step % settings.checkpoint_steps == 0
                    if saving or is_logged(state.step, steps):
                        values = {name: float(value) for name, value in metrics.items()}
                        check_losses(values, run, state)
                        if metrics_log is not None:
                            metrics_log.step(state.iteration, state.step, values)
                        losses = {n: f"{v:.2f}" for n, v in values.items() if n.endswith("_loss")}
                        bar.set_postfix(losses, refresh=False)
                    if saving or state.step == steps:
                        learner.average_statistics()
                        if ranks.any(not learner.outputs_are_finite(groups[-1])):
                            raise diverged("the encoders' outputs are not finite after", run, state)
                    if saving:
                        state.learner = learner.state_dict()
                        save()
                    if stopped:
                        raise Interrupted(interrupt.received or SIGTERM)

            failures = sum(ranks.gather(loader.failures), Counter())
            record = ranks.broadcast(
                iteration_record(
                    state.iteration, method, settings.batch, state.sums, state.clusters, failures
                )
            )
            if metrics_log is not None:
                metrics_log.iteration(record)
            log.info(one_line(record))
            for reason, message in loader.examples.items():
                log.warning("  %d clips replaced, %s; the first: %s",
                            loader.failures[reason], reason, message)  # fmt: skip
            loader.failures.clear()
            loader.examples.clear()
            heads = learner.head_weights()
            # the outputs of a head mean the same clusters only where clusters keep their numbers
            kept = settings.heads == "kept" and recipe.cluster.warm_start
            state.next_iteration(record, heads if kept else None)
            state.seconds = time.perf_counter() - began
            if ranks.first:
                run.save_heads(heads)
                run.save_summary(
                    run_record(method, k, shards, len(samples), state.records, state.seconds)
                )
            save()
        if ranks.first:
            run.save_encoders(encoders)
        ranks.barrier()
        return run.summary()


def check_losses(metrics: dict[str, float], run: Run, state: State) -> None:
    """UserError for a step whose loss is not finite."""
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise diverged(f"{name} is {value} at", run, state)


def diverged(what: str, run: Run, state: State) -> UserError:
    """The error of a run that cannot go on from where it stands."""
    return UserError(
        f"{run.place}: {what} iteration {state.iteration + 1}, step {state.step}; "
        "the checkpoint before it is kept; lower train.lr in a new run"
    )
