"""The .mat files of the xlsa17 format: reading what is wanted, and writing the same bytes for the same variables."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io

from benchmark.errors import InputError
from benchmark.files import write_whole
from datasets.disk import reason

_HEADER = b"MATLAB 5.0 MAT-file, written by zsl-benchmark"  # SciPy's own holds the time of writing
_HEADER_LENGTH = 116


def load(file: Path, *keys: str, optional: Sequence[str] = ()) -> dict[str, Any]:
    """Some variables of a file; no other is read.

    Args:
        file: a MATLAB file up to v7.
        keys: the variables.
        optional: further ones, which may be missing.

    Raises:
        InputError: the file cannot be read, or lacks one of ``keys``.
    """
    content: dict[str, Any] = _scipy(scipy.io.loadmat, file, variable_names=(*keys, *optional))
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
    return {key: tuple(shape) for key, shape, _ in _scipy(scipy.io.whosmat, file)}


def _scipy(reader: Callable[..., Any], file: Path, **options: Any) -> Any:
    try:
        with file.open("rb") as stream:
            return reader(stream, **options)
    except OSError as error:
        raise InputError(f"{file}: cannot be read: {reason(error)}") from error
    except NotImplementedError:
        raise InputError(f"{file}: must be a MATLAB file up to v7, got v7.3 instead; save it again with -v7") from None
    except Exception as error:  # SciPy raises nearly anything over a broken file
        raise InputError(f"{file}: cannot be read, may be truncated or no .mat file: {reason(error)}") from error
