"""From shards to batches on the device: what every loader does, and which one to take."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.sampler import Sampler
from xdc_fast.clips.windows import ClipShape, WindowFunction
from xdc_fast.errors import UserError
from xdc_fast.kernels.mel import MelSpec
from xdc_fast.ranks import local_rank
from xdc_fast.shards.dataset import ShardSet


class Loader(Protocol):
    """Batches of clips of a shard set, read and decoded while the caller computes.

    shards: where the samples lie. shape: what a clip holds. modalities: the tracks that batches
    have. device: where they go. failures: how many clips could not be read, by reason; examples:
    the first message of each reason. Such a clip is replaced by another of its batch.
    """

    @property
    def shards(self) -> ShardSet: ...
    @property
    def shape(self) -> ClipShape: ...
    @property
    def modalities(self) -> tuple[str, ...]: ...
    @property
    def device(self) -> torch.device: ...
    @property
    def failures(self) -> Counter[str]: ...
    @property
    def examples(self) -> dict[str, str]: ...

    def batches(
        self,
        sampler: Sampler,
        windows: WindowFunction,
        start: int = 0,
        samples: np.ndarray | None = None,
    ) -> Iterator[Batch]:
        """The batches of the sampler's steps from `start` on, in order.

        windows: where the clips lie in their samples. samples: int64 (M,), the samples that the
        sampler's indices count; by default all of the set.
        Raises NothingRead at a batch of which nothing can be read; a call with start=STEP + 1
        goes on after it.
        """
        ...


def choose_device(name: str) -> torch.device:
    """The device of that name; auto is CUDA where there is any. UserError for one that is not.

    Of several ranks on a machine, each has a CUDA device of its own.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"device={name}: must be one of auto, cpu, cuda") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device={name}: no CUDA device is usable here; `xdc doctor` says why")
    if name == "cuda" and (number := local_rank()) is not None:
        if number >= (count := torch.cuda.device_count()):
            raise UserError(
                f"process {number} of this machine has no CUDA device of its own, since there are "
                f"{count}; start as many processes as there are devices"
            )
        device = torch.device("cuda", number)
        torch.cuda.set_device(device)
    return device


def open_loader(
    shards: ShardSet,
    shape: ClipShape,
    *,
    device: torch.device,
    loader: str = "auto",
    threads: int = 2,
    decoder_load: float = 0.65,
    spec: MelSpec | None = None,
    read: str = "auto",
    max_unreadable: float = 1.0,
) -> Loader:
    """The loader of that name: host, dali or auto, which is DALI for JPEG packets on a GPU.

    H.264 goes to host threads: on an H200 they gave 700 clips of 8 x 40 x 40 a second, DALI 12.

    threads: that decode. decoder_load: see DaliLoader. spec: see HostLoader. read, max_unreadable:
    as of a recipe.
    Raises UserError where the shards do not fit the shape, or DALI cannot decode them on this
    device.
    """
    video = "video" in shape.modalities and "video" in shards.modalities
    packets = video and shards.settings["codec"] == "jpeg"
    if loader == "dali" or (loader == "auto" and device.type == "cuda" and packets):
        from xdc_fast.clips.dali import DaliLoader  # seconds to import, and not needed on a CPU

        return DaliLoader(
            shards, shape, device=device, threads=threads, decoder_load=decoder_load, spec=spec,
            read=read, max_unreadable=max_unreadable,
        )  # fmt: skip
    return HostLoader(
        shards, shape, device=device, threads=threads, spec=spec, read=read,
        max_unreadable=max_unreadable,
    )  # fmt: skip
