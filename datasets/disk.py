"""Large files: where to, is there room, one line where reading or writing fails, and every byte written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from tqdm import tqdm

from benchmark.errors import InputError, printable
from benchmark.registries import default_data_root


def reason(error: BaseException) -> str:
    """Why something failed, printable; of an error of the system its own words, without the file's name."""
    text = error.strerror if isinstance(error, OSError) else None
    return printable(text or str(error)) or type(error).__name__


def data_root(given: Path | None) -> Path:
    """The folder of the data sets that a command writes into: the ``given`` one, else $ZSL_DATA.

    Raises:
        InputError: there is neither.
    """
    root = given or default_data_root()
    if root is None:
        raise InputError("no data root: give --data-root DIR, or set the environment variable ZSL_DATA")
    return root


def require_space(folder: Path, needed: int, what: str) -> None:
    """Assert that the disk of ``folder`` has ``needed`` bytes free.

    Raises:
        InputError: it has not.
    """
    free = shutil.disk_usage(folder).free
    if needed > free:
        sizes = [tqdm.format_sizeof(size, "B") for size in (needed, free)]
        raise InputError(f"{folder}: {what} must have {sizes[0]} of free disk space, got {sizes[1]} instead")


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Tell failed writes (the disk is full, a quota) from failed reads, of commands that go on where they stopped.

    Raises:
        InputError: in place of an ``OSError``.
    """
    try:
        yield
    except OSError as error:
        raise InputError(
            f"{path}: cannot be written ({reason(error)}); once that is mended, the same command goes on from there"
        ) from error


def write_all(file: BinaryIO, data: bytes | memoryview) -> None:
    """Write all of ``data``: an unbuffered write may take less, on a disk that is nearly full."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
