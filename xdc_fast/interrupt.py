"""SIGINT and SIGTERM: `raising` ends a block at once, `Interrupt` lets a loop end where it can.

Both handle the signals in the main thread, where Python delivers them; in any other thread they do
nothing, and the main thread decides. Outside of both, `end_at_once` ends a command's process.
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
AGAIN = "run the same command again"


class Interrupted(KeyboardInterrupt):
    """The process was asked to stop. `signal` is the number of the signal.

    It is no Exception: scikit-learn would take that for a failed fit.
    """

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.signal = number


def end_at_once(command: str) -> None:
    """From now on, SIGINT and SIGTERM end the process with a line on stderr and their status.

    For the time in which there is nothing to put in order: before and after a command's work.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        os.write(2, f"{command}: stopped by {signal.Signals(number).name}; {AGAIN}\n".encode())
        os._exit(128 + number)

    for number in SIGNALS:
        signal.signal(number, stop)


def ignore() -> None:
    """From now on, SIGINT and SIGTERM change nothing."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def raising() -> Iterator[None]:
    """SIGINT and SIGTERM end the block at once, with Interrupted.

    While a module is imported, the handler before decides, if there is one: extension modules turn
    an exception that comes in their imports into another one, or lose it.
    """
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def stop(number: int, frame: FrameType | None) -> None:
        outer = before[signal.Signals(number)]
        if callable(outer) and _is_importing(frame):
            outer(number, frame)
        raise Interrupted(number)

    with _handling(stop):
        yield


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


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
def blocked() -> Iterator[None]:
    """Signals wait until the block has ended; processes that start in it never see SIGINT.

    The one that starts them decides, and it does not end while one waits for what it reads first.
    """
    noted: list[int] = []
    with _handling(lambda number, _frame: noted.append(number)):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    if noted:
        signal.raise_signal(noted[0])


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
