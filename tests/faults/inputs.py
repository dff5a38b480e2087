"""Hostile input: media, tars, texts and names."""

from __future__ import annotations

import csv
import io
import json
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from tests.common.media import make_media
from tests.faults.trials import Trial, call, fault
from tests.faults.world import RECIPE, World
from xdc_fast.shards.tables import read_csv

KINDS = {
    "a.mp4": {},
    "b.mkv": {},
    "c.avi": {"video": "mpeg4", "audio": "pcm_s16le"},
    "d.webm": {"video": "libvpx", "audio": "libopus", "rate": 48000, "coding": {"cpu-used": "8"}},
    "e.ts": {},
    "f.wav": {"video": None, "audio": "pcm_s16le"},
}


WAV_OF_NOTHING = b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(24)


def broken_media(folder: Path, draw: np.random.Generator, count: int) -> int:
    """Writes damaged files of every container into a folder; returns how many."""
    made = 0
    for name, options in KINDS.items():
        whole = make_media(folder / name, seconds=1, size=(48, 32), **options).read_bytes()
        for number in range(count):
            data, size = bytearray(whole), len(whole)
            how = ("cut", "flips", "header", "zeros", "tail", "noise")[number % 6]
            if how == "cut":
                del data[int(draw.integers(1, size)) :]
            if how == "zeros":
                begin = int(draw.integers(size))
                data[begin : begin + 500] = bytes(min(500, size - begin))
            if how == "tail":
                data += draw.bytes(1000)
            if how in ("flips", "header", "noise"):
                end = min(size, 400) if how == "header" else size
                for place in draw.integers(end, size=200 if how == "noise" else 8):
                    data[place] ^= 1 << int(draw.integers(8))
            (folder / f"{number:03}-{how}-{name}").write_bytes(data)
            made += 1
        made += 1
    return made


def media(world: World, draw: np.random.Generator, count: int) -> Iterator[Trial]:
    """Each damaged file is packed or refused, by `pack` and, in a tar, by `index`."""
    folder = world.scratch("media")
    made = broken_media(folder, draw, count)
    for options in (("--codec", "jpeg"), ("--codec", "copy"), ("--tracks", "audio")):
        out = world.scratch() / "set"
        done = call(
            "xdc-shard", "pack", folder, out, "--workers", 2, "--min-seconds", 0.1, *options
        )
        reason = fault(done, 0)
        counted = Counter(r["source"] for name in ("samples.csv", "refused.csv")
                          for r in read_csv(out / name)) if not reason else Counter()  # fmt: skip
        for path in sorted(folder.iterdir()):
            told = counted[path.name]
            yield Trial(f"pack {options[1]}: {path.name}", reason or _once(told, made, counted))
        reason = reason or fault(call("xdc-shard", "verify", out, "--decode"), 0)
        yield Trial(f"pack {options[1]}: what was packed decodes", reason)
    out = world.scratch()
    with tarfile.open(out / "all.tar", "w") as archive:
        for path in sorted(folder.iterdir()):
            archive.add(path, path.name)
    reason = fault(call("xdc-shard", "index", out), 0)
    tables = [
        (out / name, column) for name, column in (("samples.csv", "key"), ("refused.csv", "source"))
    ]
    counted = Counter(r[column].rpartition("/")[2] for path, column in tables
                      for r in read_csv(path)) if not reason else Counter()  # fmt: skip
    for path in sorted(folder.iterdir()):
        yield Trial(f"index: {path.name}", reason or _once(counted[path.stem], made, counted))
    status = fault(call("xdc-shard", "verify", out), 0)
    yield Trial("index: the set is sound", reason or status)


def _told(out: Path, column: str) -> Counter[str]:
    """How often the tables name each file; column: of samples.csv that does."""
    names = [row[column] for row in read_csv(out / "samples.csv")]
    names += [row["source"].rpartition("/")[2] for row in read_csv(out / "refused.csv")]
    return Counter(names)


def _once(told: int, made: int, counted: Counter) -> str:
    if told != 1:
        return f"it is told {told} times"
    return "" if counted.total() == made else f"{counted.total()} of {made} files are told"


