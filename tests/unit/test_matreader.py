"""Hostile ``.mat`` files, and what the process that reads them may say: nothing of it harms the suite."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from benchmark.files import ROOT
from datasets import matfiles, matreader
from tests.reference.xlsa17 import (
    cache_folder,
    cells,
    refusal,
    root,
    toy,
    toy_features,
    toy_splits,
    write,
    write_v73,
)

__all__ = ["cache_folder", "root"]  # fixtures

UNREADABLE = "cannot be read, may be truncated or no .mat file: "


def crashing() -> bytes:
    """A cell with text whose type is none, over which SciPy up to 1.17 reads where it must not."""
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"x": cells(["a"])})
    content = bytearray(stream.getvalue())
    (at,) = [at for at in range(0, len(content), 8) if content[at : at + 5] == b"\x10\x00\x01\x00a"]
    content[at] = 0x80
    return bytes(content)


def of_a_trillion_numbers() -> bytes:
    stream = io.BytesIO()
    scipy.io.savemat(stream, {"x": np.ones((3, 5))})
    dimensions = np.array([3, 5], np.int32).tobytes()
    return stream.getvalue().replace(dimensions, np.array([10**6, 10**6], np.int32).tobytes())


def test_a_file_that_crashes_its_reader_is_refused_and_the_next_is_read(tmp_path: Path) -> None:
    for _ in range(2):
        (tmp_path / "bad.mat").write_bytes(crashing())
        assert refusal(lambda: matfiles.load(tmp_path / "bad.mat", "x")).startswith(
            f"{tmp_path / 'bad.mat'}: {UNREADABLE}"
        )
        scipy.io.savemat(tmp_path / "good.mat", {"x": np.eye(2)})
        assert np.array_equal(matfiles.load(tmp_path / "good.mat", "x")["x"], np.eye(2))


def test_what_a_crash_is_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matreader, "__file__", str(tmp_path / "reader.py"))
    (tmp_path / "x.mat").write_bytes(bytes(8))
    process = matreader._Process()
    for ending, name in (("os.abort()", "SIGABRT"), ("os._exit(3)", "exit code 3")):
        code = (ROOT / "datasets" / "matreader.py").read_text()
        (tmp_path / "reader.py").write_text(code.replace("    out = sys.stdout.buffer\n", f"    {ending}\n"))
        with pytest.raises(matreader.Unreadable, match=f"^reading it ended by {name}$"):
            process.ask(tmp_path / "x.mat", None)


def test_more_memory_than_a_file_can_need_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.mat"
    file.write_bytes(of_a_trillion_numbers())
    assert refusal(lambda: matfiles.load(file, "x")).startswith(f"{file}: {UNREADABLE}")


def test_an_unwritten_matrix_of_v73_takes_no_memory_either(tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    write_v73(tmp_path / "x.mat", {})
    with h5py.File(tmp_path / "x.mat", "r+") as handle:
        handle.create_dataset("x", (10**5, 10**5), "f8", chunks=(10**3, 10**3))
    assert "Unable to allocate 74.5 GiB" in refusal(lambda: matfiles.load(tmp_path / "x.mat", "x"))


@pytest.mark.skipif(sys.platform == "win32", reason="there are no such limits")
def test_a_file_that_takes_for_ever_is_given_up(tmp_path: Path) -> None:
    """Cells that hold cells, ten times each and ten deep."""
    h5py = pytest.importorskip("h5py")
    write_v73(tmp_path / "x.mat", {"x0": np.ones((1, 1))})
    with h5py.File(tmp_path / "x.mat", "r+") as handle:
        for depth in range(10):
            references = np.full((10, 1), handle[f"x{depth}"].ref, h5py.ref_dtype)
            handle.create_dataset(f"x{depth + 1}", data=references, dtype=h5py.ref_dtype)
    code = (
        "import resource, sys\nfrom pathlib import Path\nfrom datasets import matreader\n"
        "resource.setrlimit(resource.RLIMIT_CPU, (2, 2))\nmatreader.ask(Path(sys.argv[1]), ['x10'])"
    )
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x.mat"], cwd=ROOT, capture_output=True, text=True)
    assert re.search("Unreadable: reading it ended by SIG(XCPU|KILL)$", done.stderr.strip())


def test_the_reader_can_write_no_file(tmp_path: Path) -> None:
    code = "import sys\nfrom datasets import matreader\nmatreader._limit(0)\nopen(sys.argv[1], 'w', 1).write('x\\n')\n"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / "x"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode != 0
    assert (tmp_path / "x").read_bytes() == b""


def test_what_was_read_before_needs_no_other_process(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, revision = toy(root).load(), toy(root).revision
    monkeypatch.setattr(matreader, "ask", None)
    again = toy(root).load()
    assert toy(root).revision == revision
    assert np.array_equal(again.features, first.features)
    assert again.class_names == first.class_names


@pytest.mark.parametrize(
    "content", [b"", b"{", b'{"att": 1}\n', b'{"att": {"is": "numbers"}}\n', b"[]\n", b'"broken"\n']
)
def test_a_garbled_entry_of_the_cache_is_written_anew(root: Path, cache_folder: Path, content: bytes) -> None:
    first = toy(root).load()
    entries = {entry: entry.read_bytes() for entry in (cache_folder / "variables").iterdir()}
    for entry in entries:
        entry.write_bytes(content)
    shutil.rmtree(cache_folder / "features")
    assert np.array_equal(toy(root).load().attributes, first.attributes)
    assert {entry: entry.read_bytes() for entry in entries} == entries


def test_the_other_process_starts_without_what_takes_time() -> None:
    code = "import sys; sys.argv[0] = 'x'; import runpy; runpy.run_path('datasets/matreader.py'); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {"torch", "benchmark", "datasets", "pydantic"} & set(done.stdout.split())


VALUES: dict[str, Any] = {
    "columns": np.arange(12.0).reshape(3, 4, order="F"),
    "rows": np.arange(12, dtype=np.uint8).reshape(3, 4),
    "neither": np.arange(24, dtype=np.int16).reshape(4, 6)[::2, ::3],
    "big-endian": np.arange(3, dtype=">f8"),
    "complex": np.array([1 + 2j], np.complex64),
    "nothing": np.zeros((0, 5)),
    "one": np.array(7.5),
    "characters": np.array(["ox", "bear"]),
    "no characters": np.zeros(0, dtype="<U1"),
    "cells": cells(["Eisbär", ""]),
}


@pytest.mark.parametrize("name", VALUES)
def test_what_one_process_tells_the_other(name: str) -> None:
    stream = io.BytesIO()
    matreader.write({"x": VALUES[name], "y": np.arange(3)}, stream)
    stream.seek(0)
    told = matreader.read(stream)
    assert told["x"].dtype.kind == VALUES[name].dtype.kind
    assert told["x"].shape == VALUES[name].shape
    assert np.array_equal(told["x"], VALUES[name])
    assert np.array_equal(told["y"], np.arange(3))


@pytest.mark.parametrize(
    "lie",
    [
        {"is": "numbers", "type": "O", "order": "C", "shape": [1]},
        {"is": "numbers", "type": "f8, O", "order": "C", "shape": [1]},
        {"is": "numbers", "type": "<f8", "order": "C", "shape": [-1]},
        {"is": "numbers", "type": "<f8", "order": "C", "shape": [1 << 62]},
        {"is": "numbers", "type": "<f8", "order": "C", "shape": [1 << 30]},
        {"is": "numbers", "type": "<f8", "order": "?", "shape": [1]},
        {"is": "cells", "texts": [], "shape": [3]},
        {"is": "shape", "shape": ["many"]},
        {"is": "magic"},
        [],
    ],
)
def test_lies_of_a_reader_that_was_taken_over(lie: Any) -> None:
    """Whatever it says is an error or harmless data: nothing of it is unpickled."""
    with pytest.raises((EOFError, KeyError, MemoryError, TypeError, ValueError)):
        matreader.read(io.BytesIO(json.dumps({"x": lie}).encode() + b"\n" + bytes(8)))


# --- what fuzzing found


def test_names_of_variables_are_shown_without_what_a_terminal_obeys(root: Path) -> None:
    file = root / "TOY" / "res101.mat"
    scipy.io.savemat(file, {f"evil{'x' * 20}{n}": 1 for n in range(100)})
    file.write_bytes(file.read_bytes().replace(b"evilx", b"\x1b[31m"))
    text = refusal(toy(root).load, "labels is missing; the file holds ")
    assert text.isprintable()


@pytest.mark.parametrize("name", ["\x1b[31mred", "two\nlines", "\u202eback", "lone \ud800"])
@pytest.mark.parametrize("v73", [False, True])
def test_names_of_classes_must_be_printable(root: Path, name: str, v73: bool) -> None:
    splits = toy_splits() | {"allclasses_names": cells([*"abcde", name])}
    if v73:
        pytest.importorskip("h5py")
        write_v73(root / "TOY" / "att_splits.mat", splits)
    elif "\ud800" in name:
        pytest.skip("SciPy does not write it")
    else:
        write(root / "TOY", None, splits)
    text = refusal(toy(root).load, "allclasses_names must be printable, got .* for class 6 instead")
    assert text.isprintable()


def test_long_names_make_no_long_message(root: Path) -> None:
    write(root / "TOY", None, toy_splits() | {"allclasses_names": cells(["x" * 1000] * 6)})
    refusal(toy(root).load, "allclasses_names must differ, got 'xxx")


@pytest.mark.filterwarnings("error")
def test_a_number_that_is_none_is_refused_without_a_warning(root: Path) -> None:
    """A signalling NaN makes NumPy warn of the conversion to float32."""
    features = toy_features()["features"].copy()
    features.view(np.uint64)[0, 0] = 0x7FF0_0000_0000_0001
    write(root / "TOY", toy_features() | {"features": features}, toy_splits())
    refusal(toy(root).load, "features must be finite")
