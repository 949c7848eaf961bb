"""Layers of neural networks, written as loops over lists of numbers: what the tests compare the methods' own with."""

from __future__ import annotations

import torch

from tests.reference.toy import dot


def slow_layer(layer: torch.nn.Linear, x: list[float]) -> list[float]:
    """What the linear layer makes of one vector ``x``: for each output the product with its weights, plus its bias."""
    return [dot(row, x) + b for row, b in zip(layer.weight.tolist(), layer.bias.tolist(), strict=True)]
