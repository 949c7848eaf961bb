"""The reader of real data and its cache, on small files written here and on the real ones where they are present."""

import inspect
import os
import resource
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
import scipy.sparse
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from benchmark.api import Split
from benchmark.registries import DATASETS, default_data_root
from datasets import cache, matfiles, matreader, xlsa17
from datasets.xlsa17 import Xlsa17
from tests.reference.xlsa17 import (
    N_CLASSES,
    PARTS,
    PER_CLASS,
    A,
    D,
    Variables,
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


def equal(a: Split, b: Split) -> bool:
    return all(np.array_equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(Split))


def leftovers(cache_folder: Path) -> list[Path]:
    return list(cache_folder.rglob("*.tmp"))


# --- what is read


def test_reads_what_the_files_hold(root: Path) -> None:
    features, splits = toy_features(), toy_splits()
    (root / "TOY" / "valclasses1.txt").write_text("class+2\r\n\nclass+0\n")
    split = toy(root).load()

    assert split.features.shape == (N_CLASSES * PER_CLASS, D)
    assert split.features.dtype == np.float32
    for image in range(len(split.features)):
        assert split.labels[image] == int(features["labels"][image, 0]) - 1
        for d in range(D):
            assert split.features[image, d] == np.float32(features["features"][d, image])
    for c in range(N_CLASSES):
        for a in range(A):
            assert split.attributes[c, a] == np.float32(splits["att"][a, c])
    for part, key in zip((split.trainval, split.test_seen, split.test_unseen), PARTS, strict=True):
        assert part.tolist() == [int(number) - 1 for number in splits[key].ravel()]
    assert split.class_names == tuple(f"class+{c}" for c in range(N_CLASSES))
    assert split.validation_classes is not None
    assert split.validation_classes.tolist() == [0, 2]
    assert {a.dtype for a in (split.labels, split.trainval, split.validation_classes)} == {np.dtype(np.int64)}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    matrix=st.sampled_from([np.float64, np.float32, np.uint8, np.int16]).flatmap(
        lambda dtype: arrays.arrays(
            dtype,
            st.tuples(st.integers(1, 6), st.just(N_CLASSES * PER_CLASS)),
            elements=None if issubclass(dtype, np.integer) else st.floats(-1000, 1000, width=32),
        )
    ),
    block=st.integers(1, 100),
    compress=st.booleans(),
)
def test_features_of_any_type_and_block_size(root: Path, matrix: np.ndarray, block: int, compress: bool) -> None:
    write(root / "TOY", None, toy_splits())
    scipy.io.savemat(root / "TOY" / "res101.mat", toy_features() | {"features": matrix}, do_compression=compress)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(xlsa17, "_BLOCK", block)
        features = toy(root).load().features
    assert np.array_equal(features, np.array([[np.float32(value) for value in row] for row in matrix.T]))
    assert features.flags.c_contiguous


def test_train_and_val_loc_are_never_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: set[str] = set()
    ask = matreader.ask

    def recording(file: Path, keys: Sequence[str] | None) -> matreader.Content:
        asked.update(keys or ())
        return ask(file, keys)

    monkeypatch.setattr(matreader, "ask", recording)
    whole = toy(root).load()
    assert asked == {"att", "allclasses_names", *PARTS, "features", "labels"}

    splits = toy_splits()
    del splits["train_loc"], splits["val_loc"]
    write(root / "TOY", None, splits)
    assert equal(whole, toy(root).load())


def test_original_attributes_are_clamped_and_att_is_not(root: Path) -> None:
    splits = toy_splits()
    splits["original_att"][1, 2] = -1
    splits["att"][1, 2] = -0.0038
    write(root / "TOY", None, splits)
    original = toy(root, attributes="original_att").load().attributes
    assert original[2, 1] == 0
    assert np.array_equal(
        np.delete(original.ravel(), 2 * A + 1),
        np.delete(splits["original_att"].T.ravel(), 2 * A + 1).astype(np.float32),
    )
    assert toy(root).load().attributes[2, 1] == np.float32(-0.0038)


def test_class_names_as_a_matrix_of_characters(root: Path) -> None:
    names = ["ox", "sheep", "cow", "dog", "horse", "ant"]
    write(root / "TOY", None, toy_splits() | {"allclasses_names": np.array(names)})
    assert toy(root).load().class_names == tuple(names)


def without_names(root: Path) -> Path:
    """TOY with splits that do not name the classes, as some public copies."""
    splits = toy_splits()
    del splits["allclasses_names"]
    write(root / "TOY", None, splits)
    return root / "TOY"


def test_classes_without_names_are_numbered(root: Path) -> None:
    named = toy(root).load()
    folder = without_names(root)
    split = toy(root).load()
    assert split.class_names == ("class 1", "class 2", "class 3", "class 4", "class 5", "class 6")
    assert equal(split, replace(named, class_names=split.class_names))
    (folder / "valclasses1.txt").write_text("class 3\n")
    assert toy(root).load().validation_classes == [2]
    (folder / "valclasses1.txt").write_text("class+2\n")
    message = "must be one of the numbered classes, which neither allclasses_names nor allclasses.txt names, got"
    assert refusal(toy(root).load) == f"{folder / 'valclasses1.txt'}:1: {message} 'class+2' instead"


