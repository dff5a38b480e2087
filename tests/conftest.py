"""Shared fixtures: a small toy world, packed; and what becomes of GPU tests without a GPU."""

import os
import subprocess
import sys

import pytest

from xdc_fast.shards.convert import Settings
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.pack import pack
from xdc_fast.shards.sources import collect
from xdc_fast.shards.toy import make_toy


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") is None:
        return
    import torch

    if not torch.cuda.is_available():
        if os.environ.get("FAIL_WITHOUT_CUDA") == "1":
            pytest.fail("no CUDA device, and FAIL_WITHOUT_CUDA=1")
        pytest.skip("needs a CUDA device")


@pytest.fixture(scope="session")
def toy_videos(tmp_path_factory):
    """48 videos of 4 classes, with labels.csv."""
    folder = tmp_path_factory.mktemp("toy") / "videos"
    make_toy(folder, videos=48, classes=4, seed=0)
    return folder


def pack_toy(videos, out, **settings) -> ShardSet:
    inputs = collect([videos], videos / "labels.csv", out)
    pack(inputs, out, Settings(short_side=40, **settings), shard_mb=2)
    return ShardSet(out)


@pytest.fixture(scope="session")
def toy_shards(toy_videos, tmp_path_factory):
    """The toy videos as JPEG packets, in several shards."""
    return pack_toy(toy_videos, tmp_path_factory.mktemp("shards") / "jpeg")


@pytest.fixture(scope="session")
def toy_h264(toy_videos, tmp_path_factory):
    """The toy videos as short-GOP H.264."""
    return pack_toy(toy_videos, tmp_path_factory.mktemp("shards") / "h264", codec="h264")


def run_script(script, **environment):
    """Run a script in a process of its own: numba reads its variables when imported."""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
