"""Semantics in files of their own: what is read and refused, boards of their own, and the layouts of other releases."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmark.api import Split
from benchmark.run import main as run
from datasets import matreader, semantics
from datasets.features.semantics import main
from tests.reference.xlsa17 import (
    N_CLASSES,
    PARTS,
    A,
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

NAMES = [f"class+{c}" for c in range(N_CLASSES)]
#: As many numbers as no other set of semantics has here, of no unit norm.
VECTORS = np.random.default_rng(7).standard_normal((5, N_CLASSES))


def write_semantics(root: Path, **changes: Any) -> Path:
    file = root / "TOY" / "sent_splits.mat"
    scipy.io.savemat(file, {"att": VECTORS, "allclasses_names": cells(NAMES)} | changes)
    return file


def sent(root: Path) -> Split:
    return toy(root, attributes="sent").load()


# --- what is read


def test_each_class_has_the_vector_of_its_name_at_unit_norm(root: Path) -> None:
    write_semantics(root)
    plain, split = toy(root).load(), sent(root)
    for c in range(N_CLASSES):
        norm = sum(VECTORS[k, c] ** 2 for k in range(5)) ** 0.5
        assert split.attributes[c].tolist() == pytest.approx([VECTORS[k, c] / norm for k in range(5)], rel=1e-6)
    assert split.attributes.dtype == np.float32
    for part in ("features", "labels", "trainval", "test_seen", "test_unseen"):
        assert np.array_equal(getattr(split, part), getattr(plain, part))
    assert split.class_names == plain.class_names


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(order=st.permutations(range(N_CLASSES + 3)))
def test_the_order_in_the_file_and_classes_of_others_play_no_role(root: Path, order: list[int]) -> None:
    write_semantics(root)
    expected = sent(root).attributes
    names = [*NAMES, "class+", "class+00", "dodo"]
    vectors = np.concatenate([VECTORS, np.full((5, 3), np.nan)], axis=1)
    write_semantics(root, att=vectors[:, order], allclasses_names=cells([names[c] for c in order]))
    assert np.array_equal(sent(root).attributes, expected)


def test_no_split_is_read_from_it(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_semantics(root, **{part: np.ones((3, 1)) for part in (*PARTS, "train_loc", "val_loc")})
    asked: dict[str, set[str]] = {}
    ask = matreader.ask

    def recording(file: Path, keys: Sequence[str] | None) -> matreader.Content:
        asked.setdefault(file.name, set()).update(keys or ())
        return ask(file, keys)

    monkeypatch.setattr(matreader, "ask", recording)
    sent(root)
    assert asked["sent_splits.mat"] == {"att", "allclasses_names"}


def test_names_of_a_text_file_are_matched_too(root: Path) -> None:
    write_semantics(root)
    expected = sent(root).attributes
    splits = toy_splits()
    del splits["allclasses_names"]
    write(root / "TOY", None, splits)
    assert "must name all 6 classes of the data set, lacks 6, the first is 'class 1'" in refusal(lambda: sent(root))
    (root / "TOY" / "allclasses.txt").write_text("\n".join(NAMES))
    assert np.array_equal(sent(root).attributes, expected)


def test_vectors_of_attribute_names_are_those_of_att_alone(root: Path) -> None:
    write_semantics(root)
    folder = root / "TOY"
    scipy.io.savemat(folder / "res101.mat", {"labels": toy_features()["labels"]})
    np.save(folder / "res101.npy", np.ones((len(toy_features()["labels"]), 1, 2, 4), np.float16))
    scipy.io.savemat(folder / "attribute_vectors.mat", {"vectors": np.ones((2, A))})
    assert toy(root).load().attribute_vectors is not None
    assert toy(root, attributes="original_att").load().attribute_vectors is not None
    assert sent(root).attribute_vectors is None


def test_features_and_revision_name_the_semantics(root: Path) -> None:
    revisions = [toy(root).revision, toy(root, attributes="original_att").revision]
    write_semantics(root)
    assert [toy(root).revision, toy(root, attributes="original_att").revision] == revisions
    dataset = toy(root, attributes="sent")
    assert (dataset.features, dataset.feature_set) == ("res101+sent", "res101")
    revisions.append(dataset.revision)
    write_semantics(root, att=2 * VECTORS)
    revisions.append(toy(root, attributes="sent").revision)
    splits = toy_splits()
    splits["trainval_loc"] = splits["trainval_loc"][1:]
    write(root / "TOY", None, splits)
    revisions.append(toy(root, attributes="sent").revision)
    (root / "TOY" / "sent_splits.mat").rename(root / "TOY" / "other_splits.mat")
    revisions.append(toy(root, attributes="other").revision)
    assert len(set(revisions)) == len(revisions)


# --- what is refused


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "a class less": (
        {"att": VECTORS[:, 1:], "allclasses_names": cells(NAMES[1:])},
        r"must name all 6 classes of the data set, lacks 1, the first is 'class\+0'; did you mean 'class\+",
    ),
    "other names": (
        {"allclasses_names": cells(list("abcdef"))},
        r"lacks 6, the first is 'class\+0'; known: a, b, c$",
    ),
    "transposed": ({"att": VECTORS.T}, r"att must have a column for each of the 6 names, got shape \(6, 5\)"),
    "text": ({"att": cells(["a"])}, "att must be a matrix of real numbers, got object instead"),
    "a name twice": ({"allclasses_names": cells([*NAMES[:5], NAMES[0]])}, r"must differ, got 'class\+0' twice"),
    "no names": ({"allclasses_names": np.ones((6, 1))}, "allclasses_names must be names"),
    "NaN": ({"att": np.where(np.arange(6) == 2, np.nan, VECTORS)}, "att must be finite .* got nan for class 3"),
    "infinite": ({"att": np.where(np.arange(6) == 2, np.inf, VECTORS)}, "att must be finite .* got nan for class 3"),
    "zeros": ({"att": np.where(np.arange(6) == 4, 0, VECTORS)}, "must describe every class .* only zeros for class 5"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_bad_semantics(root: Path, fault: str) -> None:
    changes, message = FAULTS[fault]
    file = write_semantics(root, **changes)
    assert refusal(lambda: sent(root), message).startswith(str(file))


def test_semantics_that_are_not_there(root: Path) -> None:
    write_semantics(root)
    folder = root / "TOY"
    assert refusal(lambda: toy(root, attributes="snet").features) == (
        f"{folder}: no semantics 'snet'; did you mean 'sent'?"
    )
    assert "known: att, original_att, sent" in refusal(lambda: toy(root, attributes="../TOY/w2v").load())
    scipy.io.savemat(folder / "sent_splits.mat", {"att": VECTORS})
    assert "allclasses_names is missing; the file holds att" in refusal(lambda: sent(root))


def test_what_is_written_is_read(root: Path) -> None:
    semantics.write(root / "TOY" / "mine_splits.mat", VECTORS.T[::-1], NAMES[::-1], {"by": "hand"})
    write_semantics(root)
    assert np.array_equal(toy(root, attributes="mine").load().attributes, sent(root).attributes)


# --- beside the attributes


def test_class_vectors_are_given_beside_the_semantics(root: Path) -> None:
    write_semantics(root, att=VECTORS[:, ::-1], allclasses_names=cells(NAMES[::-1]))
    plain, revision = toy(root).load(), toy(root).revision
    dataset = toy(root, class_vectors="sent")
    split = dataset.load()
    assert plain.class_vectors is None
    assert np.array_equal(split.attributes, plain.attributes)
    assert split.class_vectors is not None
    assert np.array_equal(split.class_vectors, sent(root).attributes)
    assert (dataset.features, dataset.feature_set) == ("res101+with-sent", "res101")
    other = toy(root, attributes="sent", class_vectors="att")
    assert other.features == "res101+sent+with-att"
    beside = other.load().class_vectors
    assert beside is not None
    assert np.allclose(beside, plain.attributes, rtol=1e-6)
    assert len({revision, dataset.revision, toy(root, attributes="sent").revision, other.revision}) == 4
    refusal(lambda: toy(root, class_vectors="snet").revision, "no class_vectors 'snet'; did you mean 'sent'?")
    file = write_semantics(root, att=np.where(np.arange(6) == 2, np.nan, VECTORS))
    assert refusal(dataset.load) == f"{file}: class vectors must be finite, got NaN or infinity instead"


# --- boards


def test_boards_keep_semantics_apart_and_name_them(root: Path, tmp_path: Path) -> None:
    write_semantics(root)
    words = ["--method", "eszsl", "--loss", "none", "--seeds", "0", "--data-root", root, "--out", tmp_path / "boards"]
    datasets = ["toy", "toy:attributes=original_att", "toy:attributes=sent"]
    assert run([str(word) for word in [*words, "--launcher", "inline", "--dataset", *datasets]]) == 0
    page = (tmp_path / "boards" / "toy.md").read_text()
    for features in ("res101", "res101+original\\_att", "res101+sent"):
        assert page.count(f"## Features {features}, proposed split") == 1
    assert "--dataset toy:attributes=sent" in page
    results = [json.loads(file.read_text()) for file in (tmp_path / "boards" / "results").rglob("*.json")]
    assert len({result["spec"]["revision"] for result in results}) == 3


# --- other releases


def convert(root: Path, file: Path, *words: object) -> int:
    return main(["toy", str(file), "--as", "theirs", "--data-root", str(root), *map(str, words)])


def refused(root: Path, file: Path, capsys: pytest.CaptureFixture[str], *words: object) -> str:
    assert convert(root, file, *words) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not (root / "TOY" / "theirs_splits.mat").exists()
    return error


def of_matlab(folder: Path, order: list[int]) -> list[object]:
    """As CE-GZSL's, with a split that must not be taken."""
    names, split = cells([NAMES[c] for c in order]), {part: np.ones((2, 1)) for part in PARTS}
    scipy.io.savemat(folder / "theirs.mat", {"att": VECTORS[:, order], "allclasses_names": names} | split)
    return [folder / "theirs.mat"]


