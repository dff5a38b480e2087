"""The commands: `xdc-shard` and `xdc`."""

from __future__ import annotations

import errno
import sys

import click

from xdc_fast.errors import UserError


class Group(click.Group):
    """A command whose errors, the user's and the system's, are one line `NAME: message` on stderr
    and exit status 2."""

    def invoke(self, context: click.Context):
        try:
            return super().invoke(context)
        except UserError as error:
            message = str(error)
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of our output has gone: click's matter
                raise
            where = f"{error.filename}: " if error.filename else ""
            message = f"{where}{error.strerror or error}"
        click.echo(f"{self.name}: {message}", err=True)
        sys.exit(2)
