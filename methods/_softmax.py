"""The linear softmax classifier that several families train on features, real or generated."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.toolkit import descend


def train_softmax(
    features: Tensor,
    labels: Tensor,
    n_classes: int,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    rng: torch.Generator,
    betas: tuple[float, float] = (0.5, 0.999),
) -> nn.Linear:
    """A linear softmax classifier trained by Adam for a fixed number of epochs.

    Args:
        features: (N, D).
        labels: (N,) in 0..n_classes-1.
        n_classes: its outputs.
        epochs: passes over the data.
        lr: learning rate.
        batch_size: images in a batch.
        rng: on the device of ``features``; draws weights and batches.
        betas: of Adam, as in the f-CLSWGAN line.
    """
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, features.shape[1], n_classes, device=features.device).to(features)
    nn.init.normal_(layer.weight, std=0.02, generator=rng)
    nn.init.zeros_(layer.bias)
    optimiser = torch.optim.Adam(layer.parameters(), lr, betas, fused=True)
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=rng, device=labels.device)
        for batch in order.split(batch_size):
            descend(F.cross_entropy(layer(features[batch]), labels[batch]), optimiser)
    return layer.requires_grad_(False)