def of_numpy(folder: Path, order: list[int]) -> list[object]:
    """As ImageFreeZSL's: a row a class, the names in a file of their own."""
    np.save(folder / "theirs.npy", VECTORS.T[order])
    np.save(folder / "names.npy", np.array([NAMES[c] for c in order]))
    return [folder / "theirs.npy", "--names", folder / "names.npy"]


def of_numpy_and_text(folder: Path, order: list[int]) -> list[object]:
    (folder / "names.txt").write_text("\n".join(NAMES[c] for c in order))
    return [*of_numpy(folder, order)[:2], folder / "names.txt"]


def write_genzsl(folder: Path, **changes: np.ndarray) -> Path:
    """As GenZSL's: seen and unseen classes, ascending, and the labels of the images of each part, from 0."""
    import h5py

    splits, labels = toy_splits(), toy_features()["labels"].ravel().astype(int) - 1
    parts = {part: labels[splits[part].ravel().astype(int) - 1] for part in PARTS}
    content = {
        "train_l": parts["trainval_loc"],
        "testUnseen_l": parts["test_unseen_loc"],
        "seen_embeddings": VECTORS.T[np.unique(parts["trainval_loc"])],
        "unseen_embeddings": VECTORS.T[np.unique(parts["test_unseen_loc"])],
    }
    with h5py.File(folder / "theirs.hdf5", "w") as file:
        for name, values in (content | changes).items():
            file.create_dataset(name, data=values, compression="gzip")
    return folder / "theirs.hdf5"


