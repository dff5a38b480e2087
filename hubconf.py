"""Entry points for torch.hub: torch.hub.load(REPOSITORY, "xdc_video_encoder", weights=FILE)."""

from pathlib import Path

from torch import nn

import xdc_fast

dependencies = ["torch", "numpy", "yaml", "tqdm", "av", "simplejpeg", "safetensors", "numba"]
dependencies += ["scipy"]

# in a checkout that is not installed, `kernels` lies beside the package and not within
xdc_fast.__path__.append(str(Path(__file__).parent))


def xdc_video_encoder(weights: str | None = None, settings: tuple[str, ...] = ()) -> nn.Module:
    """The video encoder of a run, an export or an XDC .pth file; without weights a random one.

    A torch.nn.Module on the CPU in eval mode: float32 (B, 3, T, H, W), normalised, to (B,
    features). settings: KEY=VALUE changes of its recipe.
    """
    return _encoder("video", weights, settings)


def xdc_audio_encoder(weights: str | None = None, settings: tuple[str, ...] = ()) -> nn.Module:
    """The audio encoder of a run or an export; without weights a random one.

    A torch.nn.Module on the CPU in eval mode: float32 (B, 1, mels, frames), the log-mel, to (B,
    features). settings: KEY=VALUE changes of its recipe.
    """
    return _encoder("audio", weights, settings)


def _encoder(modality: str, weights: str | None, settings: tuple[str, ...]) -> nn.Module:
    from xdc_fast.recipe import Recipe

    settings = ("device=cpu", *settings)
    if weights:
        model = xdc_fast.load(weights, settings)
    else:
        model = xdc_fast.load("random", settings, recipe=Recipe())
    if modality not in model.encoders:
        raise xdc_fast.UserError(
            f"{weights}: holds no {modality} encoder; give a run or an export that has one"
        )
    return model.encoders[modality]
