"""What the feature-generating methods share: networks, the gradient penalty and the softmax classifier."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.layers import linear


def mlp(sizes: list[int], generator: torch.Generator, output: nn.Module | None = None) -> nn.Sequential:
    """Linear layers of the given ``sizes`` with LeakyReLU(0.2) between them and ``output`` at the end.

    Weights are N(0, 0.02), as in the f-CLSWGAN line of methods.
    """
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [linear(n_in, n_out, generator, std=0.02), nn.LeakyReLU(0.2)]
    return nn.Sequential(*layers[:-1], *([output] if output else []))


def gradient_penalty(
    critic: Callable[[Tensor, Tensor], Tensor], real: Tensor, fake: Tensor, attributes: Tensor, mix: Tensor
) -> Tensor:
    """Mean squared deviation from 1 of the critic's gradient norm, between real and fake features.

    Source: Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017, arXiv 1704.00028, eq. 3.

    Args:
        critic: (features (B, D), attributes (B, A)) -> (B, 1).
        real: (B, D) features.
        fake: (B, D) features, detached.
        attributes: (B, A) the condition of both.
        mix: (B, 1) uniform in [0, 1], the share of ``real``.
    """
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between, attributes).sum(), between, create_graph=True)
    return ((gradient.norm(dim=1) - 1) ** 2).mean()


def train_softmax(
    features: Tensor,
    labels: Tensor,
    n_classes: int,
    *,
    epochs: int,
    lr: float,
    batch_size: int,
    generator: torch.Generator,
) -> nn.Linear:
    """A linear softmax classifier trained by Adam, betas (0.5, 0.999), for a fixed number of epochs.

    Args:
        features: (N, D).
        labels: (N,) in 0..n_classes-1.
        n_classes: its outputs.
        epochs: passes over the data.
        lr: learning rate.
        batch_size: images in a batch.
        generator: on the device of ``features``; draws weights and batches.
    """
    layer = nn.utils.skip_init(nn.Linear, features.shape[1], n_classes, device=features.device)
    nn.init.normal_(layer.weight, std=0.02, generator=generator)
    nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(layer.parameters(), lr=lr, betas=(0.5, 0.999))
    for _ in range(epochs):
        order = torch.randperm(len(labels), generator=generator, device=labels.device)
        for batch in order.split(batch_size):
            value = F.cross_entropy(layer(features[batch]), labels[batch])
            optimizer.zero_grad(set_to_none=True)
            value.backward()
            optimizer.step()
    return layer.requires_grad_(False)