def of_hdf5(folder: Path, _order: list[int]) -> list[object]:
    return [write_genzsl(folder)]


@pytest.mark.parametrize("layout", [of_matlab, of_numpy, of_numpy_and_text, of_hdf5])
def test_layouts_of_releases(
    root: Path, tmp_path: Path, layout: Callable[[Path, list[int]], list[object]], capsys: pytest.CaptureFixture[str]
) -> None:
    write_semantics(root)
    assert convert(root, *layout(tmp_path, [3, 0, 5, 2, 1, 4])) == 0  # type: ignore[arg-type]
    written = root / "TOY" / "theirs_splits.mat"
    assert capsys.readouterr().out == f"{written}: 5 semantics of 6 classes; choose attributes=theirs\n"
    content = scipy.io.loadmat(written)
    assert {key for key in content if not key.startswith("__")} == {"att", "allclasses_names", "provenance"}
    assert np.array_equal(content["att"], VECTORS)  # as released, and in the order of the data set
    assert json.loads(content["provenance"].item())["file"].startswith("theirs.")
    assert np.array_equal(toy(root, attributes="theirs").load().attributes, sent(root).attributes)


def test_a_release_as_a_matlab_file_of_v73(root: Path, tmp_path: Path) -> None:
    write_v73(tmp_path / "theirs.mat", {"att": VECTORS, "allclasses_names": cells(NAMES)})
    assert convert(root, tmp_path / "theirs.mat") == 0
    assert np.array_equal(scipy.io.loadmat(root / "TOY" / "theirs_splits.mat")["att"], VECTORS)


