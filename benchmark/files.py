"""Files: where the repository lies, and writing that leaves the old content or the new, never a part of either."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from glob import escape
from pathlib import Path, PureWindowsPath
from typing import BinaryIO

from benchmark.errors import InputError

#: The folder that the suite's packages lie in: the root of the repository, where it is not installed elsewhere.
ROOT = Path(__file__).resolve().parent.parent
#: The end of the names of kept models.
MODEL_SUFFIX = ".safetensors"
#: The end of the name of a file that is being written.
_UNFINISHED = ".tmp"
#: Where files lie that are written together, once all of them are there.
_DECIDED = ".incoming"


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A file to write that takes the place of ``path`` once the block ends; if it does not end well, nothing changes.

    Raises:
        OSError: it cannot be written (disk full, no permission).
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-", suffix=_UNFINISHED)
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except BaseException:  # an interrupt, too, must leave no part of a file
        temporary.unlink(missing_ok=True)
        raise


def unfinished(path: Path) -> list[Path]:
    """What processes left that were killed while they wrote ``path``, or are writing it."""
    return list(path.parent.glob(f".{escape(path.name)}-*{_UNFINISHED}"))


def write_whole(path: Path, content: str | bytes) -> None:
    """Write ``content`` so that ``path`` holds the old content or the new, never a part.

    Raises:
        InputError: it cannot be written.
    """
    try:
        with replacing(path) as file:
            file.write(content.encode() if isinstance(content, str) else content)
    except OSError as error:
        raise InputError(f"{path}: cannot be written: {error.strerror}") from error


def write_together(folder: Path, contents: Mapping[Path, bytes]) -> None:
    """Write several files in ``folder``: wherever it ends, ``complete`` leaves all of them old or all of them new.

    They are laid aside in a folder of their own, whose renaming decides, and are then moved into their places.

    Raises:
        InputError: one cannot be written.
    """
    complete(folder)
    aside = folder / f"{_DECIDED}{_UNFINISHED}"
    shutil.rmtree(aside, ignore_errors=True)
    try:
        for path, content in contents.items():
            write_whole(aside / path.relative_to(folder), content)
        if contents:
            aside.replace(folder / _DECIDED)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    complete(folder)


def complete(folder: Path) -> None:
    """Bring to its end what ``write_together`` had decided to write in ``folder`` when it was cut off."""
    aside = folder / _DECIDED
    for path in sorted(aside.rglob("*")):
        if path.is_file():
            place = folder / path.relative_to(aside)
            place.parent.mkdir(parents=True, exist_ok=True)
            path.replace(place)
    shutil.rmtree(aside, ignore_errors=True)


def check_complete(folder: Path) -> None:
    """Assert that no writing of several files was cut off in the middle.

    Raises:
        InputError: there was, and what is there is neither old nor new.
    """
    if (folder / _DECIDED).exists():
        raise InputError(f"{folder}: an import was cut off; python -m benchmark.leaderboard --out {folder} ends it")


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from error


def without_paths(text: str) -> str:
    """``text`` with every absolute path cut to its last part: results are public, folders and users' names are not."""
    # Between quotes a path may hold spaces.
    text = re.sub(r"(['\"])((?:/|[A-Za-z]:\\)[^'\"]*)\1", lambda found: repr(without_folders(found[2])), text)
    return re.sub(r"(?<![\w.~])(?:/|[A-Za-z]:\\)[^\s'\"():,=]+", lambda found: without_folders(found[0]), text)


def without_folders(path: str) -> str:
    """The last part of a path, and ``~`` for the home folder, whose name is the user's."""
    name = PureWindowsPath(path).name if "\\" in path else Path(path).name
    return "~" if name == Path.home().name else name
