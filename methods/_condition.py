"""How the attributes of classes enter the networks of a method."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

#: ``unit``: of unit norm a class, as published. ``standard``: less their mean over the seen classes, and then with a
#: mean square of 1: dense semantics differ little from class to class, which networks hardly see at first.
Condition = Literal["unit", "standard"]


def mean_and_scale(attributes: Tensor, n_seen: int) -> tuple[Tensor, Tensor]:
    """What ``standard`` subtracts from (C, A) attributes, (A,), and then divides by, a scalar; of the seen classes."""
    seen = attributes[:n_seen]
    mean = seen.mean(0)
    return mean, (seen - mean).square().mean().sqrt().clamp_min(1e-12)


def unit_mean_square(attributes: Tensor) -> Tensor:
    """(C, A) ``attributes`` of unit norm, times the root of their number."""
    return attributes * float(attributes.shape[1] ** 0.5)