def test_names_of_a_file_of_their_own(root: Path) -> None:
    (root / "TOY" / "allclasses.txt").write_text("not read: the splits have names\n")
    named, revision = toy(root).load(), toy(root).revision
    (root / "TOY" / "allclasses.txt").unlink()
    assert toy(root).revision == revision
    assert named.class_names[0] == "class+0"

    folder = without_names(root)
    (folder / "allclasses.txt").write_text("ox\r\nsheep\ncow\n\ndog\nred fox\nant\n")
    (folder / "valclasses1.txt").write_text("dog\n")
    split, revision = toy(root).load(), toy(root).revision
    assert split.class_names == ("ox", "sheep", "cow", "dog", "red fox", "ant")
    assert split.validation_classes == [3]
    (folder / "valclasses1.txt").write_text("wolf\n")
    assert "must be one of the names in allclasses.txt, got 'wolf' instead" in refusal(toy(root).load)
    (folder / "valclasses1.txt").write_text("dog\n")
    (folder / "allclasses.txt").write_text("ox\ndog\ncow\nsheep\nred fox\nant\n")  # which names another class dog
    assert toy(root).revision != revision


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\nb\nc\nd\ne\n", "must name the 6 classes of att, each on a line, got 5 different ones on 5 lines instead"),
        (b"a\nb\nc\nd\ne\nf\ng", "got 7 different ones on 7 lines instead"),
        (b"a\nb\nc\nd\ne\na\n", "got 5 different ones on 6 lines instead"),
        (b"", "got 0 different ones on 0 lines instead"),
        (b"\xff\xfe", "cannot be read: 'utf-8'"),
    ],
)
def test_bad_files_of_names(root: Path, content: bytes, message: str) -> None:
    file = without_names(root) / "allclasses.txt"
    file.write_bytes(content)
    assert refusal(toy(root).load, message).startswith(str(file))


def test_feature_sets(root: Path) -> None:
    folder = root / "TOY"
    shutil.copy(folder / "att_splits.mat", folder / "binaryAtt_splits.mat")
    assert toy(root).features == "res101"
    assert toy(root, attributes="original_att").features == "res101+original_att"
    assert toy(root, attributes="original_att").feature_set == "res101"

    shutil.copy(folder / "res101.mat", folder / "vit.mat")
    assert toy(root).features == "res101"
    assert toy(root, features="vit").features == "vit"
    assert "did you mean 'vit'?" in refusal(lambda: toy(root, features="vitt").features)
    assert "'../TOY/vit'" in refusal(lambda: toy(root, features="../TOY/vit").load())

    (folder / "res101.mat").rename(folder / "resnet50.mat")
    assert "give one of resnet50, vit: --dataset toy:features=NAME" in refusal(lambda: toy(root).revision)
    (folder / "vit.mat").unlink()
    assert toy(root).features == "resnet50"
    (folder / "resnet50.mat").unlink()
    assert "python -m datasets.download" in refusal(lambda: toy(root).features)


def test_revision_follows_content_alone(root: Path, tmp_path: Path) -> None:
    revisions = [toy(root).revision]
    assert len(revisions[0]) == 12
    assert int(revisions[0], 16) >= 0
    shutil.copytree(root, tmp_path / "copy")
    assert toy(tmp_path / "copy").revision == revisions[0]

    revisions.append(toy(root, attributes="original_att").revision)
    (root / "TOY" / "valclasses1.txt").write_text("class+0\n")
    revisions.append(toy(root).revision)
    (root / "TOY" / "valclasses1.txt").write_text("class+1\n")
    revisions.append(toy(root).revision)
    splits = toy_splits()
    splits["att"][0, 0] += 0.01
    write(root / "TOY", None, splits)
    revisions.append(toy(root).revision)
    features = toy_features()
    features["features"][0, 0] += 1
    write(root / "TOY", features, splits)
    revisions.append(toy(root).revision)
    assert len(set(revisions)) == len(revisions)


def with_more_classes(splits: Variables, columns: np.ndarray) -> Variables:
    """The splits with further ``columns`` of attributes, whose classes have no images, before the last class."""
    n = columns.shape[1]
    wide = {key: np.insert(splits[key], [N_CLASSES - 1] * n, columns, axis=1) for key in ("att", "original_att")}
    names = [f"class+{c}" for c in range(N_CLASSES + n)]
    return splits | wide | {"allclasses_names": cells(names)}


@pytest.mark.parametrize("value", [0.0, -3.0, np.nan, np.inf, 1e300])
def test_classes_without_images_play_no_role(root: Path, value: float) -> None:
    """Labels then have gaps, and what their attributes hold does not matter."""
    before = toy(root).load()
    features = toy_features()
    features["labels"] = np.where(features["labels"] == N_CLASSES, N_CLASSES + 13, features["labels"])
    write(root / "TOY", features, with_more_classes(toy_splits(), np.full((A, 13), value)))
    for attributes in ("att", "original_att"):
        split = toy(root, attributes=attributes).load()
        assert len(split.attributes) == N_CLASSES + 13
        assert split.unseen.tolist() == [4, N_CLASSES + 12]
        assert np.array_equal(split.seen, before.seen)
        assert np.isfinite(split.attributes[[*split.seen, *split.unseen]]).all()


