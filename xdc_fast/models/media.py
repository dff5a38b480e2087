"""Features of media files: decoded in threads of this process, encoded in batches over files."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

import numpy as np
import torch

from xdc_fast.clips.batch import Batch
from xdc_fast.clips.windows import ClipShape
from xdc_fast.encoders.encoder import Encoder
from xdc_fast.encoders.features import encode
from xdc_fast.encoders.transform import ClipTransform
from xdc_fast.models.clips import MediaClips, Positions, read_clips
from xdc_fast.packing.media import Refusal
from xdc_fast.packing.settings import PackSettings


@dataclass
class MediaFeatures:
    """Features of the clips of one file: {modality: float32 (C, D)}."""

    clips: MediaClips
    arrays: dict[str, np.ndarray]
    missing: int
    """what the encoders have not read yet, in clips that differ"""


def iterate_media(
    encoders: Mapping[str, Encoder],
    inputs: ClipTransform,
    settings: PackSettings,
    paths: Sequence[Path],
    positions: Positions,
    *,
    batch: int,
    device: torch.device,
    threads: int,
) -> Iterator[MediaFeatures | Refusal]:
    """The features of clips of each file, in the order of `paths`; a Refusal where there are none.

    encoders: by modality, in eval mode. batch: clips that an encoder reads at a time, of one file
    or of several. threads: files that are decoded at a time. Raises UserError for pictures smaller
    than the recipe's crop.
    """
    wanted = "both" if len(encoders) > 1 else next(iter(encoders))
    settings = replace(settings, tracks=wanted)

    def task(path: Path) -> MediaClips | Refusal:
        try:
            return read_clips(path, settings, inputs.shape, positions)
        except Refusal as refusal:
            return refusal

    opened: deque[MediaFeatures | Refusal] = deque()
    waiting: dict[str, list[tuple[MediaFeatures, np.ndarray]]] = {
        modality: [] for modality in encoders
    }

    def run(modality: str) -> None:
        """Encodes the first clips that wait."""
        chosen = waiting[modality][:batch]
        del waiting[modality][:batch]
        clips = [(item.clips, int(same[0])) for item, same in chosen]
        part = make_batch(modality, clips, inputs.shape, device)
        rows = encode({modality: encoders[modality]}, inputs, part)[modality]
        for (item, same), row in zip(chosen, rows, strict=True):
            item.arrays[modality][same] = row
            item.missing -= 1

    def finished() -> Iterator[MediaFeatures | Refusal]:
        while opened and (isinstance(opened[0], Refusal) or not opened[0].missing):
            yield opened.popleft()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="media")
    try:
        tasks = (pool.submit(task, path) for path in paths)
        ahead = deque(islice(tasks, threads + 1))
        while ahead:
            found = ahead.popleft().result()
            ahead.extend(islice(tasks, 1))
            if isinstance(found, Refusal):
                opened.append(found)
            else:
                widths = {m: encoders[m].features for m in found.modalities}
                arrays = {m: np.zeros((len(found), w), np.float32) for m, w in widths.items()}
                groups = {modality: found.groups(modality) for modality in arrays}
                item = MediaFeatures(found, arrays, sum(map(len, groups.values())))
                opened.append(item)
                for modality, clips in groups.items():
                    waiting[modality] += [(item, same) for same in clips]
            for modality in encoders:
                while len(waiting[modality]) >= batch or (waiting[modality] and not ahead):
                    run(modality)
            yield from finished()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def make_batch(
    modality: str, chosen: list[tuple[MediaClips, int]], shape: ClipShape, device: torch.device
) -> Batch:
    """One track of clips, each given by its file and its number there."""
    count = len(chosen)
    index = torch.arange(count)
    if modality == "video":
        frames = torch.empty(count, shape.frames, shape.crop, shape.crop, 3, dtype=torch.uint8)
        for (clips, clip), out in zip(chosen, frames.numpy(), strict=True):
            clips.copy_frames(clip, out)
        return Batch(frames.to(device), None, index)
    waveform = torch.empty(count, shape.samples, dtype=torch.int16)
    for (clips, clip), out in zip(chosen, waveform.numpy(), strict=True):
        clips.copy_waveform(clip, out)
    return Batch(None, waveform.to(device), index)
