"""What every encoder is."""

from __future__ import annotations

from torch import nn


class Encoder(nn.Module):
    """A network from the input of one modality, as ClipTransform makes it, to (B, `features`)."""

    features: int
