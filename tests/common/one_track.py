"""Sets of one track, and the sounds and videos that they are made of."""

from __future__ import annotations

import csv
import tarfile
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
from click.testing import CliRunner, Result

from tests.common.media import make_media, write_sound
from xdc_fast.packing.pack import pack
from xdc_fast.packing.settings import PackSettings
from xdc_fast.packing.sources import collect
from xdc_fast.shards.dataset import ShardSet
from xdc_fast.tools.shard import main

AUDIO_ONLY = PackSettings(tracks="audio")
VIDEO_ONLY = PackSettings(short_side=32, fps=10, tracks="video")


def make_sound(
    path: Path,
    seconds: float,
    level: float = 0.3,
    rate: int = 44100,
    codec: str = "pcm_s16le",
    start: float = 0.0,
) -> Path:
    """A rising tone: no two windows of it are alike."""
    time = np.arange(round(seconds * rate)) / rate
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        wave = level * np.sin(2 * np.pi * (200 + 150 * time) * time)
        write_sound(container, stream, wave, rate, start)
    return path


def make_mixed_media(folder: Path) -> Path:
    """Sounds of three kinds, videos with and without sound, and what neither set can use."""
    make_sound(folder / "a.ogg", 2.0, rate=48000, codec="libopus")
    make_sound(folder / "b.wav", 1.7)
    make_sound(folder / "c.m4a", 1.5, codec="aac", rate=22050)
    make_media(folder / "d.mp4", seconds=2.4, size=(48, 32), rate=16000)
    make_media(folder / "e mute.mp4", seconds=1.6, size=(48, 32), audio=None)
    make_media(folder / "f silent.mp4", seconds=1.2, size=(48, 32), level=0.0)
    make_sound(folder / "g short.wav", 0.7)
    (folder / "h.mp4").write_text("no film")
    return folder


def pack_folder(source: Path, out: Path, settings: PackSettings, **options) -> ShardSet:
    pack(collect([source], None, out), out, settings, **{"workers": 1, **options})
    return ShardSet(out)


def refusals(shards: ShardSet) -> dict[str, str]:
    """{source: reason}"""
    with (shards.root / "refused.csv").open() as file:
        return {row["source"]: row["reason"] for row in csv.DictReader(file)}


def decode_sound(path: Path) -> np.ndarray:
    """All of a file's sound by PyAV's own resampler, mono int16 at 16 kHz."""
    resample = av.AudioResampler("s16", "mono", 16000)
    with av.open(str(path)) as container:
        parts = [p for frame in container.decode(audio=0) for p in resample.resample(frame)]
    return np.concatenate([p.to_ndarray()[0] for p in parts + resample.resample(None)])


def cli(*arguments: object) -> Result:
    """xdc-shard with these arguments."""
    return CliRunner().invoke(main, [str(a) for a in arguments])


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rewrite(source: Path, target: Path, keep: Callable[[str], bool]) -> None:
    """Copy a tar, but only the members that `keep` accepts."""
    with tarfile.open(source) as old, tarfile.open(target, "w") as new:
        for info in old:
            if keep(info.name):
                new.addfile(info, old.extractfile(info))


def strip(shards: ShardSet, out: Path, extension: str) -> ShardSet:
    """The same set without one kind of file, by `xdc-shard index`."""
    out.mkdir()
    for name in shards.shards:
        rewrite(shards.root / name, out / name, lambda member: not member.endswith(extension))
    assert cli("index", out).exit_code == 0
    return ShardSet(out)
