"""The records of a run: of an iteration's clusterings, of an iteration, and of the whole run."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from xdc_fast.clusters.kmeans import Clustering
from xdc_fast.clusters.quality import against_labels, agreement, sizes
from xdc_fast.encoders.build import MODALITIES
from xdc_fast.files import NUMBER
from xdc_fast.pretraining.methods import clustering_name, clusterings_of, heads_of
from xdc_fast.shards.dataset import ShardSet

SIZES = {"min": int, "median": float, "max": int, "empty": int, "effective": float}
CLUSTERING = {"sizes": SIZES, "nmi_previous": NUMBER, "labels": {str: {"nmi": float}}}


def cluster_record(
    clusterings: Mapping[str, Clustering],
    previous: Mapping[str, np.ndarray],
    k: int,
    shards: ShardSet,
    *,
    n_unreadable: int,
    extract_seconds: float,
    cluster_seconds: float,
) -> dict:
    """The record of an iteration's clusterings.

    previous: {clustering: int32 (N,)}, the assignments of the iteration before, empty for the
    first. n_unreadable: samples without features.
    Returns the numbers given, {clustering: metrics} and nmi_audio_video, the agreement of the two
    modalities' clusterings, None where the method has not both.
    """
    record: dict = {
        "n_unreadable": n_unreadable,
        "extract_seconds": extract_seconds,
        "cluster_seconds": cluster_seconds,
    }
    for name, c in clusterings.items():
        before = previous.get(name)
        record[name] = {
            "mean_squared_distance": c.mean_squared_distance,
            "reassigned": c.reassigned,
            "rounds": c.rounds,
            "sizes": sizes(c.assignment, k),
            "nmi_previous": None if before is None else agreement(before, c.assignment, k),
            "labels": against_labels(c.assignment, k, shards),
        }
    record["nmi_audio_video"] = None
    if set(MODALITIES) <= set(clusterings):
        video, audio = (clusterings[m].assignment for m in MODALITIES)
        record["nmi_audio_video"] = agreement(video, audio, k)
    return record


def iteration_record(
    iteration: int,
    method: str,
    batch: int,
    sums: Mapping[str, float],
    clusters: dict,
    unreadable: Mapping[str, int],
) -> dict:
    """The record of a finished iteration, as summary.json and metrics.jsonl hold it.

    batch: clips per step. sums: over the iteration's steps, of HEAD_loss, HEAD_accuracy, steps (how
    many), seconds, and wait (the seconds in which training waited for clips). clusters: the record
    of its clusterings. unreadable: clips that others replaced, by reason.
    """
    mean = {key: float(value) / sums["steps"] for key, value in sums.items()}
    record: dict = {"iteration": iteration}
    for modality in MODALITIES:
        heads = [head.name for head in heads_of(method) if head.encoder == modality]
        record[f"{modality}_loss"] = sum(mean[f"{name}_loss"] for name in heads)
        record[f"{modality}_accuracy"] = sum(mean[f"{n}_accuracy"] for n in heads) / len(heads)
        own = clusters.get(modality) or clusters.get("joint")
        record[f"nmi_previous_{modality}"] = own and own["nmi_previous"]
    record["nmi_audio_video"] = clusters["nmi_audio_video"]
    record["clips_per_second"] = sums["steps"] * batch / sums["seconds"]
    record["data_wait_share"] = sums["wait"] / sums["seconds"]
    record["clusters"] = clusters
    record["unreadable"] = dict(unreadable)
    return record


def run_record(
    method: str, k: int, shards: ShardSet, learned: int, records: list[dict], seconds: float
) -> dict:
    """summary.json: what a run came to.

    learned: how many samples of the set it learns from. records: those of its iterations.
    """
    return {
        "method": method,
        "k": k,
        "samples": len(shards),
        "learned": learned,
        "iterations": records,
        "seconds": seconds,
        "data": shards.fingerprint,
    }


def one_line(record: dict) -> str:
    """The record of an iteration in one line."""

    def show(value: float | None, form: str = ".2f") -> str:
        return "-" if value is None else format(value, form)

    parts = [f"iteration {record['iteration'] + 1}"]
    for modality in MODALITIES:
        parts.append(
            f"{modality} loss {show(record[f'{modality}_loss'])} "
            f"acc {show(record[f'{modality}_accuracy'])} "
            f"nmi(t,t-1) {show(record[f'nmi_previous_{modality}'])}"
        )
    parts.append(f"nmi(a,v) {show(record['nmi_audio_video'])}")
    for name, metrics in record["clusters"].items():
        if isinstance(metrics, dict):
            s = metrics["sizes"]
            parts.append(
                f"{name} clusters {s['min']}-{s['median']:.0f}-{s['max']}, "
                f"{s['effective']:.0f} effective"
            )
    parts.append(f"{record['clips_per_second']:.0f} clips/s")
    parts.append(f"waiting {record['data_wait_share']:.0%}")
    return " · ".join(parts)


def clusters_form(method: str) -> dict:
    """The form of `cluster_record`, as files.misfit takes it, as far as anything reads it."""
    names = [clustering_name(clustering) for clustering in clusterings_of(method)]
    both = set(MODALITIES) <= set(names)
    return {
        "n_unreadable": int,
        "extract_seconds": float,
        "cluster_seconds": float,
        "nmi_audio_video": float if both else NUMBER,
        **dict.fromkeys(names, CLUSTERING),
    }


def record_form(method: str) -> dict:
    """The form of `iteration_record`, likewise."""
    clusters = clusters_form(method)
    means = [f"{modality}_{metric}" for modality in MODALITIES for metric in ("loss", "accuracy")]
    return {
        "iteration": int,
        **dict.fromkeys((*means, "clips_per_second", "data_wait_share"), float),
        "nmi_audio_video": clusters["nmi_audio_video"],
        "clusters": clusters,
        "unreadable": {str: int},
    }


def run_form(method: str) -> dict:
    """The form of `run_record`, likewise."""
    known = {
        "method": str,
        "k": int,
        "samples": int,
        "learned?": int,
        "seconds": float,
        "data": str,
    }
    return {**known, "iterations": [record_form(method)]}


def step_form(method: str) -> dict:
    """The form of a line of metrics.jsonl for a step, likewise."""
    losses = {f"{head.name}_loss": float for head in heads_of(method)}
    return {"iteration": int, "step": int, **losses}
