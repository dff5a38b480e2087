"""Features all along every video, with their times: what localisation heads read.

OUT/extract.json      what made them; another model, set or stride is refused
OUT/samples.csv       the set's own: the source and the labels of each sample
OUT/shard-000000.npz  of a shard of the set: index int64 (M,), the sample of each clip; start, stop
                      float64 (M,), its seconds, of the longer track; video, audio float32 (M, D),
                      those that there are; n_unreadable int64, clips left out
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xdc_fast.clips.subset import ClipSubset
from xdc_fast.clips.windows import ClipShape
from xdc_fast.encoders.features import Features, iterate_features
from xdc_fast.errors import UserError
from xdc_fast.evaluation.evaluator import Evaluator
from xdc_fast.files import read_json, write, write_json
from xdc_fast.models.load import Model
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.format import SAMPLES

TICK = 1e-6  # seconds; a clip that ends with the sample is not lost to rounding


def extract_features(
    model: Model,
    shards: ShardSet,
    out: str | Path,
    stride: float = 1.0,
    *,
    modality: str | None = None,
) -> dict:
    """Features of clips of the recipe's length, one every `stride` seconds, to the folder `out`.

    A sample shorter than a clip gives one. Shards that are already in the folder are left out, so
    that an interrupted extraction goes on. Returns extract.json's content with the counts of
    samples, clips, and of clips that could not be read, which are left out.
    Raises UserError for a folder that holds anything else.
    """
    out, evaluator = Path(out), Evaluator(model, shards, modality)
    made_by = {"stride": stride, **evaluator.made_by(*evaluator.modalities)}
    about = evaluator.about(made_by)
    begin(out, made_by, about)
    if not (out / SAMPLES).is_file():
        write(out / SAMPLES, (shards.root / SAMPLES).read_bytes())
    clips, start, stop = lay_clips(evaluator, stride)
    paths = [out / name.replace(".tar", ".npz") for name in shards.shards]
    for number, features in iterate_features(
        evaluator.encoders(*evaluator.modalities),
        evaluator.loader(*evaluator.modalities),
        evaluator.inputs,
        model.recipe.train.batch,
        clips,
        done={number for number, path in enumerate(paths) if path.is_file()},
    ):
        first = int(clips.shard_sizes[:number].sum())
        rows = slice(first, first + len(features.valid))
        save_shard(paths[number], clips.samples[rows], start[rows], stop[rows], features)
    counts = {"samples": len(shards), "clips": 0, "n_unreadable": 0}
    for path in paths:
        with np.load(path) as arrays:
            counts["clips"] += len(arrays["index"])
            counts["n_unreadable"] += int(arrays["n_unreadable"])
    return about | counts


def begin(out: Path, made_by: dict, about: dict) -> None:
    """Makes the folder with `about` as its extract.json, or checks what it was made by."""
    path = out / "extract.json"
    if path.is_file():
        before = read_json(path, "give another folder")
        changed = [key for key in made_by if before.get(key) != made_by[key]]
        if changed:
            raise UserError(
                f"{out}: holds features of another {' and '.join(changed)}; give another folder"
            )
    elif out.is_file() or any(out.glob("[!.]*")):
        raise UserError(f"{out}: not empty, and not from `xdc extract`; give another folder")
    else:
        out.mkdir(parents=True, exist_ok=True)
        write_json(path, about)


def lay_clips(evaluator: Evaluator, stride: float) -> tuple[ClipSubset, np.ndarray, np.ndarray]:
    """The clips of a set by sample and time, and their start and stop, float64 (M,), in seconds."""
    shards = evaluator.shards
    seconds, length = spans(shards.rows(), evaluator.inputs.shape, evaluator.modalities)
    placed = place_clips(seconds, length, stride)
    samples = np.repeat(np.arange(len(shards)), placed.counts)
    return ClipSubset(shards, samples, placed.positions), placed.start, placed.stop


@dataclass(frozen=True)
class PlacedClips:
    """M clips of N samples, those of a sample one after the other.

    counts: int64 (N,), of each sample. start, stop: float64 (M,), seconds. positions: float64 (M,),
    from 0, at the beginning of its sample, to 1, at its end.
    """

    counts: np.ndarray
    start: np.ndarray
    stop: np.ndarray
    positions: np.ndarray


def place_clips(seconds: np.ndarray, length: float, stride: float) -> PlacedClips:
    """Clips of `length` seconds, one every `stride`, as far as samples of `seconds` (N,) reach."""
    spare = np.maximum(seconds - length, 0)
    counts = ((spare + TICK) / stride).astype(np.int64) + 1
    first = np.repeat(np.cumsum(counts) - counts, counts)
    start = (np.arange(len(first)) - first) * stride
    spare = np.repeat(spare, counts)
    positions = np.divide(start, spare, out=np.zeros(len(start)), where=spare > 0)
    stop = np.minimum(start + length, np.repeat(seconds, counts))
    return PlacedClips(counts, start, stop, np.minimum(positions, 1))


def save_shard(
    path: Path, index: np.ndarray, start: np.ndarray, stop: np.ndarray, features: Features
) -> None:
    """Writes a shard's file without the clips that could not be read."""
    valid = features.valid
    arrays = {"index": index, "start": start, "stop": stop, **features.arrays}
    content = io.BytesIO()
    np.savez(
        content,
        n_unreadable=np.int64(features.n_unreadable),
        **{name: array[valid] for name, array in arrays.items()},
    )
    write(path, content.getbuffer())


def spans(
    rows: np.ndarray, shape: ClipShape, modalities: tuple[str, ...]
) -> tuple[np.ndarray, float]:
    """The seconds of each sample, float64 (N,), and of a clip, over the tracks that are read.

    rows: SAMPLE rows (N,). As the windows of a loader are laid: the shorter track of a sample, the
    longer one of a clip.
    """
    tracks = {
        "video": (rows["frames"] / np.maximum(rows["fps"], TICK), shape.frames / shape.fps),
        "audio": (rows["samples"] / shape.sample_rate, shape.samples / shape.sample_rate),
    }
    seconds, length = zip(*(tracks[modality] for modality in modalities), strict=True)
    return np.min(seconds, axis=0), max(length)
