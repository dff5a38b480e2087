"""A training step on a batch in memory: inputs, both encoders, heads, SGD.

The peer is the step of a plain PyTorch script with the same encoders: contiguous pictures,
torchaudio's spectrogram, PyTorch's default SGD. The limit is forward and backward of the encoders
alone, on inputs that are ready.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import torch
from torch.nn.functional import cross_entropy
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.harness import Case
from benchmarks.stages.logmel import draw_sound, torchaudio_transform
from xdc_fast.clips.batch import Batch
from xdc_fast.encoders.build import MODALITIES, build_encoders, new_head
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.pretraining.learner import Learner
from xdc_fast.recipe import Audio, Recipe, Train, Video

THREADS = (1, 2)


def cases(quick: bool, threads: int) -> Iterator[Case]:
    sizes = {"tiny": (32, 64), "small": (64, 16)}
    for size, (crop, batch) in list(sizes.items())[: 1 if quick else None]:
        recipe = Recipe(
            k=32,
            video=Video(encoder=f"r2plus1d_{size}", crop=crop),
            audio=Audio(encoder=f"audio_{size}"),
            train=Train(batch=8 if quick else batch),
        )
        yield contest(recipe, torch.device("cpu"))


def cuda_cases(quick: bool, threads: int) -> Iterator[Case]:
    device = torch.device("cuda")
    for precision, compiled in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
        train = Train(batch=8 if quick else 64, precision=precision, compile=compiled)
        case = contest(Recipe(k=128, train=train), device)
        yield case
        operations = count_operations(case.ours)
        yield Case(
            f"{case.name}, as arithmetic",
            "TFLOP/s",
            operations / 1e12,
            case.ours,
            {},
            case.same,
            ("bfloat16 matrix products", bare_products(operations, device)),
        )


def count_operations(step: Callable[[], object]) -> int:
    """Floating-point operations of a step's convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def bare_products(operations: int, device: torch.device) -> Callable[[], torch.Tensor]:
    """One product of as many operations, of square factors but for its height."""
    side = 8192
    height = max(8, round(operations / (2 * side**2) / 8) * 8)
    left = torch.randn(height, side, device=device, dtype=torch.bfloat16)
    right = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    return lambda: left @ right


def contest(recipe: Recipe, device: torch.device) -> Case:
    inputs, encoders = ClipTransform(recipe), build_encoders(recipe, device)
    batch = draw_batch(recipe, inputs, device)
    labels = np.random.default_rng(0).integers(recipe.k, size=len(batch)).astype(np.int32)
    learner = Learner(
        encoders, inputs, dict.fromkeys(MODALITIES, labels), recipe.method, recipe.k, recipe.train,
        seed=0,
    )  # fmt: skip
    video, train = recipe.video, recipe.train
    form = f"{video.frames} x {video.crop} x {video.crop}, batches of {train.batch}"
    how = f"{train.precision}{', compiled' if train.compile else ''}"
    return Case(
        f"{video.encoder} and {recipe.audio.encoder}, {form}, {how}",
        "clips per second",
        len(batch),
        # at learning rate 0 every step is the first
        lambda: losses_of(learner.step([batch], epoch=0, rate=0.0)),
        {"plain PyTorch": partial(make_plain, recipe, inputs, batch, labels, encoders)},
        partial(assert_same, 2e-2 if train.precision == "bfloat16" else 1e-3),
        ("encoders alone", bare_encoders(recipe, inputs, batch, encoders)),
    )


def draw_batch(recipe: Recipe, inputs: ClipTransform, device: torch.device) -> Batch:
    size, shape = recipe.train.group_size, inputs.shape
    form = (size, shape.frames, shape.crop, shape.crop, 3)
    generator = torch.Generator().manual_seed(0)
    frames = torch.randint(256, form, dtype=torch.uint8, generator=generator)
    sound = np.round(draw_sound(size, shape.samples) * 32767).astype(np.int16)
    return Batch(frames.to(device), torch.from_numpy(sound).to(device), torch.arange(size))


def losses_of(figures: dict) -> list[float]:
    return [float(value) for name, value in sorted(figures.items()) if name.endswith("_loss")]


def make_plain(
    recipe: Recipe,
    inputs: ClipTransform,
    batch: Batch,
    labels: np.ndarray,
    encoders: dict[str, torch.nn.Module],
) -> Callable[[], list[float]]:
    device = batch.frames.device
    models = {m: copy.deepcopy(encoder) for m, encoder in encoders.items()}
    for model in models.values():
        model.to(memory_format=torch.contiguous_format).train()
    heads = {
        m: new_head(model.features, recipe.k, number).to(device)
        for number, (m, model) in enumerate(models.items())
    }
    modules = [*models.values(), *heads.values()]
    optimizer = torch.optim.SGD(
        [p for module in modules for p in module.parameters()],
        lr=0.0,
        momentum=recipe.train.momentum,
        weight_decay=recipe.train.weight_decay,
    )
    transform = torchaudio_transform(inputs.spec).to(device)
    mean = torch.tensor(recipe.video.mean, device=device)[:, None, None, None]
    std = torch.tensor(recipe.video.std, device=device)[:, None, None, None]
    half = recipe.train.precision == "bfloat16"

    def run() -> list[float]:
        pictures = batch.frames.permute(0, 4, 1, 2, 3).float().div(255).sub(mean).div(std)
        sound = (transform(batch.waveform.float() / 32768) + inputs.spec.floor).log()
        sound = ((sound - recipe.audio.mean) / recipe.audio.std).unsqueeze(1)
        target = torch.from_numpy(labels.astype(np.int64)).to(device)
        losses = []
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            for modality, x in (("video", pictures.contiguous()), ("audio", sound)):
                logits = heads[modality](models[modality](x))
                losses.append(cross_entropy(logits.float(), target))
        optimizer.zero_grad()
        sum(losses).backward()
        optimizer.step()
        return [losses[1].item(), losses[0].item()]

    return run


def bare_encoders(
    recipe: Recipe, inputs: ClipTransform, batch: Batch, encoders: dict[str, torch.nn.Module]
) -> Callable[[], None]:
    ready = {m: inputs.of(m, batch) for m in MODALITIES}
    half = recipe.train.precision == "bfloat16"
    models = {m: copy.deepcopy(encoder).train() for m, encoder in encoders.items()}
    call = {m: torch.compile(e) if recipe.train.compile else e for m, e in models.items()}

    def run() -> None:
        with torch.autocast(batch.frames.device.type, torch.bfloat16, enabled=half):
            outputs = [call[m](x).float().mean() for m, x in ready.items()]
        sum(outputs).backward()

    return run


def assert_same(tolerance: float, ours: list[float], other: list[float]) -> None:
    """The losses of the first step, up to a relative tolerance."""
    assert np.allclose(ours, other, rtol=tolerance), f"losses {other}, ours {ours}"
