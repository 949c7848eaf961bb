"""Preprocessing of features: fitted on training images alone, and applied to all in chunks that bound memory."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from benchmark.api import feature_kind
from benchmark.errors import InputError

#: Bytes of local features or images that are worked on at once: each takes a multiple of them on the way.
CHUNK_BYTES = 2**23
#: The most images that are worked on at once: bounds memory, and is large enough to cost no speed.
CHUNK = 8192
#: What ``scale`` leaves the features with.
ROOT_MEAN_SQUARE = 0.2


class Preprocessing(nn.Module):
    """What scales features as ``MethodConfig.preprocess`` says, once it is fitted.

    Args:
        kind: one of the values of ``MethodConfig.preprocess``.
    """

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.factor = 1.0
        self.register_buffer("shift", None)
        self.register_buffer("scale", None)

    def fit(self, features: Tensor) -> Preprocessing:
        """Fit it on (N, D) training ``features``; returns itself.

        A feature that is constant in training is only shifted, not scaled.

        Raises:
            InputError: images are to be scaled.
        """
        kind = self.kind
        if kind == "none":
            return self
        if feature_kind(features) == "images":
            raise InputError(f"preprocess must be none for images, got {kind!r} instead")
        vectors = features.flatten(0, -2)
        if kind == "scale":
            squares = torch.stack([chunk.double().square().sum() for chunk in chunks(features, CHUNK)])
            self.factor = ROOT_MEAN_SQUARE / (squares.sum() / features.numel()).sqrt().clamp_min(1e-30).item()
        elif kind == "minmax":
            self.shift = vectors.amin(0)
            self.scale = _above_zero(vectors.amax(0) - self.shift)
        elif kind == "standard":
            scale, self.shift = torch.std_mean(vectors, 0, correction=0)
            self.scale = _above_zero(scale)
        elif kind != "l2":
            raise ValueError(f"unknown preprocessing {kind!r}")
        return self

    def forward(self, x: Tensor) -> Tensor:
        """(N, D) scaled features; local ones pass through float32 a chunk at a time, and keep their narrow type."""
        if self.kind == "none":
            return x
        if feature_kind(x) == "global":
            return self._scaled(x)
        return torch.cat([self._scaled(chunk.float()).to(x.dtype) for chunk in chunks(x, len(x))])

    def _scaled(self, x: Tensor) -> Tensor:
        if self.kind == "l2":
            return nn.functional.normalize(x, dim=-1)
        if self.kind == "scale":
            return x * self.factor
        scaled: Tensor = (x - self.shift) / self.scale
        return scaled


def fit_preprocessing(kind: str, features: Tensor) -> Preprocessing:
    """The preprocessing ``kind``, fitted on (N, D) training ``features``; see ``Preprocessing.fit``."""
    return Preprocessing(kind).fit(features)


def chunks(x: Tensor, at_most: int) -> tuple[Tensor, ...]:
    """(N, D) features in parts of ``at_most`` images, and of no more than ``CHUNK_BYTES`` if local or images."""
    if feature_kind(x) != "global":
        at_most = min(at_most, max(1, CHUNK_BYTES // (x.shape[1:].numel() * x.element_size())))
    parts: tuple[Tensor, ...] = x.split(at_most)
    return parts


def _above_zero(scale: Tensor) -> Tensor:
    return torch.where(scale > 0, scale, torch.ones_like(scale))
