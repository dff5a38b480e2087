"""Commands as documents show them: what bash makes of a block, and what would be refused."""

from __future__ import annotations

import argparse
import re
import shlex
import subprocess
from functools import partial
from pathlib import Path

import click
from torch.distributed.run import get_args_parser

import benchmarks.__main__ as benchmarks
from tests.docs.pages import ROOT
from xdc_fast.errors import UserError
from xdc_fast.recipe import load_recipe
from xdc_fast.tools.shard import main as xdc_shard
from xdc_fast.tools.xdc import main as xdc

GROUPS = {"xdc": xdc, "xdc-shard": xdc_shard}
RECORDED = ("xdc", "xdc-shard", "python", "pytest", "make", "torchrun", "tensorboard")
RECORD = """#!/bin/sh
{ printf '%s\\0' "${0##*/}" "$@"; printf '\\036\\0'; } >> "$CALLS"
"""
# of Slurm: what follows the options of srun is run
LAUNCHERS = {
    "srun": 'while [ "${1#--}" != "$1" ]; do shift; done; exec "$@"',
    "scontrol": "echo node0",
    "sbatch": 'while [ "$1" != --wrap ]; do shift; done; exec sh -c "$2"',
}
CLUSTER = {"NODE": "0", "SLURM_NNODES": "4", "SLURM_NODEID": "0", "SLURM_NODELIST": "node[0-3]",
           "SLURM_ARRAY_TASK_ID": "0", "SLURM_ARRAY_TASK_COUNT": "64", "JOB": "1"}  # fmt: skip
END = "\x1e"
PLACEHOLDER = re.compile(r"[A-Z][A-Z-]*")  # RECIPE, SHARDS: what the reader puts in
MAKE = {m[1] for m in re.finditer(r"^([\w./-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)}


class WrongCommand(Exception):
    """A document shows a command that would be refused."""


def calls(script: str, folder: Path) -> list[list[str]]:
    """The commands that bash runs for a script, with their arguments; none of them is carried out.

    Loops, variables and quotes are bash's matter. Raises WrongCommand for what bash does not know.
    """
    stubs, work, record = folder / "bin", folder / "a/b/work", folder / "calls"
    for path in (stubs, work):
        path.mkdir(parents=True, exist_ok=True)
    for name in RECORDED:
        (stubs / name).write_text(RECORD)
        (stubs / name).chmod(0o755)
    for name, body in LAUNCHERS.items():
        (stubs / name).write_text(f"#!/bin/sh\n{body}\n")
        (stubs / name).chmod(0o755)
    for link in ("recipes", "tests", "benchmarks"):
        (work / link).symlink_to(ROOT / link)
    for file in ("toy", "demo", ".venv/bin"):
        (work / file).mkdir(parents=True, exist_ok=True)
    (work / ".venv/bin/activate").touch()
    environment = {"PATH": f"{stubs}:/usr/bin:/bin", "CALLS": str(record), "HOME": str(folder),
                   **CLUSTER}  # fmt: skip
    run = partial(subprocess.run, capture_output=True, text=True, check=False)
    done = run(["bash"], input=script, cwd=work, env=environment)
    faults = [line for line in done.stderr.splitlines() if re.search(r"not found|syntax", line)]
    if faults:
        raise WrongCommand("; ".join(faults))
    words = record.read_text().split("\0") if record.exists() else []
    found: list[list[str]] = [[]]
    for word in words[:-1]:
        if word == END:
            found.append([])
        else:
            found[-1].append(word)
    return found[:-1]


def parse_torchrun(arguments: list[str]) -> argparse.Namespace:
    """The options of torchrun; WrongCommand for one that it does not know."""
    try:
        return get_args_parser().parse_args(arguments)
    except SystemExit:
        raise WrongCommand(f"torchrun {shlex.join(arguments)}") from None


def check(command: list[str], whole: bool = True) -> None:
    """Raises WrongCommand unless the command exists and takes these options and settings.

    whole: it has all its arguments, too.
    """
    name, *arguments = command
    if name == "torchrun" and arguments:
        own = parse_torchrun(arguments)
        assert own.no_python
        name, arguments = own.training_script, own.training_script_args
    if name == "python" and arguments[:1] == ["-m"]:
        name, arguments = arguments[1], arguments[2:]
    try:
        if name in ("xdc", "xdc_fast", "xdc-shard"):
            _check_click(GROUPS["xdc" if name == "xdc_fast" else name], name, arguments, whole)
        elif name == "benchmarks":
            _check_benchmarks(arguments)
        elif name == "make":
            _check_known([a for a in arguments if "=" not in a], MAKE, "target")
        elif name == "pytest":
            files = [a for a in arguments if a.endswith(".py")]
            _check_known(files, {f for f in files if (ROOT / f).is_file()}, "test")
    except (click.UsageError, UserError, WrongCommand) as error:
        text = error.format_message() if isinstance(error, click.UsageError) else str(error)
        raise WrongCommand(f"{shlex.join(command)}: {text}") from error


def options() -> set[str]:
    """Every option of every command, and of torchrun."""
    found = {"--quick", "--json", "--help"}
    found.update(o for action in get_args_parser()._actions for o in action.option_strings)
    for group in GROUPS.values():
        context = click.Context(group)
        for command in (group, *(group.get_command(context, name) for name in group.commands)):
            for parameter in command.params:
                found.update(o for o in parameter.opts if o.startswith("--"))
    return found


def check_settings(settings: tuple[str, ...], recipe: Path | None = None) -> None:
    """Raises UserError for a KEY=VALUE that no recipe takes; KEY=A,B are several values."""
    for setting in settings:
        key, _, values = setting.partition("=")
        for value in re.split(r",(?![^\[]*\])", values):
            load_recipe(recipe, (f"{key}={value}",))


def _check_known(words: list[str], known: set[str], kind: str) -> None:
    for word in words:
        if word not in known:
            raise WrongCommand(f"no {kind} {word}")


def _check_click(command: click.Command, name: str, arguments: list[str], whole: bool) -> None:
    """Has click parse the arguments as the command would, down to the subcommand."""
    context = click.Context(command, info_name=name)
    while isinstance(command, click.Group) and arguments and arguments[0][0] != "-":
        name, *arguments = arguments
        found = command.get_command(context, name)
        if found is None:
            raise WrongCommand(f"no command {name}")
        command, context = found, click.Context(found, context, info_name=name)
    if not whole and not arguments:
        return
    try:
        values = command.make_context(name, list(arguments), parent=context.parent).params
    except click.exceptions.Exit:  # --help, --version
        return
    except click.MissingParameter:
        if whole:
            raise
        return
    settings = tuple(s for s in values.get("settings") or () if not PLACEHOLDER.match(s))
    given = values.get("recipe")
    recipe = ROOT / given if given and str(given).endswith(".yaml") else None
    if name == "sweep":
        check_settings(settings, recipe)
    elif settings or recipe:
        load_recipe(recipe, settings)


def _check_benchmarks(arguments: list[str]) -> None:
    """By the parser of `python -m benchmarks`, a stage for a placeholder."""
    if arguments and arguments[0].startswith("."):
        return
    known = benchmarks.stage_names()
    words = [known[0] if PLACEHOLDER.fullmatch(a) else a for a in arguments]
    try:
        benchmarks.make_parser().parse_args(words)
    except (argparse.ArgumentError, SystemExit):
        raise WrongCommand(f"python -m benchmarks takes no {' '.join(arguments)}") from None
