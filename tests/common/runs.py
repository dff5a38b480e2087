"""Run folders without a run."""

import torch
from torch import nn

from xdc_fast.encoders.build import build_encoders, new_head
from xdc_fast.pretraining.run import Run
from xdc_fast.recipe import load_recipe

TINY = ("video.encoder=r2plus1d_tiny", "video.crop=32", "audio.encoder=audio_tiny", "k=4",
        "device=cpu")  # fmt: skip


def make_trained_run(out, *settings) -> Run:
    """A run folder as a finished run leaves it, its weights drawn at random."""
    recipe = load_recipe(None, (*TINY, f"out={out}", *settings))
    run, encoders = Run.start(recipe, "a set"), build_encoders(recipe)
    with run.hold():
        pass  # writes the recipe
    draw = torch.Generator().manual_seed(1)
    for encoder in encoders.values():
        for module in encoder.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm3d)):
                module.running_var.uniform_(0.5, 2, generator=draw)
                module.running_mean.uniform_(-1, 1, generator=draw)
    run.save_encoders(encoders)
    heads = {"video_from_audio": new_head(48, 4, 1), "audio_from_video": new_head(48, 4, 2)}
    run.save_heads({name: head.state_dict() for name, head in heads.items()})
    return run
