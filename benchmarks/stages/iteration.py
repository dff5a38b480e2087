"""A whole XDC iteration: BatchNorm set, features, k-means, training; on a CPU of small encoders.

Ours is `pretrain` with its run folder and checkpoints. The peer is a plain loop around the same
encoders, with clips from the plain DataLoader, a separate pass for the features and clusters from
faiss. The limit is the encoders alone, on the same batch again and again.
"""

from __future__ import annotations

import itertools
import math
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import faiss
import numpy as np
import torch
from torch.nn.functional import cross_entropy

from benchmarks.harness import Case, Figure
from benchmarks.media import describe_shards, find_videos, pack_videos
from benchmarks.plain import READERS, draw_cuts, open_plain, write_tars
from benchmarks.stages.feed import original_files, packed_files
from benchmarks.stages.step import draw_batch
from xdc_fast.clips.loader import choose_device
from xdc_fast.clips.windows import fixed_windows, random_windows
from xdc_fast.clusters.prepare import prepare
from xdc_fast.encoders.build import MODALITIES, build_encoders, new_head
from xdc_fast.encoders.features import in_half
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.pretraining.learner import Learner
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.pretraining.schedule import learning_rate
from xdc_fast.recipe import Recipe, load_recipe
from xdc_fast.shards.dataset import ShardSet

THREADS = (2,)
RECIPE = Path(__file__).parents[2] / "recipes/toy.yaml"
EPOCHS = 3
LARGE = (
    *("video.encoder=r2plus1d_18", "audio.encoder=audio_resnet18", "train.precision=bfloat16"),
    *("video.crop=112", "train.batch=64"),
)


def cases(quick: bool, threads: int) -> Iterator[Case | Figure]:
    settings = ("device=cpu", "train.batch=16")
    yield from contest(32 if quick else 96, 40, threads, settings)


def cuda_cases(quick: bool, threads: int) -> Iterator[Case | Figure]:
    settings = ("device=cuda", *LARGE)
    yield from contest(128 if quick else 1000, 128, threads, settings)


