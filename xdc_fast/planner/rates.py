"""The rates that a plan rests on, each with where it is from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from xdc_fast.errors import UserError
from xdc_fast.files import check_writable, read_json, write_json
from xdc_fast.planner.numbers import check_names, read_numbers
from xdc_fast.recipe import Train, read_yaml

MEASURED, FILE, ASSUMED = "measured", "file", "assumed"
GRID = "GRID at 160x128 and 15 fps, AMD EPYC, one core (python -m benchmarks {})"
H200 = "NVIDIA H200, 8 x 112 x 112, {} (python -m benchmarks step)"
OPERATIONS = {"float32": 59.5e12, "bfloat16": 110.2e12}  # a second, of a training step on an H200
SHAPE = (
    "a rates file is what `xdc bench --save` writes, or a mapping of names as `xdc plan` prints "
    "them, each with a number, and of `about`, a text"
)


@dataclass(frozen=True)
class Rate:
    """A number that figures rest on.

    kind: MEASURED by `xdc bench --save`; FILE, written by hand; ASSUMED, of nobody's file. source:
    what it is known from.
    """

    value: float
    unit: str
    source: str
    kind: str = ASSUMED


def assumed_rates(train: Train) -> dict[str, Rate]:
    """What is taken where no file says better, by name: GPUs like an H200, easy pictures."""
    precision = train.precision
    return {
        "jpeg_bytes": Rate(0.1673, "bytes per packed pixel", GRID.format("codecs")),
        "h264_bytes": Rate(0.03625, "bytes per packed pixel", GRID.format("codecs")),
        "copy_bytes": Rate(125e3, "bytes per second of video", "streams of 1 Mbit/s"),
        "aspect": Rate(16 / 9, "longer by shorter side", "pictures of 16:9"),
        "jpeg_pack": Rate(18.70e6, "packed pixels per core and second", GRID.format("pack")),
        "h264_pack": Rate(9.963e6, "packed pixels per core and second", GRID.format("codecs")),
        "copy_pack": Rate(100, "seconds of video per core and second", "nothing measured"),
        "feed": Rate(
            831.8e6,
            "packed pixels per GPU and second",
            "NVIDIA H200, DALI, 16 cores, GRID at 160x128 (python -m benchmarks feed)",
        ),
        "step": Rate(OPERATIONS[precision], "FLOP per GPU and second", H200.format(precision)),
        "encode": Rate(OPERATIONS[precision], "FLOP per GPU and second", "as `step`"),
        "together": Rate(
            1.0,
            "of the slower of feed and step, when both work",
            "neither takes from the other",
        ),
        "kmeans": Rate(10e12, "FLOP per GPU and second", "nothing measured; float32 products"),
        "network": Rate(25e9, "bytes per second, all-reduce", "200 Gbit/s between nodes"),
        "storage": Rate(2.5e9, "bytes per node and second", "20 Gbit/s for a node"),
        "requests": Rate(5500, "GET per prefix and second", "Amazon S3, its documentation"),
        "prefixes": Rate(1, "prefixes that the shards lie under", "all shards in one folder"),
        "device_memory": Rate(141e9, "bytes per GPU", "NVIDIA H200, its data sheet"),
        "host_memory": Rate(1e12, "bytes per node", "a node for eight GPUs"),
        "disk": Rate(10e12, "bytes for `out`", "a shared file system"),
    }


def read_rates(paths: tuple[Path, ...], train: Train) -> dict[str, Rate]:
    """assumed_rates, and what files replace of them; of a rate in several files, the last counts.

    Raises UserError for names that are not known, and for what is no number above 0.
    """
    rates = assumed_rates(train)
    for path in paths:
        if path.suffix == ".json":
            saved = read_json(path, {"about": str, "rates": dict}, SHAPE)
            values, kind = saved["rates"], MEASURED
            source = f"{path}: {saved['about']}"
        else:
            values, kind = read_yaml(path, SHAPE), FILE
            about = values.pop("about", "")
            source = f"{path}: {about}" if about else str(path)
        check_names(path, values, rates)
        for name, value in read_numbers(path, values, zero=False).items():
            rates[name] = replace(rates[name], value=value, kind=kind, source=source)
    return rates


def check_saving(path: Path) -> None:
    """UserError where rates cannot be written."""
    if path.suffix != ".json":
        raise UserError(f"{path}: what is measured is kept as JSON; give a name that ends in .json")
    if path.is_dir():
        raise UserError(f"{path}: a folder; give the path of a file")
    check_writable(path.parent)


def save_rates(path: Path, about: str, rates: Mapping[str, float]) -> None:
    """Writes rates that were measured, for read_rates."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {"about": about, "rates": rates})