def test_releases_that_do_not_fit(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, option, names = of_numpy(tmp_path, list(range(N_CLASSES)))
    assert isinstance(file, Path)
    assert "--names: goes with a .npy file" in refused(root, file, capsys)
    matlab = of_matlab(tmp_path, list(range(N_CLASSES)))[0]
    assert "--names: goes with a .npy file" in refused(root, Path(str(matlab)), capsys, option, names)
    np.save(file, VECTORS)
    assert "must name the 5 rows of" in refused(root, file, capsys, option, names)
    np.save(file, VECTORS[0])
    assert "must be classes x semantics, got shape (6,) instead" in refused(root, file, capsys, option, names)
    np.save(file, np.where(np.arange(N_CLASSES)[:, None] == 2, np.nan, VECTORS.T))
    assert "must describe each class by finite numbers" in refused(root, file, capsys, option, names)
    np.save(file, np.array([None] * N_CLASSES), allow_pickle=True)
    assert "may be a pickle or no .npy file" in refused(root, file, capsys, option, names)
    of_numpy(tmp_path, list(range(N_CLASSES)))
    (tmp_path / "names.txt").write_text("\n".join([*NAMES[:5], "dodo"]))
    error = refused(root, file, capsys, option, tmp_path / "names.txt")
    assert "names.txt: must name all 6 classes of the data set, lacks 1, the first is 'class+5'" in error
    for name in ("att", "original_att", "a/b", ""):
        assert main(["toy", str(file), "--as", name, "--data-root", str(root), "--names", str(names)]) == 2
        assert "--as: must be a name other than att and original_att" in capsys.readouterr().err
    with file.open("wb") as stream:
        np.savez(stream, vectors=VECTORS)
    assert "may be a pickle or no .npy file" in refused(root, file, capsys, option, names)
    write_semantics(root)
    assert main(["toy", str(root / "TOY" / "sent_splits.mat"), "--as", "sent", "--data-root", str(root)]) == 2
    assert "sent_splits.mat: is there already; move it away, or give another name by --as" in capsys.readouterr().err
    assert main(["tyo", str(file), "--as", "x", "--data-root", str(root)]) == 2
    assert "no data set 'tyo' under the data root; did you mean 'toy'?" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_l": np.zeros(3, int)}, "must hold a label for each of the 16 images of trainval_loc, got 3 instead"),
        ({"testUnseen_l": np.full(10, 6)}, "testUnseen_l must be whole numbers in 0..5, got others instead"),
        ({"train_l": np.full(16, np.nan)}, "train_l must be whole numbers in 0..5, got others instead"),
        ({"train_l": np.full(16, 0.5)}, "train_l must be whole numbers in 0..5, got others instead"),
        ({"unseen_embeddings": VECTORS.T[:2, :3]}, "must have a row for each of 2 classes, got shape (2, 3) instead"),
        (
            {"unseen_embeddings": VECTORS.T[:1]},
            "unseen_embeddings must have a row for each of 2 classes, got shape (1,",
        ),
        ({"testUnseen_l": np.zeros(10, int), "unseen_embeddings": VECTORS.T[:1]}, "lacks 2, the first is 'class+4'"),
    ],
)
def test_an_hdf5_file_of_another_split(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], changes: dict[str, np.ndarray], message: str
) -> None:
    assert message in refused(root, write_genzsl(tmp_path, **changes), capsys)


# --- real files


@pytest.mark.real_data
@pytest.mark.parametrize(("name", "n_classes"), [("cub2010", 200), ("cub127", 127)])
def test_real_sentences(name: str, n_classes: int, real_data_root: Path) -> None:
    dataset = toy(real_data_root, attributes="sent")
    dataset.name = name
    if not semantics.file_of(real_data_root / name.upper(), "sent").is_file():
        pytest.skip(f"{real_data_root} holds no sentences of {name}")
    split = dataset.load()
    assert split.attributes.shape == (n_classes, 1024)
    assert np.allclose(np.linalg.norm(split.attributes, axis=1), 1)
    assert (split.attributes == split.attributes[0]).all(axis=0).sum() == 76
    cosines = split.attributes @ split.attributes.T
    assert 0.7 < np.triu(cosines, 1).sum() / (n_classes * (n_classes - 1) / 2) < 0.85