def tars(world: World, draw: np.random.Generator, count: int) -> Iterator[Trial]:
    """Tars that want to escape or to fool: one line, or listed; nothing outside is touched."""
    film = make_media(world.scratch("film") / "a.mp4", seconds=1, size=(48, 32)).read_bytes()
    outside = world.root / "outside.mp4"
    outside.write_bytes(b"untouched")
    before = {path: path.stat().st_mtime_ns for path in world.root.iterdir()}
    for what, write in _hostile_tars(film, outside, draw, count).items():
        out = world.scratch()
        write(out / "x.tar")
        reason = fault(call("xdc-shard", "index", out), 0, 2)
        if not reason and (out / "manifest.json").is_file():
            # 1: index looks at the first and the last frame, and does not decode all
            reason = fault(call("xdc-shard", "verify", out, "--decode"), 0, 1)
        changed = {p for p, time in before.items() if p.name not in ("scratch",)
                   and p.stat().st_mtime_ns != time}  # fmt: skip
        yield Trial(what, reason or (f"{changed} changed" if changed else ""))


def _hostile_tars(film: bytes, outside: Path, draw: np.random.Generator, count: int) -> dict:
    def members(*entries, format=tarfile.PAX_FORMAT):
        def write(path: Path) -> None:
            with tarfile.open(path, "w", format=format) as archive:
                for name, content, *changes in entries:
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    for key, value in changes[0].items() if changes else ():
                        setattr(info, key, value)
                    archive.addfile(info, io.BytesIO(content))

        return write

    def raw(content: bytes):
        return lambda path: path.write_bytes(content)

    good = ("a.mp4", film)
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as archive:
        for number in range(3):
            info = tarfile.TarInfo(f"{number}.mp4")
            info.size = len(film)
            archive.addfile(info, io.BytesIO(film))
    content = whole.getvalue()
    link = {"type": tarfile.SYMTYPE, "linkname": str(outside), "size": 0}
    hostile = {
        "names that climb": members(("../../outside.mp4", film), good),
        "absolute names": members((str(outside), film), good),
        "a symbolic link": members(("l.mp4", b"", link), good),
        "a hard link": members(("l.mp4", b"", {**link, "type": tarfile.LNKTYPE}), good),
        "a device": members(("d.mp4", b"", {"type": tarfile.CHRTYPE, "devmajor": 1}), good),
        "a fifo": members(("f.mp4", b"", {"type": tarfile.FIFOTYPE}), good),
        "a long name": members(("n" * 5000 + ".mp4", film), good),
        "a name of dots": members(("....mp4", film), ("..", film), good),
        "a name in Latin-1": members(("caf\udce9.mp4", film), good, format=tarfile.GNU_FORMAT),
        "names of formulas and pages": members(("=cmd|' '!A0.mp4", film), ("<b>.mp4", film), good),
        "a name with line ends": members(("a\nb\r.mp4", film), good),
        "sparse headers that lie": members(
            ("s.mp4", film, {"pax_headers": {"GNU.sparse.map": "0,x,9", "GNU.sparse.size": "-1"}}),
            good,
        ),
        "a json of 200,000 levels": members(good, ("a.json", b"[" * 200_000)),
        "a number of 4,000 digits": members(
            good, ("a.json", b'{"labels": {"n": 1%s}}' % (b"0" * 4000))
        ),
        "NaN in a json": members(good, ("a.json", b'{"labels": {"n": NaN}, "seconds": Infinity}')),
        "a lone surrogate": members(good, ("a.json", b'{"labels": {"\\ud800": "\\udfff"}}')),
        "labels that are no object": members(good, ("a.json", b'{"labels": [1], "source": {}}')),
        "a wav of 0 bits": members(
            good, ("a.wav", b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(24))
        ),
        "an empty video": members(("e.mp4", b""), good),
        "a playlist": members(
            ("p.mp4", b"#EXTM3U\n#EXTINF:1,\n%s\n" % str(outside).encode()), good
        ),
        "one member twice": members(good, good),
        "a header that says too much": raw(
            whole.getvalue()[:124] + b"77777777777" + whole.getvalue()[135:]
        ),
        "no tar": raw(draw.bytes(5000)),
        "an empty file": raw(b""),
        "zeros": raw(bytes(10240)),
    }
    for _ in range(3 * count):
        cut, flipped = int(draw.integers(len(content))), bytearray(content)
        hostile[f"cut at {cut}"] = raw(content[:cut])
        for place in draw.integers(len(content), size=4):
            flipped[place] ^= 1 << int(draw.integers(8))
        hostile[f"flips, the last at {place}"] = raw(bytes(flipped))
        header = bytearray(content)
        header[(at := int(draw.integers(512)))] ^= 1 << int(draw.integers(8))
        hostile[f"a flip in the first header at {at}"] = raw(bytes(header))
    return hostile


SETTINGS = (
    *("seed=18446744073709551616", "seed=-1", "seed=nan", "k=0", "k=1e30", "train.steps=1e21"),
    *("video.frames=100000", "video.crop=-4", "video.mean=[nan,0,0]", "train.lr=nan"),
    *("train.lr=inf", "train.batch=0", "audio.sample_rate=1e12", "=", "k", "k=", "train=3"),
    *("train.lr.x=1", "\ud800=1"),
)


