"""Files that are either whole or not there, what one process holds at a time, and our own files
read back: whatever a file holds instead of what was written, the answer is one line."""

from __future__ import annotations

import fcntl
import io
import json
import math
import os
import secrets
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from xdc_fast.errors import UserError

if TYPE_CHECKING:
    import numpy as np

    from xdc_fast.storage import Place

NUMBER = (float, None)  # a form, see `misfit`
FOR_EYES = "backslashreplace"  # in texts for people: names of files that are no UTF-8


class Busy(UserError):
    """Another process holds what this one would write."""


@contextmanager
def locked(path: Path, busy: str | None = None) -> Iterator[None]:
    """Only one process at a time is in here for a lock file, which is there for this time alone.

    What writers that were killed left in its folder is removed.
    busy: raise Busy with this message where another process holds it; without one, wait for it.
    """
    try:
        file = _hold(path, "w", wait=not busy)
    except BlockingIOError:
        raise Busy(busy) from None
    with file:
        remove_leftovers(path.parent)
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def check_writable(folder: Path) -> None:
    """Raises UserError where files cannot be written into a folder, which may be still to make."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not there.is_dir():
        raise UserError(f"{there}: is a file; give another folder than {folder}")
    if not os.access(there, os.W_OK | os.X_OK):
        raise UserError(f"{there}: cannot be written; give another folder than {folder}")


@contextmanager
def naming(file: str | Path) -> Iterator[None]:
    """Errors of the system that name no file, as those of a full disk, name this one."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(file)
        raise


@contextmanager
def replacing(path: Path, mode: str = "w", **options: Any) -> Iterator[IO]:
    """A file that takes the place of `path` when it is whole and on the disk.

    Neither a kill nor a power cut leaves half of it, and of several writers the last one's stays.
    Arguments as of open().
    """
    part = path.with_name(f".{secrets.token_hex(8)}.part")
    try:
        with _hold(part, mode, **options) as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            os.replace(part, path)
    except BaseException as error:
        part.unlink(missing_ok=True)
        if isinstance(error, OSError) and str(error.filename or part) == str(part):
            error.filename = str(path)
        raise


def remove_leftovers(folder: Path) -> None:
    """Removes what `replacing` left in a folder when its process was killed."""
    for part in folder.glob(".*.part"):
        try:
            with _hold(part, "r+", wait=False):
                part.unlink()
        except OSError:  # it is being written, or has just been
            pass


def _hold(path: Path, mode: str, *, wait: bool = True, **options: Any) -> IO:
    """The file, opened and locked; BlockingIOError where another process has locked it.

    Whoever has the lock of a file may remove it: then it is opened anew.
    """
    while True:
        file = path.open(mode, **options)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                return file
        except FileNotFoundError:  # removed between the two looks at it
            pass
        except BaseException:
            file.close()
            raise
        file.close()


def read_text(path: Path, hint: str, most: int = 100_000) -> str:
    """The text of a file that a user wrote.

    Raises UserError, which ends with `hint`, for what is no regular file of UTF-8, or longer than
    `most` bytes.
    """
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"{path}: a folder or a device, not a file; {hint}")
        with path.open("rb") as file:
            content = file.read(most + 1)
        if len(content) > most:
            raise UserError(f"{path}: longer than {most:,} bytes; {hint}")
        return content.decode()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {hint}") from None
    except ValueError:  # of the name, or of the text
        raise UserError(f"{path}: not a text file in UTF-8; {hint}") from None


def write(path: Path, content: bytes | memoryview | str) -> None:
    """The whole content of a file, by `replacing`; text is UTF-8, its line ends as they are."""
    with replacing(path, "wb") as file:
        file.write(content.encode(errors=FOR_EYES) if isinstance(content, str) else content)


def move_new(path: Path, name: Path) -> bool:
    """Gives a file another name, in the same file system, that no file has yet; whether it could.

    Where one has it, the file stays where it is.
    """
    with naming(name):
        try:
            os.link(path, name)
        except FileExistsError:
            return False
        except OSError:  # the file system has no links
            with locked(name.with_name(f".{name.name}.lock")):
                if name.exists():
                    return False
                os.replace(path, name)
            return True
    path.unlink()
    return True


def link(path: Path, name: Path) -> None:
    """Makes `name` another name of a file, in place of what had it; a copy where the file system
    has no links."""
    with naming(name):
        temporary = name.with_name(f".{secrets.token_hex(8)}.part")
        try:
            os.link(path, temporary)
        except OSError:
            shutil.copyfile(path, temporary)
        temporary.replace(name)


def write_json(path: Path, value: object, indent: int = 2) -> None:
    """A JSON document and a line end, by `replacing`."""
    write(path, to_json(value, indent) + "\n")


def to_json(value: object, indent: int | None = None) -> str:
    """A value as JSON in ASCII; a number that is not finite, which JSON has not, as null."""
    try:
        return json.dumps(value, indent=indent, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(value), indent=indent)


def _finite(value: object) -> object:
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def write_arrays(path: Path, **arrays: np.ndarray | np.generic) -> None:
    """An npz file of arrays by name, by `replacing`."""
    write(path, npz(**arrays))


def npz(**arrays: np.ndarray | np.generic) -> memoryview:
    """The content of an npz file of arrays by name."""
    import numpy as np

    content = io.BytesIO()
    np.savez(content, allow_pickle=False, **arrays)
    return content.getbuffer()


