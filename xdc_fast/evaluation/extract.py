"""Features all along every video, with their times: what localisation heads read.

OUT/extract.json      what made them; another model, set or stride is refused
OUT/samples.csv       the set's own: the source and the labels of each sample
OUT/TAR.npz           of a shard of the set: index int64 (M,), the sample of each clip; start, stop
                      float64 (M,), its seconds, of the longer track; video, audio float32 (M, D),
                      those that there are; n_unreadable int64, clips left out
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from xdc_fast.clips.subset import ClipSubset
from xdc_fast.clips.windows import ClipShape
from xdc_fast.encoders.feature_rows import Features
from xdc_fast.encoders.features import iterate_features, widths_of
from xdc_fast.errors import UserError
from xdc_fast.evaluation.evaluator import Evaluator
from xdc_fast.files import (
    damaged,
    locked,
    read_arrays,
    read_json,
    write,
    write_arrays,
    write_json,
)
from xdc_fast.models.load import Model
from xdc_fast.ranks import ALONE, Ranks
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.format import SAMPLES

OTHER = "give another folder"
AGAIN = "remove it and run the same command again"
TICK = 1e-6  # seconds; a clip that ends with the sample is not lost to rounding


def extract_features(
    model: Model,
    shards: ShardSet,
    out: str | Path,
    stride: float = 1.0,
    *,
    modality: str | None = None,
    ranks: Ranks = ALONE,
) -> dict:
    """Features of clips of the recipe's length, one every `stride` seconds, to the folder `out`.

    Several ranks, which all see the folder, share the shards. A sample shorter than a clip gives
    one. Shards that are already in the folder are left out, so
    that an interrupted extraction goes on. Returns extract.json's content with the counts of
    samples, clips, and of clips that could not be read, which are left out.
    Raises UserError for a folder that holds anything else.
    """
    out, evaluator = Path(out), Evaluator(model, shards, modality, ranks=ranks)
    made_by = {"stride": stride, **evaluator.made_by(*evaluator.modalities)}
    about = evaluator.about(made_by)
    with claimed(out, made_by, about, ranks):
        if ranks.first:
            write(out / SAMPLES, (shards.files / SAMPLES).read_bytes())
        clips, start, stop = lay_clips(evaluator, stride)
        paths = [out / name.replace(".tar", ".npz") for name in shards.shards]
        widths = widths_of(evaluator.encoders(*evaluator.modalities))
        last = np.cumsum(clips.shard_sizes)
        parts = np.stack([last - clips.shard_sizes, last], axis=1)
        done = ranks.broadcast([path.is_file() for path in paths])
        there, missing = np.flatnonzero(done), np.flatnonzero(~np.array(done))
        failed = 0
        for number in there[ranks.share(len(there))].tolist():
            failed += read_shard(paths[number], clips.samples[slice(*parts[number])], widths)
        own = missing[ranks.share(len(missing))]
        for number, features in iterate_features(
            evaluator.encoders(*evaluator.modalities),
            evaluator.loader(*evaluator.modalities),
            evaluator.inputs,
            model.recipe.train.group_size,
            clips,
            parts[own],
        ):
            part, path = slice(*parts[own[number]]), paths[own[number]]
            save_shard(path, clips.samples[part], start[part], stop[part], features)
            failed += features.n_unreadable
        failed = sum(ranks.gather(failed))
    return about | {"samples": len(shards), "clips": len(clips) - failed, "n_unreadable": failed}


@contextmanager
def claimed(out: Path, made_by: dict, about: dict, ranks: Ranks) -> Iterator[None]:
    """Only one command at a time is in here for a folder, which has `about` as its extract.json.

    All ranks are in here when the first one has claimed it.
    Raises UserError where it holds anything else, or features that are not `made_by` this.
    """
    if not ranks.first:
        ranks.barrier()
        yield
        return
    path = out / "extract.json"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out}: is a file; give another folder")
    out.mkdir(parents=True, exist_ok=True)
    with locked(out / ".lock", f"{out}: another process is extracting there; wait for it"):
        if path.is_file():
            before = read_json(path, dict.fromkeys(("stride", "weights", "clip"), object), OTHER)
            changed = [key for key in made_by if before.get(key) != made_by[key]]
            if changed:
                raise UserError(
                    f"{out}: holds features of another {' and '.join(changed)}; give another folder"
                )
        elif any(out.glob("[!.]*")):
            raise UserError(f"{out}: not empty, and not from `xdc extract`; give another folder")
        else:
            write_json(path, about)
        ranks.barrier()
        yield


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
    kept = {name: array[valid] for name, array in arrays.items()}
    write_arrays(path, n_unreadable=np.int64(features.n_unreadable), **kept)


def clips_form(widths: Mapping[str, int]) -> dict:
    """The arrays of clips in a file of features, as files.read_arrays takes them.

    widths: of the features, by modality.
    """
    times = {
        "index": (np.int64, ("M",)),
        "start": (np.float64, ("M",)),
        "stop": (np.float64, ("M",)),
    }
    return {**times, **{name: (np.float32, ("M", width)) for name, width in widths.items()}}


def read_shard(path: Path, index: np.ndarray, widths: Mapping[str, int]) -> int:
    """How many clips a shard's file leaves out; UserError unless it is one of clips of `index`."""
    arrays = read_arrays(path, {**clips_form(widths), "n_unreadable": (np.int64, ())}, AGAIN)
    found, missing = arrays["index"], int(arrays["n_unreadable"])
    if len(found) + missing != len(index) or not np.isin(found, index).all():
        raise damaged(path, "not the clips of its shard", AGAIN)
    if not all(np.isfinite(array).all() for array in arrays.values()):
        raise damaged(path, "numbers that are not finite", AGAIN)
    return missing


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
