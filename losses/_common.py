"""What all losses share: how predictions and targets are compared."""

from __future__ import annotations

import torch
from torch import Tensor

#: Smallest error that the weights of absolute-error losses divide by; unit-norm attributes err by about 0.05.
SMALLEST_ERROR = 1e-5


def upcast(x: Tensor) -> Tensor:
    """``x`` in float32 where it was narrower; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit_rows(x: Tensor) -> Tensor:
    """(B, A) rows u / (||u||_2 + 1e-10).

    A row of zeros stays zero and gets no gradient: the formula's own, 1e10, would overflow half precision.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * torch.where(norm > 0, 1 / (norm + 1e-10), 0)


def comparable(predicted: Tensor, target: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """(B, A) predictions and targets as they are compared: in float32 at least, with unit rows where asked."""
    predicted, target = upcast(predicted), upcast(target)
    return (unit_rows(predicted), unit_rows(target)) if normalize else (predicted, target)


def errors(predicted: Tensor, target: Tensor, normalize: bool) -> Tensor:
    """(B, A) differences of comparable predictions and targets."""
    predicted, target = comparable(predicted, target, normalize)
    return predicted - target
