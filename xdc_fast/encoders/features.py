"""The one feature pass: clips of a shard set through encoders, resumable, unreadable clips marked.

Batches hold neighbouring clips and are the same wherever a pass begins, so that a pass that was
interrupted goes on to the same features, bit for bit on a CPU.
"""

from __future__ import annotations

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from itertools import chain

import numpy as np
import torch
from torch import nn

from xdc_fast import progress
from xdc_fast.clips.batch import Batch
from xdc_fast.clips.failures import NothingRead
from xdc_fast.clips.loader import Loader
from xdc_fast.clips.sampler import EpochSampler, Sampler
from xdc_fast.clips.subset import ClipSubset, equal_clips
from xdc_fast.clips.windows import WindowFunction
from xdc_fast.encoders.build import modality_of
from xdc_fast.encoders.encoder import Encoder
from xdc_fast.encoders.feature_rows import FeatureFolder, Features
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.ranks import ALONE, Ranks
from xdc_fast.storage import Place

Stop = Callable[[], None]

SPANS = 1024  # of a pass at most: what a killed one loses, files in its folder
BEHIND = 2  # batches whose features are still on their way from a GPU


def compute_features(
    encoders: Mapping[str, Encoder],
    loader: Loader,
    inputs: ClipTransform,
    batch: int,
    *,
    samples: np.ndarray | None = None,
    clips: int = 1,
    average: bool = True,
    folder: Place | None = None,
    precision: str = "float32",
    stop: Stop | None = None,
    title: str = "features",
    ranks: Ranks = ALONE,
    unit: int = 1,
) -> Features:
    """Features of equally spaced clips of each sample, in one pass over the set.

    encoders: by name; they are put in eval mode. batch: clips per batch. samples: int64 (M,), in
    rising order; by default the whole set. clips: of each sample; a single one is its middle.
    average: over the clips of a sample that can be read. Otherwise there is a row for each clip,
    M x clips of them, those of a sample one after the other.
    folder: keeps the features of each span of samples when it is finished (see FeatureFolder), in
    `precision`, and takes from there what an earlier pass left of the same encoders, clips and
    batches.
    stop: called between batches, to raise when the pass is to end early.
    ranks: each computes as many spans as the others. Without a folder the first rank gets all
    rows, the others none. With one, which all have to see, each gets the rows of its part,
    ranks.share(M, unit).
    Raises UserError for an encoder of a modality that the loader does not read, and when no clip
    can be read.
    """
    shards = loader.shards
    if samples is None:
        samples = np.arange(len(shards))
    edges, widths = edges_of_spans(len(samples), clips, batch), widths_of(encoders)
    each = 1 if average else clips
    kept, missing = None, np.arange(len(edges) - 1)
    if folder is not None:
        chosen = hashlib.sha256(samples.tobytes()).hexdigest()
        half = in_half(inputs, loader.device)
        made_by = (weights_digest(encoders), shards.fingerprint, loader.shape, inputs.video,
                   inputs.audio, half, batch, chosen, clips, average)  # fmt: skip
        kept = FeatureFolder(
            folder, ranks.broadcast(repr(made_by)), edges * each, widths, precision
        )
        missing = kept.missing(ranks)
    own = missing[ranks.share(len(missing))]
    parts = []
    for number, part in iterate_features(
        encoders, loader, inputs, batch, equal_clips(shards, samples, clips),
        np.stack([edges[own], edges[own + 1]], axis=1) * clips, stop=stop, title=title,
    ):  # fmt: skip
        part = part.mean(clips) if average else part
        if kept is None:
            parts.append(part)
        else:
            kept.save(int(own[number]), part)
    if kept is None:
        found = Features.join(chain.from_iterable(ranks.collect(parts)), widths)
    else:
        ranks.barrier()
        found = kept.rows(ranks.share(len(samples) * each, unit))
    if not ranks.any(bool(found.valid.any())):
        reason = next(iter(loader.examples.values()), "none was asked for")
        raise UserError(
            f"{shards.root}: no clip can be read: {reason}; run `xdc-shard verify {shards.root}`"
        )
    return found


