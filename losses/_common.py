"""What losses share: how predictions and targets are compared, and how weights are scaled."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

#: Smallest error that the weights of absolute-error losses divide by; unit-norm attributes err by about 0.05.
SMALLEST_ERROR = 1e-5
#: ``mean_one`` divides weights by their mean over the batch, so that a loss is not also a larger regression weight.
Scale = Literal["raw", "mean_one"]


def upcast(x: Tensor) -> Tensor:
    """``x`` in float32 where it was narrower; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit_rows(x: Tensor) -> Tensor:
    """(B, A) rows u / (||u||_2 + 1e-10).

    A row of zeros stays zero and gets no gradient: the formula's own, 1e10, would overflow half precision.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * torch.where(norm > 0, 1 / (norm + 1e-10), 0)


def as_compared(rows: Tensor, normalize: bool) -> Tensor:
    """(B, A) ``rows`` as they are compared: in float32 at least, of unit norm where asked."""
    return unit_rows(upcast(rows)) if normalize else upcast(rows)


def comparable(predicted: Tensor, target: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """(B, A) predictions and targets as they are compared."""
    return as_compared(predicted, normalize), as_compared(target, normalize)


def errors(predicted: Tensor, target: Tensor, normalize: bool) -> Tensor:
    """(B, A) differences of comparable predictions and targets."""
    predicted, target = comparable(predicted, target, normalize)
    return predicted - target


def smooth_abs(error: Tensor) -> Tensor:
    """sqrt(e^2 + 1e-10) of each ``error``, which has a gradient at 0 too."""
    return (error.square() + SMALLEST_ERROR**2).sqrt()


def mean_weight(weights: Tensor) -> Tensor:
    """The scalar mean of ``weights`` to divide by; 1 where they are all 0."""
    mean = weights.mean()
    return torch.where(mean > 0, mean, 1)


def scaled(weights: Tensor, scale: Scale) -> Tensor:
    """The ``weights`` as they are, or divided by their mean."""
    return weights if scale == "raw" else weights / mean_weight(weights)


def prepared(value: Tensor | None, name: str) -> Tensor:
    """What the loss ``name`` has learnt from the training set.

    Raises:
        RuntimeError: ``prepare`` was not called.
    """
    if value is None:
        raise RuntimeError(f"loss {name}: prepare(attributes, counts) must be called before the loss is used")
    return value