def texts(world: World, draw: np.random.Generator, count: int) -> Iterator[Trial]:
    """Recipes, settings and label tables that no reader may believe."""
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{c}: &{c} [{','.join(['*' + p] * 9)}]\n"
        for p, c in zip("abcdefgh", "bcdefghi", strict=True)
    )
    recipes = {
        "an alias bomb": bomb,
        "5,000 levels": "a: " + "[" * 5000,
        "a date": "seed: 2020-01-01\n",
        "octal": "seed: 010\n",
        "sexagesimal": "train:\n  steps: 1:30\n",
        "a tag": "seed: !!python/object/apply:os.system ['true']\n",
        "a key twice": "k: 3\nk: 4\n",
        "a list": "- 1\n",
        "binary": "\0\x01",
        "a long one": "# " + "x" * 200_000,
        "a group that is a number": "train: 3\n",
        "an unknown key": "trian:\n  lr: 1\n",
    }  # fmt: skip
    folder = world.scratch()
    for what, text in recipes.items():
        (path := folder / "r.yaml").write_text(text)
        done = call("xdc", "pretrain", path, f"data={world.shards}", f"out={folder / 'run'}")
        yield Trial(f"recipe: {what}", fault(done, 2))
    for setting in SETTINGS:
        where = (f"data={world.shards}", f"out={folder / 'run'}")
        yield Trial(
            f"setting: {setting!a}", fault(call("xdc", "pretrain", RECIPE, *where, setting), 2)
        )
    for stride in ("nan", "inf", "1e-9", "-1", "0", "x"):
        run = world.made / "run"
        done = call("xdc", "extract", run, folder / "f", "--data", world.shards, "--stride", stride)
        yield Trial(f"--stride {stride}", fault(done, 2))
    tables = {
        "an unquoted comma": "file,class\n{0},a,b\n",
        "two labels of a file": "file,class\n{0},a\n{0},b\n",
        "no file that is there": "file,class\nnothing,a\n",
        "no column of files": "video,class\n{0},a\n",
        "a column of ours": "file,shard\n{0},a\n",
        "an open quote": 'file,class\n"{0},a\n',
        "nothing": "",
        "a NUL": "file,class\n\0,a\n",
    }
    name = next(world.videos.glob("*.mp4")).name
    for what, text in tables.items():
        (path := folder / "t.csv").write_text(text.format(name))
        for command in (("pack", world.videos, folder / "set"), ("label", world.shards)):
            done = call("xdc-shard", *command, "--labels", path)
            yield Trial(f"labels: {what}: {command[0]}", fault(done, 2, named="t.csv"))


ODD = (
    *(b"=cmd.mp4", b"-x.mp4", b"+1.mp4", b"@a.mp4", b"a,b;c.mp4", b'"q".mp4', b"<script>.mp4"),
    *(b"a\nb.mp4", b"a\rb.mp4", b"tab\t.mp4", b" blank .mp4", "\u00e9".encode(), b"\xe9\xff.mp4"),
    *(b"a:b.mp4", b"%s%d.mp4", b"'; DROP.mp4", b"x" * 250 + b".mp4", "e\u0301.mp4".encode()),
    "\u202egpm.mp4".encode(),
)


def names(world: World, draw: np.random.Generator, count: int) -> Iterator[Trial]:
    """Files of any name are packed under it, and the tables hold it."""
    videos = world.scratch("names")
    film = next(world.videos.glob("*.mp4")).read_bytes()
    for name in ODD:
        Path(os.fsdecode(os.fsencode(videos) + b"/" + name)).write_bytes(film)
    out = world.scratch() / "set"
    done = call("xdc-shard", "pack", videos, out, "--workers", 2, "--short-side", 32)
    reason = fault(done, 0)
    count_packed = len(read_csv(out / "samples.csv")) if not reason else 0
    for name in ODD:
        yield Trial(f"a file called {name!r}", reason or _packed(count_packed, len(ODD)))
    for command in (("verify", out, "--decode"), ("ls", out), ("index", out)):
        yield Trial(f"{command[0]} of these names", reason or fault(call("xdc-shard", *command), 0))
    with (out / "samples.csv").open(newline="", encoding="utf-8") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    yield Trial("the table is one of CSV", "" if len(cells) % 7 == 0 else f"{len(cells)} cells")
    json.loads((out / "manifest.json").read_text(encoding="utf-8"))


def _packed(count: int, wanted: int) -> str:
    return "" if count == wanted else f"{count} of {wanted} are packed"
