"""The commands: `xdc-shard` and `xdc`."""

from __future__ import annotations

import errno
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import click

from xdc_fast import progress
from xdc_fast.errors import UserError
from xdc_fast.interrupt import Interrupted, raising

PATH = click.Path(path_type=Path)

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the result as one JSON document on stdout, and nothing else there.",
)


def print_result(result: object, lines: Iterable[str], as_json: bool) -> None:
    """What a command found, on stdout: one JSON document with --json, otherwise the lines."""
    for line in [json.dumps(result)] if as_json else lines:
        click.echo(line)


class Group(click.Group):
    """A command whose errors, the user's and the system's, are one line `NAME: message` on stderr
    and exit status 2. SIGINT and SIGTERM end it with 128 and the signal's number."""

    def invoke(self, context: click.Context) -> object:
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
