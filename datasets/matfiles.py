"""The .mat files of the xlsa17 format: reading what is wanted, and writing the same bytes for the same variables.

They are read by ``matreader``, in a process of its own. What is small is kept in the cache, so that a data set that was
read before needs no such process.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io

from benchmark.errors import InputError, printable
from benchmark.files import write_whole
from datasets import cache, matreader
from datasets.disk import reason

_HEADER = b"MATLAB 5.0 MAT-file, written by zsl-benchmark"  # SciPy's own holds the time of writing
_HEADER_LENGTH = 116
_SMALL = 1 << 24  # bytes that are worth a copy in the cache


def load(file: Path, *keys: str, optional: Sequence[str] = ()) -> matreader.Content:
    """Some variables of a file; no other is read.

    Args:
        file: a MATLAB file.
        keys: the variables.
        optional: further ones, which may be missing.

    Raises:
        InputError: the file cannot be read, or lacks one of ``keys``.
    """
    content = _cached(file, (*keys, *optional))
    for key in keys:
        if key not in content:
            raise missing(file, key)
    return content


def shape(file: Path, key: str) -> tuple[int, ...] | None:
    """The shape of a variable, whose values are not read; None where the file has no such variable.

    Raises:
        InputError: the file cannot be read.
    """
    return _cached(file, None).get(key)


def shapes(file: Path) -> matreader.Content:
    """Variable -> shape, of all; nothing is kept of it.

    Raises:
        InputError: the file cannot be read.
    """
    return _read(file, None)


def provenance(file: Path) -> dict[str, Any]:
    """How the content of a file was made, as ``datasets.features.extract`` and ``datasets.emoji`` tell; may be empty.

    Raises:
        InputError: the file cannot be read.
    """
    told = load(file, optional=["provenance"]).get("provenance")
    try:
        found = json.loads(str(np.ravel(told)[0])) if isinstance(told, np.ndarray) else {}
    except (ValueError, IndexError):  # another program's
        return {}
    return found if isinstance(found, dict) else {}


def missing(file: Path, key: str, more: str = "") -> InputError:
    """The error that a file lacks the variable ``key``; ``more`` is added to what it says."""
    held = printable(", ".join(shapes(file)))
    return InputError(f"{file}: {key} is missing; the file holds {held or 'nothing'}{more}")


def names(values: npt.NDArray[Any], where: str) -> tuple[str, ...]:
    """The names in a cell array of strings or a matrix of characters.

    Raises:
        InputError: one of them is no name, or two are the same; ``where`` says which variable is to blame.
    """
    entries = [np.ravel(entry) for entry in np.ravel(values)]
    found = tuple("".join(entry).strip() if entry.dtype.kind == "U" else "" for entry in entries)
    if not all(found):
        raise InputError(f"{where} must be names, got none for class {found.index('') + 1} instead")
    for number, name in enumerate(found, start=1):
        if not name.isprintable():  # boards and terminals show them
            raise InputError(f"{where} must be printable, got {printable(name)!r} for class {number} instead")
    if len(set(found)) != len(found):
        twice = printable(max(found, key=found.count))
        raise InputError(f"{where} must differ, got {twice!r} twice instead")
    return found


def numeric(values: Any, where: str) -> npt.NDArray[Any]:
    """A variable that must be real numbers.

    Raises:
        InputError: it is something else; ``where`` says which variable is to blame.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "iuf":
        return values
    kind = printable(values.kind) if isinstance(values, matreader.Unread) else values.dtype
    raise InputError(f"{where} must be a matrix of real numbers, got {kind} instead")


def cells(texts: Iterable[str]) -> npt.NDArray[np.object_]:
    """(n, 1) a cell array of texts, as the xlsa17 files hold names."""
    return np.array(list(texts), dtype=object).reshape(-1, 1)


def save(path: Path, variables: Mapping[str, Any]) -> None:
    """Write ``variables``, so that ``path`` holds the old content or the new, never a part.

    A revision is a digest of files; it stays the same when a data set is built again from the same sources.

    Raises:
        InputError: the file cannot be written.
    """
    content = io.BytesIO()
    scipy.io.savemat(content, dict(variables), do_compression=True)
    content.seek(0)
    content.write(_HEADER.ljust(_HEADER_LENGTH))
    write_whole(path, content.getvalue())


def _cached(file: Path, keys: Sequence[str] | None) -> matreader.Content:
    """What ``_read`` reads, from the cache where it was read before."""
    with _readable(file):
        digest = cache.sha256(file)
    key = f"{digest}-{'all shapes' if keys is None else ' '.join(keys)}"
    if known := cache.recall(key):
        with suppress(Exception):  # it is garbled: written anew
            return matreader.read(io.BytesIO(known))
    content = _read(file, keys)
    with suppress(OSError):  # a cache that cannot be written costs time only
        if _size(content) <= _SMALL and cache.sha256(file) == digest:
            cache.keep(key, _written(content))
    return content


def _read(file: Path, keys: Sequence[str] | None) -> matreader.Content:
    with _readable(file):
        if matreader.is_hdf5(file) and find_spec("h5py") is None:
            advice = "pip install -e '.[hdf5]', or save it again with -v7"
            raise InputError(f"{file}: is a MATLAB file of v7.3, which takes h5py to read: {advice}")
        return matreader.ask(file, keys)


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # a reader that the file has taken over can answer anything
        missing = isinstance(error, OSError) and error.strerror  # of the system, where h5py's own have none
        may_be = "" if missing else ", may be truncated or no .mat file"
        raise InputError(f"{file}: cannot be read{may_be}: {reason(error)}") from error


def _size(content: matreader.Content) -> int:
    return sum(value.nbytes for value in content.values() if isinstance(value, np.ndarray))


def _written(content: matreader.Content) -> bytes:
    stream = io.BytesIO()
    matreader.write(content, stream)
    return stream.getvalue()
