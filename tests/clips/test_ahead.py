"""Clips of a set on storage: the batches of the local set, whatever the store does meanwhile."""

import logging
import re
import shutil
import threading
import time
from datetime import timedelta
from functools import partial

import numpy as np
import pytest
import torch

from xdc_fast import storage
from xdc_fast.clips import ahead
from xdc_fast.clips.clip_loader import ClipLoader
from xdc_fast.clips.dali import DaliLoader
from xdc_fast.clips.failures import TooManyUnreadable
from xdc_fast.clips.host import HostLoader
from xdc_fast.clips.sampler import EpochSampler
from xdc_fast.clips.windows import ClipShape, fixed_windows, random_windows
from xdc_fast.shards.dataset import ShardSet

SHAPE = ClipShape(frames=8, fps=7.5, crop=32, samples=16096, sample_rate=16000)
random = partial(random_windows, shape=SHAPE, seed=1, epoch=2, flip=True)


def batches(loader, size=4, **order):
    sampler = EpochSampler(loader.shards.shard_sizes, size, seed=1, epoch=2, **order)
    return list(loader.batches(sampler, random))


def same(found, expected):
    for a, b in zip(found, expected, strict=True):
        assert torch.equal(a.index, b.index)
        assert torch.equal(a.frames, b.frames) and torch.equal(a.waveform, b.waveform)


@pytest.fixture
def local(toy_shards):
    return batches(HostLoader(toy_shards, SHAPE))


@pytest.mark.parametrize("read", ["ranges", "shards"])
@pytest.mark.parametrize("kind", [HostLoader, DaliLoader])
def test_batches_are_those_of_the_local_set(kind, read, remote, toy_shards):
    expected = batches(kind(toy_shards, SHAPE, device="cpu"))
    same(batches(kind(remote, SHAPE, device="cpu", read=read)), expected)


@pytest.mark.parametrize("read", ["ranges", "shards"])
def test_files_of_other_codecs_are_fetched_whole(read, server, toy_h264):
    shutil.copytree(toy_h264.root, server.folder / "b" / "set")
    shards = ShardSet("s3://b/set")
    same(batches(HostLoader(shards, SHAPE, read=read)), batches(HostLoader(toy_h264, SHAPE)))


@pytest.mark.parametrize("read", ["ranges", "shards"])
def test_nothing_is_lost_to_faults_and_a_restart(read, remote, server, local, monkeypatch):
    monkeypatch.setattr(storage, "TIMEOUT", timedelta(seconds=1))
    monkeypatch.setitem(storage.RETRY, "retry_timeout", timedelta(seconds=60))
    monkeypatch.setattr(storage, "PIECE", 100_000)
    storage._open.cache_clear()
    kinds = [500, 503, "cut", "close", 0.1, 2.0, *[None] * 8]
    draws = np.random.default_rng(0).integers(len(kinds), size=100_000)
    loader = HostLoader(remote, SHAPE, read=read)
    server.fault = lambda number, method, path: kinds[draws[number]]
    sampler = EpochSampler(remote.shard_sizes, 4, seed=1, epoch=2)
    found = []
    for batch in loader.batches(sampler, random):
        found.append(batch)
        if len(found) == 3:
            server.stop()
            threading.Timer(0.3, server.start).start()
    same(found, local)
    assert not loader.failures and sum(server.faults.values()) > 5


def test_two_ranges_a_clip_and_many_at_a_time(remote, server, local):
    loader = HostLoader(remote, SHAPE, read="ranges", threads=1)
    batches(loader)  # tables are in the cache now
    server.log.clear()
    server.fault = lambda number, method, path: 0.05
    same(batches(loader), local)
    assert [method for method, _, _ in server.log] == ["GET"] * 2 * len(remote)
    assert server.most > 20


def test_fetching_stops_where_it_is_far_enough_ahead(remote, server, monkeypatch):
    loader = HostLoader(remote, SHAPE, read="ranges", threads=1)
    monkeypatch.setattr(ahead, "MEMORY", 8 * loader.ahead.clip_bytes)
    sampler = EpochSampler(remote.shard_sizes, 2, seed=1, epoch=2)
    for sizes in (2, 4):
        server.log.clear()
        running = loader.batches(sampler, random)
        for _ in range(sizes):
            next(running)
        time.sleep(0.5)
        asked = sum(path.endswith(".tar") for _, path, _ in server.log)
        running.close()
        # those read, those that threads decode, and those that wait to be: clips of two ranges
        assert asked <= 2 * (2 * (sizes + 2) + 8 + 2)


