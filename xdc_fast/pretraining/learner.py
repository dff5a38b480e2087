"""The encoders, the heads of one iteration, and the optimizer over both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from typing import cast

import numpy as np
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import bf16_compress_hook
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from xdc_fast.clips.batch import Batch
from xdc_fast.encoders.build import modality_of, new_head
from xdc_fast.encoders.encoder import Encoder
from xdc_fast.encoders.features import forward
from xdc_fast.encoders.transform import ClipTransform, send
from xdc_fast.kernels.labels import cluster_sizes, gather_labels
from xdc_fast.pretraining.memory_bank import MemoryBank
from xdc_fast.pretraining.methods import Head, clustering_name, heads_of
from xdc_fast.ranks import ALONE, Ranks, naming_loss
from xdc_fast.recipe import Train

NORMS = (nn.BatchNorm2d, nn.BatchNorm3d)
MOMENTUM = 0.1  # of BatchNorm's running statistics, PyTorch's default


class Learner:
    """The supervised problem of one iteration: each head predicts the clusters of its clustering.

    labels: {clustering: int32 (N,)}, the assignment of every sample, of k clusters, -1 for none.
    seed: of the heads' weights. heads: {head: state dict} to begin with instead. memory_bank: it
    gathers the features that training computes. ranks: among which the groups of a step are shared.
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
        ranks: Ranks = ALONE,
    ):
        self.ranks = ranks
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
        call = {
            name: torch.compile(encoder) if settings.compile else encoder
            for name, encoder in encoders.items()
        }
        self.predict = Predictor(self.models, call, self.heads, self.table, inputs)
        self.shared: DistributedDataParallel | None = None
        if ranks.world > 1:
            with naming_loss(ranks):  # the weights of the first rank go to the others
                self.shared = DistributedDataParallel(self.predict, broadcast_buffers=False)
            if settings.all_reduce == "bfloat16":
                self.shared.register_comm_hook(None, bf16_compress_hook)
        self.norms = [m for m in self.models.modules() if isinstance(m, NORMS)]

    def step(self, groups: Sequence[Batch], epoch: int, rate: float) -> dict[str, torch.Tensor]:
        """One update at learning rate `rate` from this rank's groups of clips.

        The gradients of the groups of all ranks are added up. BatchNorm normalises each group by
        itself; its running statistics take the mean over the groups.
        Returns HEAD_loss and HEAD_accuracy of each head, 0-d tensors on the batch's device, means
        over the clips of all ranks that have a label.
        """
        device, count = groups[0].device, len(groups)
        targets = [
            {
                name: gather_labels(labels, batch.index.numpy())
                for name, labels in self.labels.items()
            }
            for batch in groups
        ]
        known = [[(target >= 0).sum() for target in group.values()] for group in targets]
        counts = self.ranks.sum(torch.tensor(known).sum(dim=0)).clamp(min=1)
        labeled = dict(zip(self.labels, counts, strict=True))
        self.optimizer.zero_grad(set_to_none=True)
        metrics = torch.zeros(2 * len(self.table), device=device)
        computed = []
        for number, (batch, target) in enumerate(zip(groups, targets, strict=True)):
            later = count - 1 - number
            for norm in self.norms:  # so that all groups of the step weigh alike in the end
                norm.momentum = MOMENTUM / (count - later * MOMENTUM)
            alone = self.shared.no_sync() if self.shared and later else nullcontext()
            with alone, naming_loss(self.ranks):  # both directions speak to the other ranks
                features, logits = (self.shared or self.predict)(batch, epoch)
                computed.append((batch.index, {n: x.detach() for n, x in features.items()}))
                losses, found = [], []
                for head in self.table:
                    clustering, said = clustering_name(head.clustering), logits[head.name]
                    wanted, weight = send(target[clustering], device), self.weights[clustering]
                    total = cross_entropy(said, wanted, weight, ignore_index=-1, reduction="sum")
                    losses.append(total / labeled[clustering])
                    right = (said.detach().argmax(1) == wanted).sum()
                    found += [losses[-1].detach(), right / labeled[clustering]]
                metrics += torch.stack(found)
                # which takes the mean of the ranks' gradients
                (sum(losses[1:], losses[0]) * self.ranks.world).backward()
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.memory_bank is not None:
            self.memory_bank.add(computed)
        names = [f"{head.name}_{metric}" for head in self.table for metric in ("loss", "accuracy")]
        return dict(zip(names, self.ranks.sum(metrics), strict=True))

    def average_statistics(self) -> None:
        """Makes BatchNorm's running statistics the mean over the ranks."""
        own = [
            cast(torch.Tensor, part) for m in self.norms for part in (m.running_mean, m.running_var)
        ]
        mean = self.ranks.sum(torch.cat(own)) / self.ranks.world  # one message: each has a latency
        for statistic, part in zip(own, mean.split([*map(len, own)]), strict=True):
            statistic.copy_(part)

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


class Predictor(nn.Module):
    """Features and logits of a batch, as one module that can be shared among ranks.

    models: what holds the parameters. The other arguments as of Learner.
    """

    def __init__(
        self,
        models: nn.Module,
        call: Mapping[str, Callable[[torch.Tensor], torch.Tensor]],
        heads: Mapping[str, nn.Linear],
        table: Sequence[Head],
        inputs: ClipTransform,
    ):
        super().__init__()
        self.models, self.inputs, self.table = models, inputs, table
        self.call, self.heads = dict(call), dict(heads)

    def forward(
        self, batch: Batch, epoch: int
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        features = forward(self.call, self.inputs, batch, epoch)
        logits = {h.name: self.heads[h.name](features[h.encoder]) for h in self.table}
        return features, logits


def balanced_weights(assignment: np.ndarray, k: int) -> np.ndarray:
    """The weight of each cluster's samples, float32 (k,), so that all clusters count alike.

    The mean of the weights over the samples is 1. The expected loss is that of DeepCluster's
    sampling, uniform over clusters, and the order of reading stays as it is.
    """
    sizes = cluster_sizes(assignment, k)
    filled = np.count_nonzero(sizes)
    return (sizes.sum() / (max(filled, 1) * np.maximum(sizes, 1))).astype(np.float32)
