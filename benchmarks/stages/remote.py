"""Clips of a set on storage: a server on loopback, S3 and HTTP, on a core of its own.

Every contestant is one process on one core, but for the worker of webdataset's DataLoader. Samples
are long, as those of a set for pretraining: a clip needs a small part of one. All peers fetch whole
shards. Nothing is kept from call to call; `limit` is our loader on the folder itself.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import partial
from itertools import count
from pathlib import Path

import av
import torch
from torch.utils.data import DataLoader

from benchmarks.harness import Case, Figure
from benchmarks.media import describe_shards, find_videos, pack_videos
from benchmarks.plain import READERS, Collate, Reader, draw_cuts, open_plain, read_clip
from benchmarks.stages.decode import SHAPE
from benchmarks.stages.feed import (
    INPUTS,
    WINDOWS,
    Parts,
    Passes,
    assert_same,
    deliver,
    keep,
    keep_few,
)
from tests.common.object_server import ObjectServer
from xdc_fast.clips.host import HostLoader
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.shards.format import sample_key

THREADS = (1,)
JOINED = 4  # videos of three seconds that make a sample
BATCH = 16


def cases(quick: bool, threads: int) -> Iterator[Case | Figure]:
    batch = 4 if quick else BATCH
    with tempfile.TemporaryDirectory() as name:
        folder, bucket = Path(name), Path(name) / "store" / "b"
        bucket.mkdir(parents=True)
        what, videos = find_videos(folder, JOINED * batch * (1 if quick else 15))
        joined = join(videos, folder / "joined")
        local = pack_videos(joined, bucket / "set", 1, 1 if quick else 8, short_side=128)
        with serving(bucket.parent) as url:
            sampler = Passes(local, batch, 1)
            tars = [f"{url}/b/set/{name}" for name in local.shards]
            here = HostLoader(local, SHAPE, threads=threads, spec=INPUTS.spec)
            source = describe_shards(what, local)
            peers: dict[str, Callable[[], Callable[[], object]]] = {
                "webdataset, http": partial(make_webdataset, local, tars, sampler),
                "webdataset, pipe": partial(
                    make_webdataset, local, [f"pipe:curl -s {tar}" for tar in tars], sampler
                ),
                "MosaicML Streaming": partial(make_streaming, local, bucket / "mds", batch),
                "LitData": partial(make_litdata, local, bucket / "lit", batch),
            }
            for read in ("ranges", "shards"):
                ours = partial(deliver_cold, read, sampler, threads)
                yield Case(
                    f"clips by {read}, {source}",
                    "clips per second",
                    sampler.clips,
                    ours,
                    peers,
                    partial(assert_same, pictures=4, sound=1e-3),
                    ("the folder itself", partial(deliver, here, sampler)),
                )
                spent: dict[str, list[float]] = {}
                for peer, prepare in peers.items():
                    try:
                        call = prepare()
                    except ImportError:
                        continue
                    call()
                    spent[peer] = [1e3 * cpu(call) / sampler.clips for _ in range(3)]
                spent["the folder itself"] = [
                    1e3 * cpu(partial(deliver, here, sampler)) / sampler.clips for _ in range(3)
                ]
                yield Figure(
                    f"CPU of a clip by {read}, {source}", "ms, lower is better",
                    [1e3 * cpu(ours) / sampler.clips for _ in range(3)], spent,
                )  # fmt: skip


def join(videos: list[Path], folder: Path) -> list[Path]:
    """Longer videos, of JOINED each, their packets as they are."""
    folder.mkdir()
    found = []
    for number in range(0, len(videos) - JOINED + 1, JOINED):
        found.append(folder / f"{number:06d}.mp4")
        with av.open(str(found[-1]), "w") as out:
            streams, offset = [], Fraction(0)
            for path in videos[number : number + JOINED]:
                with av.open(str(path)) as container:
                    kinds = (container.streams.video[0], container.streams.audio[0])
                    streams = streams or [out.add_stream_from_template(kind) for kind in kinds]
                    end = offset
                    for packet in container.demux(kinds):
                        if packet.dts is None or packet.pts is None:
                            continue
                        shift = round(offset / packet.time_base)
                        packet.pts, packet.dts = packet.pts + shift, packet.dts + shift
                        end = max(end, (packet.pts + (packet.duration or 0)) * packet.time_base)
                        packet.stream = streams[kinds.index(packet.stream)]
                        out.mux(packet)
                    offset = end + Fraction(1, 10)  # streams may begin before zero
    return found


@contextmanager
def serving(folder: Path) -> Iterator[str]:
    """The URL of a server over a folder, a process on the other cores; S3 is there too."""
    line = [sys.executable, "-m", "benchmarks.stages.remote", str(folder)]
    before = os.environ.copy()
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        url = server.stdout.readline().strip()
        os.environ |= ObjectServer(folder, port=int(url.rpartition(":")[2])).environment
        os.environ |= {"S3_ENDPOINT_URL": url, "AWS_DEFAULT_REGION": "us-east-1"}
        try:
            yield url
        finally:
            server.kill()
            os.environ.clear()
            os.environ |= before


def deliver_cold(read: str, sampler: Passes, threads: int) -> list[Parts]:
    """Our batches, with nothing in the cache at the beginning."""
    with tempfile.TemporaryDirectory() as cache:
        shards = ShardSet("s3://b/set", cache)
        loader = HostLoader(shards, SHAPE, threads=threads, spec=INPUTS.spec, read=read)
        return deliver(loader, sampler)


def make_webdataset(
    shards: ShardSet, tars: list[str], sampler: Passes
) -> Callable[[], list[Parts]]:
    cuts = draw_cuts(shards.rows(), WINDOWS)
    loader = open_plain(tars, cuts, readers(), INPUTS, batch=sampler.batch, workers=1)
    return lambda: thin(loader)


def make_streaming(shards: ShardSet, folder: Path, batch: int) -> Callable[[], list[Parts]]:
    from streaming import MDSWriter, StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    if not folder.exists():
        columns = {"index": "int", "mp4": "bytes", "wav": "bytes"}
        size = max(shards.manifest["bytes"] // len(shards.shards), 1 << 20)
        with MDSWriter(out=str(folder), columns=columns, size_limit=size) as writer:
            for sample in samples_of(shards):
                writer.write(sample)
    collate = CollateFiles(shards)

    def run() -> list[Parts]:
        clean_stale_shared_memory()
        with tempfile.TemporaryDirectory() as local:
            data = StreamingDataset(
                remote=f"s3://b/{folder.name}", local=local, shuffle=True, batch_size=batch
            )
            return thin(DataLoader(data, batch_size=batch, collate_fn=collate))

    return run


def make_litdata(shards: ShardSet, folder: Path, batch: int) -> Callable[[], list[Parts]]:
    from litdata import StreamingDataLoader, StreamingDataset
    from litdata.streaming import downloader
    from litdata.streaming.writer import BinaryWriter

    downloader._OBSTORE_CLIENT_OPTIONS["allow_http"] = True  # a server without TLS
    if not folder.exists():
        folder.mkdir()
        size = max(shards.manifest["bytes"] // len(shards.shards), 1 << 20)
        writer = BinaryWriter(str(folder), chunk_bytes=size)
        for number, sample in enumerate(samples_of(shards)):
            writer[number] = sample
        writer.done()
        writer.merge()
    collate = CollateFiles(shards)

    def run() -> list[Parts]:
        with tempfile.TemporaryDirectory() as local:
            data = StreamingDataset(f"s3://b/{folder.name}", cache_dir=local, shuffle=True)
            return thin(StreamingDataLoader(data, batch_size=batch, collate_fn=collate))

    return run


def samples_of(shards: ShardSet) -> Iterator[dict]:
    for index in range(len(shards)):
        yield {"index": index, "mp4": shards.video_file(index), "wav": shards.audio_file(index)}


class CollateFiles:
    """Files of samples to a batch of clips."""

    def __init__(self, shards: ShardSet):
        self.cuts, self.readers = draw_cuts(shards.rows(), WINDOWS), readers()
        self.collate = Collate(INPUTS)

    def __call__(self, samples: list[dict]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        clips = []
        for sample in samples:
            files = {kind: bytes(sample[kind]) for kind in ("mp4", "wav")}
            key = {"__key__": sample_key(int(sample["index"]))}
            clips.append(read_clip(key | files, self.cuts, self.readers))
        return self.collate(clips)


def readers() -> tuple[Reader, Reader]:
    """Of a peer, the faster ones that are there."""
    try:
        return READERS["torchcodec"]()
    except ImportError:
        return READERS["PyAV"]()


def thin(loader: DataLoader) -> list[Parts]:
    return [(index, keep_few(frames), keep(mel)) for index, frames, mel in loader]


def cpu(call: Callable[[], object]) -> float:
    """CPU seconds of a call, those of its processes included."""

    def spent() -> float:
        ticks = 0.0
        for pid in (os.getpid(), *(child.pid for child in multiprocessing.active_children())):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += sum(map(int, fields[11:15]))  # its own, and of its children that ended
        return ticks / os.sysconf("SC_CLK_TCK")

    before = spent()
    call()
    return max(spent() - before, 1e-3)


def main() -> None:
    """Serves a folder until it is killed."""
    every, mine = set(range(os.cpu_count() or 1)), os.sched_getaffinity(0)
    os.sched_setaffinity(0, every - mine or every)
    server = ObjectServer(Path(sys.argv[1]))
    server.start()
    print(server.url, flush=True)
    for _ in count():
        time.sleep(3600)


if __name__ == "__main__":
    main()