def test_an_epoch_that_ends_early_waits_for_no_server(remote, server):
    loader = HostLoader(remote, SHAPE, read="ranges")
    batches(loader)
    server.fault = lambda number, method, path: 1.5 if path.endswith(".tar") else None
    running = loader.batches(EpochSampler(remote.shard_sizes, 4, seed=1, epoch=2), random)
    time.sleep(0.2)
    began = time.monotonic()
    running.close()
    next(loader.batches(EpochSampler(remote.shard_sizes, 4, seed=1, epoch=2), random), None)
    assert time.monotonic() - began < 3


@pytest.mark.parametrize("read", ["ranges", "shards"])
def test_a_shard_that_is_gone_is_replaced_up_to_the_limit(read, remote, server):
    gone = remote.shards[1]
    (server.folder / "b" / "set" / gone).unlink()
    lost = int(remote.shard_sizes[1])
    loader = HostLoader(remote, SHAPE, read=read, max_unreadable=(lost + 0.5) / len(remote))
    found = batches(loader, 12)
    assert loader.failures == {"unreadable": lost}
    assert f"s3://b/set/{gone}: there is no such object" in loader.examples["unreadable"]
    first = int(remote.shard_sizes[0])
    index = torch.cat([batch.index for batch in found])
    assert len(index) == len(remote)
    assert not ((index >= first) & (index < first + lost)).any()
    loader = HostLoader(remote, SHAPE, read=read, max_unreadable=(lost - 0.5) / len(remote))
    with pytest.raises(TooManyUnreadable, match=rf"{lost} of 48 clips cannot be read.*{gone}"):
        batches(loader, 12)


def test_a_shard_with_another_checksum_is_unreadable(remote, server):
    path = server.folder / "b" / "set" / remote.shards[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    loader = HostLoader(remote, SHAPE, read="shards")
    batches(loader, 12)
    assert loader.failures == {"unreadable": int(remote.shard_sizes[0])}
    assert "its checksum is not that of the set" in loader.examples["unreadable"]


@pytest.mark.parametrize(
    ("shape", "gigabytes", "whole", "why"),
    [
        (SHAPE, 50, True, r"reads whole shards, kept in the cache: a sample has 0\.1\d+ MB"),
        (SHAPE, 1e-3, False, r"reads ranges of the shards: .* the cache has no room for"),
        (ClipShape(1, 1, 32, 160, 16000), 50, False, r"reads ranges .* a clip needs 0\.00\d+ MB"),
    ],
)
def test_auto_chooses_by_the_bytes_that_a_clip_needs(shape, gigabytes, whole, why, remote, caplog):
    caplog.set_level(logging.INFO)
    loader = HostLoader(ShardSet("s3://b/set", cache_gb=gigabytes), shape)
    assert loader.ahead.whole == whole
    (line,) = caplog.messages
    assert line.startswith("s3://b/set: ")
    assert torch.is_tensor(next(loader.batches(
        EpochSampler(loader.shards.shard_sizes, 4, shuffle=False),
        partial(fixed_windows, shape=shape),
    )).index)  # fmt: skip
    assert re.search(why, line)


def test_a_cache_that_is_too_small_is_said(remote, caplog):
    HostLoader(ShardSet("s3://b/set", cache_gb=1e-3), SHAPE, read="shards")
    assert "shards may be fetched several times" in caplog.text


def test_the_public_loader_takes_a_url(remote, toy_shards):
    clip = ClipShape(frames=8, fps=7.5, crop=32, samples=16000, sample_rate=16000)
    ours = ClipLoader("s3://b/set", clip, batch_size=12, device="cpu")
    theirs = ClipLoader(toy_shards, clip, batch_size=12, device="cpu")
    same(list(ours.epoch(0)), list(theirs.epoch(0)))
    same([ours.read([47, 3, 3])], [theirs.read([47, 3, 3])])
