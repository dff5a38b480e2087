"""Points that k-means clusters, of one process or of several ranks."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
import torch

from xdc_fast.ranks import ALONE, Ranks

DISTINCT = 100_000  # rows that are searched for copies; a collapsed encoder shows in fewer
# Points whose distances a CPU computes at a time. A matrix product of another height may round
# otherwise, so that parts of the points begin at multiples of it.
ROWS = 1024
BLOCK = 2**26  # distances that a GPU computes at a time
SPARE = 2  # points stay on the host unless this many times their size is free on the device
DIGITS = 24  # binary ones of float32
MOST = 2 ** (53 - DIGITS)  # numbers that float64 adds up exactly
SMALLEST = -100  # exponent; below, a unit would not be a normal number of float32


class Points:
    """Points float32 or float16 (N, D) and what k-means asks of them, block by block on a device.

    valid: bool (N,), which of them count; by default all. ranks: each has points of its own, and
    answers are about those of all ranks. given: the array may be written; otherwise it is copied.
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
        *,
        given: bool = False,
    ):
        self.device, self.ranks = torch.device(device), ranks
        self.members = np.arange(len(points)) if valid is None else np.flatnonzero(valid)
        counts = ranks.gather(len(self.members))
        self.before, self.count = sum(counts[: ranks.rank]), sum(counts)
        # torch warns of arrays that it may not write
        rows = torch.from_numpy(np.require(points, requirements=["C", "W"]))
        rows = rows if given else rows.clone()
        self._left_out = None
        if len(self.members) < len(points):
            self._left_out = torch.ones(len(points), dtype=torch.bool)
            self._left_out[self.members] = False
            rows[self._left_out] = 0
            self._left_out = self._left_out.to(self.device)
        round_to_grid(rows, ranks)
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
                own = rows.to(self.rows.dtype).cpu().numpy()
        return Points(own, self.device, None, self.ranks, given=True)

    def take(self, numbers: torch.Tensor) -> torch.Tensor:
        """The points of these numbers, int64 (M,), among all that count: float32 (M, D), on the
        device."""
        out = torch.zeros(len(numbers), self.rows.shape[1], device=self.device)
        number = numbers.cpu().numpy() - self.before
        here = (number >= 0) & (number < len(self.members))
        rows = torch.from_numpy(self.members[number[here]])
        out[torch.from_numpy(here)] = self.rows[rows].to(self.device).float()
        return self.ranks.sum(out)

    def distinct(self, k: int) -> int:
        """How many distinct points there are, or some number from k up."""
        for some in (4 * k, max(DISTINCT, 4 * k)):  # a few nearly always hold k
            points = self.take(torch.arange(min(some, self.count))).cpu().numpy()
            if (found := len(np.unique(points, axis=0))) >= k:
                break
        return found

    def blocks(self, width: int) -> Iterator[tuple[slice, torch.Tensor]]:
        """The points in parts, float32 on the device, for work that takes `width` numbers a
        point."""
        size = ROWS if self.device.type == "cpu" else max(ROWS, BLOCK // width)
        for first in range(0, len(self.rows), size):
            place = slice(first, first + size)
            yield place, self.rows[place].to(self.device, non_blocking=True).float()

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


def round_to_grid(rows: torch.Tensor, ranks: Ranks) -> None:
    """Rounds points (N, D) in place to multiples of 2^-DIGITS of the largest number of all ranks, a
    power of two; their sums in float64 are exact."""
    largest = torch.stack([rows.max(), -rows.min()]).max() if len(rows) else torch.zeros(())
    unit = power_of_two(float(ranks.max(largest.float()))) * 2.0**-DIGITS
    for block in rows.split(ROWS):
        block.copy_((block.float() / unit).round_().mul_(unit))


def power_of_two(number: float) -> float:
    """The smallest one that is not below a number of 0 or more, or the smallest that float32 has
    the digits for."""
    return 2.0 ** max(math.frexp(number)[1], SMALLEST)
