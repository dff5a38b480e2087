"""k-means over features: Lloyd's algorithm in torch, on the CPU or CUDA devices, of one process or
of several ranks."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter

import numpy as np
import torch

from xdc_fast.errors import UserError
from xdc_fast.ranks import ALONE, Ranks
from xdc_fast.recipe import Cluster

DISTINCT = 100_000  # rows that are searched for copies; a collapsed encoder shows in fewer
DRAW = 20  # samples per cluster from which a random start is chosen
# Rounds end when one lowers the mean squared distance by less than this share. Measured on toy and
# random features, twenty rounds would lower it by another 0.1 to 0.6 %, at worst by 1.5 %.
TOLERANCE = 1e-3
# Points whose distances a CPU computes at a time. A matrix product of another height may round
# otherwise, so that parts of the points begin at multiples of it.
ROWS = 1024
BLOCK = 2**26  # distances that a GPU computes at a time
SPARE = 2  # points stay on the host unless this many times their size is free on the device
DIGITS = 24  # binary ones of float32; 2^53 / 2^24 = 2^29 numbers add up exactly in float64
SMALLEST = -100  # exponent; below, a unit would not be a normal number of float32


@dataclass(frozen=True)
class Clustering:
    """The result of one k-means; of several ranks, each has what concerns its own samples."""

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
    ranks: Ranks = ALONE,
) -> Clustering:
    """k-means of the samples by the features of one modality, or of several concatenated.

    features: float32 or float16 (N, D) each; several are scaled to unit length first, so that each
    has the same weight. valid: bool (N,), which rows hold features. device: where it computes.
    previous: int32 (N,), an earlier assignment, -1 for none. The clusters then start from its means
    over these features: they keep their numbers and need few rounds. Without it they start from
    the best of settings.n_init random starts.
    ranks: N are the samples of this rank, which follow on those of the rank before. Each holds
    its own alone.
    On a CPU the result depends only on the arguments (and, in the last digits, on the number of
    threads). It is the same for any number of ranks, bit for bit, where their samples begin at
    multiples of ROWS.
    Raises UserError for k above the number of samples, features that are not finite, and
    fewer distinct feature vectors than clusters.
    """
    total = sum(ranks.gather(int(np.count_nonzero(valid))))
    if not total:
        raise UserError("no sample can be read; run `xdc-shard verify`")
    if k > total:
        raise UserError(f"k={k} clusters of {total} samples; set k to {total} or less")
    check_finite(features, valid, ranks)
    every = Points(concat_features(features, settings, valid, ranks), device, valid, ranks)
    if k > (distinct := every.distinct(k)):
        raise UserError(
            f"k={k} clusters, but only {distinct} distinct feature vectors among {total} "
            "samples: the encoder has collapsed or the samples are copies; lower train.lr or k"
        )
    some = 0 < settings.max_samples < total
    known = previous is not None and any(ranks.gather(bool((previous[valid] >= 0).any())))
    order = np.zeros(0, np.int64)
    if some or not known:
        drawn = max(settings.max_samples, k) if some else min(DRAW * k, total)
        if ranks.first:
            order = np.random.default_rng(seed).permutation(total)[:drawn]
        order = ranks.broadcast(order)
    train = every.only(order) if some else every
    if previous is not None and known:
        start, sizes = every.means(torch.from_numpy(previous.astype(np.int64)), k)
        start[sizes == 0] = every.mean()  # near the points far from every centroid
    else:
        draw = Points(every.take(torch.from_numpy(order[: DRAW * k])).cpu().numpy(), device)
        start = torch.zeros(k, draw.rows.shape[1], device=draw.device)
        if ranks.first:
            start = init_centroids(draw, k, settings, seed)
        ranks.sum(start)  # zeros on the other ranks
    found = lloyd(train, start, settings.max_iter)
    nearest, distance = found.nearest, found.distance
    if train is not every:
        nearest, distance = every.nearest(found.centroids)
    distances = distance.cpu().numpy()
    distances[~valid] = np.inf
    return Clustering(
        nearest.cpu().numpy().astype(np.int32),
        found.centroids.cpu().numpy(),
        distances,
        every.sum(distance) / total,
        found.reassigned,
        found.rounds,
    )


def check_finite(features: list[np.ndarray], valid: np.ndarray, ranks: Ranks) -> None:
    """UserError for features that are not finite; arguments as of `cluster`."""
    before = sum(ranks.gather(len(valid))[: ranks.rank])
    for part in features:
        bad = np.flatnonzero(valid & ~np.isfinite(part.sum(axis=1, dtype=np.float32)))
        found = [row for rows in ranks.gather((before + bad).tolist()) for row in rows]
        if found:
            raise UserError(
                f"features of sample {found[0]} ({len(found)} in all) are not finite: the "
                "encoder diverged; lower train.lr in a new run"
            )


class Points:
    """Points float32 (N, D) and what k-means asks of them, block by block on a device.

    valid: bool (N,), which of them count; by default all. ranks: each has points of its own, and
    answers are about those of all ranks.
    They are rounded to 24 binary digits of the largest number, so that float64 adds up 2^29 of them
    without rounding: whatever their order, and on whatever ranks, their sum is the same.
    They move to the device where there is room, and otherwise go there in each round.
    """

    def __init__(
        self,
        points: np.ndarray,
        device: torch.device | str = "cpu",
        valid: np.ndarray | None = None,
        ranks: Ranks = ALONE,
    ):
        self.device, self.ranks = torch.device(device), ranks
        self.members = np.arange(len(points)) if valid is None else np.flatnonzero(valid)
        counts = ranks.gather(len(self.members))
        self.before, self.count = sum(counts[: ranks.rank]), sum(counts)
        rows = on_grid(points, ranks)
        self._left_out = None
        if len(self.members) < len(points):
            self._left_out = torch.ones(len(points), dtype=torch.bool)
            self._left_out[self.members] = False
            rows[self._left_out] = 0
            self._left_out = self._left_out.to(self.device)
        if self.device.type == "cuda":
            free, _ = torch.cuda.mem_get_info(self.device)
            rows = rows.to(self.device) if SPARE * rows.nbytes <= free else rows.pin_memory()
        self.rows = rows
        self.squares = torch.empty(len(points), device=self.device)
        for place, block in self.blocks(points.shape[1]):
            torch.sum(block.square(), dim=1, out=self.squares[place])
        longest = self.squares.max() if len(points) else torch.zeros((), device=self.device)
        # of no distance between points and means; a split cluster may start a little outside
        self.reach = power_of_two(8 * float(ranks.max(longest)))

    def __len__(self) -> int:
        return len(self.rows)

    def only(self, numbers: np.ndarray) -> Points:
        """Some of the points, by their numbers among all that count, shared among the ranks."""
        numbers = np.sort(numbers)
        for rank in range(self.ranks.world):
            share = Ranks(rank, self.ranks.world).share(len(numbers), ROWS)
            rows = self.take(torch.from_numpy(numbers[share]))
            if rank == self.ranks.rank:
                own = rows.cpu().numpy()
        return Points(own, self.device, None, self.ranks)

    def take(self, numbers: torch.Tensor) -> torch.Tensor:
        """The points of these numbers among all that count, int64 (M,), on the device."""
        out = torch.zeros(len(numbers), self.rows.shape[1], device=self.device)
        number = numbers.cpu().numpy() - self.before
        here = (number >= 0) & (number < len(self.members))
        rows = torch.from_numpy(self.members[number[here]])
        out[torch.from_numpy(here)] = self.rows[rows].to(self.device)
        return self.ranks.sum(out)

    def distinct(self, k: int) -> int:
        """How many distinct points there are, or some number from k up."""
        for some in (4 * k, max(DISTINCT, 4 * k)):  # a few nearly always hold k
            points = self.take(torch.arange(min(some, self.count))).cpu().numpy()
            if (found := len(np.unique(points, axis=0))) >= k:
                break
        return found

    def blocks(self, width: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """The points in parts, on the device, for work that takes `width` numbers a point."""
        size = ROWS if self.device.type == "cpu" else max(ROWS, BLOCK // width)
        for first in range(0, len(self.rows), size):
            place = slice(first, first + size)
            yield place, self.rows[place].to(self.device, non_blocking=True)

    def nearest(self, centroids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The nearest centroid of each point of this rank, int64 (N,), and the squared distance,
        float32 (N,); -1 and 0 for a point that does not count.

        centroids: float32 (k, D), on the device.
        """
        found = torch.empty(len(self), dtype=torch.int64, device=self.device)
        distance = torch.empty(len(self), device=self.device)
        squares, turned = centroids.square().sum(dim=1), -2 * centroids.T
        for place, block in self.blocks(len(centroids)):
            torch.min(
                torch.addmm(squares, block, turned), dim=1, out=(distance[place], found[place])
            )
        distance.add_(self.squares).clamp_(min=0)
        if self._left_out is not None:
            found[self._left_out], distance[self._left_out] = -1, 0
        return found, distance

    def means(self, assignment: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
        """The mean of each of k clusters, float32 (k, D), 0 where it is empty, and its size, int64.

        assignment: int64 (N,), 0 to k-1, or -1 for none.
        """
        assignment = assignment.to(self.device)
        assignment = torch.where(assignment < 0, k, assignment)
        sums = torch.zeros(k + 1, self.rows.shape[1], dtype=torch.float64, device=self.device)
        for place, block in self.blocks(self.rows.shape[1]):
            sums.index_add_(0, assignment[place], block.double())
        sizes = self.ranks.sum(torch.bincount(assignment, minlength=k + 1))[:k]
        return (self.ranks.sum(sums)[:k] / sizes.clamp(min=1)[:, None]).float(), sizes

    def mean(self) -> torch.Tensor:
        """Float32 (D,)."""
        every = torch.zeros(len(self), dtype=torch.int64, device=self.device)
        if self._left_out is not None:
            every[self._left_out] = -1
        return self.means(every, 1)[0][0]

    def sum(self, distance: torch.Tensor) -> float:
        """The sum of distances, float32 (N,), the same whatever their order."""
        unit = self.reach * 2.0**-DIGITS
        return float(self.ranks.sum((distance.double() / unit).round().sum())) * unit

    def widths(self, nearest: torch.Tensor, distance: torch.Tensor, k: int) -> torch.Tensor:
        """The sum of the distances in each of k clusters, float64 (k,), likewise."""
        unit = self.reach * 2.0**-DIGITS
        width = torch.zeros(k + 1, dtype=torch.float64, device=self.device)
        width.index_add_(
            0, torch.where(nearest < 0, k, nearest), (distance.double() / unit).round()
        )
        return self.ranks.sum(width)[:k] * unit


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
        total = points.sum(distance)
        # clusters that were just split need another round
        if done == rounds or (total >= (1 - TOLERANCE) * before and not refilled):
            break
        before = total
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
    if not empty:
        return 0
    width = points.widths(nearest, distance, len(centroids)).cpu()
    split = []
    for _ in empty:
        widest = int(width.argmax())
        split.append(widest)
        width[widest] /= 2
    farthest = farthest_members(points, Counter(split), nearest, distance)
    rows = points.take(torch.tensor([farthest[widest].pop(0) for widest in split]))
    for new, widest, row in zip(empty, split, rows, strict=True):
        step = 0.1 * (row - centroids[widest])
        centroids[new] = centroids[widest] + step
        centroids[widest] -= step
    return len(empty)


def farthest_members(
    points: Points, wanted: Mapping[int, int], nearest: torch.Tensor, distance: torch.Tensor
) -> dict[int, list[int]]:
    """The numbers of the `wanted` members of each cluster that are farthest from its centroid.

    A cluster of fewer gives its last one again.
    """
    own = []
    for number, count in wanted.items():
        members = torch.nonzero(nearest == number)[:, 0]
        order = torch.sort(distance[members], descending=True, stable=True).indices[:count]
        for row in members[order].tolist():
            place = points.before + int(np.searchsorted(points.members, row))
            own.append((number, -float(distance[row]), place))
    found: dict[int, list[int]] = {number: [] for number in wanted}
    for number, _, place in sorted(chain.from_iterable(points.ranks.gather(own))):
        found[number].append(place)
    return {
        number: (places + places[-1:] * count)[:count]
        for (number, places), count in zip(found.items(), wanted.values(), strict=True)
    }


def init_centroids(draw: Points, k: int, settings: Cluster, seed: int) -> torch.Tensor:
    """The centroids of the best of settings.n_init k-means over the points of `draw`."""

    def run(start: int) -> tuple[float, torch.Tensor]:
        chosen = kmeans_plusplus(draw, k, np.random.default_rng((seed, start)))
        found = lloyd(draw, draw.take(chosen), settings.max_iter)
        return draw.sum(found.distance), found.centroids

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


def concat_features(
    parts: list[np.ndarray],
    settings: Cluster,
    valid: np.ndarray | None = None,
    ranks: Ranks = ALONE,
) -> np.ndarray:
    """The points that `cluster` clusters, float32 (N, D'), from features (N, D) each."""
    if len(parts) > 1:
        parts = [np.concatenate([unit_length(part) for part in parts], axis=1)]
    return prepare(parts[0], settings, valid, ranks)


def prepare(
    points: np.ndarray,
    settings: Cluster,
    valid: np.ndarray | None = None,
    ranks: Ranks = ALONE,
) -> np.ndarray:
    """PCA with whitening and length normalisation, by the settings: float32 (N, D) -> (N, D').

    valid, ranks: as of `cluster`. Rows that are not valid mean nothing.
    """
    points = np.ascontiguousarray(points, dtype=np.float32)
    if valid is not None and not valid.all():
        points = np.where(valid[:, None], points, np.float32(0))
    if settings.pca:
        points = whiten(points, settings.pca, valid, ranks)
    if settings.normalize == "centered-l2":
        points = points - Points(points, "cpu", valid, ranks).mean().numpy()
    if settings.normalize != "none":
        points = unit_length(points)
    return points


def whiten(
    points: np.ndarray, components: int, valid: np.ndarray | None, ranks: Ranks
) -> np.ndarray:
    """The principal components of unit variance, float32 (N, components); UserError without."""
    every, dim = Points(points, "cpu", valid, ranks), points.shape[1]
    if components > min(every.count, dim):
        raise UserError(
            f"cluster.pca={components} of {every.count} x {dim} features; "
            f"set it to {min(every.count, dim)} or less"
        )
    import faiss  # most clusterings have no PCA, and go without its load

    pca = faiss.PCAMatrix(dim, components, -0.5)
    shown = np.linspace(0, every.count - 1, min(every.count, pca.max_points_per_d * dim))
    sample = every.take(torch.from_numpy(shown.astype(np.int64))).numpy()
    fitted: list[np.ndarray] = []
    if ranks.first:
        pca.train(sample)
        fitted = [faiss.vector_to_array(vector) for vector in (pca.A, pca.b)]
    matrix, offset = map(torch.from_numpy, ranks.broadcast(fitted))
    turned = matrix.reshape(components, dim).T
    whitened = np.empty((len(points), components), np.float32)
    for first in range(0, len(points), ROWS):
        place = slice(first, first + ROWS)
        whitened[place] = torch.addmm(offset, torch.from_numpy(points[place]), turned).numpy()
    if not all(ranks.gather(bool(np.isfinite(whitened).all()))):
        raise UserError(
            f"cluster.pca={components} keeps components without variance, which whitening "
            "cannot scale; set it lower"
        )
    return whitened


def unit_length(points: np.ndarray) -> np.ndarray:
    """Rows divided by their Euclidean length, float (N, D); rows of zeros stay."""
    length = np.linalg.norm(points, axis=1, keepdims=True)
    return points / np.maximum(length, np.finfo(np.float32).tiny)


def on_grid(points: np.ndarray, ranks: Ranks) -> torch.Tensor:
    """Points float32 (N, D) rounded to multiples of 2^-DIGITS of the largest number of all ranks,
    a power of two; their sums in float64 are exact."""
    # torch warns of arrays that it may not write
    rows = torch.from_numpy(np.require(points, requirements=["C", "W"]))
    largest = torch.stack([rows.max(), -rows.min()]).max() if len(rows) else torch.zeros(())
    unit = power_of_two(float(ranks.max(largest))) * 2.0**-DIGITS
    return (rows / unit).round_().mul_(unit)


def power_of_two(number: float) -> float:
    """The smallest one that is not below a number of 0 or more, or the smallest that float32 has
    the digits for."""
    return 2.0 ** max(math.frexp(number)[1], SMALLEST)
