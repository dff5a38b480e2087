"""SIGINT and SIGTERM: `raising` ends a block at once, `Interrupt` lets a loop end where it can.

Both handle the signals in the main thread, where Python delivers them; in any other thread they do
nothing, and the main thread decides.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop. `signal` is the number of the signal.

    It is no Exception: scikit-learn would take that for a failed fit.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.signal = number


@contextmanager
def raising() -> Iterator[None]:
    """SIGINT and SIGTERM end the block at once, with Interrupted."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise Interrupted(number)

    with _handling(stop):
        yield


class Interrupt:
    """While entered, SIGINT and SIGTERM are noted, and `check` raises Interrupted.

    received: the number of the signal; None before one came. A second signal ends the block at
    once.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self._handling = _handling(self._note)

    def __enter__(self) -> Interrupt:
        self._handling.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._handling.__exit__(None, None, None)

    def _note(self, number: int, _frame: FrameType | None) -> None:
        if self.received is not None:
            raise Interrupted(number)
        self.received = number

    def check(self) -> None:
        """Raises Interrupted once a signal came."""
        if self.received is not None:
            raise Interrupted(self.received)


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """The handler of both signals within the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
