"""SIGINT and SIGTERM: an exception where a command may end anywhere, a wish where it may not."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop. `signal` is the number asked with.

    No Exception: scikit-learn would take that for a failed fit.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.signal = number


def _raise(number: int, _frame: FrameType | None) -> None:
    raise Interrupted(number)


@contextmanager
def raising() -> Iterator[None]:
    """SIGINT and SIGTERM end the block at once, with Interrupted."""
    before = {number: signal.signal(number, _raise) for number in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Interrupt:
    """While entered, notes SIGINT and SIGTERM instead of dying; `check` raises Interrupted."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> Interrupt:
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise Interrupted(number)  # asked twice: at once
        self.received = number

    def check(self) -> None:
        if self.received is not None:
            raise Interrupted(self.received)
