"""Semantics of classes in files of their own: sentence embeddings, embeddings of class names, word vectors, and so on.

``<name>_splits.mat`` in a data set's folder holds ``att`` (A, C) and ``allclasses_names`` (C, 1), as ``att_splits.mat``
does, and is chosen by ``--dataset cub:attributes=<name>``. Only these two variables are read, never a split: which
images are seen, unseen and tested follows from ``att_splits.mat`` alone. Classes are matched by name, not by position.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError, did_you_mean
from datasets import matfiles

Rows = npt.NDArray[np.floating[Any]]

_ENDING = "_splits.mat"


def file_of(folder: Path, name: str) -> Path:
    """Where the semantics ``name`` of the data set in ``folder`` lie."""
    return folder / f"{name}{_ENDING}"


def known(folder: Path) -> list[str]:
    """The names of the semantics that have a file in ``folder``, ``att`` among them."""
    return sorted(path.name.removesuffix(_ENDING) for path in folder.glob(f"*{_ENDING}"))


def read(file: Path, class_names: Sequence[str]) -> npt.NDArray[np.float32]:
    """(C, A) semantics of C named classes, each at unit norm, as released attributes are.

    Raises:
        InputError: the file cannot be read, is of another form, or lacks a class.
    """
    rows = match(*parse(file), class_names, file).astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # what is not finite is refused by the check of the split
        norms = np.linalg.norm(rows, axis=1, keepdims=True)
        unit: npt.NDArray[np.float32] = (rows / np.where(norms, norms, 1)).astype(np.float32)
    return unit


def parse(file: Path) -> tuple[Rows, tuple[str, ...]]:
    """(C, A) the semantics in a file as they are, and the names of the classes.

    Raises:
        InputError: it cannot be read, or is of another form.
    """
    content = matfiles.load(file, "att", "allclasses_names")
    vectors = matfiles.numeric(content["att"], f"{file}: att")
    names = matfiles.names(content["allclasses_names"], f"{file}: allclasses_names")
    if vectors.ndim != 2 or vectors.shape[1] != len(names):
        got = f"got shape {vectors.shape} instead"
        raise InputError(f"{file}: att must have a column for each of the {len(names)} names, {got}")
    return vectors.T, names


def match(rows: Rows, names: Sequence[str], class_names: Sequence[str], where: Path) -> Rows:
    """Those of the ``rows`` that are of the named classes, in their order.

    Args:
        rows: one for each of ``names``, which may be of other classes too.
        names: whose they are.
        class_names: the classes.
        where: the file of the names, for the message.

    Raises:
        InputError: there is none of some class.
    """
    places = {name: place for place, name in enumerate(names)}
    if lacking := [name for name in class_names if name not in places]:
        wanted = f"must name all {len(class_names)} classes of the data set, lacks {len(lacking)}"
        hint = did_you_mean(lacking[0], names[:3] if len(lacking) == len(class_names) else names)
        raise InputError(f"{where}: {wanted}, the first is {lacking[0]!r}; {hint}")
    return rows[[places[name] for name in class_names]]


def write(file: Path, rows: Rows, class_names: Sequence[str], provenance: Mapping[str, Any]) -> None:
    """Write what ``read`` reads, whole or not at all.

    Args:
        file: where to.
        rows: (C, A) the semantics.
        class_names: C names.
        provenance: what they were made from, which is kept as JSON.

    Raises:
        InputError: the file cannot be written.
    """
    variables = {"att": rows.T, "allclasses_names": matfiles.cells(class_names)}
    matfiles.save(file, variables | {"provenance": json.dumps(provenance)})
