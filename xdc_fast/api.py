"""The public functions that are a shorter way to what the rooms offer; see `xdc_fast.__all__`."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import fields
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from xdc_fast.errors import UserError
from xdc_fast.recipe import Overrides, Recipe, fault, load_recipe, override
from xdc_fast.storage import URL, Place, place_of

if TYPE_CHECKING:  # each function imports what it needs: `nmi` needs neither torch nor FFmpeg
    import torch

    from xdc_fast.clusters.kmeans import Clustering
    from xdc_fast.kernels.mel import MelSpec
    from xdc_fast.packing.seal import Summary

    Waveform = TypeVar("Waveform", np.ndarray, torch.Tensor)

log = logging.getLogger(__name__)


def pack(
    sources: str | Place | Iterable[str | Place],
    out: str | Place,
    labels: str | Path | None = None,
    dataset: str | None = None,
    *,
    workers: int | None = None,
    shard_mb: int | None = None,
    time_limit: float = 600.0,
    part: str | None = None,
    engine: str = "processes",
    address: str | None = None,
    **settings: object,
) -> Summary:
    """Pack media files into a shard set, as `xdc-shard pack` does.

    Args:
        sources: folders, files, or CSV files with a path column; one or several, here or on
            storage. The columns start and end of a CSV, in seconds, name segments of files.
        out: the folder of the set, or its URL. An interrupted run there is continued.
        labels: a CSV file with a file column; its other columns become labels.
        dataset: the name of a data set, such as "ucf101", whose official lists lie in the source;
            they bring labels and splits.
        workers: processes; by default as many as cores. They import the script, so it calls this
            below `if __name__ == "__main__":`.
        shard_mb: megabytes of a shard; by default 256, and 100 samples, but 4,096 at most.
        time_limit: seconds that a file, or a segment of one, may take.
        part: "I/N" packs every N-th part of the inputs, from part I on, counted from 0, and leaves
            the set to `xdc-shard seal`.
        engine: "processes" of this machine, or "ray": a task of a Ray cluster for every 1,024
            inputs, of one process unless `workers` says otherwise.
        address: of the Ray cluster; by default one is started on this machine.
        settings: as options of the command: codec ("jpeg", "h264" or "copy"), fps, short_side
            (pixels), audio_rate (Hz), max_seconds, min_seconds, segment (seconds of a sample),
            tracks ("both", "video" or "audio").

    Returns:
        The counts: inputs, packed, refused, reasons ({reason: files}), shards, bytes, seconds.
        refused.csv in `out` names each refused file or segment with its reason.

    Raises:
        UserError: for a setting out of range, sources that are not there, or a folder `out` that
            holds something else.

    >>> summary = xdc_fast.pack("videos", "shards", labels="videos/labels.csv", short_side=40)
    >>> summary.inputs, summary.packed, summary.refused
    (48, 48, 0)
    """
    from xdc_fast.packing.datasets.collect import READERS, SHORTEST, collect_dataset
    from xdc_fast.packing.pack import ENGINES, Share, pack
    from xdc_fast.packing.settings import DAY, PackSettings
    from xdc_fast.packing.sources import collect

    given = [sources] if isinstance(sources, (str, os.PathLike, URL)) else sources
    places = [place_of(each) for each in given]
    out = place_of(out)
    _refuse_unknown(settings, [field.name for field in fields(PackSettings)])
    if dataset is None:
        chosen = PackSettings(**settings)  # type: ignore[arg-type]
    elif dataset not in READERS:
        raise UserError(f"dataset {dataset}: not known; known are {', '.join(sorted(READERS))}")
    elif len(places) > 1 or labels is not None or isinstance(places[0], URL):
        raise UserError("dataset takes one local folder and no labels; its lists bring the labels")
    else:
        own = {"tracks": READERS[dataset].tracks, "min_seconds": SHORTEST}
        chosen = PackSettings(**(own | settings))  # type: ignore[arg-type]
    chosen.check()
    limits = {
        "shard_mb": (shard_mb, {"least": 1, "most": 1_000_000}),
        "workers": (workers, {"least": 1, "most": 1024}),
        "time_limit": (time_limit, {"above": 0, "most": DAY}),
    }
    for name, (value, limit) in limits.items():
        if value is not None and (wrong := fault(value, limit)):
            raise UserError(f"{name}={value}: must be {wrong}")
    if engine not in ENGINES:
        raise UserError(f"engine={engine}: must be {' or '.join(ENGINES)}")
    if address is not None and engine != "ray":
        raise UserError(f"address={address}: only with engine=ray")
    share = None if part is None else Share.parse(part)
    if dataset is None:
        inputs = collect(places, None if labels is None else Path(labels), out)
    else:
        inputs = collect_dataset(dataset, Path(str(places[0])), out)
    for note in inputs.notes:
        log.info(note)
    return pack(
        inputs, out, chosen,
        shard_mb=shard_mb, workers=workers, time_limit=time_limit, share=share, engine=engine,
        address=address,
    )  # fmt: skip


def _refuse_unknown(settings: Iterable[str], known: list[str]) -> None:
    for name in settings:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known)}"
            raise UserError(f"no setting '{name}'; {hint}")


def pretrain(recipe: str | Path | Recipe, settings: Overrides = ()) -> dict:
    """Run a recipe, or continue the run that its folder holds, as `xdc pretrain` does.

    Args:
        recipe: a YAML file, or a Recipe.
        settings: what to change in it, as {"train.lr": 0.05} or as ("train.lr=0.05",).

    Returns:
        The content of summary.json: what was run, and a record for each iteration. The trained
        encoders are in the folder `out` of the recipe; `xdc_fast.load` opens them.

    Raises:
        UserError: for a setting or a shard set that does not fit, or training that diverges.
        Interrupted: after SIGINT or SIGTERM; the same call continues the run.

    >>> settings = {"data": "shards", "out": "run", "k": 4, "train.iterations": 1,
    ...             "train.epochs": 1, "train.batch": 12, "video.crop": 32}
    >>> summary = xdc_fast.pretrain("recipes/toy.yaml", settings)
    >>> summary["samples"], len(summary["iterations"])
    (48, 1)
    """
    from xdc_fast.pretraining.loop import pretrain

    if isinstance(recipe, Recipe):
        return pretrain(override(recipe, settings))
    return pretrain(load_recipe(recipe, settings))


def kmeans(
    features: np.ndarray,
    k: int,
    *,
    seed: int = 0,
    n_init: int = 1,
    max_iter: int = 20,
    normalize: str = "none",
    pca: int = 0,
    max_samples: int = 0,
    previous: np.ndarray | None = None,
    device: str = "cpu",
) -> Clustering:
    """k-means of feature vectors, as pretraining clusters them.

    Args:
        features: float32 or float16 (N, D).
        k: clusters, at most N.
        seed: of the random start.
        n_init: random starts; the best one is used.
        max_iter: k-means rounds at most.
        normalize: "none", "l2", or "centered-l2" (the mean is subtracted first).
        pca: whitened principal components to keep before that; 0 keeps the features.
        max_samples: samples that the centroids are fitted on, drawn at random; 0 for all.
        previous: int (N,), an assignment to start from in place of a random one, -1 for none;
            clusters keep their numbers.
        device: where it computes: "cpu", "cuda", or "auto", which is CUDA where there is any.

    Returns:
        A Clustering: assignment int32 (N,), centroids float32 (k, D) of the features as they were
        normalised, distance float32 (N,), the squared distance to the own centroid.

    Raises:
        UserError: for settings out of range, features that are not finite, or fewer distinct
            vectors than clusters.

    >>> features = np.random.default_rng(0).normal(size=(100, 8)).astype(np.float32)
    >>> features[:50] += 10
    >>> found = xdc_fast.kmeans(features, 2)
    >>> np.bincount(found.assignment).tolist(), found.centroids.shape
    ([50, 50], (2, 8))
    """
    from xdc_fast.clips.loader import choose_device
    from xdc_fast.clusters.kmeans import cluster

    where = choose_device(device)
    features = np.asarray(features)
    if features.ndim != 2:
        raise UserError(f"features of shape {features.shape}: give one vector a row, (N, D)")
    if previous is not None and np.shape(previous) != (len(features),):
        raise UserError(f"previous of shape {np.shape(previous)}: give ({len(features)},)")
    names = {"n_init": n_init, "max_iter": max_iter, "normalize": normalize, "pca": pca}
    names["max_samples"] = max_samples
    settings = override(Recipe(), {"k": k, "cluster": names}).cluster
    valid = np.ones(len(features), dtype=bool)
    start = None if previous is None else np.asarray(previous)
    return cluster([features], valid, k, settings, seed, where, start)


def log_mel(waveform: Waveform, spec: MelSpec | None = None) -> Waveform:
    """Log-mel spectrograms, ln(mel power + floor), on the device where the waveform is.

    Args:
        waveform: int16 (full scale 32768) or float32 (full scale 1), (..., S); a NumPy array, or a
            torch tensor on the CPU or a CUDA device.
        spec: sample rate, transform, hop and filters; by default those of XDC: 40 filters of
            windows of 16 ms, one every 10 ms, at 16 kHz.

    Returns:
        float32 (..., n_mels, frames), of the kind and on the device of the waveform. A tensor
        carries no gradient. `spec.frames(S)` is the number of frames.

    Raises:
        ValueError: for another dtype, or a waveform shorter than one frame.

    >>> noise = np.random.default_rng(0).normal(size=(2, 16000)).astype(np.float32)
    >>> xdc_fast.log_mel(noise).shape
    (2, 40, 99)
    >>> xdc_fast.log_mel(noise[0], xdc_fast.MelSpec(n_mels=64, n_fft=512, win_length=400)).shape
    (64, 97)
    """
    import torch

    from xdc_fast.kernels.mel import MelSpec

    spec = spec or MelSpec()
    shape = (*waveform.shape[:-1], spec.n_mels, spec.frames(waveform.shape[-1]))
    if isinstance(waveform, np.ndarray):
        from xdc_fast.kernels.logmel import log_mel

        flat = np.ascontiguousarray(waveform.reshape(-1, waveform.shape[-1]))
        return log_mel(flat, spec, threads=torch.get_num_threads()).reshape(shape)

    from xdc_fast.encoders.transform import spectrogram

    flat = waveform.detach().reshape(-1, waveform.shape[-1]).contiguous()
    return spectrogram(flat, spec).reshape(shape)


def nmi(a: np.ndarray, b: np.ndarray) -> float:
    """Normalised mutual information of two assignments, by the mean of both entropies.

    Args:
        a, b: int (N,), the cluster or class of each sample. Samples that are -1 in either are
            left out.

    Returns:
        0 where the assignments are independent, 1 where they are the same up to the numbers of
        the clusters. scikit-learn's `normalized_mutual_info_score` gives the same value.

    Raises:
        ValueError: for assignments of different lengths.

    >>> xdc_fast.nmi([0, 0, 1, 1], [1, 1, 0, 0])
    1.0
    """
    from xdc_fast.kernels.labels import contingency, nmi

    first, second = np.asarray(a), np.asarray(b)
    if first.ndim != 1 or first.shape != second.shape:
        raise ValueError(f"assignments of shapes {first.shape} and {second.shape}: give (N,) twice")
    both = (first != -1) & (second != -1)
    (rows, i), (columns, j) = (np.unique(x[both], return_inverse=True) for x in (first, second))
    table = contingency(i, j, max(1, len(rows)), max(1, len(columns)))
    return float(nmi(table))
