"""The commands: `xdc-shard` and `xdc`."""

from __future__ import annotations

import errno
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from xdc_fast import progress
from xdc_fast.errors import UserError
from xdc_fast.files import naming, to_json
from xdc_fast.interrupt import AGAIN, Interrupted, raising
from xdc_fast.storage import URL, place_of


class GivenPath(click.Path):
    """A path of a file or folder. An empty text, as of a variable that is not set, is none: Path
    would take it for the folder one is in."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not os.fspath(value):
            self.fail("the path is empty; give a file or a folder.", param, ctx)
        return super().convert(value, param, ctx)


class PathOrURL(GivenPath):
    """A folder, or its URL on storage."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        found = place_of(value) if value else value
        return found if isinstance(found, URL) else super().convert(value, param, ctx)


PATH = GivenPath(path_type=Path)
PLACE = PathOrURL(path_type=Path)
SEED = click.IntRange(0, 2**32 - 1)  # what scikit-learn takes
SHARED = ("pretrain", "bench", "probe", "finetune", "svm", "retrieve", "extract")
WAYS_OUT = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT), "make room there, then run the same again"),
    **dict.fromkeys((errno.EACCES, errno.EPERM), "change who may use it, or give another"),
    errno.EROFS: "give a folder that can be written",
    errno.ENOENT: "give one that is there",
    errno.ENOTDIR: "give a folder",
    errno.EISDIR: "give a file",
    errno.EEXIST: "give another",
    errno.ENAMETOOLONG: "give a shorter name",
    errno.ELOOP: "mend the link",
    errno.EFBIG: "raise the limit of `ulimit -f`, then run the same again",
    errno.EMFILE: "raise the limit of `ulimit -n`",
}

json_option = click.option(
    "--json",
    "as_json",
    is_flag=True,
    help="Print the result as one JSON document on stdout, and nothing else there.",
)


def print_result(result: object, lines: Iterable[str], as_json: bool) -> None:
    """What a command found, on stdout: one JSON document with --json, otherwise the lines.

    Of several ranks, one prints.
    """
    if progress.is_silent():
        return
    with naming("standard output"):
        for line in [to_json(result)] if as_json else lines:
            click.echo(on_one_line(line))


class Group(click.Group):
    """A command whose errors, the user's and the system's, are one line `NAME: message` on stderr
    and exit status 2. SIGINT and SIGTERM end it with 128 and the signal's number.

    SHARED commands alone run in several processes, as torchrun starts them."""

    def resolve_command(self, context: click.Context, args: list[str]) -> Any:
        found = super().resolve_command(context, args)
        if found[0] not in SHARED and os.environ.get("WORLD_SIZE", "1") != "1":
            raise UserError(f"{found[0]} runs in one process; start it without torchrun")
        return found

    def invoke(self, context: click.Context) -> object:
        progress.show()
        status = 2
        try:
            with raising():
                return super().invoke(context)
        except UserError as error:
            message = str(error)
        except click.UsageError as error:
            command = error.ctx.command_path if error.ctx else self.name
            message = f"{error.format_message()} See `{command} --help`."
        except Interrupted as interrupted:
            message = f"stopped by {interrupted}; {context.obj or AGAIN}"
            status = 128 + interrupted.signal
        except OSError as error:
            if error.errno == errno.EPIPE:  # the reader of our output has gone: click's matter
                raise
            message = of_the_system(error)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            message = f"out of memory ({error}); lower the batch, or the size of a clip"
        if not progress.is_silent():
            click.echo(f"{self.name}: {on_one_line(message)}", err=True)
        sys.exit(status)


def of_the_system(error: OSError) -> str:
    """What the system refused, of which file, and the way out."""
    where = f"{error.filename}: " if error.filename else ""
    way = WAYS_OUT.get(error.errno or 0, "")
    return f"{where}{error.strerror or error}{way and '; '}{way}"


def is_out_of_memory(error: Exception) -> bool:
    """Whether Python, NumPy or PyTorch asked for more memory than there is."""
    texts = ("can't allocate memory", "out of memory")
    return isinstance(error, MemoryError) or any(text in str(error) for text in texts)


def on_one_line(message: str) -> str:
    """A message whose control characters, as names of files may hold them, are escaped.

    What stands for a byte of a name that is no text stays.
    """
    return "".join(
        c if c.isprintable() or "\udc80" <= c <= "\udcff" else c.encode("unicode_escape").decode()
        for c in message
    )


def after_a_signal(hint: str) -> None:
    """What the running command says when a signal stops it."""
    click.get_current_context().find_root().obj = hint


class Number(click.FloatRange):
    """A finite number within a range: FloatRange lets nan pass, and inf where an end is open."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{number} is not a finite number.", param, ctx)
        return number
