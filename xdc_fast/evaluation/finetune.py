"""Fine-tuning: a linear classifier on an encoder, both trained or the classifier alone."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import partial
from itertools import repeat

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from xdc_fast import progress
from xdc_fast.clips.batch import Batch
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.subset import count_by_shard
from xdc_fast.clips.windows import random_windows
from xdc_fast.encoders.build import new_head
from xdc_fast.encoders.encoder import Encoder
from xdc_fast.encoders.features import compute_features, forward
from xdc_fast.encoders.memory import check_memory
from xdc_fast.errors import UserError
from xdc_fast.evaluation.evaluator import Evaluator
from xdc_fast.evaluation.splits import (
    Split,
    check_label_leakage,
    check_readable,
    classes_of,
    over_splits,
    splits_of,
)
from xdc_fast.models.load import Model
from xdc_fast.ranks import ALONE, Ranks
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.storage import Place

METRICS = ("clip@1", "video@1", "video@5")


@dataclass(frozen=True)
class FinetuneSettings:
    """How to fine-tune, by SGD. The paper's own settings are not known: the defaults are ours.

    epochs: passes over the training part. batch: clips per step. lr, head_lr: of the encoder and
    of the classifier. warmup: share of the epochs in which both rise from 0. milestones: shares of
    the epochs after which both are multiplied by gamma. clips: per video at test.
    """

    epochs: int = 12
    batch: int = 32
    lr: float = 0.01
    head_lr: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup: float = 1 / 6
    milestones: tuple[float, ...] = (1 / 2, 5 / 6)
    gamma: float = 0.05
    clips: int = 10

    def scale(self, progress: float) -> float:
        """What the learning rates are multiplied by, at a share of the training, 0 to 1."""
        rise = min(progress / self.warmup, 1) if self.warmup else 1
        return rise * self.gamma ** sum(progress >= milestone for milestone in self.milestones)


# Of SeLaVi and GDT, which followed XDC, on UCF101 and HMDB51 with R(2+1)D-18 and 32 frames; the
# paper's are not known. They average 3 crops of each of 10 clips, this the centre crop alone.
FOLLOW_UPS = FinetuneSettings(lr=2.5e-4, head_lr=2.5e-3, weight_decay=5e-3)

PRESETS = {
    "ucf101": FOLLOW_UPS,
    "hmdb51": FOLLOW_UPS,
    "esc50": FinetuneSettings(epochs=30),  # ours
    "dcase": FinetuneSettings(epochs=30, clips=60),  # ours
}


def finetune(
    model: Model,
    shards: ShardSet,
    label: str,
    columns: tuple[str, ...] = (),
    *,
    modality: str | None = None,
    only_head: bool = False,
    settings: FinetuneSettings | None = None,
    test_share: float = 0.3,
    seed: int = 0,
    out: str | Place | None = None,
    ranks: Ranks = ALONE,
) -> dict[str, dict]:
    """Accuracy on the splits that `columns` name, for each modality.

    columns, test_share, seed: see splits_of; seed also draws the classifier and the clips.
    Every split begins with the model's encoder and a fresh linear classifier. Training clips are
    those of pretraining: random in time, crop and flip. only_head: the encoder stays as it is,
    BatchNorm in eval mode. At test, the softmax is averaged over equally spaced clips. Each split's
    result is kept in `out`, or in the run's folder, as soon as it is there, and not made again.
    Several ranks share the test clips alone: the first one trains, and the others wait. It returns
    the results, the others {}.

    Returns {modality: {..., splits: [{split, train, test, n_unreadable, clip@1, video@1,
    video@5}], mean, spread}}: accuracies 0 to 1; video@5 is None for five classes or fewer.
    Raises UserError as splits_of does, and for a loss that is not finite.
    """
    settings = settings or FinetuneSettings()
    codes, classes = classes_of(shards, label)
    splits = splits_of(shards, label, codes, classes, columns, test_share=test_share, seed=seed)
    check_label_leakage(model.run, shards, label, [split.test for split in splits])
    evaluator = Evaluator(model, shards, modality, out, ranks)
    names, batch = evaluator.modalities, settings.batch
    for name in names:
        check_memory(model.recipe, [name], evaluator.device, batch, training=not only_head)
    results = {}
    for name in names:
        mode = "head" if only_head else "full"
        made_by: dict = {
            "label": label,
            "classes": len(classes),
            "modality": name,
            "mode": mode,
            "asked": [split.name for split in splits],
            "test_share": test_share,
            "seed": seed,
            "settings": asdict(settings),
            **evaluator.made_by(name),
        }
        about = evaluator.about(made_by)
        with evaluator.place_for(
            "finetune", "-".join((label, *columns, name, mode)), made_by
        ) as place:
            scores = ranks.broadcast(place.splits(made_by["asked"]))
            for split in splits[len(scores) :]:
                classifier = train(
                    evaluator, name, codes, classes, split, only_head, settings, seed
                )
                logits, valid = classify(evaluator, name, classifier, split, settings)
                if not ranks.first:
                    continue
                sizes = {"split": split.name, "train": len(split.train), "test": len(split.test)}
                scores.append(sizes | score(logits, valid, codes[split.test]))
                place.save(about | summary(scores))
        if ranks.first:
            results[name] = about | summary(scores)
    return results


class Classifier(Encoder):
    """An encoder and a linear classifier of its features: from its input to logits (B, classes)."""

    def __init__(self, encoder: Encoder, head: nn.Linear):
        super().__init__()
        self.encoder, self.head, self.features = encoder, head, head.out_features

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.encoder(x))


def summary(scores: list[dict]) -> dict:
    """The splits that are done, their mean and spread."""
    return {"splits": scores, **over_splits(scores, METRICS)}


def train(
    evaluator: Evaluator,
    modality: str,
    codes: np.ndarray,
    classes: list[str],
    split: Split,
    only_head: bool,
    settings: FinetuneSettings,
    seed: int,
) -> Classifier:
    """An encoder and a classifier of its features, trained on a split's training part by the first
    rank."""
    ranks = evaluator.ranks
    encoder = copy.deepcopy(evaluator.model.encoders[modality]).train(not only_head)
    encoder.requires_grad_(not only_head)
    head = new_head(encoder.features, len(classes), seed).to(evaluator.device)
    groups = [{"params": head.parameters(), "peak": settings.head_lr}]
    if not only_head:
        groups.append({"params": encoder.parameters(), "peak": settings.lr})
    optimizer = torch.optim.SGD(
        groups, lr=0.0, momentum=settings.momentum, weight_decay=settings.weight_decay
    )
    recipe, loader = evaluator.recipe, evaluator.loader(modality)
    sizes = count_by_shard(evaluator.shards, split.train)
    batch = min(settings.batch, len(split.train))
    labels = torch.from_numpy(codes[split.train])
    steps = settings.epochs * EpochSampler(sizes, batch).steps
    step = 0
    with progress.bar(total=steps, desc=f"{modality} {split.name}", unit="step") as bar:
        for epoch in range(settings.epochs):
            sampler = EpochSampler(sizes, batch, seed=seed, epoch=epoch)
            windows = partial(
                random_windows, shape=loader.shape, seed=seed, epoch=epoch, flip=recipe.video.flip
            )
            batches: Iterator[Batch | None] = repeat(None, sampler.steps)
            if ranks.first:
                batches = loader.batches(sampler, windows, samples=split.train)
            for clips in batches:
                ranks.any(False)  # the others hear that this one is there
                if clips is None:
                    continue
                found = forward({modality: encoder}, evaluator.inputs, clips, epoch)
                targets = labels[clips.index].to(evaluator.device)
                loss = cross_entropy(head(found[modality]), targets)
                if not (shown := loss.item()) < float("inf"):
                    raise UserError(
                        f"{evaluator.shards.root}: fine-tuning {modality} on split '{split.name}', "
                        f"epoch {epoch + 1}, step {step + 1} of {steps}: the loss is {shown}; "
                        "lower --lr and --head-lr"
                    )
                step += 1
                for group in optimizer.param_groups:
                    group["lr"] = group["peak"] * settings.scale(step / steps)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                bar.set_postfix(epoch=epoch + 1, loss=f"{shown:.3f}", refresh=False)
                bar.update()
    classifier = Classifier(encoder, head).eval()
    if ranks.world > 1:
        trained = {name: value.cpu() for name, value in classifier.state_dict().items()}
        classifier.load_state_dict(ranks.broadcast(trained))
    return classifier


def classify(
    evaluator: Evaluator,
    modality: str,
    classifier: Classifier,
    split: Split,
    settings: FinetuneSettings,
) -> tuple[np.ndarray, np.ndarray]:
    """Logits of the test part, float32 (N, clips, classes), and bool (N, clips): the valid; on the
    first rank, N = 0 on the others."""
    found = compute_features(
        {modality: classifier},
        evaluator.loader(modality),
        evaluator.inputs,
        settings.batch,
        samples=split.test,
        clips=settings.clips,
        average=False,
        title=f"{split.name} test",
        ranks=evaluator.ranks,
    )
    logits = found.arrays[modality]
    if not np.isfinite(logits).all():
        raise UserError(
            f"{evaluator.shards.root}: the {modality} encoder fine-tuned on split '{split.name}' "
            "has outputs that are not finite; lower --lr and --head-lr"
        )
    valid = found.valid.reshape(-1, settings.clips)
    if evaluator.ranks.first:
        check_readable(evaluator.shards, split.train, split.test[valid.any(axis=1)])
    return logits.reshape(*valid.shape, classifier.features), valid


def score(logits: np.ndarray, valid: np.ndarray, codes: np.ndarray) -> dict:
    """Accuracy by clip, and by the softmax averaged over a video's clips.

    logits: float (N, clips, classes). valid: bool (N, clips), the clips that count. codes: int
    (N,), the classes.
    """
    readable = valid.any(axis=1)
    shares = torch.softmax(torch.from_numpy(logits).double(), dim=2).numpy() * valid[:, :, None]
    order = np.argsort(-shares.sum(axis=1), axis=1, kind="stable")
    right = (order == codes[:, None])[readable]
    return {
        "n_unreadable": int((~readable).sum()),
        "clip@1": float((logits.argmax(axis=2) == codes[:, None])[valid].mean()),
        "video@1": float(right[:, 0].mean()),
        "video@5": float(right[:, :5].any(axis=1).mean()) if logits.shape[2] > 5 else None,
    }
