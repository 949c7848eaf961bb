"""Writing .mat files: whole or not at all, and the same bytes for the same variables."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.io

from benchmark.registry import InputError

_HEADER = b"MATLAB 5.0 MAT-file, written by zsl-benchmark"  # SciPy's own holds the time of writing
_HEADER_LENGTH = 116


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
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=".", suffix=".tmp", delete=False) as file:
            temporary = Path(file.name)
            file.write(content.getvalue())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error
    finally:
        if temporary:
            temporary.unlink(missing_ok=True)


def cells(texts: Iterable[str]) -> npt.NDArray[np.object_]:
    """(n, 1) a cell array of texts, as the xlsa17 files hold names."""
    return np.array(list(texts), dtype=object).reshape(-1, 1)
