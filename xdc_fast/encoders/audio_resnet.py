"""ResNet over log-mel spectrograms.

XDC's audio encoder was never released. `audio_resnet18` follows the 18-layer audio network of the
same group's public VMZ code (`a_resnet`), which is likely, not known, to be the paper's.
"""

from __future__ import annotations

import torch
from torch import nn

from xdc_fast.encoders.encoder import Encoder


class Block(nn.Module):
    """Two 3 x 3 convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3),
            nn.ReLU(inplace=True),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-3),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm2d(outputs, eps=1e-3),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class AudioResNet(Encoder):
    """An audio encoder: float (B, 1, mels, frames) -> pooled features (B, `features`).

    stem: channels and stride of the first convolution. stages: (channels, blocks, stride) each.
    pool: nn.AdaptiveMaxPool2d or nn.AdaptiveAvgPool2d, over what is left of mels and frames.
    """

    def __init__(
        self, stem: tuple[int, int], stages: tuple[tuple[int, int, int], ...], pool: type[nn.Module]
    ):
        super().__init__()
        width, stride = stem
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width, eps=1e-3),
            nn.ReLU(inplace=True),
        )
        layers = []
        for outputs, blocks, stride in stages:
            layers.append(Block(width, outputs, stride))
            layers += [Block(outputs, outputs, 1) for _ in range(blocks - 1)]
            width = outputs
        self.layers = nn.Sequential(*layers)
        self.pool = pool(1)
        self.features = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.pool(self.layers(self.stem(x))).flatten(1)


def audio_resnet18() -> AudioResNet:
    """512 features of a 40 x 100 spectrogram; max-pooled at the end, as in VMZ."""
    stages = ((32, 3, 2), (64, 2, 2), (128, 2, 2), (256, 2, 2), (512, 2, 2))
    return AudioResNet((16, 1), stages, nn.AdaptiveMaxPool2d)


def audio_tiny() -> AudioResNet:
    """For CPUs and toy data: 48 features."""
    return AudioResNet((12, 2), ((24, 1, 2), (48, 1, 2)), nn.AdaptiveAvgPool2d)


def audio_small() -> AudioResNet:
    """For CPUs and real sound: 128 features."""
    return AudioResNet((16, 2), ((32, 1, 2), (64, 1, 2), (128, 1, 2)), nn.AdaptiveAvgPool2d)
