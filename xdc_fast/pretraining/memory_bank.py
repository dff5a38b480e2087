"""Features gathered while training, so that the next clustering needs no pass of its own."""

from __future__ import annotations

import numpy as np
import torch

PENDING = 32  # steps whose features wait on the device: fetching each one would stall it


class MemoryBank:
    """The newest features of every sample: a memory bank, as in DeepCluster-v2.

    features: {modality: float32 (N, D)}; seen: bool (N,), which rows hold any.
    """

    def __init__(self, samples: int, widths: dict[str, int], state: dict | None = None):
        self._features = {m: np.zeros((samples, width), np.float32) for m, width in widths.items()}
        self._seen = np.zeros(samples, dtype=bool)
        if state is not None:
            self._seen = state["seen"].numpy()
            self._features = {name: state[name].numpy() for name in widths}
        self._pending: list[tuple[np.ndarray, dict[str, torch.Tensor]]] = []

    def add(self, index: torch.Tensor, features: dict[str, torch.Tensor]) -> None:
        """Keeps what a step computed of its samples: index int64 (B,), features (B, D) each."""
        self._pending.append((index.numpy(), {m: x.detach() for m, x in features.items()}))
        if len(self._pending) == PENDING:
            self._fetch()

    def features(self) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Features and seen, as in Features."""
        self._fetch()
        return self._features, self._seen

    def state_dict(self) -> dict[str, torch.Tensor]:
        features, seen = self.features()
        return {m: torch.from_numpy(x) for m, x in features.items()} | {
            "seen": torch.from_numpy(seen)
        }

    def _fetch(self) -> None:
        for index, features in self._pending:
            for modality, rows in features.items():
                self._features[modality][index] = rows.float().cpu().numpy()
            self._seen[index] = True
        self._pending.clear()
