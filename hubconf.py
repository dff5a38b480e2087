"""Entry points for torch.hub: torch.hub.load(REPOSITORY, "xdc_video_encoder", weights=FILE)."""

from pathlib import Path

import xdc_fast

dependencies = [
    *(
        "torch",
        "numpy",
        "yaml",
        "tqdm",
        "av",
        "simplejpeg",
        "safetensors",
        "numba",
        "scipy",
        "faiss",
    )
]

# in a checkout that is not installed, `kernels` lies beside the package and not within
xdc_fast.__path__.append(str(Path(__file__).parent))


def xdc_video_encoder(weights=None, settings=()):
    """The video encoder of a run, an export or an XDC .pth file; randomly initialised without.

    A torch.nn.Module on the CPU in eval mode: float32 (B, 3, T, H, W), normalised, to (B,
    features). settings: KEY=VALUE overrides of its recipe.
    """
    return _encoder("video", weights, settings)


def xdc_audio_encoder(weights=None, settings=()):
    """The audio encoder, likewise: float32 (B, 1, mels, frames) log-mel to (B, features)."""
    return _encoder("audio", weights, settings)


def _encoder(modality, weights, settings):
    from xdc_fast.errors import UserError
    from xdc_fast.models.load import load
    from xdc_fast.recipe import Recipe

    settings = ("device=cpu", *settings)
    model = load(weights, settings) if weights else load("random", settings, recipe=Recipe())
    if modality not in model.encoders:
        raise UserError(f"{weights}: holds no {modality} encoder; give a run or an export")
    return model.encoders[modality]
