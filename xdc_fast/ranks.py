"""The processes of one run, and what they tell each other.

torchrun starts a run in several processes, the ranks, and tells each of them so in its environment.
Whatever starts them likewise will do. One process alone is a rank too, the only one.
"""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from threading import Thread
from typing import TypeVar

import torch
from torch import distributed

from xdc_fast import progress
from xdc_fast.errors import UserError

# How long a rank waits for the others: one of them may be drawing the start of k-means, or writing.
PATIENCE = timedelta(minutes=10)
ANSWER = 5  # seconds in which the store, which only remembers, answers

T = TypeVar("T")
_numbers = count()


class Lost(UserError):
    """Another rank has ended, or does not answer."""


@dataclass(frozen=True)
class Ranks:
    """This process among the `world` processes of a run; rank: its number, from 0.

    What several ranks call, all of them have to call, in the same order. Raises Lost where one of
    the others does not.
    """

    rank: int = 0
    world: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that writes the run's files and shows its progress."""
        return self.rank == 0

    @property
    def on_machine(self) -> int:
        """How many of them are on this machine, as torchrun tells."""
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1")) if self.world > 1 else 1

    def sum(self, tensor: torch.Tensor) -> torch.Tensor:
        """Adds up a tensor over the ranks, in place; returns it."""
        if self.world > 1:
            with naming_loss(self):
                distributed.all_reduce(tensor)
        return tensor

    def max(self, tensor: torch.Tensor) -> torch.Tensor:
        """The largest of each number over the ranks, in place; returns it."""
        if self.world > 1:
            with naming_loss(self):
                distributed.all_reduce(tensor, distributed.ReduceOp.MAX)
        return tensor

    def gather(self, value: T) -> list[T]:
        """The values of all ranks, in their order."""
        found: list = [value] * self.world
        if self.world > 1:
            with naming_loss(self):
                distributed.all_gather_object(found, value)
        return found

    def broadcast(self, value: T) -> T:
        """The value of the first rank."""
        found = [value]
        if self.world > 1:
            with naming_loss(self):
                distributed.broadcast_object_list(found)
        return found[0]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return bool(self.max(torch.tensor(flag, dtype=torch.uint8)))

    def collect(self, value: T) -> list[T]:
        """The values of all ranks, in their order, on the first one; nothing on the others."""
        if self.world == 1:
            return [value]
        found: list | None = [None] * self.world if self.first else None
        with naming_loss(self):
            distributed.gather_object(value, found)
        return found or []

    def barrier(self) -> None:
        """Returns when all ranks have called it."""
        self.gather(None)

    def share(self, count: int, unit: int = 1) -> slice:
        """This rank's part of `count` things in a row, whose parts begin at multiples of `unit`.

        The first rank's part is the largest.
        """
        units = -(-count // unit)
        begin, end = (-(-units * rank // self.world) * unit for rank in (self.rank, self.rank + 1))
        return slice(min(begin, count), min(end, count))


ALONE = Ranks()


@contextmanager
def open_ranks() -> Iterator[Ranks]:
    """The ranks of the run that the environment describes, or ALONE.

    Where errors end the block, the rank that had the first one tells it (see progress).
    """
    place = [os.environ.get("RANK", "0"), os.environ.get("WORLD_SIZE", "1")]
    if not all(map(str.isdecimal, place)):
        raise UserError(
            f"RANK={place[0]} WORLD_SIZE={place[1]}: no numbers; unset both, or use torchrun"
        )
    ranks = Ranks(*map(int, place))
    if ranks.world == 1:
        yield ALONE
        return
    with naming_loss(ranks):
        store, *_ = next(distributed.rendezvous("env://", timeout=PATIENCE))
        # torchrun's store outlives a try and a group, with the addresses of their processes
        try_number = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        name = f"try {try_number}, group {next(_numbers)}"
        store = distributed.PrefixStore(name, store)
        backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        distributed.init_process_group(
            backend, timeout=PATIENCE, store=store, rank=ranks.rank, world_size=ranks.world
        )
    try:
        yield ranks
    except BaseException:
        progress.silence(not is_first_error(store))
        raise
    finally:
        # what still holds the group keeps its threads, which break the end of the process
        gc.collect()
        distributed.destroy_process_group()


def is_first_error(store: distributed.Store) -> bool:
    """Whether no other rank has had an error; also where nobody answers the question."""
    counts: list[int] = []

    def ask() -> None:
        with suppress(RuntimeError):  # the rank that holds the store has ended: no answer
            counts.append(store.add("errors", 1))

    asking = Thread(target=ask, daemon=True)  # over a cut cable, it would wait for very long
    asking.start()
    asking.join(ANSWER)
    return counts in ([], [1])


def local_rank() -> int | None:
    """The number of this process among those of the run on its machine; None where it is alone."""
    number = os.environ.get("LOCAL_RANK")
    return None if number is None else int(number)


@contextmanager
def naming_loss(ranks: Ranks) -> Iterator[None]:
    """Raises Lost where the block fails since another rank does not answer."""
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, distributed.DistError) and "gloo" not in str(error).lower():
            raise
        raise Lost(
            f"process {ranks.rank} of {ranks.world}: another process of the run has ended or does "
            "not answer; its own message says why; run the same command again to go on from the "
            "last checkpoint"
        ) from error
