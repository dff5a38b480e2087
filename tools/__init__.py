"""The commands: `xdc-shard` and `xdc`."""

from __future__ import annotations

import sys

import click

from xdc_fast.errors import UserError


class Group(click.Group):
    """A command whose user errors are one line `NAME: message` on stderr and exit status 2."""

    def invoke(self, context: click.Context):
        try:
            return super().invoke(context)
        except UserError as error:
            click.echo(f"{self.name}: {error}", err=True)
            sys.exit(2)