def contest(
    count: int, short_side: int, threads: int, chosen: tuple[str, ...]
) -> Iterator[Case | Figure]:
    """Of `count` videos; chosen: settings of the recipe."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        what, videos = find_videos(root, count)
        shards = pack_videos(videos, root / "set", threads, short_side=short_side)
        settings = (f"data={shards.root}", f"threads={threads}", "train.iterations=1",
                    f"train.epochs={EPOCHS}", "k=8",
                    "video.jitter=0", "audio.jitter=0", *chosen)  # fmt: skip
        waits: dict[str, list[float]] = {"ours": []}
        fresh = itertools.count()

        def run_ours() -> tuple[float, float]:
            recipe = load_recipe(RECIPE, (*settings, f"out={root / str(next(fresh))}"))
            record = pretrain(recipe)["iterations"][0]
            waits["ours"].append(100 * record["data_wait_share"])
            return record["video_loss"], record["clusters"]["video"]["mean_squared_distance"]

        recipe = load_recipe(RECIPE, settings)
        peers: dict[str, Callable] = {}
        for name, samples in (original_files(shards, videos), packed_files(shards)):
            tars = write_tars(samples, root / name, 2 * threads)
            key = f"plain loop, {name}"
            peers[key] = partial(make_plain, recipe, shards, tars, waits.setdefault(key, []))
        form = f"{describe_shards(what, shards)}, {len(shards)} samples, {EPOCHS} epochs"
        yield Case(
            f"{recipe.video.encoder} and {recipe.audio.encoder}, {form}",
            "clips per second",
            len(shards) * (EPOCHS + 2),
            run_ours,
            peers,
            assert_same,
            ("encoders alone", bare_iteration(recipe, len(shards))),
        )
        for spent in waits.values():
            del spent[:2]  # compared, repeats counted
        ours = waits.pop("ours")
        yield Figure(f"waiting for data, {form}", "% of training", ours, waits)


def make_plain(
    recipe: Recipe, shards: ShardSet, tars: list[Path], waits: list[float]
) -> Callable[[], tuple[float, float]]:
    """The plain loop, with torchcodec's readers, or PyAV's where torchcodec does not load."""
    try:
        readers = READERS["torchcodec"]()
    except ImportError:
        readers = READERS["PyAV"]()
    inputs, device = ClipTransform(recipe), choose_device(recipe.device)
    half = in_half(inputs, device)
    rows, crop = shards.rows(), inputs.shape.crop
    still = partial(fixed_windows, shape=inputs.shape)
    drawn = partial(random_windows, shape=inputs.shape, seed=0, epoch=0, flip=recipe.video.flip)
    evaluation, training = (
        open_plain(
            tars, draw_cuts(rows, windows, crop), readers, inputs,
            batch=recipe.train.batch, workers=recipe.threads, pin=device.type == "cuda",
        )
        for windows in (still, drawn)
    )  # fmt: skip
    mean, std = (
        torch.tensor(values, device=device)[:, None, None, None]
        for values in (recipe.video.mean, recipe.video.std)
    )

    def both(frames: torch.Tensor, sound: torch.Tensor) -> dict[str, torch.Tensor]:
        frames, sound = (part.to(device, non_blocking=True) for part in (frames, sound))
        pictures = frames.permute(0, 4, 1, 2, 3).float().div(255).sub(mean).div(std)
        return {"video": pictures, "audio": sound}

    def run() -> tuple[float, float]:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            return iterate()

    def iterate() -> tuple[float, float]:
        encoders = build_encoders(recipe, device)
        models = torch.nn.ModuleDict(encoders).train()
        norms = [m for m in models.modules() if hasattr(m, "running_mean")]
        for norm in norms:
            norm.momentum = None
        with torch.no_grad():
            for _, frames, sound in evaluation:
                for modality, x in both(frames, sound).items():
                    models[modality](x)
        for norm in norms:
            norm.momentum = 0.1
        models.eval()
        features = {m: np.zeros((len(rows), e.features), np.float32) for m, e in encoders.items()}
        with torch.no_grad():
            for index, frames, sound in evaluation:
                for modality, x in both(frames, sound).items():
                    features[modality][index] = models[modality](x).float().cpu().numpy()
        labels, inertia = {}, 0.0
        for modality, points in features.items():
            points = prepare(points, recipe.cluster)
            kmeans = faiss.Kmeans(points.shape[1], recipe.k, niter=20, min_points_per_centroid=1)
            kmeans.train(points)
            distance, nearest = kmeans.assign(points)
            labels[modality] = torch.from_numpy(nearest).to(device)
            inertia = float(distance.mean()) if modality == "video" else inertia
        heads = {
            m: new_head(e.features, recipe.k, n).to(device)
            for n, (m, e) in enumerate(encoders.items())
        }
        models.train()
        settings = recipe.train
        optimizer = torch.optim.SGD(
            [*models.parameters(), *(p for head in heads.values() for p in head.parameters())],
            lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay,
        )  # fmt: skip
        steps, step = settings.epochs * math.ceil(len(rows) / settings.batch), 0
        waited, losses, begun = 0.0, [], time.perf_counter()
        for _ in range(settings.epochs):
            batches = iter(training)
            while True:
                asked = time.perf_counter()
                batch = next(batches, None)
                waited += time.perf_counter() - asked
                if batch is None:
                    break
                index, frames, sound = batch
                inputs_of = both(frames, sound)
                own, heard = (heads[m](models[m](inputs_of[m])) for m in MODALITIES)
                index = index.to(device, non_blocking=True)
                loss = cross_entropy(own, labels["audio"][index])
                losses.append(loss.item())
                for group in optimizer.param_groups:
                    group["lr"] = learning_rate(settings, min(step, steps - 1), steps)
                optimizer.zero_grad()
                (loss + cross_entropy(heard, labels["video"][index])).backward()
                optimizer.step()
                step += 1
        waits.append(100 * waited / (time.perf_counter() - begun))
        return float(np.mean(losses)), inertia

    return run


def bare_iteration(recipe: Recipe, samples: int) -> Callable[[], None]:
    """As many forward passes and training steps as an iteration has."""
    inputs, device = ClipTransform(recipe), choose_device(recipe.device)
    encoders = build_encoders(recipe, device)
    batch = draw_batch(recipe, inputs, device)
    half = in_half(inputs, device)
    ready = {m: inputs.of(m, batch) for m in MODALITIES}
    labels = dict.fromkeys(MODALITIES, np.zeros(len(batch), np.int32))
    learner = Learner(encoders, inputs, labels, recipe.method, recipe.k, recipe.train, seed=0)
    steps = math.ceil(samples / recipe.train.batch)

    def run() -> None:
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            with torch.no_grad():
                for _ in range(2 * steps):
                    for modality, x in ready.items():
                        encoders[modality](x)
            for _ in range(recipe.train.epochs * steps):
                learner.models.zero_grad()
                sum(encoders[modality](x).mean() for modality, x in ready.items()).backward()

    return run


def assert_same(ours: tuple[float, float], other: tuple[float, float]) -> None:
    """The mean loss and the inertia of the video clusters; windows are the same, their order and
    the clusters' starts are not."""
    assert np.allclose(ours, other, rtol=0.2), f"loss and inertia {other}, ours {ours}"
