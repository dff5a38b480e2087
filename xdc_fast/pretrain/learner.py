"""The encoders, the heads of one iteration, and the optimizer over both."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from xdc_fast.clips.batch import Batch
from xdc_fast.encoders.build import modality_of, new_head
from xdc_fast.encoders.inputs import Inputs, send
from xdc_fast.kernels.labels import cluster_sizes, gather_labels
from xdc_fast.pretrain.bank import Bank
from xdc_fast.pretrain.methods import clustering_name, heads_of
from xdc_fast.recipe import Recipe, Train


class Learner:
    """One iteration's supervised problem: predict the clusters.

    labels: {clustering: int32 (N,)}, the assignment of every sample, -1 for none. iteration:
    which one; the heads are drawn from the recipe's seed and it. heads: state dicts of those to
    begin with instead. bank: keeps the features that training computes, if given.
    """

    def __init__(
        self,
        recipe: Recipe,
        encoders: dict[str, nn.Module],
        inputs: Inputs,
        labels: dict[str, np.ndarray],
        iteration: int,
        heads: dict[str, dict] | None = None,
        bank: Bank | None = None,
    ):
        self.recipe, self.encoders, self.inputs, self.labels = recipe, encoders, inputs, labels
        self.bank = bank
        self.table = heads_of(recipe.method)
        device = next(encoders["video"].parameters()).device
        self.heads = {}
        for number, head in enumerate(self.table):
            seed = (recipe.seed * 1000 + iteration) * len(self.table) + number
            width = encoders[head.encoder].features
            self.heads[head.name] = new_head(width, recipe.k, seed).to(device)
            if heads is not None:
                self.heads[head.name].load_state_dict(heads[head.name])
        balance = {"always": True, "never": False, "auto": recipe.method == "sdc"}
        self.weights = {
            name: torch.from_numpy(even_weights(assignment, recipe.k)).to(device)
            if balance[recipe.train.balance]
            else None
            for name, assignment in labels.items()
        }
        self.models = nn.ModuleDict({**encoders, **self.heads}).train()
        self.optimizer = torch.optim.SGD(
            self.models.parameters(),
            lr=recipe.train.lr,
            momentum=recipe.train.momentum,
            weight_decay=recipe.train.weight_decay,
            fused=device.type == "cuda",
        )
        self.call = {
            m: torch.compile(encoder) if recipe.train.compile else encoder
            for m, encoder in encoders.items()
        }

    def step(self, batch: Batch, epoch: int, rate: float) -> dict[str, torch.Tensor]:
        """One update at learning rate `rate`; loss and accuracy of each head, 0-d tensors.

        Both are means over the clips that have a label.
        """
        device = batch.device
        half = self.recipe.train.precision == "bfloat16"
        modalities = dict.fromkeys(map(modality_of, self.call))
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            inputs = {m: self.inputs.of(m, batch, epoch) for m in modalities}
            features = {
                name: encoder(inputs[modality_of(name)]).float()
                for name, encoder in self.call.items()
            }
        if self.bank is not None:
            self.bank.add(batch.index, features)
        figures, losses = {}, []
        for head in self.table:
            clustering = clustering_name(head.clustering)
            labels, weight = self.labels[clustering], self.weights[clustering]
            target = send(gather_labels(labels, batch.index.numpy()), device)
            logits = self.heads[head.name](features[head.encoder])
            total = cross_entropy(logits, target, weight, ignore_index=-1, reduction="sum")
            labeled = (target >= 0).sum().clamp(min=1)
            losses.append(total / labeled)
            figures[f"{head.name}_loss"] = losses[-1].detach()
            right = (logits.detach().argmax(1) == target).sum()
            figures[f"{head.name}_accuracy"] = right / labeled
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        sum(losses).backward()
        self.optimizer.step()
        return figures

    @torch.no_grad()
    def sound(self, batch: Batch) -> bool:
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

    def state_dict(self) -> dict:
        return {
            "heads": {name: head.state_dict() for name, head in self.heads.items()},
            "optimizer": self.optimizer.state_dict(),
        }

    def load_state_dict(self, state: dict) -> None:
        for name, head in self.heads.items():
            head.load_state_dict(state["heads"][name])
        self.optimizer.load_state_dict(state["optimizer"])


def even_weights(assignment: np.ndarray, k: int) -> np.ndarray:
    """The weight of each cluster's samples, float32 (k,), so that all clusters count alike.

    Their mean over the samples is 1. In expectation it is DeepCluster's sampling uniform over
    clusters, without another order of reading.
    """
    sizes = cluster_sizes(assignment, k)
    filled = np.count_nonzero(sizes)
    return (sizes.sum() / (max(filled, 1) * np.maximum(sizes, 1))).astype(np.float32)


def steps_of(settings: Train, epoch: int) -> int:
    """The steps of one iteration over a set of `epoch` steps."""
    return settings.steps or settings.epochs * epoch


def learning_rate(settings: Train, step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero, over the steps of one iteration."""
    warmup = min(settings.warmup, steps - 1)
    if step < warmup:
        return settings.lr * (step + 1) / warmup
    return settings.lr * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup)))
