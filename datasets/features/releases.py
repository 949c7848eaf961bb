"""The layouts of class semantics in public releases, as ``datasets.features.semantics`` describes them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError
from datasets import cache, matfiles, semantics
from datasets.disk import reason
from datasets.features.name_vectors import read_names
from datasets.xlsa17 import ATTRIBUTES, SPLITS, named_classes

#: GenZSL's variables of the embeddings, of the classes in their order, and the split's variable of these images.
_GENZSL = (("seen_embeddings", "train_l", "trainval_loc"), ("unseen_embeddings", "testUnseen_l", "test_unseen_loc"))


def convert(folder: Path, file: Path, name: str, names_file: Path | None) -> None:
    """Write the semantics in ``file`` as those called ``name`` of the data set in ``folder``.

    Args:
        folder: the data set's.
        file: of a release.
        name: what the semantics are called.
        names_file: the names of the rows of a .npy file.

    Raises:
        InputError: a file is of another form or of another data set, a class is missing, or the name is taken.
    """
    target = semantics.file_of(folder, name)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", name) or name in ATTRIBUTES:
        raise InputError(f"--as: must be a name other than {' and '.join(ATTRIBUTES)}, got {name!r} instead")
    if (names_file is None) == (file.suffix == ".npy"):
        raise InputError("--names: goes with a .npy file, which does not name its rows, and with no other")
    if target.exists():
        raise InputError(f"{target}: is there already; move it away, or give another name by --as")
    wanted = named_classes(folder)
    found: Sequence[str]
    if names_file is not None:
        rows, found = _array(file), _names(names_file)
    elif file.suffix in (".hdf5", ".h5"):
        rows, found = _genzsl(file, folder, wanted)
    else:
        rows, found = semantics.parse(file)
    if len(rows) != len(found):
        raise InputError(f"{names_file}: must name the {len(rows)} rows of {file}, got {len(found)} names instead")
    chosen = semantics.match(rows, found, wanted, names_file or file)
    if not (np.isfinite(chosen).all() and chosen.any(axis=1).all()):
        raise InputError(f"{file}: must describe each class by finite numbers that are not all 0")
    semantics.write(target, chosen, wanted, {"file": file.name, "sha256": cache.sha256(file)})
    print(f"{target}: {chosen.shape[1]} semantics of {len(wanted)} classes; choose attributes={name}")


def _array(file: Path) -> semantics.Rows:
    rows = matfiles.numeric(_load(file), str(file))
    if rows.ndim != 2:
        raise InputError(f"{file}: must be classes x semantics, got shape {rows.shape} instead")
    return rows


def _names(file: Path) -> list[str]:
    if file.suffix != ".npy":
        return read_names(file)
    return list(matfiles.names(_load(file), str(file)))


def _load(file: Path) -> npt.NDArray[Any]:
    try:
        with file.open("rb") as stream:
            array: npt.NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    except Exception as error:  # NumPy raises nearly anything over a broken file
        raise InputError(f"{file}: cannot be read, may be a pickle or no .npy file: {reason(error)}") from error
    return array


def _genzsl(file: Path, folder: Path, classes: tuple[str, ...]) -> tuple[semantics.Rows, list[str]]:
    """The rows, seen classes before unseen ones, and the names of their classes."""
    content = matfiles.load(file, *(key for keys in _GENZSL for key in keys[:2]))
    split = matfiles.load(folder / SPLITS, *(part for _, _, part in _GENZSL))
    rows, found = [], []
    for embeddings, labels, part in _GENZSL:
        of_images = matfiles.numeric(content[labels], f"{file}: {labels}").ravel()
        n = matfiles.numeric(split[part], f"{folder / SPLITS}: {part}").size
        if of_images.size != n:
            got = f"got {of_images.size} instead"
            raise InputError(f"{file}: {labels} must hold a label for each of the {n} images of {part}, {got}")
        numbers = np.unique(of_images)
        if not np.isin(numbers, range(len(classes))).all():
            raise InputError(f"{file}: {labels} must be whole numbers in 0..{len(classes) - 1}, got others instead")
        found += [classes[int(number)] for number in numbers]
        rows.append(matfiles.numeric(content[embeddings], f"{file}: {embeddings}").T)
        if rows[-1].ndim != 2 or len(rows[-1]) != len(numbers) or rows[-1].shape[1] != rows[0].shape[1]:
            got = f"got shape {rows[-1].shape} instead"
            raise InputError(f"{file}: {embeddings} must have a row for each of {len(numbers)} classes, {got}")
    return np.concatenate(rows), found
