"""R(2+1)D: 3D convolutions factored into space, then time (Tran et al., CVPR 2018)."""

from __future__ import annotations

import torch
from torch import nn

from xdc_fast.encoders.encoder import Encoder


class Conv2Plus1D(nn.Sequential):
    """A 1 x 3 x 3 convolution, BatchNorm, ReLU, and a 3 x 1 x 1 one.

    The channels between the two keep the parameter count of one 3 x 3 x 3 convolution. As in the
    released XDC weights they follow from this convolution's own channels; torchvision takes them
    from the block's, so its weights differ in shape.
    """

    def __init__(self, inputs: int, outputs: int, stride: int = 1):
        between = (inputs * outputs * 27) // (inputs * 9 + 3 * outputs)
        super().__init__(
            nn.Conv3d(inputs, between, (1, 3, 3), (1, stride, stride), (0, 1, 1), bias=False),
            nn.BatchNorm3d(between, eps=1e-3),
            nn.ReLU(inplace=True),
            nn.Conv3d(between, outputs, (3, 1, 1), (stride, 1, 1), (1, 0, 0), bias=False),
        )


class Block(nn.Module):
    """Two (2+1)D convolutions and a shortcut."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Sequential(
            Conv2Plus1D(inputs, outputs, stride),
            nn.BatchNorm3d(outputs, eps=1e-3),
            nn.ReLU(inplace=True),
        )
        self.conv2 = nn.Sequential(Conv2Plus1D(outputs, outputs), nn.BatchNorm3d(outputs, eps=1e-3))
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != outputs:
            self.downsample = nn.Sequential(
                nn.Conv3d(inputs, outputs, 1, stride, bias=False),
                nn.BatchNorm3d(outputs, eps=1e-3),
            )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.downsample is None else self.downsample(x)
        return self.relu(self.conv2(self.conv1(x)) + shortcut)


class R2Plus1D(Encoder):
    """A video encoder: float (B, 3, T, H, W) -> pooled features (B, `features`).

    stem: channels after the stem's spatial and temporal convolution. kernel: its spatial side.
    stages: (channels, blocks, stride) each. Parameter names are those of the released XDC weights.
    """

    def __init__(
        self, stem: tuple[int, int], kernel: int, stages: tuple[tuple[int, int, int], ...]
    ):
        super().__init__()
        between, width = stem
        self.stem = nn.Sequential(
            nn.Conv3d(3, between, (1, kernel, kernel), (1, 2, 2), (0, kernel // 2, kernel // 2),
                      bias=False),
            nn.BatchNorm3d(between, eps=1e-3),
            nn.ReLU(inplace=True),
            nn.Conv3d(between, width, (3, 1, 1), 1, (1, 0, 0), bias=False),
            nn.BatchNorm3d(width, eps=1e-3),
            nn.ReLU(inplace=True),
        )  # fmt: skip
        self.depth = len(stages)
        for number, (outputs, blocks, stride) in enumerate(stages, 1):
            layer = [Block(width, outputs, stride)]
            layer += [Block(outputs, outputs, 1) for _ in range(blocks - 1)]
            setattr(self, f"layer{number}", nn.Sequential(*layer))
            width = outputs
        self.features = width

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.stem(x)
        for number in range(1, self.depth + 1):
            x = getattr(self, f"layer{number}")(x)
        return x.mean(dim=(2, 3, 4))


def r2plus1d_18() -> R2Plus1D:
    """The paper's video encoder: 512 features, 33,165,639 parameters."""
    return R2Plus1D((45, 64), 7, ((64, 2, 1), (128, 2, 2), (256, 2, 2), (512, 2, 2)))


def r2plus1d_tiny() -> R2Plus1D:
    """For CPUs and pictures of about 32 pixels: 48 features."""
    return R2Plus1D((12, 12), 5, ((24, 1, 2), (48, 1, 2)))


def r2plus1d_small() -> R2Plus1D:
    """For CPUs and pictures of about 64 to 112 pixels: 128 features."""
    return R2Plus1D((16, 16), 7, ((32, 1, 2), (64, 1, 2), (128, 1, 2)))
