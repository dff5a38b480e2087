"""How the commands start: `xdc`, `xdc-shard`, and `python -m xdc_fast`, which is `xdc`.

A signal is answered from the first line on, before the libraries are loaded.
"""

import os
import sys
from importlib import import_module
from io import TextIOWrapper

from xdc_fast.interrupt import end_at_once, ignore

# Turns in which an idle thread of OpenMP spins before it sleeps. libgomp's default is 300,000, in
# which it keeps its core from the run beside it. With none, each parallel loop has to wake it,
# which costs a run that has the machine to itself.
SPIN = "2000"


def xdc() -> None:
    """The command `xdc`."""
    _start("xdc")


def xdc_shard() -> None:
    """The command `xdc-shard`."""
    _start("xdc-shard")


def _start(command: str) -> None:
    end_at_once(command)
    share_cores()
    if isinstance(sys.stdout, TextIOWrapper):  # names of files are printed byte for byte
        encoding = "utf-8" if sys.stdout.encoding == "ascii" else None
        sys.stdout.reconfigure(encoding=encoding, errors="surrogateescape")
    try:
        group = import_module("xdc_fast.tools." + command.removeprefix("xdc-")).main
        group(prog_name=command)
    finally:
        ignore()  # the work is over, and its status stands


def share_cores() -> None:
    """Sets GOMP_SPINCOUNT to SPIN, unless the user has said how OpenMP's threads wait.

    PyTorch's OpenMP reads it when it is loaded.
    """
    if not {"GOMP_SPINCOUNT", "OMP_WAIT_POLICY"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = SPIN


if __name__ == "__main__":
    xdc()
