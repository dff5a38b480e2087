"""The encoders, the heads of one iteration, and the optimizer over both."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from xdc_fast.clips.batch import Batch
from xdc_fast.encoders.build import modality_of, new_head
from xdc_fast.encoders.encoder import Encoder
from xdc_fast.encoders.features import forward
from xdc_fast.encoders.transform import ClipTransform, send
from xdc_fast.kernels.labels import cluster_sizes, gather_labels
from xdc_fast.pretraining.memory_bank import MemoryBank
from xdc_fast.pretraining.methods import clustering_name, heads_of
from xdc_fast.recipe import Train


class Learner:
    """The supervised problem of one iteration: each head predicts the clusters of its clustering.

    labels: {clustering: int32 (N,)}, the assignment of every sample, of k clusters, -1 for none.
    seed: of the heads' weights. heads: {head: state dict} to begin with instead. memory_bank: it
    gathers the features that training computes.
    """

    def __init__(
        self,
        encoders: Mapping[str, Encoder],
        inputs: ClipTransform,
        labels: Mapping[str, np.ndarray],
        method: str,
        k: int,
        settings: Train,
        seed: int,
        heads: Mapping[str, dict] | None = None,
        memory_bank: MemoryBank | None = None,
    ):
        self.encoders, self.inputs, self.labels = encoders, inputs, labels
        self.settings, self.memory_bank = settings, memory_bank
        self.table = heads_of(method)
        device = next(encoders["video"].parameters()).device
        self.heads: dict[str, nn.Linear] = {}
        for number, head in enumerate(self.table):
            width = encoders[head.encoder].features
            new = new_head(width, k, seed * len(self.table) + number)
            if heads is not None:
                new.load_state_dict(heads[head.name])
            self.heads[head.name] = new.to(device)
        balanced = {"always": True, "never": False, "auto": method == "sdc"}[settings.balance]
        self.weights: dict[str, torch.Tensor | None] = {
            name: torch.from_numpy(balanced_weights(assignment, k)).to(device) if balanced else None
            for name, assignment in labels.items()
        }
        self.models = nn.ModuleDict({**encoders, **self.heads}).train()
        self.optimizer = torch.optim.SGD(
            self.models.parameters(),
            lr=settings.lr,
            momentum=settings.momentum,
            weight_decay=settings.weight_decay,
            fused=device.type == "cuda",
        )
        self.call = {
            name: torch.compile(encoder) if settings.compile else encoder
            for name, encoder in encoders.items()
        }

    def step(self, batch: Batch, epoch: int, rate: float) -> dict[str, torch.Tensor]:
        """One update at learning rate `rate`.

        Returns HEAD_loss and HEAD_accuracy of each head, 0-d tensors on the batch's device, means
        over the clips that have a label.
        """
        device = batch.device
        features = forward(self.call, self.inputs, batch, epoch)
        if self.memory_bank is not None:
            self.memory_bank.add(batch.index, features)
        metrics, losses = {}, []
        for head in self.table:
            clustering = clustering_name(head.clustering)
            labels, weight = self.labels[clustering], self.weights[clustering]
            target = send(gather_labels(labels, batch.index.numpy()), device)
            logits = self.heads[head.name](features[head.encoder])
            total = cross_entropy(logits, target, weight, ignore_index=-1, reduction="sum")
            labeled = (target >= 0).sum().clamp(min=1)
            losses.append(total / labeled)
            metrics[f"{head.name}_loss"] = losses[-1].detach()
            right = (logits.detach().argmax(1) == target).sum()
            metrics[f"{head.name}_accuracy"] = right / labeled
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses[1:], losses[0]).backward()
        self.optimizer.step()
        return metrics

    @torch.no_grad()
    def outputs_are_finite(self, batch: Batch) -> bool:
        """Whether the weights as they are now, in eval mode, give finite outputs for a batch."""
        self.models.eval()
        logits = [
            self.heads[head.name](
                self.encoders[head.encoder](self.inputs.of(modality_of(head.encoder), batch))
            )
            for head in self.table
        ]
        self.models.train()
        return all(bool(torch.isfinite(part).all()) for part in logits)

    def head_weights(self) -> dict[str, dict[str, torch.Tensor]]:
        """{head: state dict}."""
        return {name: head.state_dict() for name, head in self.heads.items()}

    def state_dict(self) -> dict:
        """heads and optimizer, as they are now."""
        return {"heads": self.head_weights(), "optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Goes on from what state_dict returned."""
        for name, head in self.heads.items():
            head.load_state_dict(state["heads"][name])
        own = self.optimizer.state_dict()
        self.optimizer.load_state_dict(own | {"state": state["optimizer"]["state"]})


def balanced_weights(assignment: np.ndarray, k: int) -> np.ndarray:
    """The weight of each cluster's samples, float32 (k,), so that all clusters count alike.

    The mean of the weights over the samples is 1. The expected loss is that of DeepCluster's
    sampling, uniform over clusters, and the order of reading stays as it is.
    """
    sizes = cluster_sizes(assignment, k)
    filled = np.count_nonzero(sizes)
    return (sizes.sum() / (max(filled, 1) * np.maximum(sizes, 1))).astype(np.float32)
