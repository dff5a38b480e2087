"""Weights in: the video encoders that XDC's authors released, and how any weights are checked.

The five files, of https://github.com/HumamAlwassel/XDC (release `model_weights`):
    r2plus1d_18_xdc_ig65m_kinetics-f24f6ffb.pth
    r2plus1d_18_xdc_ig65m_random-189d23f4.pth
    r2plus1d_18_xdc_audioset-f29ffe8f.pth
    r2plus1d_18_fs_kinetics-622bdad9.pth
    r2plus1d_18_fs_imagenet-ff446670.pth
Each holds an R(2+1)D-18 without its last layer, by the names that our `r2plus1d_18` uses too.
"""

from __future__ import annotations

import re
from pathlib import Path

from torch import nn

from xdc_fast.encoders.weights import Keys, load_weights, read_checkpoint
from xdc_fast.errors import UserError
from xdc_fast.shards.tar import checksum

ENCODER = "r2plus1d_18"
NAME = re.compile(r"(?P<name>.+)-(?P<hash>[0-9a-f]{8})\.pth")


def load_official(file: Path, encoder: nn.Module) -> Keys:
    """Load a released checkpoint into an `r2plus1d_18`; returns how its keys matched.

    Its normalisation is known: RGB on [0, 1] less the mean and divided by the deviation that are
    the defaults of a recipe's `video.mean` and `video.std`. The size of its clips is not: 8
    pictures of 224 x 224 at 30 per second are likely, our defaults are 8 of 112 x 112 at 7.5. The
    encoder reads any; try `video.crop=224 video.fps=30` beside them.

    Raises UserError for a file whose name does not end in the first 8 hexadecimal digits of its
    SHA-256, which cannot be read, or whose weights do not fit.
    """
    again = "download it again"
    match = NAME.fullmatch(file.name)
    if match is None:
        raise UserError(
            f"{file}: its name does not end in an 8-digit checksum; give it the name of its "
            "release, such as r2plus1d_18_xdc_ig65m_kinetics-f24f6ffb.pth"
        )
    try:
        total = checksum(file)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; {again}") from None
    if not total.startswith(match["hash"]):
        raise UserError(
            f"{file}: a damaged download, its SHA-256 begins with {total[:8]} and not with "
            f"{match['hash']}; {again}"
        )
    hint = "take one of the files that XDC's authors released"
    return load_weights(encoder, read_checkpoint(file, again), file, ENCODER, hint, spare=("fc.",))
