"""Which files to pack, in which order, with which labels."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath

from xdc_fast.errors import UserError
from xdc_fast.packing.labels import LabelTable, Line, on_disk, read_table
from xdc_fast.shards.tables import check_labels

PATH_COLUMNS = ("path", "file")
NO_MEDIA = (
    *(".csv", ".tsv", ".txt", ".json", ".jsonl", ".md", ".html", ".xml", ".yaml", ".yml", ".log"),
    *(".srt", ".vtt", ".ass", ".pdf", ".jpg", ".jpeg", ".png", ".webp", ".npy", ".py", ".sh"),
    *(".zip", ".gz", ".tar", ".idx"),
)


@dataclass
class Source:
    """One input: `name` is what the set calls it, relative to the SOURCE argument.

    span: (start, end) in seconds of the file, where only a segment of it is meant; else None.
    """

    path: Path
    name: str
    labels: dict[str, str] = field(default_factory=dict)
    span: tuple[float, float] | None = None

    def identity(self) -> bytes:
        """What makes it another input: its name, size, labels and segment, wherever it lies."""
        size = os.path.getsize(self.path) if os.path.isfile(self.path) else -1
        span = () if self.span is None else (self.span,)
        return json.dumps([self.name, size, self.labels, *span]).encode()


@dataclass
class PackInputs:
    """Every input in packing order, those of a file together; `notes` are lines for the user.

    columns: the label columns. missing: (name, list) of each video that an official list names and
    the user lacks.
    """

    sources: list[Source]
    columns: list[str]
    notes: list[str]
    missing: list[tuple[str, str]] = field(default_factory=list)

    def fingerprint(self) -> str:
        """SHA-256 over what the inputs are; it does not depend on the machine or the path."""
        total = hashlib.sha256()
        for source in self.sources:
            total.update(source.identity())
        return total.hexdigest()


def by_file(sources: Iterable[Source]) -> list[list[Source]]:
    """The inputs of each file, which are together."""
    return [list(group) for _, group in groupby(sources, key=lambda source: source.path)]


def collect(arguments: list[Path], labels: Path | None, out: Path) -> PackInputs:
    """The inputs of SOURCE arguments: folders, files, or CSV lists; raises UserError.

    labels: a CSV of labels. Files under `out` are not inputs. Folders are walked in sorted order;
    links are followed, each folder is entered once, and hidden files are skipped.
    """
    sources: list[Source] = []
    columns: list[str] = []
    notes: list[str] = []
    for argument in arguments:
        named: list[str] = []
        if argument.is_dir():
            found = _walk(argument, out, labels, notes)
            if labels is None and (table := argument / "labels.csv").is_file():
                notes.append(f"{table} is there; add --labels {table} to use it")
        elif argument.suffix.lower() == ".csv":
            found, named = _read_list(argument)
        elif argument.exists():
            found = [Source(argument, argument.name)]
        else:
            raise UserError(f"{argument}: no such file or folder; give videos, folders or a CSV")
        if len(arguments) > 1 and argument.is_dir():
            for source in found:
                source.name = f"{argument.resolve().name}/{source.name}"
        sources += found
        columns += [name for name in named if name not in columns]
    sources = _once(sources, notes)
    for source in sources:
        source.name = printable(source.name)
    if labels is not None:
        columns += [c for c in merge_labels(sources, labels, notes) if c not in columns]
    if "class" not in columns and len(arguments) == 1 and arguments[0].is_dir():
        columns += _folder_classes(sources, notes)
    check_labels(columns, arguments[0])
    return PackInputs(sources, sorted(columns), notes)


def printable(name: str) -> str:
    """A file name as valid UTF-8, whatever bytes it has on disk."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def files_under(folder: Path, out: Path) -> Iterator[str]:
    """Every file that is not hidden, relative to `folder`, without those under `out`.

    Links are followed, each folder is entered once. Raises UserError for one that cannot be read.
    """
    seen = {_real(out)} - {_real(folder)}
    for root, folders, files in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        if (here := _real(root)) in seen:
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        within = os.path.relpath(root, folder)
        prefix = "" if within == "." else f"{within}/"
        yield from (prefix + file for file in files if not file.startswith("."))