def test_labels_in_a_row(root: Path) -> None:
    before = toy(root).load()
    write(root / "TOY", toy_features() | {"labels": toy_features()["labels"].T}, toy_splits())
    assert equal(toy(root).load(), before)


@pytest.mark.parametrize("scale", [100, -1])
def test_attributes_of_whole_or_negative_numbers(root: Path, scale: int) -> None:
    whole = np.arange(1, A * N_CLASSES + 1).reshape(A, N_CLASSES).astype(np.int16) * scale
    write(root / "TOY", None, toy_splits() | {"att": whole})
    assert np.array_equal(toy(root).load().attributes, whole.T.astype(np.float32))


# --- what is refused


def edited(array: np.ndarray, index: Any, value: float) -> np.ndarray:
    copy = array.copy()
    copy[index] = value
    return copy


FEATURE_FAULTS: dict[str, tuple[Callable[[Variables], Variables], str]] = {
    "no features": (lambda v: {"labels": v["labels"]}, "features is missing; the file holds labels"),
    "no labels": (lambda v: {"features": v["features"]}, "labels is missing; the file holds features"),
    "transposed": (lambda v: {"features": v["features"].T}, r"shape \(30, 7\) for 30 labels instead: it is transposed"),
    "fewer labels": (
        lambda v: {"labels": v["labels"][1:]},
        r"column for each label, got shape \(7, 30\) for 29 labels",
    ),
    "three axes": (lambda v: {"features": v["features"][..., None].repeat(2, 2)}, r"got shape \(7, 30, 2\)"),
    "no rows": (lambda v: {"features": v["features"][:0]}, r"got shape \(0, 30\)"),
    "text": (lambda v: {"features": np.array(["x" * 30] * 7)}, "features must be"),
    "complex": (lambda v: {"features": v["features"] * 1j}, "matrix of real numbers, got complex128 instead"),
    "sparse": (lambda v: {"features": scipy.sparse.csc_matrix(v["features"])}, "matrix of real numbers, got csc_"),
    "NaN": (
        lambda v: {"features": edited(edited(v["features"], (3, 11), np.nan), (slice(1, 3), 20), -np.inf)},
        r"features must be finite and within ±1e\+15, got 3 other values instead, the first in image 12",
    ),
    "float32 overflow": (lambda v: {"features": edited(v["features"], (0, 0), 1e300)}, "first in image 1$"),
    "too large for squares": (lambda v: {"features": edited(v["features"], (0, 6), -1e20)}, "1 other .* in image 7$"),
    "label 0": (lambda v: {"labels": edited(v["labels"], 0, 0)}, r"labels must be in 1\.\.6, got 0\.\.6 instead"),
    "label 7": (lambda v: {"labels": edited(v["labels"], 0, 7)}, r"labels must be in 1\.\.6, got 1\.\.7 instead"),
    "half label": (
        lambda v: {"labels": edited(v["labels"].astype(float), 0, 1.5)},
        "labels must be whole numbers, got 1.5",
    ),
    "NaN label": (lambda v: {"labels": edited(v["labels"].astype(float), 0, np.nan)}, "whole numbers, got nan"),
    "label names": (lambda v: {"labels": cells(["a"] * 30)}, "labels must be a matrix of real numbers, got object"),
}


@pytest.mark.parametrize("fault", FEATURE_FAULTS)
def test_bad_features(root: Path, cache_folder: Path, fault: str) -> None:
    change, message = FEATURE_FAULTS[fault]
    variables = change(toy_features())
    absent = fault.startswith("no ") and fault != "no rows"
    write(root / "TOY", variables if absent else toy_features() | variables, toy_splits())
    assert refusal(toy(root).load, message).startswith(str(root / "TOY" / "res101.mat"))
    assert not list(cache_folder.glob("features/*"))


