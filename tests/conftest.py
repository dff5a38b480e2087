"""Shared fixtures: a small toy world, packed; and what becomes of GPU tests without a GPU."""

import os
import shutil
from datetime import timedelta

import pytest

from tests.common.nodes import nodes  # noqa: F401, a fixture
from tests.common.object_server import serving
from tests.common.one_track import AUDIO_ONLY, VIDEO_ONLY, make_mixed_media, pack_folder
from tests.common.pretraining import recipe
from tests.common.toy import pack_toy
from xdc_fast import storage
from xdc_fast.packing.toy import make_toy
from xdc_fast.pretraining.loop import pretrain
from xdc_fast.pretraining.run import Run
from xdc_fast.shards.dataset import ShardSet


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


@pytest.fixture(scope="session")
def toy_shards(toy_videos, tmp_path_factory):
    """The toy videos as JPEG packets, in several shards."""
    return pack_toy(toy_videos, tmp_path_factory.mktemp("shards") / "jpeg")


@pytest.fixture(scope="session")
def toy_h264(toy_videos, tmp_path_factory):
    """The toy videos as short-GOP H.264."""
    return pack_toy(toy_videos, tmp_path_factory.mktemp("shards") / "h264", codec="h264")


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A store with the bucket `b`, seen as S3; requests are tried for two seconds."""
    storage._open.cache_clear()
    monkeypatch.setitem(storage.RETRY, "retry_timeout", timedelta(seconds=2))
    monkeypatch.setattr(storage, "PIECE", 5 << 20)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    with serving(tmp_path / "store") as server:
        (server.folder / "b").mkdir()
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server
    storage._open.cache_clear()


@pytest.fixture
def remote(server, toy_shards):
    """The toy videos on a store, opened there."""
    shutil.copytree(toy_shards.root, server.folder / "b" / "set")
    return ShardSet("s3://b/set")


@pytest.fixture(scope="session")
def finished(toy_shards, tmp_path_factory):
    """A whole run, and its summary."""
    out = tmp_path_factory.mktemp("run") / "xdc"
    summary = pretrain(recipe(toy_shards, out))
    return Run.open(out), summary


@pytest.fixture(scope="session")
def mixed_media(tmp_path_factory):
    """Sounds, videos with and without sound, and files that no set can use."""
    return make_mixed_media(tmp_path_factory.mktemp("media"))


@pytest.fixture(scope="session")
def sounds(mixed_media, tmp_path_factory):
    """A set of sound alone."""
    return pack_folder(mixed_media, tmp_path_factory.mktemp("sounds") / "set", AUDIO_ONLY)


@pytest.fixture(scope="session")
def pictures(mixed_media, tmp_path_factory):
    """A set of video alone."""
    return pack_folder(mixed_media, tmp_path_factory.mktemp("pictures") / "set", VIDEO_ONLY)
