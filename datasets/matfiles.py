"""The .mat files of the xlsa17 format: reading what is wanted, and writing the same bytes for the same variables.

Files up to v7 are read by SciPy. Those of v7.3 are HDF5 files, which h5py reads where it is installed; MATLAB stores in
them every array transposed, text as uint16 codes, cells as references and an empty array as its shape.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import scipy.io

from benchmark.errors import InputError
from benchmark.files import write_whole
from datasets.disk import reason

if TYPE_CHECKING:
    import h5py

_HEADER = b"MATLAB 5.0 MAT-file, written by zsl-benchmark"  # SciPy's own holds the time of writing
_HEADER_LENGTH = 116
_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_OFFSETS = (0, 512)  # MATLAB writes a header of its own before it


class Structure:
    """Stands for a structure in a file of v7.3, which is not read."""


class SparseMatrix:
    """Stands for a sparse matrix in a file of v7.3, which is not read."""


def load(file: Path, *keys: str, optional: Sequence[str] = ()) -> dict[str, Any]:
    """Some variables of a file; no other is read.

    Args:
        file: a MATLAB file.
        keys: the variables.
        optional: further ones, which may be missing.

    Raises:
        InputError: the file cannot be read, or lacks one of ``keys``.
    """
    wanted = (*keys, *optional)
    if _is_hdf5(file):
        with _hdf5(file) as handle:
            content = {key: _value(handle[key], handle) for key in wanted if key in handle}
    else:
        content = _scipy(scipy.io.loadmat, file, variable_names=wanted)
    for key in keys:
        if key not in content:
            raise missing(file, key)
    return content


def shape(file: Path, key: str) -> tuple[int, ...] | None:
    """The shape of a variable, whose values are not read; None where the file has no such variable.

    Raises:
        InputError: the file cannot be read.
    """
    return _shapes(file).get(key)


def missing(file: Path, key: str, more: str = "") -> InputError:
    """The error that a file lacks the variable ``key``; ``more`` is added to what it says."""
    return InputError(f"{file}: {key} is missing; the file holds {', '.join(_shapes(file)) or 'nothing'}{more}")


def names(values: npt.NDArray[Any], where: str) -> tuple[str, ...]:
    """The names in a cell array of strings or a matrix of characters.

    Raises:
        InputError: one of them is no name, or two are the same; ``where`` says which variable is to blame.
    """
    entries = [np.ravel(entry) for entry in np.ravel(values)]
    found = tuple("".join(entry).strip() if entry.dtype.kind == "U" else "" for entry in entries)
    if not all(found):
        raise InputError(f"{where} must be names, got none for class {found.index('') + 1} instead")
    if len(set(found)) != len(found):
        raise InputError(f"{where} must differ, got {max(found, key=found.count)!r} twice instead")
    return found


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


def _shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Variable -> shape."""
    if _is_hdf5(file):
        with _hdf5(file) as handle:
            return {key: _shape(handle[key]) for key in handle if not key.startswith("#")}
    return {key: tuple(shape) for key, shape, _ in _scipy(scipy.io.whosmat, file)}


def _scipy(reader: Callable[..., Any], file: Path, **options: Any) -> Any:
    with _readable(file), file.open("rb") as stream:
        return reader(stream, **options)


def _is_hdf5(file: Path) -> bool:
    with _readable(file), file.open("rb") as stream:
        return any(stream.seek(offset) == offset and stream.read(len(_HDF5)) == _HDF5 for offset in _HDF5_OFFSETS)


@contextmanager
def _hdf5(file: Path) -> Iterator[h5py.File]:
    if find_spec("h5py") is None:
        advice = "pip install -e '.[hdf5]', or save it again with -v7"
        raise InputError(f"{file}: is a MATLAB file of v7.3, which takes h5py to read: {advice}")
    import h5py

    with _readable(file), h5py.File(file, "r") as handle:
        yield handle


@contextmanager
def _readable(file: Path) -> Iterator[None]:
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # SciPy and h5py raise nearly anything over a broken file
        missing = isinstance(error, OSError) and error.strerror  # of the system, where h5py's own have none
        may_be = "" if missing else ", may be truncated or no .mat file"
        raise InputError(f"{file}: cannot be read{may_be}: {reason(error)}") from error


def _shape(variable: h5py.Dataset | h5py.Group) -> tuple[int, ...]:
    """The shape of a variable in MATLAB."""
    if not hasattr(variable, "shape"):
        rows = variable.attrs.get("MATLAB_sparse")
        return (1, 1) if rows is None else (int(rows), len(variable["jc"]) - 1)
    if variable.attrs.get("MATLAB_empty"):
        return tuple(int(length) for length in variable[()])
    return tuple(variable.shape[::-1])


def _value(variable: h5py.Dataset | h5py.Group, handle: h5py.File) -> Any:
    """What SciPy would return for such a variable of an older file: an array, cells with their texts as arrays."""
    if not hasattr(variable, "shape"):
        return SparseMatrix() if "MATLAB_sparse" in variable.attrs else Structure()
    kind, shape = bytes(variable.attrs.get("MATLAB_class", b"")), _shape(variable)
    if 0 in shape:
        return np.zeros(shape, dtype=object if kind == b"cell" else np.float64)
    values = np.asarray(variable[()]).T
    if kind == b"char":
        return np.array(["".join(map(chr, row)) for row in np.atleast_2d(values).reshape(-1, shape[-1])])
    if values.dtype.kind == "O":
        content = np.empty(values.shape, dtype=object)
        for index, reference in np.ndenumerate(values):
            content[index] = _value(handle[reference], handle)
        return content
    return values
