"""The data set TOY in files of the xlsa17 format, and a cache of its own, for tests of the reader."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from benchmark.errors import InputError
from datasets.xlsa17 import Xlsa17

N_CLASSES, SEEN, PER_CLASS, D, A = 6, 4, 5, 7, 3
PARTS = ("trainval_loc", "test_seen_loc", "test_unseen_loc")
Variables = dict[str, Any]


@pytest.fixture(autouse=True)
def cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ZSL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with the data set TOY."""
    write(tmp_path / "data" / "TOY", toy_features(), toy_splits())
    return tmp_path / "data"


def cells(names: list[str]) -> np.ndarray:
    column = np.empty((len(names), 1), dtype=object)
    column[:, 0] = names
    return column


def toy_features() -> Variables:
    rng = np.random.default_rng(0)
    labels = rng.permutation(np.repeat(np.arange(1, N_CLASSES + 1), PER_CLASS))[:, None]
    return {"features": rng.standard_normal((D, len(labels))), "labels": labels.astype(np.uint8)}


def toy_splits() -> Variables:
    labels = toy_features()["labels"].ravel()
    seen, unseen = np.flatnonzero(labels <= SEEN) + 1, np.flatnonzero(labels > SEEN) + 1
    first = np.array([np.flatnonzero(labels == c)[0] + 1 for c in range(1, SEEN + 1)])
    att = np.random.default_rng(1).random((A, N_CLASSES))
    return {
        "att": att / np.linalg.norm(att, axis=0),
        "original_att": 100 * att,
        "allclasses_names": cells([f"class+{c}" for c in range(N_CLASSES)]),
        "trainval_loc": np.setdiff1d(seen, first)[:, None].astype(np.uint16),
        "test_seen_loc": first[:, None].astype(float),
        "test_unseen_loc": unseen[:, None],
        "train_loc": seen[:, None],
        "val_loc": first[:, None],
    }


def write(folder: Path, features: Variables | None, splits: Variables, **options: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if features is not None:
        scipy.io.savemat(folder / "res101.mat", features, do_compression=True, **options)
    scipy.io.savemat(folder / "att_splits.mat", splits, do_compression=True)


def write_v73(file: Path, variables: Variables) -> None:
    """Write ``variables`` as MATLAB's ``save -v7.3`` does: transposed, text as uint16 codes, cells as references."""
    import h5py

    def fill(dataset: Any, kind: str, empty: bool = False) -> None:
        dataset.attrs["MATLAB_class"] = np.bytes_(kind)
        if empty:
            dataset.attrs["MATLAB_empty"] = np.uint8(1)

    def put(group: Any, name: str, value: Any) -> Any:
        array = np.atleast_2d(value)
        if array.dtype.kind == "O":
            cells = [put(handle.require_group("#refs#"), f"{name} {i}", cell).ref for i, cell in enumerate(array.flat)]
            references = np.array(cells, dtype=h5py.ref_dtype).reshape(array.shape).T
            dataset = group.create_dataset(name, data=references, dtype=h5py.ref_dtype)
            fill(dataset, "cell")
        elif array.dtype.kind == "U":
            longest = max(map(len, array.flat))
            codes = np.array([[ord(c) for c in text.ljust(longest)] for text in array.flat], dtype=np.uint16)
            dataset = group.create_dataset(name, data=codes.reshape(array.size, longest).T)
            fill(dataset, "char")
        elif 0 in array.shape:
            dataset = group.create_dataset(name, data=np.array(array.shape, dtype=np.uint64))
            fill(dataset, "double", empty=True)
        else:
            dataset = group.create_dataset(name, data=array.T)
            fill(dataset, {"float64": "double", "float32": "single"}.get(array.dtype.name, array.dtype.name))
        return dataset

    with h5py.File(file, "w", userblock_size=512) as handle:
        for name, value in variables.items():
            put(handle, name, value)
    with file.open("r+b") as stream:
        stream.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM")


def toy(root: Path, **options: Any) -> Xlsa17:
    return Xlsa17("toy", Xlsa17.Config(**options), root)


def refusal(action: Callable[[], object], match: str | None = None) -> str:
    with pytest.raises(InputError, match=match) as caught:
        action()
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 400
    return text
