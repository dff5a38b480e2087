"""k-means over features: Lloyd's algorithm in torch, on the CPU or CUDA devices, of one process or
of several ranks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from operator import itemgetter

import numpy as np
import torch

from xdc_fast.clusters.points import Points
from xdc_fast.clusters.prepare import concat_features
from xdc_fast.errors import UserError
from xdc_fast.ranks import ALONE, Ranks
from xdc_fast.recipe import Cluster

DRAW = 20  # samples per cluster from which a random start is chosen
# Rounds end when one lowers the mean squared distance by less than this share. Measured on toy and
# random features, twenty rounds would lower it by another 0.1 to 0.6 %, at worst by 1.5 %.
TOLERANCE = 1e-3


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
    multiples of points.ROWS.
    Raises UserError for k above the number of samples, features that are not finite, and
    fewer distinct feature vectors than clusters.
    """
    total = sum(ranks.gather(int(np.count_nonzero(valid))))
    if not total:
        raise UserError("no sample can be read; run `xdc-shard verify`")
    if k > total:
        raise UserError(f"k={k} clusters of {total} samples; set k to {total} or less")
    check_finite(features, valid, ranks)
    points = concat_features(features, settings, valid, ranks)
    every = Points(points, device, valid, ranks, given=True)
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
            half = part.dtype == np.float16
            raise UserError(
                f"features of sample {found[0]} ({len(found)} in all) are not finite: the "
                "encoder diverged; lower train.lr"
                f"{' or set cluster.precision=float32' if half else ''} in a new run"
            )


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
