"""Which files to pack, in which order, with which labels."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath

from xdc_fast.errors import UserError
from xdc_fast.packing.labels import LabelTable, read_table
from xdc_fast.packing.spool import Known, Source, Spool, known, real_path, size_of
from xdc_fast.shards.tables import check_labels

PATH_COLUMNS = ("path", "file")
NO_MEDIA = (
    *(".csv", ".tsv", ".txt", ".json", ".jsonl", ".md", ".html", ".xml", ".yaml", ".yml", ".log"),
    *(".srt", ".vtt", ".ass", ".pdf", ".jpg", ".jpeg", ".png", ".webp", ".npy", ".py", ".sh"),
    *(".zip", ".gz", ".tar", ".idx"),
)


@dataclass
class PackInputs:
    """Every input in packing order, those of a file together; `notes` are lines for the user.

    columns: the label columns. missing: (name, list) of each video that an official list names and
    the user lacks.
    """

    sources: Sequence[Source]
    columns: list[str]
    notes: list[str]
    missing: list[tuple[str, str]] = field(default_factory=list)

    def known(self) -> Iterator[Known]:
        """What a plan asks of each input."""
        if isinstance(self.sources, Spool):
            yield from self.sources.known()
            return
        for s in self.sources:
            yield known(str(s.path), s.name, s.labels, s.span, size_of(s.path))

    def fingerprint(self) -> str:
        """SHA-256 over what the inputs are; it does not depend on the machine or the path."""
        total = hashlib.sha256()
        for each in self.known():
            total.update(each.identity)
        return total.hexdigest()


def by_file(sources: Iterable[Source]) -> list[list[Source]]:
    """The inputs of each file, which are together."""
    return [list(group) for _, group in groupby(sources, key=lambda source: source.path)]


def collect(arguments: list[Path], labels: Path | None, out: Path) -> PackInputs:
    """The inputs of SOURCE arguments: folders, files, or CSV lists; raises UserError.

    labels: a CSV of labels. Files under `out` are not inputs. Folders are walked in sorted order;
    links are followed, each folder is entered once, and hidden files are skipped.
    """
    sources = Spool()
    columns: list[str] = []
    notes: list[str] = []
    for argument in arguments:
        if argument.is_dir():
            prefix = f"{argument.resolve().name}/" if len(arguments) > 1 else ""
            for name in _walk(argument, out, labels, notes):
                sources.add(f"{argument}/{name}", prefix + name)
            if labels is None and (table := argument / "labels.csv").is_file():
                notes.append(f"{table} is there; add --labels {table} to use it")
        elif argument.suffix.lower() == ".csv":
            columns += [name for name in _read_list(argument, sources) if name not in columns]
        elif argument.exists():
            sources.add(str(argument), argument.name)
        else:
            raise UserError(f"{argument}: no such file or folder; give videos, folders or a CSV")
    if twice := sources.settle():
        notes.append(f"{twice} inputs were given twice and are taken once")
    if labels is not None:
        columns += [c for c in merge_labels(sources, labels, notes) if c not in columns]
    if "class" not in columns and len(arguments) == 1 and arguments[0].is_dir():
        columns += _folder_classes(sources, notes)
    check_labels(columns, arguments[0])
    return PackInputs(sources, sorted(columns), notes)


def files_under(folder: Path, out: Path) -> Iterator[str]:
    """Every file that is not hidden, relative to `folder`, without those under `out`.

    Links are followed, each folder is entered once. Raises UserError for one that cannot be read.
    """
    seen = {real_path(out)} - {real_path(folder)}
    for root, folders, files in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        if (here := real_path(root)) in seen:
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        within = os.path.relpath(root, folder)
        prefix = "" if within == "." else f"{within}/"
        yield from (prefix + file for file in files if not file.startswith("."))


def _walk(folder: Path, out: Path, labels: Path | None, notes: list[str]) -> list[str]:
    found, passed = [], 0
    for name in files_under(folder, out):
        if PurePosixPath(name).suffix.lower() in NO_MEDIA:
            passed += labels is None or real_path(folder / name) != real_path(labels)
            continue
        found.append(name)
    if passed:
        notes.append(f"{folder}: {passed} files passed over, no media by their names")
    return sorted(found, key=os.fsencode)


def _refuse_folder(error: OSError) -> None:
    raise UserError(f"{error.filename}: {error.strerror}; make it readable or move it away")


def _read_list(path: Path, sources: Spool) -> list[str]:
    """Add what a CSV names; returns its columns of labels."""
    lines, columns = read_table(path, PATH_COLUMNS)
    folder, table = str(path.parent), str(path)
    for line in lines:
        if not line.name:
            continue
        span = None
        if line.start is not None or line.end is not None:
            span = line.start or 0.0, math.inf if line.end is None else line.end
        where = os.path.join(folder, line.name)
        sources.add(where, line.name, line.cells, span, (table, line.number))
    return columns


def merge_labels(sources: Spool, path: Path, notes: list[str]) -> list[str]:
    """Add the columns of a label table to the sources that it names; returns the columns."""
    table = LabelTable(path)
    check_labels(table.columns, path)
    if not any(s.span for s in sources) and any(line.start is not None for line in table.lines):
        raise UserError(
            f"{path}: its lines name segments, and the sources are whole files; give it as a "
            "SOURCE, or to `xdc-shard label` when the segments are packed"
        )
    bare = 0

    def found(source: Source) -> dict[str, str]:
        depth = len(PurePosixPath(source.name).parts)
        folder = Path(os.path.abspath(source.path)).parents[depth - 1]
        return table.labels_of(source.name, str(folder), source.span and source.span[0])

    for source in sources:
        bare += not any(found(source).values())
    table.check_used(source.name for source in sources)
    if (bare and table.columns) or table.unused:
        notes.append(f"{path}: {bare} inputs have no labels, {table.unused} lines match no input")
    nothing = dict.fromkeys(table.columns, "")
    sources.label(lambda source: source.labels.update(found(source) or nothing))
    return table.columns


def _folder_classes(sources: Spool, notes: list[str]) -> list[str]:
    """Label `class` from the folders, where every file lies in one of two or more folders."""
    folders: set[str] = set()
    for source in sources:
        parts = PurePosixPath(source.name).parts
        if len(parts) != 2:
            return []
        folders.add(parts[0])
    if len(folders) < 2:
        return []

    def add(source: Source) -> None:
        source.labels["class"] = PurePosixPath(source.name).parts[0]

    sources.label(add)
    notes.append(f"{len(folders)} folders taken as the label 'class'")
    return ["class"]
