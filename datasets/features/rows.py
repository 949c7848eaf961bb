"""Arrays on disk that are filled row by row, and which rows are filled: what makes an extraction resumable.

They are written as files, not through a memory map: a full disk would then end the process by a signal.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from datasets.disk import require_space, write_all, writing

_SAVE_SECONDS = 5.0


class Rows:
    """Arrays of ``n`` rows in the files of a folder, to be entered as a context.

    Args:
        folder: the folder of these arrays alone; made where it is missing, and begun anew where a file is.
        n: the number of rows of each array.
        shapes: the arrays' names, with the shape and type of a row.

    Raises:
        InputError: the disk has no room, or a write fails; what was saved before stays.
    """

    def __init__(self, folder: Path, n: int, shapes: Mapping[str, tuple[tuple[int, ...], Any]]) -> None:
        self.folder, self.n = folder, n
        self._headers: dict[str, int] = {}
        self._pending: list[int] = []
        self._files: dict[str, BinaryIO] = {}
        self.shapes = shapes

    def __enter__(self) -> Rows:
        with ExitStack() as stack, writing(self.folder):
            new = not all((self.folder / f"{name}.npy").is_file() for name in (*self.shapes, "done"))
            if new:
                shutil.rmtree(self.folder, ignore_errors=True)
                size = sum(self.n * int(np.prod(shape)) * np.dtype(t).itemsize for shape, t in self.shapes.values())
                require_space(self.folder.parent, size, "the features")
                self.folder.mkdir(parents=True)
                for name, (shape, dtype) in self.shapes.items():
                    np.lib.format.open_memmap(self._path(name), "w+", dtype, (self.n, *shape))
                np.save(self._path("done"), np.zeros(self.n, bool))  # last: it says that the others are there
            for name in (*self.shapes, "done"):
                self._headers[name] = np.load(self._path(name), mmap_mode="r").offset
                self._files[name] = stack.enter_context(self._path(name).open("r+b", buffering=0))
            self._close = stack.pop_all()
        self._saved = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        with self._close:
            self.save()

    @property
    def missing(self) -> list[int]:
        """The rows that are not filled, ascending."""
        return [int(row) for row in np.flatnonzero(~np.load(self._path("done")))]

    def write(self, rows: Sequence[int], arrays: Mapping[str, npt.NDArray[Any]]) -> None:
        """Fill ``rows``; they count as filled at the next ``save``, which happens every few seconds."""
        with writing(self.folder):
            for name, values in arrays.items():
                for row, value in zip(rows, values, strict=True):
                    self._put(name, row, np.ascontiguousarray(value))
        self._pending += rows
        if time.monotonic() - self._saved > _SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Mark the rows that were written as filled, once they are safe on the disk."""
        with writing(self.folder):
            for name in self.shapes:
                os.fsync(self._files[name])
            for row in self._pending:
                self._put("done", row, np.ones(1, bool))
        self._pending, self._saved = [], time.monotonic()

    def publish(self, name: str, rows: npt.NDArray[np.int64], target: Path) -> None:
        """Move an array, or only its ``rows`` where some are missing, to ``target``."""
        source = self._path(name)
        with writing(target):
            if len(rows) < self.n:
                whole = np.load(source, mmap_mode="r")
                part = source.with_name(f"{name}-part.npy")
                with part.open("wb") as file:
                    header = {"descr": np.lib.format.dtype_to_descr(whole.dtype), "fortran_order": False}
                    np.lib.format.write_array_header_1_0(file, header | {"shape": (len(rows), *whole.shape[1:])})
                    for row in rows:
                        write_all(file, whole[row].reshape(-1).view(np.uint8).data)
                source = part
            source.replace(target)

    def read(self, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """The ``rows`` of an array."""
        array: npt.NDArray[Any] = np.load(self._path(name), mmap_mode="r")[rows]
        return array

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npy"

    def _put(self, name: str, row: int, value: npt.NDArray[Any]) -> None:
        file = self._files[name]
        file.seek(self._headers[name] + row * value.nbytes)
        write_all(file, value.reshape(-1).view(np.uint8).data)
