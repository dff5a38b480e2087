"""k-means over features: Lloyd's algorithm in torch, on the CPU or a CUDA device."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from operator import itemgetter

import numpy as np
import torch

from xdc_fast.errors import UserError
from xdc_fast.recipe import Cluster

DISTINCT = 100_000  # rows that are searched for copies; a collapsed encoder shows in fewer
DRAW = 20  # samples per cluster from which a random start is chosen
# Rounds end when one lowers the mean squared distance by less than this share. Measured on toy and
# random features, twenty rounds would lower it by another 0.1 to 0.6 %, at worst by 1.5 %.
TOLERANCE = 1e-3
# Distances that are computed at a time: 4 MB of a CPU's cache, 256 MB of a GPU.
BLOCK = {"cpu": 2**20, "cuda": 2**26}
SPARE = 2  # points stay on the host unless this many times their size is free on the device


@dataclass(frozen=True)
class Clustering:
    """The result of one k-means."""

    assignment: np.ndarray
    """int32 (N,): the cluster of each sample, 0 to k-1; -1 where it has no features."""
    centroids: np.ndarray
    """float32 (k, D): the mean of each cluster, of the features as they were normalised."""
    distance: np.ndarray
    """float32 (N,): squared distance to the centroid of the sample's cluster; inf without one."""
    mean_squared_distance: float
    """Mean of `distance` over the samples with a cluster; scikit-learn's `inertia_` is its sum."""
    reassigned: int
    """How often an empty cluster was refilled by splitting another."""
    rounds: int = 0
    """How often the centroids were moved to the means of their clusters."""


def cluster(
    features: list[np.ndarray],
    valid: np.ndarray,
    k: int,
    settings: Cluster,
    seed: int,
    device: torch.device | str = "cpu",
    previous: np.ndarray | None = None,
) -> Clustering:
    """k-means of the samples by the features of one modality, or of several concatenated.

    features: float32 or float16 (N, D) each; several are scaled to unit length first, so that each
    has the same weight. valid: bool (N,), which rows hold features. device: where it computes.
    previous: int32 (N,), an earlier assignment, -1 for none. The clusters then start from its means
    over these features: they keep their numbers and need few rounds. Without it they start from
    the best of settings.n_init random starts.
    On a CPU the result depends only on the arguments (and, in the last digits, on the number of
    threads).
    Raises UserError for k above the number of samples, features that are not finite, and
    fewer distinct feature vectors than clusters.
    """
    rows = np.flatnonzero(valid)
    if not len(rows):
        raise UserError("no sample can be read; run `xdc-shard verify`")
    if k > len(rows):
        raise UserError(f"k={k} clusters of {len(rows)} samples; set k to {len(rows)} or less")
    parts = features if valid.all() else [part[rows] for part in features]
    for part in parts:
        bad = np.flatnonzero(~np.isfinite(part.sum(axis=1, dtype=np.float32)))
        if len(bad):
            raise UserError(
                f"features of sample {rows[bad[0]]} ({len(bad)} in all) are not finite: the "
                "encoder diverged; lower train.lr in a new run"
            )
    points = concat_features(parts, settings)
    if k > (distinct := _distinct(points, k)):
        raise UserError(
            f"k={k} clusters, but only {distinct} distinct feature vectors among {len(rows)} "
            "samples: the encoder has collapsed or the samples are copies; lower train.lr or k"
        )
    order = np.random.default_rng(seed).permutation(len(points))
    every = Points(points, device)
    train = every
    if 0 < settings.max_samples < len(points):
        train = Points(points[order[: max(settings.max_samples, k)]], device)
    last = np.full(len(rows), -1) if previous is None else previous[rows]
    known = last >= 0
    if known.any():
        start, sizes = every.means(torch.from_numpy(np.where(known, last, k)), k + 1)
        start, sizes = start[:k], sizes[:k]
        start[sizes == 0] = every.mean()  # near the points far from every centroid
    else:
        draw = Points(points[order[: min(DRAW * k, len(train))]], device)
        start = init_centroids(draw, k, settings, seed)
    found = lloyd(train, start, settings.max_iter)
    nearest, distance = found.nearest, found.distance
    if train is not every:
        nearest, distance = every.nearest(found.centroids)
    assignment = np.full(len(valid), -1, dtype=np.int32)
    assignment[rows] = nearest.cpu().numpy()
    distances = np.full(len(valid), np.inf, dtype=np.float32)
    distances[rows] = distance.cpu().numpy()
    mean = float(distance.mean(dtype=torch.float64))
    centroids = found.centroids.cpu().numpy()
    return Clustering(assignment, centroids, distances, mean, found.reassigned, found.rounds)


