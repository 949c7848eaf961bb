"""Vectors of attribute names, as ``datasets.features.vectors`` describes them."""

from __future__ import annotations

import gzip
import importlib
import json
import logging
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from benchmark.errors import InputError, one_line
from datasets import cache, matfiles
from datasets.xlsa17 import SPLITS, VECTORS

Vectors = npt.NDArray[np.float32]
Encoder = Callable[[list[str]], npt.ArrayLike]

NAME_FILES = ("attributes.txt", "predicates.txt")

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
        raise InputError(f"{file}: must name the attributes, got no names instead")
    fields = [line.split(maxsplit=1) for line in lines]
    if all(len(parts) == 2 and parts[0] == str(number) for number, parts in enumerate(fields, start=1)):
        return [name for _, name in fields]
    return lines


def readable(name: str) -> str:
    """``has_bill_shape::curved_(up_or_down)`` -> ``bill shape: curved (up or down)``."""
    return " ".join(name.removeprefix("has_").replace("::", ": ").replace("_", " ").split())


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


def encoded(names: Sequence[str], encoder: Encoder, where: str) -> Vectors:
    """(A, V) what ``encoder`` makes of the names, which are given to it as readable text.

    Args:
        names: A names.
        encoder: takes a list of A texts, returns an (A, V) array.
        where: what to call it in messages.

    Raises:
        InputError: it fails, or returns something else.
    """
    try:
        vectors = np.asarray(encoder([readable(name) for name in names]), dtype=np.float32)
    except Exception as error:  # it is the user's code
        raise InputError(f"{where}: {one_line(error)}") from error
    if vectors.ndim != 2 or len(vectors) != len(names) or not vectors.shape[1]:
        got = f"got shape {vectors.shape} for {len(names)} names instead"
        raise InputError(f"{where} must return a row for each name, {got}")
    if not np.isfinite(vectors).all():
        raise InputError(f"{where} must return finite vectors, got NaN or infinity instead")
    return vectors


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
        raise InputError(f"--encoder must be MODULE:CALLABLE, got {text!r} instead")
    try:
        encoder = getattr(importlib.import_module(module), name)
    except Exception as error:  # it is the user's code
        raise InputError(f"--encoder {text}: {one_line(error)}") from error
    if not callable(encoder):
        raise InputError(f"--encoder {text}: must be callable, got {type(encoder).__name__} instead")
    return cast(Encoder, encoder)


def _name_file(folder: Path) -> Path:
    for name in NAME_FILES:
        if (folder / name).is_file():
            return folder / name
    raise InputError(f"{folder}: no {' nor '.join(NAME_FILES)}; give the names of its attributes by --names FILE")


def make(folder: Path, names_file: Path | None, vectors_file: Path | None, encoder: str | None) -> Path:
    """Write ``attribute_vectors.mat`` into the data set's ``folder``; exactly one source of vectors is given.

    Raises:
        InputError: a file is missing or wrong, or the names are not as many as the attributes.
    """
    names_file = names_file or _name_file(folder)
    names = read_names(names_file)
    splits = folder / SPLITS
    n_attributes = len(matfiles.load(splits, "att")["att"])
    if len(names) != n_attributes:
        raise InputError(f"{names_file}: must name the {n_attributes} attributes of {splits}, got {len(names)} instead")
    provenance: dict[str, object] = {"names": names, "names_file": names_file.name}
    if vectors_file:
        vectors, unknown = word_vectors(names, vectors_file)
        if unknown:
            _logger.warning("%s does not know, so names go without: %s", vectors_file, ", ".join(unknown))
        provenance |= {"vectors": vectors_file.name, "sha256": cache.sha256(vectors_file), "unknown_words": unknown}
    else:
        assert encoder is not None
        vectors = encoded(names, _load_encoder(encoder), f"--encoder {encoder}")
        provenance |= {"encoder": encoder}
    matfiles.save(folder / VECTORS, {"vectors": vectors.T, "provenance": json.dumps(provenance)})
    print(f"{folder / VECTORS}: vectors of {vectors.shape[1]} numbers for {len(names)} attributes")
    return folder / VECTORS
