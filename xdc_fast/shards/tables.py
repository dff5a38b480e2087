"""The tables of a set: samples.csv, refused.csv, shards.npy, the labels and the manifest."""

from __future__ import annotations

import csv
import hashlib
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

from xdc_fast.errors import UserError
from xdc_fast.files import damaged, link, misfit, read_json, replacing, write, write_json
from xdc_fast.shards.format import (
    CODECS,
    FORMAT,
    MANIFEST,
    MISSING,
    REFUSED,
    REFUSED_COLUMNS,
    SAMPLE_COLUMNS,
    SAMPLES,
    SHARDS,
    TRACKS,
    label_name,
)
from xdc_fast.shards.remote import RemoteFiles
from xdc_fast.shards.shard_table import ShardTable, fault_of, read_shards
from xdc_fast.shards.sidecars import map_array
from xdc_fast.shards.tar import checksum
from xdc_fast.storage import Place

# in the rows of samples.csv without their index
FRAMES, SECONDS = (SAMPLE_COLUMNS.index(name) - 1 for name in ("frames", "seconds"))
LABELS = len(SAMPLE_COLUMNS) - 1
REASON = REFUSED_COLUMNS.index("reason")
PAIRED = {"samples": 0, "seconds": 0.0}  # of a set in which no track goes on alone
SUM = "sha256"
BEFORE = ".before"  # a folder while tables and the manifest are changed: the tables as they were
RELABELED = "relabeled"  # label columns that samples.csv has of its own, and the tars have not
OLD_FORM = {
    "format": int,
    "settings": {"codec": str, "fps": float, "short_side": int, "audio_rate": int},
    "inputs": {"count": int},
    "packer": {str: str},
    "cut": int,
    "unpaired?": {"samples": int, "seconds": float},
}  # what is kept of formats 1 and 2
FORM = {
    **OLD_FORM,
    "samples": int,
    "frames": int,
    "seconds": float,
    "bytes": int,
    "labels": [str],
    "refused": {str: int},
    "shards": int,
    f"{RELABELED}?": [str],
    "tables": {SAMPLES: str, REFUSED: str, SHARDS: str, str: str},
    SUM: str,
}
LABEL = {"column": str, "classes": [str]}  # the form of a label's classes


def write_csv(path: Path, columns: Sequence[str], rows: Iterable[Sequence]) -> None:
    """Write a table with a header line, UTF-8 text with LF line ends."""
    with replacing(path, "wb") as file:
        file.write(csv_lines([columns]))
        file.write(csv_lines(rows))


