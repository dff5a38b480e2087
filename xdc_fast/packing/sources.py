"""Which files to pack, in which order, with which labels."""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path, PurePosixPath

from xdc_fast import storage
from xdc_fast.errors import UserError
from xdc_fast.packing.labels import LabelTable, read_table
from xdc_fast.packing.spool import Known, Source, Spool, known, real_path, size_of
from xdc_fast.shards.tables import check_labels
from xdc_fast.storage import URL, Place, is_url

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


def collect(arguments: Sequence[Place], labels: Path | None, out: Place) -> PackInputs:
    """The inputs of SOURCE arguments: folders, files, or CSV lists; raises UserError.

    labels: a CSV of labels. Files under `out` are not inputs. Folders are walked in sorted order;
    links are followed, each folder is entered once, and hidden files are skipped.
    """
    folders = [argument for argument in arguments if _is_folder(argument)]
    sources = Spool()
    columns: list[str] = []
    notes: list[str] = []
    for argument in arguments:
        if argument in folders:
            prefix = f"{argument.resolve().name}/" if len(arguments) > 1 else ""
            for name, size in _walk(argument, out, labels, notes):
                sources.add(f"{argument}/{name}", prefix + name, size=size)
            if labels is None and (table := argument / "labels.csv").is_file():
                notes.append(f"{table} is there; add --labels {table} to use it")
        elif argument.suffix.lower() == ".csv":
            columns += [name for name in _read_list(argument, sources) if name not in columns]
        elif isinstance(argument, URL):
            sources.add(str(argument), argument.name, size=storage.size(argument))
        elif argument.exists():
            sources.add(str(argument), argument.name)
        else:
            raise UserError(f"{argument}: no such file or folder; give videos, folders or a CSV")
    if twice := sources.settle():
        notes.append(f"{twice} inputs were given twice and are taken once")
    if labels is not None:
        columns += [c for c in merge_labels(sources, labels, notes) if c not in columns]
    if "class" not in columns and len(arguments) == 1 and folders:
        columns += _folder_classes(sources, notes)
    check_labels(columns, arguments[0])
    return PackInputs(sources, sorted(columns), notes)


def files_under(folder: Path, out: Place) -> Iterator[str]:
    """Every file that is not hidden, relative to `folder`, without those under `out`.

    Links are followed, each folder is entered once. Raises UserError for one that cannot be read.
    """
    seen = {real_path(str(out))} - {real_path(folder)}
    for root, folders, files in os.walk(folder, onerror=_refuse_folder, followlinks=True):
        if (here := real_path(root)) in seen:
            folders.clear()
            continue
        seen.add(here)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        within = os.path.relpath(root, folder)
        prefix = "" if within == "." else f"{within}/"
        yield from (prefix + file for file in files if not file.startswith("."))


def objects_under(folder: URL, out: Place) -> Iterator[tuple[str, int]]:
    """Every object that is not hidden, and its bytes, as of files_under."""
    own = f"{out}/".removeprefix(f"{folder}/") if str(out) != str(folder) else "/"
    for found in storage.files_below(folder):
        hidden = any(part.startswith(".") for part in found.name.split("/"))
        empty = not found.size and "." not in found.name.rpartition("/")[2]  # stands for a folder
        if not hidden and not empty and not found.name.startswith(own):
            yield found.name, found.size


def _is_folder(argument: Place) -> bool:
    """Raises UserError where a URL names neither an object nor a folder of objects."""
    if isinstance(argument, Path):
        return argument.is_dir()
    if argument.key and argument.is_file():
        return False
    if not argument.scheme.startswith("http") and next(storage.files_below(argument), None):
        return True
    raise UserError(f"{argument}: no such object or folder; give videos, folders or a CSV")


def _walk(
    folder: Place, out: Place, labels: Path | None, notes: list[str]
) -> list[tuple[str, int | None]]:
    """The files of a folder that could be media, and their bytes where a listing tells them."""
    found, passed = list[tuple[str, int | None]](), 0
    names: Iterable[tuple[str, int | None]]
    if isinstance(folder, URL):
        names = objects_under(folder, out)
    else:
        names = ((name, None) for name in files_under(folder, out))
    for name, size in names:
        if PurePosixPath(name).suffix.lower() in NO_MEDIA:
            passed += labels is None or real_path(f"{folder}/{name}") != real_path(labels)
            continue
        found.append((name, size))
    if passed:
        notes.append(f"{folder}: {passed} files passed over, no media by their names")
    return sorted(found, key=lambda file: os.fsencode(file[0]))


def _refuse_folder(error: OSError) -> None:
    raise UserError(f"{error.filename}: {error.strerror}; make it readable or move it away")


def _read_list(path: Place, sources: Spool) -> list[str]:
    """Add what a CSV names, by paths within its folder or whole ones; returns its columns of
    labels."""
    lines, columns = read_table(path, PATH_COLUMNS)
    folder, table = str(path.parent), str(path)
    for line in lines:
        if not line.name:
            continue
        span = None
        if line.start is not None or line.end is not None:
            span = line.start or 0.0, math.inf if line.end is None else line.end
        try:
            where = line.name if is_url(line.name) else os.path.join(folder, line.name)
        except UserError as error:
            raise UserError(f"{path}: line {line.number}: {error}") from None
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
        if isinstance(source.path, URL):
            folder = str(source.path).removesuffix(source.name).rstrip("/")
        else:
            depth = len(PurePosixPath(source.name).parts)
            folder = str(Path(os.path.abspath(source.path)).parents[depth - 1])
        return table.labels_of(source.name, folder, source.span and source.span[0])

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
