"""Reading MATLAB files in a process of its own, which a broken or hostile one may crash, as SciPy is known to do.

``ask`` is the side of the suite; ``main`` is that of the other process, whose program this file is, too. That process
imports NumPy, SciPy and h5py alone, so that it is there in 0.3 s, and goes on while the suite does. It forks for every
file, which takes milliseconds: a fork that crashes, or reaches the limits on its memory and time, is one file that
cannot be read, and what a file has done to its reader is gone with it. It is no ``multiprocessing`` fork server, whose
children would import the main program, torch with it, and send pickles, which can run code: what is sent here is JSON
and the bytes of numbers.

Files up to v7 are read by SciPy. Those of v7.3 are HDF5 files, which h5py reads where it is installed; MATLAB stores in
them every array transposed, text as uint16 codes, cells as references and an empty array as its shape.
"""

from __future__ import annotations

import atexit
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import IO, Any

import numpy as np
import numpy.typing as npt
import scipy.io

if sys.platform != "win32":
    import fcntl
    import resource
with suppress(ImportError):
    import h5py

Content = dict[str, Any]

_HDF5 = b"\x89HDF\r\n\x1a\n"
_HDF5_OFFSETS = (0, 512)  # MATLAB writes a header of its own before it
_NUMBERS = "biufc"
_PIPE = 1 << 20  # bytes; through a pipe of the usual 64 KiB a large matrix takes three times as long


class Unreadable(Exception):
    """A file cannot be read; its text is the reason."""


@dataclass(frozen=True)
class Unread:
    """Stands for a variable that is neither numbers nor texts.

    Attributes:
        kind: what it is instead: Structure, SparseMatrix, or SciPy's class.
    """

    kind: str


def is_hdf5(file: Path) -> bool:
    """Whether a file is of MATLAB's v7.3.

    Raises:
        OSError: it cannot be opened.
    """
    with file.open("rb") as stream:
        return any(stream.seek(offset) == offset and stream.read(len(_HDF5)) == _HDF5 for offset in _HDF5_OFFSETS)


# -------------------------------------------------------------------------------------------- the side of the suite


def ask(file: Path, keys: Sequence[str] | None) -> Content:
    """The variables ``keys`` of a file, as far as it has them; with None the shapes of all.

    Numbers come as arrays of numbers, characters as arrays of texts, cells as arrays of objects that are text, or None
    where a cell holds something else, and all else as ``Unread``.

    Raises:
        Unreadable: the file is none, or broken.
    """
    return _process(os.getpid()).ask(file, keys)


class _Process:
    """The other process, from its first answer to the end of this one, or until a file makes it crash."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: subprocess.Popen[bytes] | None = None
        atexit.register(self._end)

    def ask(self, file: Path, keys: Sequence[str] | None) -> Content:
        with self._lock:
            running = self._start()
            assert running.stdin is not None
            assert running.stdout is not None
            try:
                running.stdin.write(json.dumps([str(file.absolute()), keys]).encode() + b"\n")
                running.stdin.flush()
                return read(running.stdout)
            except (EOFError, BrokenPipeError):
                raise Unreadable(f"reading it ended by {_signal(self._end())}") from None
            except Unreadable:
                raise
            except BaseException:  # an interrupt, or an answer that makes no sense: the rest of it must not be the next
                running.kill()
                self._end()
                raise

    def _start(self) -> subprocess.Popen[bytes]:
        if self._running is None:
            self._running = subprocess.Popen(
                [sys.executable, __file__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # what C libraries say as they abort
                env=os.environ | {"OPENBLAS_NUM_THREADS": "1"},  # whose threads would only be in a fork's way
                start_new_session=True,  # Ctrl-C is the suite's to handle
            )
        return self._running

    def _end(self) -> int:
        """The exit code of the process, which is no more; 0 where there was none."""
        running, self._running = self._running, None
        if running is None:
            return 0
        with suppress(BrokenPipeError), running:  # closes its standard input, which ends it
            pass
        return running.returncode


@lru_cache(maxsize=1)
def _process(_suite: int) -> _Process:
    """The other process of the suite's own; that of a process which was forked from it is another."""
    return _Process()


def _signal(code: int) -> str:
    """What ended a process; 128 is added to the signal that ended its fork, as shells do."""
    number = -code if code < 0 else code - 128
    return signal.Signals(number).name if number > 0 else f"exit code {code}"


# ------------------------------------------------------------------------------------------- what one tells the other


def write(content: Content, stream: IO[bytes]) -> None:
    """Write what ``read`` reads: a line of JSON that describes all, and the bytes of the numbers in its order."""
    described = json.dumps({key: _described(value) for key, value in content.items()})
    numbers = [value.ravel(order=_order(value)) for value in content.values() if _is_numbers(value)]
    stream.write(described.encode() + b"\n")  # only now: once it begins, all of it must come
    for flat in numbers:
        stream.write(flat.view(np.uint8).data)


