"""The learner, its methods, and the memory bank."""

from functools import partial

import numpy as np
import pytest
import torch

from tests.common.pretraining import SETTINGS, make_learner, recipe
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import fixed_windows
from xdc_fast.encoders.build import build_encoders, modality_of
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.pretraining.learner import balanced_weights
from xdc_fast.pretraining.methods import METHODS, encoders_of
from xdc_fast.recipe import load_recipe


def test_training_fits_the_labels(toy_shards):
    chosen = recipe(toy_shards, "")
    inputs = ClipTransform(chosen)
    loader = HostLoader(toy_shards, inputs.shape)
    sampler = EpochSampler(toy_shards.shard_sizes, 12, shuffle=False)
    batch = next(loader.batches(sampler, partial(fixed_windows, shape=inputs.shape)))
    labels = np.arange(48, dtype=np.int32) % 6
    learner = make_learner(chosen, {"video": labels, "audio": labels})
    losses = [learner.step([batch], 0, 0.05) for _ in range(40)]
    for name in ("video_from_audio_loss", "audio_from_video_loss"):
        assert losses[0][name].item() == pytest.approx(np.log(6), abs=0.1)
        assert losses[-1][name] < 0.5 * losses[0][name]


def test_metrics_are_of_the_clips_that_have_a_label(toy_shards):
    chosen = recipe(toy_shards, "")
    labels = np.where(np.arange(48) % 3 == 0, 2, -1).astype(np.int32)
    inputs = ClipTransform(chosen)
    learner = make_learner(chosen, {"video": labels, "audio": labels})
    for head in learner.heads.values():
        head.bias.data[2] = 1000  # whatever the clip: class 2
    sampler = EpochSampler(toy_shards.shard_sizes, 12, shuffle=False)
    loader = HostLoader(toy_shards, inputs.shape)
    batch = next(loader.batches(sampler, partial(fixed_windows, shape=inputs.shape)))
    metrics = learner.step([batch], 0, 0.0)
    assert {float(value) for key, value in metrics.items() if "accuracy" in key} == {1.0}


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype")
def test_a_step_on_a_gpu_waits_for_nothing(toy_shards):
    chosen = recipe(toy_shards, "", "device=cuda", "train.precision=bfloat16", "method=mdc")
    rng = np.random.default_rng(0)
    labels = {m: rng.integers(6, size=48).astype(np.int32) for m in ("video", "audio")}
    learner, inputs = make_learner(chosen, labels, device="cuda"), ClipTransform(chosen)
    sampler = EpochSampler(toy_shards.shard_sizes, 12, shuffle=False)
    loader = HostLoader(toy_shards, inputs.shape, device="cuda")
    batch = next(loader.batches(sampler, partial(fixed_windows, shape=inputs.shape)))
    learner.step([batch], 0, 0.1)
    torch.cuda.set_sync_debug_mode("error")
    try:
        learner.step([batch], 0, 0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_in_the_control_no_encoder_learns_from_itself_or_the_other_modality():
    for head in METHODS["same"]:
        (teacher,) = head.clustering
        assert teacher != head.encoder and modality_of(teacher) == modality_of(head.encoder)
    encoders = build_encoders(load_recipe(None, SETTINGS), names=encoders_of("same"))
    for modality in ("video", "audio"):
        one, other = (next(encoders[m].parameters()) for m in (modality, modality + "_twin"))
        assert one.shape == other.shape and not torch.equal(one, other)


def test_a_cross_modal_head_learns_the_other_modalitys_clusters():
    assert {(h.encoder, h.clustering) for h in METHODS["xdc"]} == {
        ("video", ("audio",)),
        ("audio", ("video",)),
    }


def test_balanced_losses_are_those_of_sampling_uniformly_over_clusters():
    assignment = np.repeat([0, 1, 2, 2, 4], [50, 5, 20, 20, 1]).astype(np.int32)
    losses = np.random.default_rng(0).random(len(assignment))
    weight = balanced_weights(assignment, 5)[assignment]
    uniform = np.mean([losses[assignment == c].mean() for c in np.unique(assignment)])
    assert (weight * losses).mean() == pytest.approx(uniform)
    assert weight.mean() == pytest.approx(1)


def test_only_sdc_balances_by_itself(toy_shards):
    labels = np.arange(48, dtype=np.int32) // 9
    for method, asked, balanced in (
        ("xdc", "auto", False), ("sdc", "auto", True), ("xdc", "always", True),
        ("sdc", "never", False),
    ):  # fmt: skip
        chosen = recipe(toy_shards, "", f"method={method}", f"train.balance={asked}")
        learner = make_learner(chosen, {"video": labels, "audio": labels})
        assert all((w is not None) == balanced for w in learner.weights.values())
