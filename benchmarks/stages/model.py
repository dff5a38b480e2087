"""Features of media files, from the files on: decoding, resampling, encoders.

The peer goes a longer way: a worker process packs each file into a folder, and the sample is read
from there, a clip at a time. Its pictures are JPEG packets, so that its video features differ by
that much. The limit is the encoders alone, on clips that are ready.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

import xdc_fast
from benchmarks.harness import Case
from benchmarks.media import find_videos
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.windows import equal_positions
from xdc_fast.encoders.features import compute_features, encode
from xdc_fast.models.clips import read_clips
from xdc_fast.models.media import make_batch
from xdc_fast.models.model import Model
from xdc_fast.packing.pack import pack
from xdc_fast.packing.sources import PackInputs, Source
from xdc_fast.recipe import load_recipe
from xdc_fast.shards.dataset import ShardSet

THREADS = (1, 2)
RECIPE = Path(__file__).parents[2] / "recipes/grid.yaml"
CLIPS = 10

Features = dict[str, np.ndarray]


def cases(quick: bool, threads: int) -> Iterator[Case]:
    recipe = load_recipe(RECIPE, {"device": "cpu", "threads": threads})
    model = xdc_fast.load("random", recipe=recipe)
    with tempfile.TemporaryDirectory() as folder:
        what, videos = find_videos(Path(folder), 2 if quick else 20)
        what = f"{CLIPS} clips of each file, {what}, small encoders"
        contestants = {
            "all files in one call": partial(model, videos, CLIPS),
            "one file after the other": partial(encode_each, model, videos),
        }
        limit = ("encoders alone", encoders_alone(model, videos))
        for name, ours in contestants.items():
            yield Case(
                f"{name}, {what}",
                "files per second",
                len(videos),
                ours,
                {"through a packed folder": lambda: partial(encode_packed, model, videos)},
                assert_same,
                limit,
            )


def encode_each(model: Model, videos: list[Path]) -> Features:
    rows = [model(video, CLIPS) for video in videos]
    return {modality: np.stack([row[modality] for row in rows]) for modality in rows[0]}


def encode_packed(model: Model, videos: list[Path]) -> Features:
    """Each file packed, its sample read and encoded."""
    rows = []
    for video in videos:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "set"
            pack(PackInputs([Source(video, video.name)], [], []), out, model.packing, workers=1)
            loader = HostLoader(ShardSet(out), model.inputs.shape, threads=model.recipe.threads)
            found = compute_features(model.encoders, loader, model.inputs, 1, clips=CLIPS)
            rows.append({modality: array[0] for modality, array in found.arrays.items()})
    return {modality: np.stack([row[modality] for row in rows]) for modality in rows[0]}


def encoders_alone(model: Model, videos: list[Path]) -> Callable[[], None]:
    """Every clip that differs from the others of its file, decoded beforehand."""
    positions = equal_positions(CLIPS)
    settings, shape = replace(model.packing, tracks="both"), model.inputs.shape
    files = [read_clips(video, settings, shape, lambda row: positions) for video in videos]
    batches = []
    for modality, encoder in model.encoders.items():
        chosen = [(clips, int(same[0])) for clips in files for same in clips.groups(modality)]
        size = model.recipe.train.group_size
        for first in range(0, len(chosen), size):
            part = chosen[first : first + size]
            batch = make_batch(modality, part, shape, torch.device("cpu"))
            batches.append(({modality: encoder}, batch))

    def run() -> None:
        for encoder, batch in batches:
            encode(encoder, model.inputs, batch)

    return run


def assert_same(ours: Features, other: Features) -> None:
    assert ours.keys() == other.keys()
    for modality, share in (("video", 0.03), ("audio", 1e-4)):
        scale = np.abs(ours[modality]).max()
        worst = np.abs(ours[modality] - other[modality]).max() / scale
        assert worst < share, f"{modality} features differ by {worst:.1%} of the largest"