def csv_lines(rows: Iterable[Sequence]) -> bytes:
    """Rows of a table, in UTF-8."""
    text = io.StringIO()
    # before Python 3.13, only a writer with lineterminator "\r\n" quotes a lone "\r"
    lines = SimpleNamespace(write=lambda line: text.write(line[:-2] + "\n"))
    csv.writer(lines, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()


def read_csv(path: Path) -> list[dict[str, str]]:
    """The rows of a table that `write_csv` wrote; raises OSError, ValueError or csv.Error."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def check_labels(names: list[str], where: Place) -> None:
    """Raises UserError for a label whose name samples.csv uses itself; where: it comes from."""
    for name in names:
        if name in SAMPLE_COLUMNS:
            raise UserError(
                f"{where}: label column '{name}' has a name that samples.csv uses; rename it"
            )


class SetWriter:
    """Writes the tables of a set, tar by tar: samples.csv, refused.csv, shards.npy and the labels.

    labels: the columns. Where the block ends with an error, the tables that were there stay.
    """

    def __init__(self, out: Path, labels: Sequence[str]):
        self.out, self.labels = out, list(labels)
        self._shards = ShardTable()
        self.samples = self.frames = self.bytes = 0
        self.seconds = 0.0
        self.refused: Counter[str] = Counter()
        self._codes: list[dict[str, int]] = [{"": -1} for _ in self.labels]
        self._labels: list[list[np.ndarray]] = [[] for _ in self.labels]

    def __enter__(self) -> SetWriter:
        with ExitStack() as stack:
            self._samples = stack.enter_context(replacing(self.out / SAMPLES, "wb"))
            self._refused = stack.enter_context(replacing(self.out / REFUSED, "wb"))
            self._samples.write(csv_lines([(*SAMPLE_COLUMNS, *self.labels)]))
            self._refused.write(csv_lines([REFUSED_COLUMNS]))
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.__exit__(*error)

    def add(self, shard: dict, rows: Sequence[Sequence]) -> None:
        """The next tar; shard: its name, samples, bytes, sha256 (or None) and sidecars.

        rows: of samples.csv, without the index.
        """
        begin = self._samples.tell()
        lines = csv_lines([number, *row] for number, row in enumerate(rows, self.samples))
        self._samples.write(lines)
        about = {"first": self.samples, "rows": begin, "rows_bytes": len(lines)}
        self._shards.add({**shard, **about, f"rows_{SUM}": hashlib.sha256(lines).hexdigest()})
        self.samples += len(rows)
        self.frames += sum(int(row[FRAMES]) for row in rows)
        self.seconds += sum(float(row[SECONDS]) for row in rows)
        self.bytes += shard["bytes"]
        for place, codes in enumerate(self._codes):
            cells = (str(row[LABELS + place]) for row in rows)
            known = (codes.setdefault(cell, len(codes) - 1) for cell in cells)
            self._labels[place].append(np.fromiter(known, np.int32, len(rows)))

    def refuse(self, rows: Sequence[Sequence[str]]) -> None:
        """Rows of refused.csv."""
        self._refused.write(csv_lines(rows))
        self.refused.update(row[REASON] for row in rows)

    def finish(self, head: dict, cut: int, unpaired: dict) -> dict:
        """Write what is left, after the block; returns the manifest, the last file of a set.

        head: format, settings, inputs, packer. cut: how many samples were cut to the longest
        allowed. unpaired: {"samples", "seconds"} of sources in which one track goes on alone.
        """
        for number, (column, codes) in enumerate(zip(self.labels, self._codes, strict=True)):
            found = np.concatenate([np.zeros(0, np.int32), *self._labels[number]])
            write_label(self.out, number, column, found, [name for name in codes if name])
        for stale in {*self.out.glob("label-*")} - {*label_files(self.out, len(self.labels))}:
            stale.unlink()
        self._shards.write(self.out)
        counts = {
            "samples": self.samples,
            "frames": self.frames,
            "seconds": round(self.seconds, 3),
            "bytes": self.bytes,
            "labels": self.labels,
            "cut": cut,
            "unpaired": unpaired,
            "refused": dict(sorted(self.refused.items())),
            "shards": len(self._shards.names),
        }
        return write_manifest(self.out, {**head, **counts})


def label_files(out: Path, columns: int) -> list[Path]:
    """The files of a set's labels."""
    names = [label_name(number) for number in range(columns)]
    return [out / f"{name}{suffix}" for name in names for suffix in (".npy", ".json")]


def write_label(
    out: Path, number: int, column: str, codes: np.ndarray, names: Sequence[str]
) -> None:
    """Write a label's files; codes: int32 (N,), of `names`; -1 where a sample has none.

    In the files, classes are sorted.
    """
    classes = sorted(names)
    place = {name: i for i, name in enumerate(classes)}
    order = np.array([*(place[name] for name in names), -1], np.int32)
    content = io.BytesIO()
    np.save(content, order[codes])
    stem = out / label_name(number)
    write(stem.with_suffix(".npy"), content.getbuffer())
    write_json(stem.with_suffix(".json"), {"column": column, "classes": classes}, indent=0)


def read_label(
    out: Path | RemoteFiles, number: int, manifest: dict
) -> tuple[np.ndarray, list[str]]:
    """The codes int64 (N,) and the classes of a label; raises UserError where a file is damaged."""
    hint = f"rebuild it with `xdc-shard index {out}`"
    stem = label_name(number)
    array, names = out / f"{stem}.npy", out / f"{stem}.json"
    try:
        for path in (array, names):
            if checksum(path) != manifest["tables"].get(path.name):
                raise damaged(path, "its checksum is not the manifest's", hint)
        codes = map_array(array, np.dtype("<i4"), hint)
        classes = read_json(names, LABEL, hint)["classes"]
    except OSError as error:
        raise UserError(f"{error.filename}: {error.strerror}; {hint}") from None
    if len(codes) != manifest["samples"] or (
        len(codes) and not -1 <= codes.min() <= codes.max() < len(classes)
    ):
        raise damaged(array, "not the codes of its samples", hint)
    return codes.astype(np.int64), classes


def write_manifest(out: Path, manifest: dict) -> dict:
    """The last file of a set: where it lies, the set is complete. Returns its content.

    Adds the checksums of the tables beside it, and one over all that it holds.
    """
    paths = [out / name for name in (SAMPLES, REFUSED, MISSING, SHARDS)]
    paths += label_files(out, len(manifest["labels"]))
    tables = {path.name: checksum(path) for path in paths if path.is_file()}
    last = (RELABELED, "tables", SUM)
    content = {key: value for key, value in manifest.items() if key not in last}
    content |= {key: manifest[key] for key in (RELABELED,) if key in manifest}
    content["tables"] = tables
    content[SUM] = _sum_of(content)
    write_json(out / MANIFEST, content, indent=1)
    return content


@contextmanager
def changing(out: Path) -> Iterator[None]:
    """The tables of a set are changed in here, and its manifest: both, or after an error neither.

    Where the process ends in between, `settle` puts them back.
    """
    before = out / BEFORE
    before.mkdir()
    for name in read_manifest(out)["tables"]:
        link(out / name, before / name)
    try:
        yield
    finally:
        settle(out)


def settle(out: Path) -> None:
    """Put back the tables of which the manifest speaks, where a call that changed them has ended
    before it wrote another one."""
    before = out / BEFORE
    if not before.is_dir():
        return
    wanted = read_manifest(out)["tables"]
    for path in [*before.iterdir()]:
        table = out / path.name
        changed = not table.is_file() or checksum(table) != wanted.get(path.name)
        if path.name in wanted and changed:
            os.replace(path, table)
        path.unlink(missing_ok=True)  # also where both are names of one damaged file
    for path in out.glob("label-*"):
        if path.name not in wanted:
            path.unlink()
    before.rmdir()


def _sum_of(manifest: dict) -> str:
    """The checksum over a manifest: SHA-256 of its JSON without the checksum, keys sorted."""
    held = {key: value for key, value in manifest.items() if key != SUM}
    text = json.dumps(held, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def read_manifest(out: Place | RemoteFiles, to_upgrade: bool = False) -> dict:
    """The manifest of a set; raises UserError where there is none or it is damaged.

    to_upgrade: also one of format 1 or 2.
    """
    path = out / MANIFEST
    if not path.is_file():
        raise UserError(
            f"{out}: no {MANIFEST} there, so no complete shard set; "
            "make one with `xdc-shard pack` (or `xdc-shard index` for existing tar shards)"
        )
    hint = f"move it away and run `xdc-shard index {out}`"
    manifest = read_json(path, {}, hint)
    found = manifest.get("format")
    if type(found) is not int:
        raise UserError(f"{path}: not the manifest of a shard set; {hint}")
    old = found in (1, 2)
    if found != FORMAT and not (old and to_upgrade):
        hint = f"upgrade it with `xdc-shard index {out}`" if old else hint
        raise UserError(f"{path}: format {found}, this version reads {FORMAT}; {hint}")
    if fault := misfit(manifest, OLD_FORM if old else FORM) or _fault(manifest):
        raise damaged(path, fault, hint)
    return manifest


def modalities_of(manifest: dict) -> tuple[str, ...]:
    """The tracks of a set's samples; both where its settings name none."""
    return TRACKS[manifest["settings"].get("tracks", "both")]


def _fault(manifest: dict) -> str:
    """What of a manifest no program of ours writes; "" where all is well."""
    settings = manifest["settings"]
    if settings["codec"] not in CODECS or settings.get("tracks", "both") not in tuple(TRACKS):
        return "settings of another program"
    if manifest["format"] == FORMAT and manifest[SUM] != _sum_of(manifest):
        return "its checksum is another one"
    return ""


def open_shards(out: Path | RemoteFiles, manifest: dict) -> np.ndarray:
    """The table of a set's tars; raises UserError where it is damaged."""
    path, hint = out / SHARDS, f"rebuild it with `xdc-shard index {out}`"
    try:
        if checksum(path) != manifest["tables"][SHARDS]:
            raise damaged(path, "its checksum is not the manifest's", hint)
        table = read_shards(path, hint)
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {hint}") from None
    fault = fault_of(table, manifest["samples"])
    if fault or len(table) != manifest["shards"]:
        raise damaged(path, fault or f"{len(table)} shards", hint)
    return table
