"""The one feature pass: clips of a shard set through encoders, resumable, unreadable clips marked.

Batches hold neighbouring clips and are the same wherever a pass begins, so that a pass that was
interrupted goes on to the same features, bit for bit on a CPU.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import nn

from xdc_fast import progress
from xdc_fast.clips.batch import Batch
from xdc_fast.clips.failures import NothingRead
from xdc_fast.clips.loader import Loader
from xdc_fast.clips.sampler import EpochSampler, Sampler
from xdc_fast.clips.subset import ClipSubset, count_by_shard, equal_clips
from xdc_fast.clips.windows import WindowFunction
from xdc_fast.encoders.build import modality_of
from xdc_fast.encoders.encoder import Encoder
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.errors import UserError
from xdc_fast.files import read_arrays, write_arrays
from xdc_fast.ranks import ALONE, Ranks

Stop = Callable[[], None]

BEHIND = 2  # batches whose features are still on their way from a GPU


@dataclass(frozen=True)
class Features:
    """Features of M clips, or of M samples.

    arrays: {encoder: float32 (M, D)}, zeros where nothing could be read. valid: bool (M,), where
    something could.
    """

    arrays: dict[str, np.ndarray]
    valid: np.ndarray

    @classmethod
    def zeros(cls, count: int, widths: Mapping[str, int]) -> Features:
        """Room for `count` rows, none of them valid."""
        arrays = {name: np.zeros((count, width), np.float32) for name, width in widths.items()}
        return cls(arrays, np.zeros(count, dtype=bool))

    @property
    def n_unreadable(self) -> int:
        """How many rows are not valid."""
        return len(self.valid) - int(self.valid.sum())

    def mean(self, clips: int) -> Features:
        """The mean over every `clips` neighbouring rows, of those that are valid."""
        valid: np.ndarray = self.valid.reshape(-1, clips)
        counts = np.maximum(valid.sum(axis=1), 1).astype(np.float32)[:, None]
        arrays = {
            name: array.reshape(len(valid), clips, -1).sum(axis=1) / counts
            for name, array in self.arrays.items()
        }
        return Features(arrays, np.any(valid, axis=1))

    def take(self, rows: slice | np.ndarray) -> Features:
        """Some of the rows."""
        return Features({name: a[rows] for name, a in self.arrays.items()}, self.valid[rows])

    def put(self, first: int, part: Features) -> None:
        """Writes the rows of a part from row `first` on."""
        rows = slice(first, first + len(part.valid))
        self.valid[rows] = part.valid
        for name, array in part.arrays.items():
            self.arrays[name][rows] = array


def compute_features(
    encoders: Mapping[str, Encoder],
    loader: Loader,
    inputs: ClipTransform,
    batch: int,
    *,
    samples: np.ndarray | None = None,
    clips: int = 1,
    average: bool = True,
    folder: Path | None = None,
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
    folder: keeps the features of each shard when it is finished, as SHARD.npz, and takes from there
    what an earlier pass left of the same encoders, clips and batches.
    stop: called between batches, to raise when the pass is to end early.
    ranks: each computes some of the shards; they meet in the folder, which all have to see. A rank
    gets the rows of its part alone, ranks.share(M, unit).
    Raises UserError for an encoder of a modality that the loader does not read, and when no clip
    can be read.
    """
    shards = loader.shards
    if samples is None:
        samples = np.arange(len(shards))
    subset = equal_clips(shards, samples, clips)
    each = 1 if average else clips
    sizes = count_by_shard(shards, samples) * each
    first = np.cumsum(sizes) - sizes
    found = Features.zeros(len(samples) * each if ranks.world == 1 else 0, widths_of(encoders))
    whose = (first + sizes // 2) * ranks.world // (len(samples) * each)
    kept, done = None, set(np.flatnonzero(whose != ranks.rank).tolist())
    if folder is not None:
        chosen = hashlib.sha256(samples.tobytes()).hexdigest()
        half = in_half(inputs, loader.device)
        made_by = (weights_digest(encoders), shards.fingerprint, loader.shape, inputs.video,
                   inputs.audio, half, batch, chosen, clips, average)  # fmt: skip
        kept = FeatureFolder(folder, repr(made_by))
        for number, name in enumerate(shards.shards):
            if number in done:
                continue
            part = kept.load(name, int(sizes[number]), widths_of(encoders))
            if part is not None:
                done.add(number)
                if ranks.world == 1:
                    found.put(first[number], part)
    for number, part in iterate_features(
        encoders, loader, inputs, batch, subset, done=done, stop=stop, title=title
    ):
        part = part.mean(clips) if average else part
        if ranks.world == 1:
            found.put(first[number], part)
        if kept is not None:
            kept.save(shards.shards[number], part)
    if ranks.world > 1:
        assert kept is not None, "ranks meet in a folder"
        ranks.barrier()
        found = kept.rows(ranks.share(len(samples) * each, unit), shards.shards, sizes,
                          widths_of(encoders))  # fmt: skip
    if not any(ranks.gather(bool(found.valid.any()))):
        reason = next(iter(loader.examples.values()), "none was asked for")
        raise UserError(
            f"{shards.root}: no clip can be read: {reason}; run `xdc-shard verify {shards.root}`"
        )
    return found


def iterate_features(
    encoders: Mapping[str, Encoder],
    loader: Loader,
    inputs: ClipTransform,
    batch: int,
    clips: ClipSubset,
    *,
    done: Collection[int] = (),
    stop: Stop | None = None,
    title: str = "features",
) -> Iterator[tuple[int, Features]]:
    """The features of each shard's clips, as soon as they are complete: (shard number, Features).

    done: numbers of shards to leave out. Shards without a clip are left out too. The other
    arguments are those of compute_features.
    """
    check_modalities(encoders, loader)
    if not len(clips):
        return
    widths = widths_of(encoders)
    for encoder in encoders.values():
        encoder.eval()
    sizes = clips.shard_sizes
    ends = np.cumsum(sizes)
    first = ends - sizes
    wanted = {int(shard) for shard in np.flatnonzero(sizes)} - set(done)
    sampler = EpochSampler(sizes, min(batch, len(clips)), shuffle=False)
    size = sampler.batch
    needed = [np.arange(first[s] // size, (ends[s] - 1) // size + 1) for s in sorted(wanted)]
    steps = np.unique(np.concatenate(needed)) if needed else np.zeros(0, np.int64)
    windows = partial(clips.windows, shape=loader.shape)
    batches = each_step(loader, sampler.take(steps), windows, clips.samples)
    unfinished: dict[int, Features] = {}
    bar = progress.bar(
        batches, total=sampler.steps, initial=sampler.steps - len(steps), desc=title, unit="batch"
    )
    for step, part in zip(steps.tolist(), encode_each(encoders, inputs, bar), strict=True):
        indices = sampler.indices(step)
        begin, end = step * size, min((step + 1) * size, len(clips))
        if part is not None:
            index, outputs = part
            # the last step wraps around; a clip that was replaced goes by the other's index
            own = (index == indices) & (indices >= begin)
        low, high = np.searchsorted(ends, [begin, end - 1], side="right").tolist()
        for shard in wanted.intersection(range(low, high + 1)):
            if shard not in unfinished:
                unfinished[shard] = Features.zeros(int(sizes[shard]), widths)
            if part is not None:
                here = own & (indices >= first[shard]) & (indices < ends[shard])
                rows = indices[here] - first[shard]
                unfinished[shard].valid[rows] = True
                for name, output in outputs.items():
                    unfinished[shard].arrays[name][rows] = output[here]
        for shard in [shard for shard in unfinished if ends[shard] <= end]:
            yield shard, unfinished.pop(shard)
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


class FeatureFolder:
    """Features of finished shards, FOLDER/SHARD.npz. made_by: what they depend on, as text."""

    def __init__(self, folder: Path, made_by: str):
        self.folder, self.made_by = folder, made_by
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, shard: str, features: Features) -> None:
        """Keeps the features of the tar `shard`."""
        arrays = {f"features_{name}": array for name, array in features.arrays.items()}
        arrays |= {"made_by": np.array(self.made_by), "valid": features.valid}
        write_arrays(self._path(shard), **arrays)

    def load(self, shard: str, count: int, widths: Mapping[str, int]) -> Features | None:
        """What `save` kept; None where there is nothing of the same made_by, or it is damaged.

        count: rows. widths: of the features, by encoder.
        """
        form: dict = {name: (np.float32, (count, width)) for name, width in widths.items()}
        form = {f"features_{name}": each for name, each in form.items()}
        form |= {"made_by": (str, ()), "valid": (bool, (count,))}
        try:
            arrays = read_arrays(self._path(shard), form, "")
        except UserError:
            return None
        if str(arrays.pop("made_by")) != self.made_by:
            return None
        valid = arrays.pop("valid")
        return Features({n.removeprefix("features_"): a for n, a in arrays.items()}, valid)

    def rows(
        self, rows: slice, shards: Sequence[str], sizes: np.ndarray, widths: Mapping[str, int]
    ) -> Features:
        """Some rows of what `save` kept of all shards, which have so many rows each."""
        found = Features.zeros(rows.stop - rows.start, widths)
        ends = np.cumsum(sizes)
        here = (ends > rows.start) & (ends - sizes < rows.stop)
        for number in np.flatnonzero(here).tolist():
            part = self.load(shards[number], int(sizes[number]), widths)
            if part is None:
                raise UserError(
                    f"{self._path(shards[number])}: what another process has written cannot be "
                    "read here; give an out=FOLDER that all machines share"
                )
            before = int(ends[number] - sizes[number])
            own = slice(max(rows.start - before, 0), rows.stop - before)
            found.put(max(before - rows.start, 0), part.take(own))
        return found

    def _path(self, shard: str) -> Path:
        return self.folder / shard.replace(".tar", ".npz")
