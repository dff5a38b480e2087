"""Features gathered while training, so that the next clustering needs no pass of its own."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch

from xdc_fast.encoders.feature_rows import Features

PENDING = 32  # steps whose features wait on the device: fetching each one would stall it


class MemoryBank:
    """The newest features of every sample: a memory bank, as in DeepCluster-v2.

    samples: how many the set has. widths: {encoder: features per sample}. state: what state_dict
    returned.
    """

    def __init__(
        self, samples: int, widths: Mapping[str, int], state: dict[str, torch.Tensor] | None = None
    ):
        self._features = Features.zeros(samples, widths)
        if state is not None:
            arrays = {name: state[name].numpy() for name in widths}
            self._features = Features(arrays, state["valid"].numpy())
        self._pending: list[tuple[np.ndarray, dict[str, torch.Tensor]]] = []

    def add(self, index: torch.Tensor, features: Mapping[str, torch.Tensor]) -> None:
        """Keeps what a step computed of its samples.

        index: int64 (B,), on the host. features: {encoder: (B, D)}.
        """
        self._pending.append((index.numpy(), {m: x.detach() for m, x in features.items()}))
        if len(self._pending) == PENDING:
            self._fetch()

    def features(self) -> Features:
        """The newest features of every sample; a sample that no step has met is not valid."""
        self._fetch()
        return self._features

    def state_dict(self) -> dict[str, torch.Tensor]:
        """{encoder: float32 (N, D)} and valid, bool (N,)."""
        features = self.features()
        state = {name: torch.from_numpy(array) for name, array in features.arrays.items()}
        return state | {"valid": torch.from_numpy(features.valid)}

    def _fetch(self) -> None:
        for index, features in self._pending:
            for name, rows in features.items():
                self._features.arrays[name][index] = rows.float().cpu().numpy()
            self._features.valid[index] = True
        self._pending.clear()