def write_array(path: Path, array: np.ndarray) -> None:
    """An npy file of an array, by `replacing`."""
    import numpy as np

    content = io.BytesIO()
    np.save(content, array, allow_pickle=False)
    write(path, content.getbuffer())


def read_array(path: Path, kind: type, shape: tuple[int, ...], hint: str) -> np.ndarray:
    """The array of an npy file, which processes of a machine share in memory.

    Raises UserError, which ends with `hint`, when it is of another type or shape.
    """
    import numpy as np

    try:
        array = np.load(path, mmap_mode="c")
    except Exception as error:  # np.load raises many kinds
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}); {hint}") from None
    if not isinstance(array, np.ndarray) or array.dtype != kind or array.shape != shape:
        raise damaged(path, f"not {kind.__name__} {shape}", hint)
    return np.asarray(array)


def damaged(path: Place, fault: str, hint: str) -> UserError:
    """The error of a file that is not as it was written; hint: the way out."""
    return UserError(f"{path}: damaged: {fault}; {hint}")


def read_json(path: Place, form: object, hint: str) -> dict:
    """The JSON object that a file holds, of a form as `misfit` takes it.

    Raises UserError, which ends with `hint`, for anything else.
    """
    return _checked(path.read_bytes(), form, path, hint)


def read_lines(path: Path, form: object, hint: str) -> list[dict]:
    """The JSON objects that a file holds, one a line; arguments and errors as of read_json.

    A last line without its end, as a crash leaves it, is dropped.
    """
    *lines, _ = path.read_bytes().split(b"\n")
    return [_checked(line, form, path, hint, f"line {n}: ") for n, line in enumerate(lines, 1)]


def _checked(content: bytes, form: object, path: Place, hint: str, where: str = "") -> dict:
    try:
        value = json.loads(content.decode(), parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"{where}not valid JSON ({error})", hint) from None
    if fault := misfit(value, form):
        raise damaged(path, where + fault, hint)
    return value


def read_arrays(
    path: Place, form: Mapping[str, tuple[type, tuple[int | str | None, ...]]], hint: str
) -> dict[str, np.ndarray]:
    """Arrays of an npz file by name.

    form: {name: (its type, its shape)}; type str is text of any length. A letter in a shape stands
    for the same number everywhere, None for any.
    Raises UserError, which ends with `hint`, when one lacks or is of another form.
    """
    import numpy as np

    try:
        with path.open("rb") as file, np.load(file) as content:
            arrays = {name: np.asarray(content[name]) for name in form if name in content}
    except Exception as error:  # np.load raises many kinds
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise UserError(f"{path}: cannot be read ({reason}); {hint}") from None
    sizes: dict[str, int] = {}

    def fits(array: np.ndarray, kind: type, shape: tuple[int | str | None, ...]) -> bool:
        same = array.dtype.kind == "U" if kind is str else array.dtype == kind
        return (
            same
            and len(array.shape) == len(shape)
            and all(
                wanted is None
                or found == (sizes.setdefault(wanted, found) if isinstance(wanted, str) else wanted)
                for found, wanted in zip(array.shape, shape, strict=True)
            )
        )

    for name, (kind, shape) in form.items():
        if name not in arrays:
            raise damaged(path, f"no array '{name}'", hint)
        array = arrays[name]
        if not fits(array, kind, shape):
            raise damaged(path, f"'{name}' is {array.dtype} {array.shape}", hint)
    return arrays


def misfit(value: object, form: Any, place: str = "") -> str:
    """Where a value is not of a form, and how; "" where it is.

    A form is a type (float takes whole numbers too), None, a tuple of forms to choose from,
    [form] for a list of any length, {str: form} for an object of any keys, or {key: form} for an
    object that has at least these keys; one that ends in ? may lack. place: of the value.
    """
    parts: list[tuple[str, object, object]] = []
    if isinstance(form, tuple):
        faults = [misfit(value, each, place) for each in form]
        return "" if "" in faults else faults[0]
    if isinstance(form, list):
        if not isinstance(value, list):
            return f"{place or 'it'} is not a list"
        parts = [(f"{place}[{number}]", item, form[0]) for number, item in enumerate(value)]
    elif isinstance(form, dict):
        if not isinstance(value, dict):
            return f"{place or 'it'} is not an object with keys"
        inside = f"{place}." if place else ""
        for key, each in form.items():
            if key is str:
                parts += [(f"{inside}{k}", k, str) for k in value]
                parts += [(f"{inside}{k}", item, each) for k, item in value.items()]
            elif (name := key.removesuffix("?")) in value:
                parts.append((f"{inside}{name}", value[name], each))
            elif name == key:
                return f"no '{inside}{key}'"
    elif not _is(value, form):
        return f"{place or 'it'} is not {WORDS.get(form, getattr(form, '__name__', form))}"
    return next((fault for part in parts if (fault := misfit(part[1], part[2], part[0]))), "")


WORDS = {
    None: "null", int: "a whole number", float: "a finite number", str: "text",
    bool: "true or false", dict: "an object with keys", list: "a list",
}  # fmt: skip


def _is(value: object, kind: Any) -> bool:
    if kind is None:
        return value is None
    if kind is int:
        return type(value) is int and -(2**63) <= value < 2**63
    if kind is float:
        most = sys.float_info.max
        return type(value) in (int, float) and -most <= value <= most  # type: ignore[operator]
    if kind is str:  # JSON can hold half a pair of surrogates, which no file can
        return isinstance(value, str) and value == value.encode(errors="ignore").decode()
    return isinstance(value, kind)
