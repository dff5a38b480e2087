"""The loader for other programs' training loops."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.loader import choose_device, open_loader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import ClipShape, fixed_windows, random_windows
from xdc_fast.errors import UserError
from xdc_fast.shards.dataset import ShardSet


class ClipLoader:
    """Random clips of a shard set in shuffled batches, as pretraining reads them.

    A clip is a random window of a sample, its pictures cropped at a random place and, with `flip`,
    half of them mirrored. Order and windows depend on the seed and the number of the epoch alone.
    `len(loader)` is the number of batches of an epoch. Samples that do not fill a batch are left
    out, other ones in each epoch. A sample that cannot be read is replaced by another one of its
    batch.

    Args:
        shards: a ShardSet, or its folder.
        clip: the shape of a clip. Tracks that it has no room for (`frames=0` or `samples=0`) are
            not read.
        batch_size: clips in a batch.
        seed: of the order and the windows.
        device: "auto" (CUDA where there is a device, else the CPU), "cpu" or "cuda".
        loader: "host" decodes on the CPU, "dali" by NVIDIA DALI, "auto" by DALI on a CUDA device
            for sets packed as jpeg, else on the CPU.
        threads: decoding threads.
        flip: whether to mirror half of the clips left to right.

    Attributes:
        failures: how many clips could not be read, by reason; a Counter.
        examples: the first message for each of these reasons.

    Raises:
        UserError: for a folder that holds no shard set, a clip that the set cannot give (another
            sample rate, more frames per second, none of its tracks), a batch larger than the set,
            or a device that is not there. Later, for pictures smaller than the crop, and for a
            batch of which nothing can be read.

    >>> clip = xdc_fast.ClipShape(frames=8, fps=7.5, crop=32, samples=16000, sample_rate=16000)
    >>> loader = xdc_fast.ClipLoader("shards", clip, batch_size=16, device="cpu")
    >>> len(loader)
    3
    >>> for epoch in range(2):
    ...     for batch in loader.epoch(epoch):
    ...         video = batch.frames.permute(0, 4, 1, 2, 3) / 255  # (B, 3, T, H, W)
    ...         audio = batch.waveform / 32768  # (B, S)
    >>> batch.frames.shape, batch.waveform.shape
    (torch.Size([16, 8, 32, 32, 3]), torch.Size([16, 16000]))
    >>> codes, classes = loader.shards.label("class")
    >>> target = torch.from_numpy(codes)[batch.index]  # int64 (B,)
    """

    def __init__(
        self,
        shards: ShardSet | str | Path,
        clip: ClipShape,
        *,
        batch_size: int,
        seed: int = 0,
        device: str = "auto",
        loader: str = "auto",
        threads: int = 2,
        flip: bool = True,
    ):
        if loader not in ("auto", "host", "dali"):
            raise UserError(f"loader={loader}: must be one of auto, host, dali")
        self.shards = shards if isinstance(shards, ShardSet) else ShardSet(shards)
        if not 1 <= batch_size <= len(self.shards):
            raise UserError(
                f"{self.shards.root}: {len(self.shards)} samples do not make batches of "
                f"{batch_size}; set batch_size between 1 and {len(self.shards)}"
            )
        self.batch_size, self.seed, self.flip = batch_size, seed, flip
        self._loader = open_loader(
            self.shards, clip, device=choose_device(device), loader=loader, threads=threads
        )

    @property
    def clip(self) -> ClipShape:
        return self._loader.shape

    @property
    def device(self) -> torch.device:
        return self._loader.device

    @property
    def failures(self) -> Counter[str]:
        return self._loader.failures

    @property
    def examples(self) -> dict[str, str]:
        return self._loader.examples

    def __len__(self) -> int:
        return len(self.shards) // self.batch_size

    def epoch(self, number: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch.

        Args:
            number: 0, 1, ...; each has an order and windows of its own.
            start: the batch to begin with. Those before it are not read, those after it are the
                same as in a whole epoch.
        """
        sampler = EpochSampler(
            self.shards.shard_sizes, self.batch_size, seed=self.seed, epoch=number
        )
        windows = partial(
            random_windows, shape=self.clip, seed=self.seed, epoch=number, flip=self.flip
        )
        return self._loader.batches(sampler, windows, start=start)

    def read(self, samples: Sequence[int] | np.ndarray, position: float = 0.5) -> Batch:
        """One clip of each of some samples, not mirrored, cropped from the middle of the picture.

        Args:
            samples: their numbers, int (B,).
            position: where in the sample the clip lies, from 0, its beginning, to 1, its end.

        Returns:
            The clips in this order; `index` are their samples.

        Raises:
            UserError: where one of them cannot be read.
            IndexError: for a number that no sample has.

        >>> clip = xdc_fast.ClipShape(frames=8, fps=7.5, crop=32, samples=16000, sample_rate=16000)
        >>> loader = xdc_fast.ClipLoader("shards", clip, batch_size=16, device="cpu")
        >>> loader.read([3, 0], position=1.0).waveform.shape
        torch.Size([2, 16000])
        """
        if not 0 <= position <= 1:
            raise UserError(f"position={position}: must be from 0 to 1")
        wanted = np.asarray(samples, np.int64)
        sampler = EpochSampler(np.array([len(wanted)]), len(wanted), shuffle=False)
        windows = partial(fixed_windows, shape=self.clip, position=position)
        (batch,) = self._loader.batches(sampler, windows, samples=wanted)
        if (lost := batch.index != torch.arange(len(wanted))).any():
            number = int(wanted[int(lost.nonzero()[0])])
            raise UserError(
                f"{self.shards.root}: sample {number} cannot be read; run `xdc-shard verify "
                f"{self.shards.root} --decode`"
            )
        return replace(batch, index=torch.from_numpy(wanted.copy()))
