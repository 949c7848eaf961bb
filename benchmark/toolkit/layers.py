"""Layers that draw from a given source of random numbers: global random state is never touched."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def linear(n_in: int, n_out: int, rng: torch.Generator, std: float | None = None) -> nn.Linear:
    """A linear layer with normal weights and zero bias.

    Args:
        n_in: inputs.
        n_out: outputs.
        rng: where the weights are drawn from, on the CPU.
        std: their standard deviation; None takes 1/sqrt(n_in), which keeps the scale of the input.
    """
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, n_in, n_out)
    nn.init.normal_(layer.weight, std=n_in**-0.5 if std is None else std, generator=rng)
    nn.init.zeros_(layer.bias)
    return layer


def dropout(x: Tensor, share: float, rng: torch.Generator | None) -> Tensor:
    """``x`` of which a ``share`` is 0, at random, and the rest scaled up for it; ``x`` itself without a source."""
    if rng is None or not share:
        return x
    return x * (torch.rand(x.shape, generator=rng, device=x.device) >= share) / (1 - share)