SPLIT_FAULTS: dict[str, tuple[Callable[[Variables], Variables], str]] = {
    "att transposed": (lambda v: {"att": v["att"].T}, "allclasses_names must name the 3 classes of att, got 6 names"),
    "att of text": (lambda v: {"att": cells(["a"])}, "att must be a matrix of real numbers"),
    "att with three axes": (
        lambda v: {"att": np.ones((3, 6, 2))},
        r"att must be attributes x classes, got shape \(3, 6, 2\)",
    ),
    "att NaN": (
        lambda v: {"att": edited(v["att"], (0, 1), np.nan)},
        r"att must be finite and within ±1e\+15, got nan for class 2 instead$",
    ),
    "att too large": (
        lambda v: {"att": edited(v["att"], (0, 4), 1e300)},
        r"att must be finite and within ±1e\+15, got inf for class 5 instead$",
    ),
    "att too large for squares": (
        lambda v: {"att": edited(v["att"], (2, 0), -1e16)},
        r"att must be finite and within ±1e\+15, got -1.*e\+16 for class 1 instead$",
    ),
    "zero class": (
        lambda v: {"att": edited(v["att"], (slice(None), 3), 0)},
        "att must describe every class with images, got only zeros for class 4 instead$",
    ),
    "a name less": (lambda v: {"allclasses_names": v["allclasses_names"][:5]}, r"labels must be in 1\.\.5, got 1\.\.6"),
    "a name more": (lambda v: {"allclasses_names": cells(list("abcdefg"))}, "must name the 6 classes of att, got 7"),
    "name twice": (
        lambda v: {"allclasses_names": cells(list("abcdea"))},
        "allclasses_names must differ, got 'a' twice",
    ),
    "empty name": (lambda v: {"allclasses_names": cells(["a", "", "c", "d", "e", "f"])}, "got none for class 2"),
    "numbers as names": (
        lambda v: {"allclasses_names": np.arange(6.0)},
        "allclasses_names must be names, got none for class 1",
    ),
    "loc 0": (
        lambda v: {"trainval_loc": edited(v["trainval_loc"], 0, 0)},
        r"trainval_loc must be in 1\.\.30, got 0\.\.",
    ),
    "loc 31": (
        lambda v: {"test_unseen_loc": edited(v["test_unseen_loc"], -1, 31)},
        r"test_unseen_loc must be in 1\.\.30",
    ),
    "half loc": (lambda v: {"test_seen_loc": v["test_seen_loc"] + 0.5}, "test_seen_loc must be whole numbers, got"),
    "endless loc": (lambda v: {"test_seen_loc": edited(v["test_seen_loc"], 0, np.inf)}, "whole numbers, got inf"),
    "no loc": (lambda v: {"test_seen_loc": np.zeros((0, 1))}, "test_seen_loc must not be empty"),
    "loc twice": (lambda v: {"trainval_loc": np.tile(v["trainval_loc"], (2, 1))}, "trainval_loc must not repeat"),
    "the trap": (lambda v: {"trainval_loc": v["train_loc"]}, "trainval_loc must be disjoint from test_seen_loc, got 4"),
    "test classes": (
        lambda v: {
            "trainval_loc": np.vstack([v["trainval_loc"], v["test_unseen_loc"][:1]]),
            "test_unseen_loc": v["test_unseen_loc"][1:],
        },
        "trainval_loc must hold seen classes only, got 1 classes of test_unseen_loc",
    ),
    "strange test": (
        lambda v: {"test_seen_loc": v["test_unseen_loc"][:5], "test_unseen_loc": v["test_unseen_loc"][5:]},
        "test_seen_loc must hold seen classes only",
    ),
}


@pytest.mark.parametrize("fault", SPLIT_FAULTS)
def test_bad_splits(root: Path, fault: str) -> None:
    change, message = SPLIT_FAULTS[fault]
    variables = toy_splits()
    write(root / "TOY", None, variables | change(variables))
    file = root / "TOY" / ("res101.mat" if "labels" in message else "att_splits.mat")
    assert refusal(toy(root).load, message).startswith(str(file))


@pytest.mark.parametrize("key", ["att", *PARTS])
def test_missing_key(root: Path, key: str) -> None:
    splits = toy_splits()
    del splits[key]
    write(root / "TOY", None, splits)
    held = ", ".join(splits)
    assert refusal(toy(root).load) == f"{root / 'TOY' / 'att_splits.mat'}: {key} is missing; the file holds {held}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"class+0\nclass+9\n", r"valclasses1.txt:2: must be one of allclasses_names, got 'class\+9' instead"),
        (b"class+0\nclass+5\n", "valclasses1.txt: validation classes must be seen classes, got 1 others"),
        (b"class+0\nclass+1\nclass+2\nclass+3", "valclasses1.txt: validation classes must leave classes to train on"),
        (b" \n\n", "valclasses1.txt: must name the validation classes"),
        (b"\xff\xfe\n", "valclasses1.txt: cannot be read: 'utf-8'"),
    ],
)
def test_bad_validation_classes(root: Path, content: bytes, message: str) -> None:
    (root / "TOY" / "valclasses1.txt").write_bytes(content)
    refusal(toy(root).load, message)


V73 = b"MATLAB 7.3 MAT-file, Platform: GLNXA64".ljust(124) + b"\x00\x02IM" + bytes(384) + b"\x89HDF\r\n\x1a\n"


@pytest.mark.parametrize("name", ["res101.mat", "att_splits.mat"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "cannot be read, may be truncated or no .mat file"),
        (b"<html>404 Not Found</html>" * 20, "cannot be read, may be truncated or no .mat file"),
        (bytes(4096), "cannot be read, may be truncated or no .mat file"),
        (V73, "cannot be read, may be truncated or no .mat file"),
    ],
)
def test_not_a_matlab_file(root: Path, name: str, content: bytes, message: str) -> None:
    if content == V73:
        pytest.importorskip("h5py")
    (root / "TOY" / name).write_bytes(content)
    assert refusal(toy(root).load, message).startswith(str(root / "TOY" / name))


