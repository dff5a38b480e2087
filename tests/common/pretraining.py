"""Small runs over the toy shards."""

import pytest
import torch

from xdc_fast.encoders.build import build_encoders
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.pretraining.learner import Learner
from xdc_fast.recipe import load_recipe

SETTINGS = (
    "k=6",
    "video.encoder=r2plus1d_tiny",
    "video.crop=32",
    "video.flip=false",
    "video.jitter=0.15",
    "audio.encoder=audio_tiny",
    "audio.jitter=0.15",
    "cluster.normalize=centered-l2",
    "train.iterations=2",
    "train.epochs=2",
    "train.batch=12",
    "train.lr=0.05",
    "train.warmup=3",
)  # 48 videos: 4 steps an epoch, 8 an iteration


def recipe(shards, out, *more):
    return load_recipe(None, (*SETTINGS, f"data={shards.root}", f"out={out}", *more))


def weights(run):
    return {
        f"{modality}.{name}": tensor
        for modality, state in run.encoder_weights().items()
        for name, tensor in state.items()
    }


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def make_learner(chosen, labels, device="cpu"):
    return Learner(
        build_encoders(chosen, device), ClipTransform(chosen), labels, chosen.method, chosen.k,
        chosen.train, seed=0,
    )  # fmt: skip


class Stop(Exception):
    """Stands for a process killed without warning."""


def dies_at_step(patch: pytest.MonkeyPatch, at: int) -> None:
    """Makes a run raise Stop in its training step number `at`, counted from 1."""
    steps, step = iter(range(1, 1000)), Learner.step

    def dying(self, *arguments):
        if next(steps) == at:
            raise Stop
        return step(self, *arguments)

    patch.setattr(Learner, "step", dying)
