"""The formulas of a plan: bytes, operations and seconds from sizes and rates."""

from __future__ import annotations

import math

from xdc_fast.clusters.kmeans import DRAW
from xdc_fast.pretraining.check import OF_A_LABEL, OF_A_POINT
from xdc_fast.shards.format import PACKET, SAMPLE

TAR_FILE = 512 + 256  # of a file in a tar: its header, and what fills its last block on average
FLOAT = 4  # bytes of a number


def sound_bytes(seconds: float, sample_rate: int) -> float:
    """Of 16-bit mono sound."""
    return 2 * seconds * sample_rate


def sample_bytes(video: float, sound: float, packets: float) -> float:
    """Of a sample in its tar and in the tables beside it.

    packets: frames that the table of packets has a row for.
    """
    return video + sound + 3 * TAR_FILE + SAMPLE.itemsize + PACKET.itemsize * packets


def clip_bytes(frames: int, stride: float, frame: float, samples: int) -> float:
    """Of the two ranges that hold a clip: from its first frame to its last, and its sound.

    stride: packed frames from one frame of the clip to the next. frame: bytes of a packed one.
    """
    return ((frames - 1) * stride + 1) * frame + 2 * samples


def ring_bytes(size: float, ranks: int) -> float:
    """What each rank sends, and receives, where a ring adds up `size` bytes over the ranks."""
    return 2 * (ranks - 1) / ranks * size


def groups_per_rank(batch: int, group: int, ranks: int) -> int:
    """Groups that the busiest rank takes in a step."""
    return math.ceil(batch / group / ranks)


def clip_seconds(
    operations: float, pixels: float, *, speed: float, feed: float, together: float = 1.0
) -> float:
    """Of a rank for a clip: the encoders and the loader work side by side, the slower one decides.

    speed: operations per second. feed: packed pixels per second. together: the share of the
    slower one's rate that is left when both work.
    """
    return max(operations / speed, pixels / feed) / together


def step_seconds(clips: int, clip: float, gradients: float, ranks: int, network: float) -> float:
    """Of a step: the clips of the busiest rank, `clip` seconds each, then the sum of gradients.

    gradients: bytes. network: bytes per second.
    """
    return clips * clip + ring_bytes(gradients, ranks) / network


def start_operations(points: float, k: int, width: int, rounds: int, starts: int) -> float:
    """Of the start of k-means from scratch, which the first rank computes alone.

    k-means++ takes the best of 2 + ln k candidates for each centroid, and rounds follow, all over
    DRAW samples per cluster.
    """
    drawn = min(DRAW * k, points)
    candidates = k * (2 + int(math.log(k)))
    return starts * 2 * drawn * width * (candidates + k * (rounds + 1))


def fit_operations(points: float, k: int, width: int, rounds: int, every: float) -> float:
    """Of k-means after its start: each round finds the nearest of k centroids of all points, and
    so does the end.

    every: samples that get a cluster in the end, where they are more than the points; else 0.
    """
    return 2 * width * k * (points * (rounds + 1) + every)


def kmeans_seconds(
    start: float, fit: float, rounds: int, sums: float, *, speed: float, ranks: int, network: float
) -> float:
    """Of a clustering: its start on one rank, the fit on all, and a sum over the ranks each round.

    start, fit: operations. sums: bytes that a round adds up. speed: operations per second.
    """
    return start / speed + fit / ranks / speed + rounds * ring_bytes(sums, ranks) / network


def sums_bytes(k: int, width: int) -> float:
    """Of the sums of k clusters, in float64, which ranks add up in each round of k-means."""
    return 8 * k * width


def checkpoint_bytes(weights: int) -> float:
    """Of a checkpoint: weights and their momentum."""
    return 2 * FLOAT * weights


def training_memory(weights: int, activations: float, ranks: int) -> float:
    """Of a device in a training step: weights, gradients, momentum, and what the backward pass
    needs; several ranks hold the gradients twice."""
    return FLOAT * weights * (4 if ranks > 1 else 3) + activations


def points_memory(rows: float, width: int, size: int, prepared: bool) -> float:
    """Of the points of a k-means on a rank, and their squares, clusters and distances.

    size: bytes of a number. prepared: normalised by the mean or by PCA, which takes another copy.
    """
    return rows * (size * width * (2 if prepared else 1) + OF_A_POINT)


def labels_memory(samples: float, clusterings: int) -> float:
    """Of the assignments of all samples, of this iteration and of the one before."""
    return 2 * OF_A_LABEL * clusterings * samples
