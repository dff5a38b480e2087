"""Progress bars and messages: the package reports them here, a program decides to show them.

Used as a library, the package prints nothing: bars are off, and messages go to the loggers below
"xdc_fast", where logging.basicConfig or a handler of yours finds them.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Iterable

from tqdm import tqdm

_shown = False
_silent = os.environ.get("WORLD_SIZE", "1") != "1" and os.environ.get("RANK", "0") != "0"


class Handler(logging.Handler):
    """Messages on stderr, above a bar that may be there."""

    def emit(self, record: logging.LogRecord) -> None:
        tqdm.write(self.format(record), file=sys.stderr)


def is_silent() -> bool:
    """Whether another process of the same run shows what this one would: the first one, or of
    errors the one that had the first."""
    return _silent


def silence(silent: bool) -> None:
    """From now on, is_silent() says so."""
    global _silent
    _silent = silent


def show() -> None:
    """From now on, bars and the package's messages on stderr, unless another process shows them;
    what the commands do."""
    global _shown
    if _silent:
        return
    _shown = True
    logger = logging.getLogger("xdc_fast")
    if not any(isinstance(handler, Handler) for handler in logger.handlers):
        logger.addHandler(Handler())
        logger.setLevel(logging.INFO)


def bar(
    iterable: Iterable | None = None,
    *,
    desc: str,
    unit: str,
    total: int | None = None,
    initial: int = 0,
    leave: bool = False,
) -> tqdm:
    """A bar of tqdm's over an iterable, or to be updated by hand; silent until `show` is called.

    leave: it stays when it is full.
    """
    return tqdm(
        iterable,
        desc=desc,
        unit=unit,
        total=total,
        initial=initial,
        leave=leave,
        disable=not _shown,
        dynamic_ncols=True,
        mininterval=0.2 if sys.stderr.isatty() else 10,
    )