def _walk(folder: Path, out: Path, labels: Path | None, notes: list[str]) -> list[Source]:
    found, passed = [], 0
    for name in files_under(folder, out):
        path = folder / name
        if path.suffix.lower() in NO_MEDIA:
            passed += labels is None or _real(path) != _real(labels)
            continue
        found.append(Source(path, name))
    if passed:
        notes.append(f"{folder}: {passed} files passed over, no media by their names")
    return sorted(found, key=lambda source: os.fsencode(source.name))


def _refuse_folder(error: OSError) -> None:
    raise UserError(f"{error.filename}: {error.strerror}; make it readable or move it away")


def _real(path: Path | str) -> str:
    """The path with links resolved; unchanged where it holds a NUL byte."""
    return str(path) if "\0" in str(path) else os.path.realpath(path)


def _once(sources: list[Source], notes: list[str]) -> list[Source]:
    """Each segment of a file once, in the order in which they begin, those of a file together.

    All that are of one file get one name, which splits go by.
    """
    kept: dict[tuple, Source] = {}
    files: dict[str, list[Source]] = {}
    for source in sources:
        real = _real(source.path)
        group = files.setdefault(real, [source])
        source.name, source.path = group[0].name, group[0].path
        twin = kept.setdefault((real, source.span), source)
        if twin.labels and source.labels and twin.labels != source.labels:
            raise UserError(f"{source.path}: two lists give it other labels; keep one")
        twin.labels = twin.labels or source.labels
        if twin is source and group[0] is not source:
            group.append(source)
    if len(kept) < len(sources):
        notes.append(f"{len(sources) - len(kept)} inputs were given twice and are taken once")
    return [
        source
        for group in files.values()
        for source in sorted(group, key=lambda source: source.span or (-1.0,))
    ]


def _read_list(path: Path) -> tuple[list[Source], list[str]]:
    lines, columns = read_table(path, PATH_COLUMNS)
    found: list[Source] = []
    known: dict[tuple, Line] = {}
    for line in lines:
        if not line.name:
            continue
        span = None
        if line.start is not None or line.end is not None:
            span = line.start or 0.0, math.inf if line.end is None else line.end
        found.append(Source(on_disk(path.parent / line.name), line.name, line.cells, span))
        before = known.setdefault((_real(found[-1].path), span), line)
        if before.cells != line.cells:
            raise UserError(
                f"{path}: lines {before.number} and {line.number} give '{line.name}' other labels; "
                "keep one"
            )
    return found, columns


def merge_labels(sources: list[Source], path: Path, notes: list[str]) -> list[str]:
    """Add the columns of a label table to the sources that it names; returns the columns."""
    table = LabelTable(path)
    check_labels(table.columns, path)
    if not any(s.span for s in sources) and any(line.start is not None for line in table.lines):
        raise UserError(
            f"{path}: its lines name segments, and the sources are whole files; give it as a "
            "SOURCE, or to `xdc-shard label` when the segments are packed"
        )
    bare = 0
    for source in sources:
        depth = len(PurePosixPath(source.name).parts)
        folder = Path(os.path.abspath(source.path)).parents[depth - 1]
        start = source.span and source.span[0]
        labels = table.labels_of(source.name, str(folder), start)
        source.labels.update(labels or dict.fromkeys(table.columns, ""))
        bare += not any(labels.values())
    table.check_used(source.name for source in sources)
    if (bare and table.columns) or table.unused:
        notes.append(f"{path}: {bare} inputs have no labels, {table.unused} lines match no input")
    return table.columns


def _folder_classes(sources: list[Source], notes: list[str]) -> list[str]:
    """Label `class` from the folders, where every file lies in one of two or more folders."""
    parts = [PurePosixPath(source.name).parts for source in sources]
    folders = {part[0] for part in parts}
    if len(folders) < 2 or any(len(part) != 2 for part in parts):
        return []
    for source, part in zip(sources, parts, strict=True):
        source.labels["class"] = part[0]
    notes.append(f"{len(folders)} folders taken as the label 'class'")
    return ["class"]
