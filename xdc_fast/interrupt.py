"""SIGINT and SIGTERM as a wish that the loop grants between steps."""

from __future__ import annotations

import signal


class Interrupted(Exception):
    """The run was asked to stop, and has. `signal` is the number asked with."""

    def __init__(self, number: int):
        super().__init__(signal.Signals(number).name)
        self.signal = number


class Interrupt:
    """While entered, notes SIGINT and SIGTERM instead of dying; `check` raises Interrupted."""

    def __init__(self):
        self.received: int | None = None

    def __enter__(self) -> Interrupt:
        numbers = (signal.SIGINT, signal.SIGTERM)
        self._before = {number: signal.signal(number, self._note) for number in numbers}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number, _frame) -> None:
        if self.received is not None:
            raise KeyboardInterrupt  # asked twice: at once
        self.received = number

    def check(self) -> None:
        if self.received is not None:
            raise Interrupted(self.received)