def edges_of_spans(samples: int, clips: int, batch: int) -> np.ndarray:
    """Where the spans begin that a pass over M samples is cut into, and where the last one ends,
    int64 (spans + 1,).

    A span holds whole batches of `batch` clips, of `clips` a sample. There are at most SPANS, and
    they are the same for any number of ranks.
    """
    least = batch // math.gcd(batch, clips)
    count = -(-samples // least)
    return np.append(np.arange(0, samples, least * max(-(-count // SPANS), 1)), samples)


def iterate_features(
    encoders: Mapping[str, Encoder],
    loader: Loader,
    inputs: ClipTransform,
    batch: int,
    clips: ClipSubset,
    parts: np.ndarray,
    *,
    stop: Stop | None = None,
    title: str = "features",
) -> Iterator[tuple[int, Features]]:
    """The features of parts of the clips, as soon as they are complete: (part number, Features).

    parts: int64 (P, 2), the first clip of each and the first one after it, in rising order.
    Empty ones are left out. The other arguments are those of compute_features.
    """
    check_modalities(encoders, loader)
    waiting = deque(np.flatnonzero(parts[:, 0] < parts[:, 1]).tolist())
    if not waiting:
        return
    widths = widths_of(encoders)
    for encoder in encoders.values():
        encoder.eval()
    sampler = EpochSampler(clips.shard_sizes, min(batch, len(clips)), shuffle=False)
    size = sampler.batch
    steps = np.unique(
        np.concatenate([np.arange(parts[n, 0] // size, -(-parts[n, 1] // size)) for n in waiting])
    )
    windows = partial(clips.windows, shape=loader.shape)
    batches = each_step(loader, sampler.take(steps), windows, clips.samples)
    unfinished: dict[int, Features] = {}
    bar = progress.bar(batches, total=len(steps), desc=title, unit="batch")
    for step, part in zip(steps.tolist(), encode_each(encoders, inputs, bar), strict=True):
        indices = sampler.indices(step)
        begin, end = step * size, min((step + 1) * size, len(clips))
        while waiting and parts[waiting[0], 0] < end:
            number = waiting.popleft()
            unfinished[number] = Features.zeros(int(parts[number, 1] - parts[number, 0]), widths)
        if part is not None:
            index, outputs = part
            # the last step wraps around; a clip that was replaced goes by the other's index
            own = (index == indices) & (indices >= begin)
            for number, found in unfinished.items():
                first, last = parts[number]
                here = own & (indices >= first) & (indices < last)
                rows = indices[here] - first
                found.valid[rows] = True
                for name, output in outputs.items():
                    found.arrays[name][rows] = output[here]
        for number in [number for number in unfinished if parts[number, 1] <= end]:
            yield number, unfinished.pop(number)
        if stop is not None:
            stop()


def encode_each(
    encoders: Mapping[str, Encoder], inputs: ClipTransform, batches: Iterable[Batch | None]
) -> Iterator[tuple[np.ndarray, dict[str, np.ndarray]] | None]:
    """The clips of each batch, int64 (B,), and what `encode` says of it; None where there is none.

    A GPU is BEHIND batches ahead of the host, so that neither waits for the other.
    """
    pending: deque[tuple[np.ndarray, HostCopy] | None] = deque()

    def oldest() -> tuple[np.ndarray, dict[str, np.ndarray]] | None:
        part = pending.popleft()
        return part and (part[0], part[1].arrays())

    for batch in batches:
        if batch is None:
            pending.append(None)
        else:
            pending.append((batch.index.numpy(), begin_encoding(encoders, inputs, batch)))
        if len(pending) > BEHIND:
            yield oldest()
    while pending:
        yield oldest()


def encode(
    encoders: Mapping[str, Encoder], inputs: ClipTransform, batch: Batch
) -> dict[str, np.ndarray]:
    """What encoders in eval mode say of a batch: {name: float32 (B, D)}, on the host."""
    return begin_encoding(encoders, inputs, batch).arrays()


@torch.no_grad()
def begin_encoding(
    encoders: Mapping[str, Encoder], inputs: ClipTransform, batch: Batch
) -> HostCopy:
    """As `encode`, without waiting for the device."""
    return HostCopy(forward(encoders, inputs, batch))


def in_half(inputs: ClipTransform, device: torch.device) -> bool:
    """Whether encoders compute in bfloat16 (autocast): where the recipe says so, on a GPU."""
    return inputs.precision == "bfloat16" and device.type == "cuda"


def forward(
    encoders: Mapping[str, Callable[[torch.Tensor], torch.Tensor]],
    inputs: ClipTransform,
    batch: Batch,
    epoch: int | None = None,
) -> dict[str, torch.Tensor]:
    """The features of a batch, {name: float32 (B, D)} on its device; epoch: as of ClipTransform."""
    half = in_half(inputs, batch.device)
    with torch.autocast(batch.device.type, torch.bfloat16, enabled=half):
        tensors = {m: inputs.of(m, batch, epoch) for m in dict.fromkeys(map(modality_of, encoders))}
        return {
            name: encoder(tensors[modality_of(name)]).float() for name, encoder in encoders.items()
        }


class HostCopy:
    """Tensors {name: float32 (B, D)} that are copied to the host while the device goes on."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        self._event: torch.cuda.Event | None = None
        self._tensors = tensors
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._tensors = {
                name: torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(
                    tensor, non_blocking=True
                )
                for name, tensor in tensors.items()
            }
            self._event = torch.cuda.Event()
            self._event.record()

    def arrays(self) -> dict[str, np.ndarray]:
        """The values, when they have arrived."""
        if self._event is not None:
            self._event.synchronize()
        return {name: tensor.numpy() for name, tensor in self._tensors.items()}


def each_step(
    loader: Loader, sampler: Sampler, windows: WindowFunction, samples: np.ndarray | None = None
) -> Iterator[Batch | None]:
    """The batch of each step; None where no clip of it can be read. Arguments as of `batches`."""
    step = 0
    while step < sampler.steps:
        try:
            for batch in loader.batches(sampler, windows, start=step, samples=samples):
                yield batch
                step += 1
        except NothingRead:
            yield None
            step += 1


def check_modalities(encoders: Mapping[str, Encoder], loader: Loader) -> None:
    """UserError for an encoder of a modality that the loader does not read."""
    for modality in map(modality_of, encoders):
        if modality not in loader.modalities:
            held = " and ".join(loader.modalities)
            raise UserError(
                f"{loader.shards.root}: holds {held} only, and the {modality} is asked for; take a "
                f"set with {modality}, or pack this one with --tracks both"
            )


def widths_of(encoders: Mapping[str, Encoder]) -> dict[str, int]:
    return {name: encoder.features for name, encoder in encoders.items()}


def weights_digest(encoders: Mapping[str, nn.Module]) -> str:
    """A name for the very weights of encoders: 16 hexadecimal digits."""
    total = hashlib.sha256()
    for modality, encoder in encoders.items():
        for name, value in encoder.state_dict().items():
            total.update(f"{modality} {name}".encode())
            total.update(value.cpu().contiguous().numpy().tobytes())
    return total.hexdigest()[:16]
