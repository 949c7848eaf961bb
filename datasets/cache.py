"""A cache of feature matrices: one .npy file a matrix, named by the sha256 of the file that it was read from.

It lies in ``$ZSL_CACHE``, else where the system keeps a user's caches (``~/.cache/zsl-benchmark`` on Linux), and may be
deleted at any time:

- ``features/<sha256>.npy``: a matrix, to be memory-mapped;
- ``variables/<sha256>-<keys>``: small variables of the .mat file of this digest, as ``datasets.matreader`` writes them;
- ``sound/<sha256>``: an empty file, which says that the file of this digest was read through and found sound;
- ``sources/<hash of a path>.json``: the sha256 of the file at that path while its size and time of change stay the
  same, so that a file is hashed once and not on every load.

No lock is needed. A file is written under a temporary name and renamed when it is complete; what it holds follows from
its name alone, so of two processes that write it at once the later replaces it by the same bytes, and a process that
has mapped the first keeps it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from platformdirs import user_cache_path

from benchmark.files import replacing

Matrix = npt.NDArray[np.float32]
State = dict[str, str | int]


def sha256(path: Path) -> str:
    """The sha256 of a file in hexadecimal, hashed again only when its size or time of change is another.

    Raises:
        OSError: the file cannot be read.
    """
    stat = path.stat()  # before hashing: what changes meanwhile is hashed again next time
    state: State = {"path": str(path.resolve()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
    if known := _recall(state):
        return known
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    # A cache that cannot be written costs time only.
    with suppress(OSError), replacing(_entry(state)) as note:
        note.write(json.dumps(state | {"sha256": digest.hexdigest()}).encode())
    return digest.hexdigest()


def lookup(key: str, shape: tuple[int, int]) -> Matrix | None:
    """The (N, D) matrix stored under ``key``, memory-mapped and read-only; None where there is no sound one.

    Sound means that the header and the file's size are those of such a matrix; the values are not read.
    """
    try:
        path = _matrix(key)
        matrix = np.load(path, mmap_mode="r", allow_pickle=False)
        sound = matrix.shape == shape and matrix.dtype == np.float32 and matrix.flags.c_contiguous
        return matrix if sound and path.stat().st_size == matrix.offset + matrix.nbytes else None
    except Exception:  # a garbled header can make NumPy raise nearly anything, and all of it means: write it anew
        return None


def store(key: str, shape: tuple[int, int], blocks: Iterable[Matrix]) -> Matrix:
    """Store a matrix that comes in ``blocks`` of rows, and map it; all of it appears at once, or nothing.

    Raises:
        OSError: it cannot be written or mapped. (A write through a memory map would instead be killed by a signal when
            the disk is full.)
    """
    header = {"descr": np.lib.format.dtype_to_descr(np.dtype(np.float32)), "fortran_order": False, "shape": shape}
    with replacing(_matrix(key)) as file:
        np.lib.format.write_array_header_1_0(file, header)
        for block in blocks:
            file.write(block.data)
    matrix = lookup(key, shape)
    if matrix is None:
        raise OSError(f"{_matrix(key)} cannot be mapped into memory")
    return matrix


def recall(key: str) -> bytes | None:
    """What was kept under ``key``; None where there is nothing."""
    try:
        return (_folder("variables") / key).read_bytes()
    except OSError:
        return None


def keep(key: str, content: bytes) -> None:
    """Keep ``content``; all of it appears at once, or nothing.

    Raises:
        OSError: it cannot be written.
    """
    with replacing(_folder("variables") / key) as file:
        file.write(content)


def is_sound(key: str) -> bool:
    """Whether the file with the sha256 ``key`` was marked as sound."""
    try:
        return (_folder("sound") / key).is_file()
    except OSError:
        return False


def mark_sound(key: str) -> None:
    """Remember that the values of the file with the sha256 ``key`` were checked, so that they need be read once only.

    Raises:
        OSError: it cannot be noted.
    """
    with replacing(_folder("sound") / key):
        pass


def _folder(kind: str) -> Path:
    if chosen := os.environ.get("ZSL_CACHE"):
        return Path(chosen).expanduser() / kind
    try:
        return user_cache_path("zsl-benchmark") / kind
    except RuntimeError as error:
        raise OSError("there is no home folder; set ZSL_CACHE") from error


def _matrix(key: str) -> Path:
    return _folder("features") / f"{key}.npy"


def _entry(state: State) -> Path:
    return _folder("sources") / f"{hashlib.sha256(str(state['path']).encode()).hexdigest()[:32]}.json"


def _recall(state: State) -> str | None:
    try:
        known = json.loads(_entry(state).read_bytes())
    except (OSError, ValueError):
        return None
    if not isinstance(known, dict) or {key: known.get(key) for key in state} != state:
        return None
    return known.get("sha256")
