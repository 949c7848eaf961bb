"""The reader of local features and images, which lie in a .npy file beside the .mat, and of attribute vectors."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from benchmark.registries import DATASETS
from datasets import cache, xlsa17
from datasets.xlsa17 import Xlsa17, feature_sets
from tests.reference.xlsa17 import A, cache_folder, refusal, root, toy, toy_features

__all__ = ["cache_folder", "root"]  # fixtures

N = len(toy_features()["labels"])
LOCAL = np.random.default_rng(2).standard_normal((N, 2, 3, 5)).astype(np.float16)
PIXELS = np.random.default_rng(3).integers(0, 256, (N, 4, 6, 3), dtype=np.uint8)
VECTORS = np.random.default_rng(4).standard_normal((7, A))


def write_array(root: Path, array: np.ndarray, name: str = "res101") -> Path:
    """Replace the global features of TOY by ``array``."""
    file = root / "TOY" / f"{name}.npy"
    scipy.io.savemat(file.with_suffix(".mat"), {"labels": toy_features()["labels"], "provenance": "{}"})
    np.save(file, array)
    return file


def write_vectors(root: Path, vectors: Any) -> Path:
    file = root / "TOY" / "attribute_vectors.mat"
    scipy.io.savemat(file, {"vectors": vectors})
    return file


@pytest.mark.parametrize(("array", "kind"), [(LOCAL, "local"), (PIXELS, "images")])
def test_reads_what_the_file_holds(root: Path, cache_folder: Path, array: np.ndarray, kind: str) -> None:
    write_array(root, array)
    for _ in range(2):
        split = toy(root).load()
        assert split.kind == kind
        assert isinstance(split.features, np.memmap)
        assert not split.features.flags.writeable
        assert split.features.dtype == array.dtype
        assert np.array_equal(split.features, array)
        assert np.array_equal(split.labels, toy_features()["labels"].ravel() - 1)
        assert split.attribute_vectors is None
    assert not list(cache_folder.glob("features/*"))  # it is mapped where it lies, not copied


def test_global_features_come_first(root: Path) -> None:
    revision = toy(root).revision
    np.save(root / "TOY" / "res101.npy", LOCAL)  # belongs to nothing: the .mat holds the features itself
    assert toy(root).load().kind == "global"
    assert toy(root).revision == revision


def test_attribute_vectors(root: Path) -> None:
    before = toy(root).revision
    write_vectors(root, VECTORS)
    assert feature_sets(root / "TOY") == ["res101"]
    assert toy(root).load().attribute_vectors is None
    assert toy(root).revision == before

    write_array(root, LOCAL)
    vectors = toy(root).load().attribute_vectors
    assert vectors is not None
    assert vectors.dtype == np.float32
    assert vectors.tolist() == [[float(np.float32(VECTORS[v, a])) for v in range(7)] for a in range(A)]


def test_revision_follows_both_files_and_the_vectors(root: Path) -> None:
    revisions = [toy(root).revision]
    write_array(root, LOCAL)
    revisions.append(toy(root).revision)
    write_array(root, -LOCAL)
    revisions.append(toy(root).revision)
    write_vectors(root, VECTORS)
    revisions.append(toy(root).revision)
    write_vectors(root, 2 * VECTORS)
    revisions.append(toy(root).revision)
    scipy.io.savemat(root / "TOY" / "res101.mat", {"labels": toy_features()["labels"], "provenance": "{1}"})
    revisions.append(toy(root).revision)
    assert len(set(revisions)) == len(revisions)


def bad(array: np.ndarray, value: float) -> np.ndarray:
    array = array.copy()
    array[17, 1, 2, 3] = value
    return array


ARRAY_FAULTS: dict[str, tuple[np.ndarray, str]] = {
    "a row less": (LOCAL[1:], f"must have a row for each of the {N} labels, got {N - 1} rows instead"),
    "flat": (LOCAL.reshape(N, -1), "must hold local features N x h x w x D in float16 or images .* got 30x30 float16"),
    "float32": (LOCAL.astype(np.float32), "got 30x2x3x5 float32 instead"),
    "channels first": (PIXELS.transpose(0, 3, 1, 2).copy(), "got 30x3x4x6 uint8 instead"),
    "no region": (LOCAL[:, :0], "got 30x0x3x5 float16 instead"),
    "Fortran": (np.asfortranarray(LOCAL), "must be in C order"),
    "NaN": (bad(LOCAL, np.nan), "must be finite, got NaN or infinity instead, first in image 18$"),
    "infinite": (bad(LOCAL, -np.inf), "must be finite, got NaN or infinity instead, first in image 18$"),
    "pickled": (np.array([None] * N), "cannot be read"),
}


@pytest.mark.parametrize("block", [1, 1 << 20])
@pytest.mark.parametrize("fault", ARRAY_FAULTS)
def test_bad_arrays(root: Path, fault: str, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(xlsa17, "_BLOCK", block)
    array, message = ARRAY_FAULTS[fault]
    file = write_array(root, array)
    for _ in range(2):  # what was found wrong once is not taken for sound the second time
        assert refusal(toy(root).load, message).startswith(str(file))


@pytest.mark.parametrize("size", [0, 5, 60, 128, -1])
def test_truncated(root: Path, size: int) -> None:
    file = write_array(root, LOCAL)
    file.write_bytes(file.read_bytes()[:size])
    assert refusal(toy(root).load, "cannot be read, may be truncated or no .npy file").startswith(str(file))


def test_no_array_beside_it(root: Path) -> None:
    write_array(root, LOCAL).unlink()
    message = "features is missing; the file holds labels, provenance, and there is no res101.npy beside it"
    assert refusal(toy(root).load) == f"{root / 'TOY' / 'res101.mat'}: {message}"


VECTOR_FAULTS: dict[str, tuple[Any, str]] = {
    "transposed": (VECTORS.T, r"attribute vectors must be one for each of the 3 attributes"),
    "text": (np.array(["abc"]), "vectors must be a matrix of real numbers"),
    "infinite": (np.full((7, A), 1e300), "attribute vectors must be finite"),
}


@pytest.mark.parametrize("fault", VECTOR_FAULTS)
def test_bad_vectors(root: Path, fault: str) -> None:
    vectors, message = VECTOR_FAULTS[fault]
    write_array(root, LOCAL)
    file = write_vectors(root, vectors)
    assert refusal(toy(root).load, message).startswith(str(file))


def test_values_are_checked_once_a_content(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checked: list[str] = []
    check = xlsa17._require_finite

    def recording(features: Any, where: str) -> None:
        checked.append(where)
        check(features, where)

    monkeypatch.setattr(xlsa17, "_require_finite", recording)
    write_array(root, LOCAL)
    toy(root).load()
    toy(root).load()
    assert len(checked) == 1
    write_array(root, LOCAL + 1)
    toy(root).load()
    assert len(checked) == 2


def test_a_file_that_changes_while_it_is_read(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_array(root, LOCAL)
    monkeypatch.setattr(xlsa17, "_require_finite", lambda *_: np.save(file, LOCAL + 1))
    assert refusal(toy(root).load).endswith("res101.npy: changed while it was read; try again")


def test_a_cache_that_cannot_be_written(root: Path, cache_folder: Path) -> None:
    cache_folder.write_text("a file where a folder should be")
    write_array(root, LOCAL)
    assert np.array_equal(toy(root).load().features, LOCAL)
    assert not cache.is_sound("anything")


#: Of the results that are stored in leaderboards/results.
REVISIONS = {"cub50": "b7e14500f1f8", "awa1": "ac15b7bef8ac"}


@pytest.mark.real_data
@pytest.mark.parametrize("name", REVISIONS)
def test_revisions_of_stored_results(name: str, real_data_root: Path, tmp_path: Path) -> None:
    if not (real_data_root / name.upper()).is_dir():
        pytest.skip(f"{real_data_root} holds no {name.upper()}")
    assert DATASETS.resolve(name, {}, real_data_root).revision == REVISIONS[name]
    folder = tmp_path / name.upper()
    shutil.copytree(real_data_root / name.upper(), folder)
    folder.chmod(0o755)
    scipy.io.savemat(folder / "attribute_vectors.mat", {"vectors": np.ones((2, 312))})
    features = DATASETS.resolve(name, {}, tmp_path).features
    assert Xlsa17(name, Xlsa17.Config(features=features), tmp_path).revision == REVISIONS[name]