class Points:
    """Points float32 (N, D) and what k-means asks of them, block by block on a device.

    They move to the device where there is room, and otherwise go there in each round.
    """

    def __init__(self, points: np.ndarray, device: torch.device | str = "cpu"):
        self.device = torch.device(device)
        # torch warns of arrays that it may not write
        self.rows = torch.from_numpy(np.require(points, requirements=["C", "W"]))
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            if SPARE * self.rows.nbytes <= free:
                self.rows = self.rows.to(self.device)
            else:
                self.rows = self.rows.pin_memory()
        self.squares = torch.empty(len(points), device=self.device)
        for place, block in self.blocks(points.shape[1]):
            torch.sum(block.square(), dim=1, out=self.squares[place])

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, index: torch.Tensor) -> torch.Tensor:
        """Some of the points, on the device."""
        return self.rows[index.to(self.rows.device)].to(self.device)

    def blocks(self, width: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """The points in parts, on the device, for work that takes `width` numbers a point."""
        size = max(1, BLOCK[self.device.type] // width)
        for first in range(0, len(self.rows), size):
            place = slice(first, first + size)
            yield place, self.rows[place].to(self.device, non_blocking=True)

    def nearest(self, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest centroid of each point, int64 (N,), and the squared distance, float32 (N,).

        centroids: float32 (k, D), on the device.
        """
        found = torch.empty(len(self), dtype=torch.int64, device=self.device)
        distance = torch.empty(len(self), device=self.device)
        squares, turned = centroids.square().sum(dim=1), -2 * centroids.T
        for place, block in self.blocks(len(centroids)):
            torch.min(
                torch.addmm(squares, block, turned), dim=1, out=(distance[place], found[place])
            )
        return found, distance.add_(self.squares).clamp_(min=0)

    def means(self, assignment: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean of each of k clusters, float32 (k, D), 0 where it is empty, and its size, int64.

        assignment: int64 (N,), 0 to k-1.
        """
        assignment = assignment.to(self.device)
        sums = torch.zeros(k, self.rows.shape[1], device=self.device)
        for place, block in self.blocks(self.rows.shape[1]):
            sums.index_add_(0, assignment[place], block)
        sizes = torch.bincount(assignment, minlength=k)
        return sums / sizes.clamp(min=1)[:, None], sizes

    def mean(self) -> torch.Tensor:
        """Float32 (D,)."""
        return self.means(torch.zeros(len(self), dtype=torch.int64), 1)[0][0]


@dataclass(frozen=True)
class Rounds:
    """What lloyd comes to: tensors of a device, counts as of Clustering.

    nearest, int64 (N,), and distance, float32 (N,), are those of the centroids, float32 (k, D).
    """

    centroids: torch.Tensor
    nearest: torch.Tensor
    distance: torch.Tensor
    reassigned: int
    rounds: int


def lloyd(points: Points, centroids: torch.Tensor, rounds: int) -> Rounds:
    """Lloyd's algorithm: at most so many rounds from centroids float32 (k, D) on."""
    before, reassigned, refilled = np.inf, 0, 0
    for done in range(rounds + 1):
        nearest, distance = points.nearest(centroids)
        mean = float(distance.mean(dtype=torch.float64))
        # clusters that were just split need another round
        if done == rounds or (mean >= (1 - TOLERANCE) * before and not refilled):
            break
        before = mean
        centroids, sizes = points.means(nearest, len(centroids))
        refilled = split_largest(points, centroids, sizes, nearest, distance)
        reassigned += refilled
    return Rounds(centroids, nearest, distance, reassigned, done)


def split_largest(
    points: Points,
    centroids: torch.Tensor,
    sizes: torch.Tensor,
    nearest: torch.Tensor,
    distance: torch.Tensor,
) -> int:
    """Refill each empty cluster by splitting the largest, in place; returns how many were empty.

    The largest has the largest sum of distances: a cluster of copies has none and is never split.
    Both halves start on the line from its centroid to its farthest sample.
    """
    empty = torch.nonzero(sizes == 0)[:, 0].tolist()
    if empty:
        left = distance.clone()
        width = torch.zeros(len(centroids), dtype=torch.float64, device=distance.device)
        width.index_add_(0, nearest, distance.double())
    for new in empty:
        widest = int(width.argmax())
        members = torch.nonzero(nearest == widest)[:, 0]
        farthest = members[left[members].argmax()]
        step = 0.1 * (points.take(farthest) - centroids[widest])
        centroids[new] = centroids[widest] + step
        centroids[widest] -= step
        left[farthest] = 0
        width[widest] /= 2
    return len(empty)


def init_centroids(draw: Points, k: int, settings: Cluster, seed: int) -> torch.Tensor:
    """The centroids of the best of settings.n_init k-means over the points of `draw`."""

    def run(start: int) -> tuple[float, torch.Tensor]:
        chosen = kmeans_plusplus(draw, k, np.random.default_rng((seed, start)))
        found = lloyd(draw, draw.take(chosen), settings.max_iter)
        return float(found.distance.mean(dtype=torch.float64)), found.centroids

    return min(map(run, range(settings.n_init)), key=itemgetter(0))[1]


def kmeans_plusplus(draw: Points, k: int, rng: np.random.Generator) -> torch.Tensor:
    """Greedy k-means++ (Arthur and Vassilvitskii 2007, section 5): k of the points, int64 (k,).

    Each is the best of 2 + ln k candidates, drawn with weights: the squared distance to the
    nearest point chosen before. It computes in float32: scikit-learn's, in float64, takes longer
    than the rounds.
    """
    # the expanded squares lose digits far from the origin
    points = draw.rows.to(draw.device) - draw.mean()
    square = points.square().sum(dim=1)
    chosen = torch.zeros(k, dtype=torch.int64, device=draw.device)
    chosen[0] = int(rng.integers(len(points)))
    nearest = square + square[chosen[0]] - 2 * (points @ points[chosen[0]])
    nearest.clamp_(min=0)
    shares = torch.from_numpy(rng.random((k - 1, 2 + int(np.log(k))))).to(draw.device)
    for place, share in enumerate(shares, 1):
        total = nearest.cumsum(0, dtype=torch.float64)
        drawn = torch.searchsorted(total, share * total[-1], right=True)
        drawn.clamp_(max=len(points) - 1)
        distance = torch.addmm(square, points[drawn], points.T, alpha=-2)
        distance = torch.minimum(distance.add_(square[drawn, None]).clamp_(min=0), nearest)
        best = distance.sum(dim=1).argmin()
        nearest, chosen[place] = distance[best], drawn[best]
    return chosen


def concat_features(parts: list[np.ndarray], settings: Cluster) -> np.ndarray:
    """The points that `cluster` clusters, float32 (N, D'), from features (N, D) each."""
    if len(parts) > 1:
        parts = [np.concatenate([unit_length(part) for part in parts], axis=1)]
    return prepare(parts[0], settings)


def prepare(points: np.ndarray, settings: Cluster) -> np.ndarray:
    """PCA with whitening and length normalisation, by the settings: float32 (N, D) -> (N, D')."""
    points = np.ascontiguousarray(points, dtype=np.float32)
    if settings.pca:
        if settings.pca > min(points.shape):
            raise UserError(
                f"cluster.pca={settings.pca} of {points.shape[0]} x {points.shape[1]} features; "
                f"set it to {min(points.shape)} or less"
            )
        import faiss  # most clusterings have no PCA, and go without its load

        pca = faiss.PCAMatrix(points.shape[1], settings.pca, -0.5)
        pca.train(points)
        points = pca.apply(points)
        if not np.isfinite(points).all():
            raise UserError(
                f"cluster.pca={settings.pca} keeps components without variance, which whitening "
                "cannot scale; set it lower"
            )
    if settings.normalize == "centered-l2":
        points = points - points.mean(axis=0)
    if settings.normalize != "none":
        points = unit_length(points)
    return points


def unit_length(points: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length, float (N, D); rows of zeros stay."""
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.maximum(length, np.finfo(np.float32).tiny)


def _distinct(points: np.ndarray, k: int) -> int:
    """The number of distinct rows, or some number from k up: a few rows nearly always have k."""
    few = len(np.unique(points[: 4 * k], axis=0))
    return few if few >= k else len(np.unique(points[: max(DISTINCT, 4 * k)], axis=0))
