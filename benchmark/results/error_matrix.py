"""The compact JSON form of an error matrix (``benchmark.measures.imbalance``), exact or in 8 bits.

It needs no torch: what reads stored results is done before that is imported.
"""

from __future__ import annotations

import base64
import math
import zlib
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Matrix = npt.NDArray[np.float64]
_ENCODING = "sqrt-float16-zlib-base64"
_COARSE = "log-uint8-zlib-base64"
#: The decades of errors below the largest one that 8 bits tell apart, in steps of 6 %; what is smaller is 0 in them.
_DECADES = 6
#: The codes of 8 bits: 0 is no error, 254 the largest one.
_LARGEST, _ABSENT = 254, 255


def encode(errors: Matrix) -> dict[str, Any]:
    """A JSON object of a (C, A) error matrix, small because it keeps float16 roots: 11 bits, down to errors of 4e-9.

    Equal matrices give equal bytes, given the same build of zlib.

    Raises:
        ValueError: an error is negative or its root overflows float16.
    """
    with np.errstate(invalid="ignore"):
        root = np.sqrt(errors)
    wrong = errors[(errors < 0) | (root > np.finfo(np.float16).max)]
    if len(wrong):
        raise ValueError(f"errors must be in 0..4.29e9, got {wrong[0]:g} instead")
    # NaN has many bit patterns and 0/0 gives another one on other processors: write a single one.
    halves = np.where(np.isnan(root), np.nan, root).astype("<f2")
    data = base64.b64encode(zlib.compress(halves.tobytes(), level=9)).decode("ascii")
    return {"encoding": _ENCODING, "shape": list(halves.shape), "data": data}


def encode_coarsely(errors: Matrix) -> dict[str, Any]:
    """A JSON object of a (C, A) error matrix in 8 bits: enough for a picture, as each error is right within 3 %.

    Errors below a millionth of the largest one become 0. What was decoded is encoded to the same bytes.

    Raises:
        ValueError: an error is negative or infinite.
    """
    known = errors[~np.isnan(errors)]
    if len(known) and not (known.min() >= 0 and known.max() < math.inf):
        raise ValueError(f"errors must be finite and not negative, got {known.min():g} to {known.max():g} instead")
    largest = float(known.max()) if len(known) else 0.0
    with np.errstate(divide="ignore"):
        steps = (_LARGEST - 1) * np.log10(errors / (largest or 1.0)) / _DECADES
    codes = np.nan_to_num(np.maximum(_LARGEST + np.round(steps), 0), nan=_ABSENT).astype(np.uint8)
    data = base64.b64encode(zlib.compress(codes.tobytes(), level=9)).decode("ascii")
    return {"encoding": _COARSE, "shape": list(codes.shape), "largest": largest, "data": data}


def is_coarse(encoded: Mapping[str, Any]) -> bool:
    """Whether ``encode_coarsely`` wrote it."""
    return encoded.get("encoding") == _COARSE


def decode(encoded: Mapping[str, Any]) -> Matrix:
    """The (C, A) error matrix that ``encode`` or ``encode_coarsely`` wrote, within float16's precision or within 3 %.

    Raises:
        ValueError: ``encoded`` is not what they wrote.
    """
    try:
        if encoded["encoding"] not in (_ENCODING, _COARSE):
            raise ValueError(f"unknown encoding {encoded['encoding']!r}")
        raw = zlib.decompress(base64.b64decode(encoded["data"], validate=True))
        n_classes, n_attributes = encoded["shape"]
        width = 1 if is_coarse(encoded) else 2
        if len(raw) != width * n_classes * n_attributes:
            raise ValueError(f"{len(raw)} bytes for shape {encoded['shape']}")
        if is_coarse(encoded):
            codes = np.arange(_ABSENT + 1)
            values = float(encoded["largest"]) * 10.0 ** (_DECADES * (codes - _LARGEST) / (_LARGEST - 1))
            values[0], values[_ABSENT] = 0.0, np.nan
            coarse: Matrix = values[np.frombuffer(raw, np.uint8)].reshape(n_classes, n_attributes)
            return coarse
        root = np.frombuffer(raw, "<f2").reshape(n_classes, n_attributes)
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        problem = f"{type(error).__name__}: {error}"
        raise ValueError(f"error matrix must be as encode wrote it, got {problem} instead") from error
    exact: Matrix = np.square(root, dtype=np.float64)
    return exact
