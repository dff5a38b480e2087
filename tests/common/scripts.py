"""Python in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys


def run_script(script: str, **environment: str) -> str:
    """Run a script with more environment variables; returns what it printed.

    Libraries read some variables only when they are imported.
    """
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