@pytest.mark.parametrize("name", ["res101.mat", "att_splits.mat"])
def test_v73_without_h5py(root: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    file = root / "TOY" / name
    file.write_bytes(V73)
    monkeypatch.setitem(sys.modules, "h5py", None)
    what = "is a MATLAB file of v7.3, which takes h5py to read: pip install -e '.[hdf5]', or save it again with -v7"
    assert refusal(toy(root).load) == f"{file}: {what}"


class TestVersion73:
    """Files of MATLAB's v7.3 come to what older ones of the same content come to."""

    @pytest.fixture(autouse=True)
    def _needs_h5py(self) -> None:
        pytest.importorskip("h5py")

    @pytest.mark.parametrize("names", ["cells", "characters", "none", "a file"])
    def test_reads_what_the_files_hold(self, root: Path, names: str) -> None:
        folder, splits = root / "TOY", toy_splits()
        if names == "characters":
            splits["allclasses_names"] = np.array(["ox", "sheep", "cow", "dog", "horse", "ant"])
        elif names != "cells":
            del splits["allclasses_names"]
        if names == "a file":
            (folder / "allclasses.txt").write_text("a\nb\nc\nd\ne\nf\n")
        write(folder, toy_features(), splits)
        before = toy(root).load()
        write_v73(folder / "att_splits.mat", splits)
        assert equal(toy(root).load(), before)
        write_v73(folder / "res101.mat", toy_features())
        assert equal(toy(root).load(), before)
        assert toy(root).load().features.dtype == np.float32

    def test_of_every_number_type(self, root: Path) -> None:
        before = toy(root).load()
        for kind in (np.float32, np.int16, np.uint8):
            changed = toy_features() | {"features": toy_features()["features"].astype(kind)}
            write_v73(root / "TOY" / "res101.mat", changed)
            assert np.array_equal(toy(root).load().features, changed["features"].T.astype(np.float32))
            assert np.array_equal(toy(root).load().labels, before.labels)

    def test_local_features_lie_beside_their_labels(self, root: Path) -> None:
        folder, features = root / "TOY", toy_features()
        np.save(folder / "grid.npy", np.ones((N_CLASSES * PER_CLASS, 2, 2, D), np.float16))
        write_v73(folder / "grid.mat", {"labels": features["labels"]})
        assert toy(root, features="grid").load().kind == "local"

    @pytest.mark.parametrize("fault", SPLIT_FAULTS)
    def test_the_same_faults_are_refused(self, root: Path, fault: str) -> None:
        change, message = SPLIT_FAULTS[fault]
        write_v73(root / "TOY" / "att_splits.mat", toy_splits() | change(toy_splits()))
        refusal(toy(root).load, message)

    @pytest.mark.parametrize("fault", [name for name in FEATURE_FAULTS if name not in {"sparse", "complex", "text"}])
    def test_the_same_faults_of_features_are_refused(self, root: Path, fault: str) -> None:
        change, message = FEATURE_FAULTS[fault]
        absent = fault.startswith("no ") and fault != "no rows"
        write_v73(
            root / "TOY" / "res101.mat", change(toy_features()) if absent else toy_features() | change(toy_features())
        )
        assert refusal(toy(root).load, message).startswith(str(root / "TOY" / "res101.mat"))

    @pytest.mark.parametrize("sparse", [False, True])
    def test_what_is_no_array_is_refused(self, root: Path, sparse: bool) -> None:
        import h5py

        folder, name = root / "TOY", "SparseMatrix" if sparse else "Structure"

        def put(file: Path, key: str, shape: tuple[int, int]) -> None:
            with h5py.File(file, "r+") as handle:
                group = handle.create_group(key)
                if sparse:
                    group.attrs["MATLAB_sparse"] = shape[0]
                    group["jc"] = np.zeros(shape[1] + 1, np.uint64)

        write_v73(folder / "res101.mat", {"labels": toy_features()["labels"]})
        put(folder / "res101.mat", "features", (D, N_CLASSES * PER_CLASS))
        wanted = f"a matrix of real numbers, got {name}" if sparse else r"D x N .*, got shape \(1, 1\) for 30 labels"
        refusal(toy(root).load, f"features must be {wanted} instead")
        splits = toy_splits()
        del splits["att"]
        write_v73(folder / "att_splits.mat", splits)
        put(folder / "att_splits.mat", "att", (A, N_CLASSES))
        refusal(toy(root).load, f"att must be a matrix of real numbers, got {name} instead")

    @pytest.mark.parametrize("name", ["res101.mat", "att_splits.mat"])
    def test_truncated_anywhere(self, root: Path, name: str) -> None:
        file = root / "TOY" / name
        write_v73(file, {"res101.mat": toy_features(), "att_splits.mat": toy_splits()}[name])
        whole = file.read_bytes()
        for size in np.linspace(1, len(whole) - 9, 40, dtype=int):
            file.write_bytes(whole[:size])
            assert refusal(toy(root).load).startswith(str(file))


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("name", ["res101.mat", "att_splits.mat"])
def test_truncated_anywhere(root: Path, name: str, compress: bool) -> None:
    file = root / "TOY" / name
    variables = {"res101.mat": toy_features(), "att_splits.mat": toy_splits()}[name]
    keep = ("features", "labels", "att", "allclasses_names", *PARTS)
    scipy.io.savemat(file, {key: variables[key] for key in keep if key in variables}, do_compression=compress)
    whole = file.read_bytes()
    for size in np.linspace(1, len(whole) - 9, 40, dtype=int):
        file.write_bytes(whole[:size])
        assert refusal(toy(root).load).startswith(str(file))


def test_missing_files(root: Path, tmp_path: Path) -> None:
    assert "needs --data-root or $ZSL_DATA; python -m datasets.download" in refusal(
        Xlsa17("cub", Xlsa17.Config(), None).load
    )
    assert refusal(toy(tmp_path / "nowhere").load).endswith("must be a folder that exists")
    cub = Xlsa17("cub", Xlsa17.Config(), root)
    assert refusal(cub.load).startswith(f"{root / 'CUB' / 'att_splits.mat'}: no such file; python -m datasets.download")
    (root / "TOY" / "att_splits.mat").unlink()
    assert refusal(toy(root).load).startswith(f"{root / 'TOY' / 'att_splits.mat'}: no such file")
    assert refusal(lambda: toy(root).revision).startswith(f"{root / 'TOY' / 'att_splits.mat'}: no such file")


def test_a_file_that_changes_while_it_is_read(root: Path, monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> None:
    load = matfiles.load

    def load_then_change(file: Path, *keys: str, **options: Any) -> dict[str, Any]:
        content = load(file, *keys, **options)
        if keys == ("features",):
            write(root / "TOY", toy_features() | {"features": np.ones((D, N_CLASSES * PER_CLASS))}, toy_splits())
        return content

    monkeypatch.setattr(matfiles, "load", load_then_change)
    assert refusal(toy(root).load).endswith("res101.mat: changed while it was read; try again")
    assert not list(cache_folder.glob("features/*"))


# --- the cache


def features_are_read_from(source: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Split:
    """Load, and assert that the features came from the .mat file or from the cache."""
    asked: list[str] = []
    load = matfiles.load

    def recording(file: Path, *keys: str, **options: Any) -> dict[str, Any]:
        asked.extend(keys)
        return load(file, *keys, **options)

    with monkeypatch.context() as patch:
        patch.setattr(matfiles, "load", recording)
        split = toy(root).load()
    assert ("features" in asked) == (source == "file")
    return split


def test_second_load_maps_the_same_arrays(root: Path, cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = features_are_read_from("file", root, monkeypatch)
    second = features_are_read_from("cache", root, monkeypatch)
    assert equal(first, second)
    for split in (first, second):
        assert isinstance(split.features, np.memmap)
        assert not split.features.flags.writeable
    assert len(list(cache_folder.glob("features/*.npy"))) == 1
    assert not leftovers(cache_folder)


def test_a_changed_source_is_read_anew(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = root / "TOY" / "res101.mat"
    scipy.io.savemat(file, toy_features(), do_compression=False)
    old, before = file.read_bytes(), file.stat()
    first = features_are_read_from("file", root, monkeypatch)
    scipy.io.savemat(file, toy_features() | {"features": -toy_features()["features"]}, do_compression=False)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    assert file.stat().st_size == before.st_size
    assert np.array_equal(features_are_read_from("file", root, monkeypatch).features, -first.features)

    file.write_bytes(old)
    assert equal(features_are_read_from("cache", root, monkeypatch), first)


def test_an_unchanged_file_is_hashed_once(tmp_path: Path, cache_folder: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"old")
    changed = file.stat().st_mtime_ns
    digest = cache.sha256(file)
    file.write_bytes(b"new")
    os.utime(file, ns=(changed, changed))
    assert cache.sha256(file) == digest  # size and time are those noted: it was not hashed
    os.utime(file, ns=(changed, changed + 1))
    assert cache.sha256(file) != digest


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"\xff", b'"sha256"', b'{"sha256": "0"}'])
def test_garbled_notes_are_ignored(tmp_path: Path, cache_folder: Path, content: bytes) -> None:
    file = tmp_path / "file"
    file.write_bytes(b"abc")
    digest = cache.sha256(file)
    (note,) = cache_folder.glob("sources/*.json")
    whole = note.read_bytes()
    note.write_bytes(content)
    assert cache.sha256(file) == digest == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert note.read_bytes() == whole


def npy(array: np.ndarray) -> Callable[[Path], None]:
    return lambda path: np.save(path, array)


CORRUPTIONS: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "no header": lambda path: path.write_bytes(path.read_bytes()[:40]),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "garbled header": lambda path: path.write_bytes(path.read_bytes()[:12] + b"({[" * 20 + path.read_bytes()[72:]),
    "wrong type": npy(np.zeros((N_CLASSES * PER_CLASS, D), np.int32)),
    "wrong order": npy(np.zeros((N_CLASSES * PER_CLASS, D), np.float32, order="F")),
    "wrong shape": npy(np.zeros((D, N_CLASSES * PER_CLASS), np.float32)),
    "pickled": npy(np.array([None])),
}


@pytest.mark.parametrize("corruption", CORRUPTIONS)
def test_a_corrupt_entry_is_rebuilt(
    root: Path, cache_folder: Path, corruption: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "TOY" / "valclasses1.txt").write_text("class+0\n")
    toy(root).load()
    (entry,) = cache_folder.glob("features/*.npy")
    sound = entry.read_bytes()
    CORRUPTIONS[corruption](entry)
    assert entry.read_bytes() != sound
    rebuilt = features_are_read_from("file", root, monkeypatch)
    assert np.array_equal(rebuilt.features, toy_features()["features"].T.astype(np.float32))
    assert entry.read_bytes() == sound
    assert not leftovers(cache_folder)


def test_a_writer_that_is_overtaken(cache_folder: Path) -> None:
    matrix = np.arange(12, dtype=np.float32).reshape(4, 3)
    seen = []

    def blocks() -> Iterator[cache.Matrix]:
        yield matrix[:2]
        assert cache.lookup("key", (4, 3)) is None  # half-written is not visible
        seen.append(cache.store("key", (4, 3), [matrix]))
        yield matrix[2:]

    seen.append(cache.store("key", (4, 3), blocks()))
    for mapped in seen:
        assert np.array_equal(mapped, matrix)
    assert [path.name for path in cache_folder.rglob("*.*")] == ["key.npy"]


def test_an_interrupted_write_leaves_nothing(cache_folder: Path) -> None:
    def blocks() -> Iterator[cache.Matrix]:
        yield np.ones((1, 3), np.float32)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cache.store("key", (4, 3), blocks())
    assert not list(cache_folder.rglob("*.*"))


def race(me: str, other: str, root: Path) -> None:
    """Load one data set after another, each at the same time as the other process does."""
    deadline = time.monotonic() + 60
    for turn in range(8):
        (root / f"{me}{turn}").touch()
        while not (root / f"{other}{turn}").exists():
            assert time.monotonic() < deadline, "the other process is gone"
            time.sleep(0.001)
        split = Xlsa17("toy", Xlsa17.Config(), root / str(turn)).load()
        assert np.array_equal(split.features, np.full(split.features.shape, turn, np.float32))


def test_two_processes_at_once(tmp_path: Path, cache_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    n = N_CLASSES * PER_CLASS
    for turn in range(8):
        features = toy_features() | {"features": np.full((20_000, n), turn, np.float32)}
        write(tmp_path / str(turn) / "TOY", features, toy_splits())
    imports = "import sys, time\nfrom pathlib import Path\nimport numpy as np\nfrom datasets.xlsa17 import Xlsa17\n"
    program = f"{imports}{inspect.getsource(race)}race('b', 'a', Path(sys.argv[1]))"
    command = [sys.executable, "-c", program, str(tmp_path)]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2], stderr=subprocess.PIPE) as racer:
        race("a", "b", tmp_path)
        assert racer.communicate(timeout=60)[1] == b""  # no error and no warning
    assert racer.returncode == 0
    assert not caplog.records
    entries = list(cache_folder.glob("features/*"))
    assert len(entries) == 8
    assert all(np.load(entry).shape == (n, 20_000) for entry in entries)
    assert not leftovers(cache_folder)


def test_a_cache_that_cannot_be_written(root: Path, cache_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    cached = toy(root).load()
    shutil.rmtree(cache_folder)
    cache_folder.write_text("a file where a folder should be")
    split, revision = toy(root).load(), toy(root).revision
    assert equal(split, cached)
    (record,) = caplog.records
    assert "The cache cannot be used" in record.getMessage()
    assert "\n" not in record.getMessage()
    cache_folder.unlink()
    assert toy(root).revision == revision


def test_a_full_disk(root: Path, cache_folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    features = np.random.default_rng(0).random((100_000, N_CLASSES * PER_CLASS), dtype=np.float32)
    write(root / "TOY", toy_features() | {"features": features}, toy_splits())
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (features.nbytes // 2, hard))  # writing beyond fails as on a full disk
    try:
        split = toy(root).load()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert np.array_equal(split.features, features.T)
    assert len(caplog.records) == 1
    assert "res101.mat is read anew on every load: File too large" in caplog.text
    assert not list(cache_folder.glob("features/*"))
    assert not leftovers(cache_folder)
    assert isinstance(toy(root).load().features, np.memmap)


def test_the_data_root_is_only_read(root: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    for path in [root, *root.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    toy(root).load()
    assert toy(root).revision
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    for path in [root, *root.rglob("*")]:
        path.chmod(0o755)


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache._folder("features") == tmp_path / "cache" / "features"
    monkeypatch.setenv("ZSL_CACHE", "~/mine")
    assert cache._folder("features") == tmp_path / "home" / "mine" / "features"
    monkeypatch.delenv("ZSL_CACHE")
    assert cache._folder("features") == tmp_path / "home" / ".cache" / "zsl-benchmark" / "features"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache._folder("features") == tmp_path / "home" / ".cache" / "zsl-benchmark" / "features"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache._folder("features") == tmp_path / "xdg" / "zsl-benchmark" / "features"


# --- names


def test_resolve(root: Path) -> None:
    assert DATASETS.resolve("ToY", {"attributes": "original_att"}, root).features == "res101+original_att"
    assert DATASETS.resolve("TOY", {}, root).name == "toy"
    assert {DATASETS.resolve(name, {}, None).name for name in ("cub", "SUN", "awa1", "awa2", "aPY")} <= set(
        DATASETS.names()
    )
    assert refusal(lambda: DATASETS.resolve("toys", {}, root)) == "unknown data set 'toys'; did you mean 'toy'?"
    assert refusal(lambda: DATASETS.resolve("toy", {}, None)).startswith("unknown data set 'toy'; ")
    assert refusal(lambda: DATASETS.resolve("cubs", {}, None)) == "unknown data set 'cubs'; did you mean 'cub'?"
    assert refusal(lambda: DATASETS.resolve("toy", {"feature": "x"}, root)) == (
        "--dataset toy: unknown key 'feature'; did you mean 'features'?"
    )
    assert refusal(lambda: DATASETS.resolve("toy", {"attributes": 5}, root)) == (
        "--dataset toy: attributes must be a valid string, got 5 instead"
    )


def test_is_present(root: Path) -> None:
    (root / "SUN").mkdir()
    shutil.copy(root / "TOY" / "att_splits.mat", root / "SUN")
    shutil.copytree(root / "TOY", root / "CUB")
    (root / "AWA2").mkdir()
    shutil.copy(root / "TOY" / "res101.mat", root / "AWA2")
    present = [name for name in ("awa2", "cub", "sun", "apy", "toy") if Xlsa17(name, Xlsa17.Config(), root).is_present]
    assert present == ["cub", "toy"]
    assert DATASETS.defaults(root) == ["cub"]
    assert not Xlsa17("cub", Xlsa17.Config(), None).is_present
    refusal(lambda: Xlsa17("cub", Xlsa17.Config(), root / "nowhere").is_present)


def test_defaults_without_files_are_the_stand_ins(root: Path) -> None:
    stand_ins = ["cub-sim", "sun-sim", "awa2-sim"]
    assert DATASETS.defaults(None) == DATASETS.defaults(root) == stand_ins


def test_default_data_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZSL_DATA", str(tmp_path))
    assert default_data_root() == tmp_path
    monkeypatch.setenv("ZSL_DATA", str(tmp_path / "nowhere"))
    assert refusal(default_data_root).startswith("ZSL_DATA: must be a folder that exists, got ")
    monkeypatch.setenv("ZSL_DATA", "")
    assert default_data_root() is None


# --- real files

#        classes, attributes, seen, validation classes, then images of trainval, test_seen and test_unseen
REAL = {
    "cub": (200, 312, 150, 50, 7057, 1764, 2967),
    "sun": (717, 102, 645, 65, 10320, 2580, 1440),
    "awa1": (50, 85, 40, 13, 19832, 4958, 5685),
    "awa2": (50, 85, 40, 13, 23527, 5882, 7913),
    "apy": (32, 64, 20, 5, 5932, 1483, 7924),
}


@pytest.mark.real_data
@pytest.mark.parametrize("name", REAL)
def test_real_splits_with_made_up_features(name: str, real_data_root: Path, tmp_path: Path) -> None:
    source = real_data_root / name.upper()
    if not (source / "labels.npy").is_file():
        pytest.skip(f"{source} holds no labels.npy")
    folder = tmp_path / name.upper()
    folder.mkdir()
    for file in ("att_splits.mat", "valclasses1.txt"):
        shutil.copy(source / file, folder / file)
    labels = np.load(source / "labels.npy")
    features = np.random.default_rng(0).random((2, len(labels)))
    scipy.io.savemat(folder / "res101.mat", {"features": features, "labels": labels[:, None]})

    split = DATASETS.resolve(name, {}, tmp_path).load()
    classes, attributes, seen, validation, *sizes = REAL[name]
    assert split.attributes.shape == (classes, attributes)
    assert len(split.class_names) == classes
    assert [len(part) for part in (split.trainval, split.test_seen, split.test_unseen)] == sizes
    assert sum(sizes) == len(labels)
    assert (len(split.seen), len(split.unseen)) == (seen, classes - seen)
    assert np.array_equal(np.unique(split.labels[split.test_seen]), split.seen)
    assert split.validation_classes is not None
    assert len(split.validation_classes) == validation
    assert np.allclose(np.linalg.norm(split.attributes, axis=1), 1)

    original = DATASETS.resolve(name, {"attributes": "original_att"}, tmp_path).load().attributes
    assert (split.attributes < 0).sum() == (4 if name.startswith("awa") else 0)
    assert original.min() == 0
    unit = original / np.linalg.norm(original, axis=1, keepdims=True)
    assert np.abs(unit - split.attributes).max() < 4e-3  # they differ by the clamped entries alone


@pytest.mark.real_data
@pytest.mark.parametrize(
    ("name", "features", "shape", "unseen"),
    [("awa1", "lampert2009", (30475, 512), 10), ("cub50", "effnetlite0", (2889, 1280), 10)],
)
def test_real_features(name: str, features: str, shape: tuple[int, int], unseen: int, real_data_root: Path) -> None:
    dataset = Xlsa17(name, Xlsa17.Config(), real_data_root)
    if not dataset.is_present:
        pytest.skip(f"{real_data_root} holds no features of {name}")
    split = dataset.load()
    assert dataset.features == features
    assert split.features.shape == shape
    assert (len(split.seen), len(split.unseen)) == (40, unseen)
    file = scipy.io.loadmat(next(real_data_root.glob(f"{name.upper()}/{features}.mat")))
    assert np.array_equal(split.features, file["features"].T)
    assert np.array_equal(split.labels, file["labels"].ravel().astype(int) - 1)
