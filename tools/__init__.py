"""The commands: `xdc-shard` and `xdc`."""

from __future__ import annotations

import errno
import sys
from typing import Any

import click

from xdc_fast import progress
from xdc_fast.errors import UserError
from xdc_fast.interrupt import Interrupted, raising


class Group(click.Group):
    """A command whose errors, the user's and the system's, are one line `NAME: message` on stderr
    and exit status 2. SIGINT and SIGTERM end it with 128 and the signal's number."""

    def invoke(self, context: click.Context) -> Any:
        progress.show()
        status = 2
        try:
            with raising():
                return super().invoke(context)
        except UserError as error:
            message = str(error)
        except Interrupted as interrupted:
            hint = context.obj or "run the same command again"
            message, status = f"stopped by {interrupted}; {hint}", 128 + interrupted.signal
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of our output has gone: click's matter
                raise
            where = f"{error.filename}: " if error.filename else ""
            message = f"{where}{error.strerror or error}"
        click.echo(f"{self.name}: {message}", err=True)
        sys.exit(status)


def after_a_signal(hint: str) -> None:
    """What the running command says when a signal stops it."""
    click.get_current_context().find_root().obj = hint
