"""Preprocessing of features: fitted on training images alone, and applied to all in chunks that bound memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmark.api import feature_kind
from benchmark.errors import InputError

Transform = Callable[[Tensor], Tensor]

#: Bytes of local features or images that are worked on at once: each takes a multiple of them on the way.
CHUNK_BYTES = 2**23
#: The most images that are worked on at once: bounds memory, and is large enough to cost no speed.
CHUNK = 8192
#: What ``scale`` leaves the features with.
ROOT_MEAN_SQUARE = 0.2


def fit_preprocessing(kind: str, features: Tensor) -> Transform:
    """A function that scales features as ``MethodConfig.preprocess`` says, fitted on (N, D) training ``features``.

    A feature that is constant in training is only shifted, not scaled.

    Raises:
        InputError: images are to be scaled.
    """
    if kind == "none":
        return lambda x: x
    if feature_kind(features) == "images":
        raise InputError(f"preprocess must be none for images, got {kind!r} instead")
    if kind == "l2":
        return _in_float32(lambda x: torch.nn.functional.normalize(x, dim=-1))
    vectors = features.flatten(0, -2)
    if kind == "scale":
        squares = torch.stack([chunk.double().square().sum() for chunk in chunks(features, CHUNK)])
        factor = ROOT_MEAN_SQUARE / (squares.sum() / features.numel()).sqrt().clamp_min(1e-30).item()
        return _in_float32(lambda x: x * factor)
    if kind == "minmax":
        shift = vectors.amin(0)
        scale = vectors.amax(0) - shift
    elif kind == "standard":
        scale, shift = torch.std_mean(vectors, 0, correction=0)
    else:
        raise ValueError(f"unknown preprocessing {kind!r}")
    scale = torch.where(scale > 0, scale, torch.ones_like(scale))
    return _in_float32(lambda x: (x - shift) / scale)


def chunks(x: Tensor, at_most: int) -> tuple[Tensor, ...]:
    """(N, D) features in parts of ``at_most`` images, and of no more than ``CHUNK_BYTES`` if local or images."""
    if feature_kind(x) != "global":
        at_most = min(at_most, max(1, CHUNK_BYTES // (x.shape[1:].numel() * x.element_size())))
    parts: tuple[Tensor, ...] = x.split(at_most)
    return parts


def _in_float32(transform: Transform) -> Transform:
    """``transform``, but local features pass through float32 a chunk at a time, and keep their narrow type."""

    def apply(x: Tensor) -> Tensor:
        if feature_kind(x) == "global":
            return transform(x)
        return torch.cat([transform(chunk.float()).to(x.dtype) for chunk in chunks(x, len(x))])

    return apply
