"""Two machines, as network namespaces with a cable between them."""

import os
import shutil
import subprocess

import pytest


def ip(*words):
    return subprocess.run(["ip", *words], capture_output=True, text=True, check=True)


@pytest.fixture
def nodes():
    """The names of two namespaces whose links are called `cable`."""
    names = [f"xdc{os.getpid()}{letter}" for letter in "ab"]
    if not shutil.which("ip"):
        pytest.skip("needs iproute2")
    try:
        for name in names:
            ip("netns", "add", name)
        ip("link", "add", "cable", "netns", names[0], "type", "veth", "peer", "cable",
           "netns", names[1])  # fmt: skip
        for number, name in enumerate(names, 1):
            inside = ("-n", name)
            ip(*inside, "address", "add", f"10.77.0.{number}/24", "dev", "cable")
            ip(*inside, "link", "set", "cable", "up")
            ip(*inside, "link", "set", "lo", "up")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no network namespaces here: {error.stderr.strip()}")
    else:
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)
