"""The attribute error of TF-VAEGAN, FREE and ZeroDiff, in which large errors count more; MSDN compares scores by it."""

from __future__ import annotations

from torch import Tensor


def self_weighted_error(predicted: Tensor, target: Tensor) -> Tensor:
    """Mean over i of sum_k |e_ik|^3 / ||e_i|| with e = predicted - target, both (B, A): large errors count more.

    The attribute loss of TF-VAEGAN and FREE (there called weighted L1); its factor carries gradient, as published.
    """
    error = (predicted - target).abs()
    of_images: Tensor = error.pow(3).sum(1) / error.norm(dim=1).clamp_min(1e-10)
    return of_images.mean()