def read(stream: IO[bytes]) -> Content:
    """What was written to ``stream``, which nobody need trust.

    Raises:
        Unreadable: an error was written instead.
        EOFError: the stream ends too early.
        Exception: anything else, where ``write`` did not write it.
    """
    line = stream.readline()
    if not line.endswith(b"\n"):
        raise EOFError
    described = json.loads(line)
    if isinstance(described, str):
        raise Unreadable(described)
    return {key: _restored(value, stream) for key, value in described.items()}


def _is_numbers(value: Any) -> bool:
    return isinstance(value, np.ndarray) and value.dtype.kind in _NUMBERS


def _order(array: npt.NDArray[Any]) -> Any:
    return "F" if array.flags.f_contiguous else "C"


def _described(value: Any) -> dict[str, Any]:
    if isinstance(value, tuple):
        return {"is": "shape", "shape": value}
    if not isinstance(value, np.ndarray):
        return {"is": "unread", "kind": value.kind if isinstance(value, Unread) else type(value).__name__}
    if _is_numbers(value):
        return {"is": "numbers", "shape": value.shape, "type": value.dtype.str, "order": _order(value)}
    if value.dtype.kind in "OU":
        texts = [_text(entry) for entry in value.ravel()]
        return {"is": "cells" if value.dtype.kind == "O" else "characters", "shape": value.shape, "texts": texts}
    return {"is": "unread", "kind": "Structure"}


def _restored(described: Mapping[str, Any], stream: IO[bytes]) -> Any:
    if described["is"] == "unread":
        return Unread(str(described["kind"]))
    shape = tuple(map(int, described["shape"]))
    if described["is"] == "shape":
        return shape
    if described["is"] != "numbers":
        texts = [text if isinstance(text, str) else None for text in described["texts"]]
        return np.array(texts, dtype=object if described["is"] == "cells" else str).reshape(shape)
    kind = np.dtype(described["type"])
    if kind.kind not in _NUMBERS:
        raise ValueError(kind)
    flat = np.empty(np.prod(shape, dtype=object), kind)
    if stream.readinto(flat.view(np.uint8).data) != flat.nbytes:  # type: ignore[attr-defined]
        raise EOFError
    return flat.reshape(shape, order=described["order"])


def _text(entry: Any) -> str | None:
    array = np.ravel(entry)
    return "".join(array) if array.dtype.kind == "U" else None


# ------------------------------------------------------------------------------------------------ the other process


def main() -> None:
    """Answer the requests on standard input until it ends, or until one of them makes its reader crash."""
    with suppress(NameError, AttributeError, OSError):  # Linux alone has it, and gives a user only so much
        fcntl.fcntl(sys.stdout, fcntl.F_SETPIPE_SZ, _PIPE)
    for line in sys.stdin.buffer:
        file, keys = json.loads(line)
        if not hasattr(os, "fork"):
            _answer(Path(file), keys)
        elif child := os.fork():
            code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
            if code:
                sys.exit(code if code > 0 else 128 - code)
        else:
            _limit(Path(file).stat().st_size)
            _answer(Path(file), keys)
            os._exit(0)


def _limit(size: int) -> None:
    """Let this process read a file of ``size`` bytes, however well it is packed, and no more; it writes no file."""
    limits = {
        resource.RLIMIT_AS: (1 << 30) + 64 * size,
        resource.RLIMIT_CPU: 60 + (size >> 20),
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_CORE: 0,
    }
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (limit if hard == resource.RLIM_INFINITY else min(limit, hard), hard))


def _answer(file: Path, keys: Sequence[str] | None) -> None:
    out = sys.stdout.buffer
    try:
        write(_of_hdf5(file, keys) if is_hdf5(file) else _of_scipy(file, keys), out)
    except Exception as error:  # SciPy and h5py raise nearly anything over a broken file
        out.write(json.dumps(str(error) or type(error).__name__).encode() + b"\n")
    out.flush()


def _of_scipy(file: Path, keys: Sequence[str] | None) -> Content:
    with file.open("rb") as stream:
        if keys is None:
            return {key: tuple(map(int, shape)) for key, shape, _ in scipy.io.whosmat(stream)}
        content = scipy.io.loadmat(stream, variable_names=keys)
    return {key: content[key] for key in keys if key in content}


def _of_hdf5(file: Path, keys: Sequence[str] | None) -> Content:
    with h5py.File(file, "r") as handle:
        if keys is None:
            return {key: _shape(handle[key]) for key in handle if not key.startswith("#")}
        return {key: _value(handle[key], handle) for key in keys if key in handle}


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
        return Unread("SparseMatrix" if "MATLAB_sparse" in variable.attrs else "Structure")
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


if __name__ == "__main__":
    main()
