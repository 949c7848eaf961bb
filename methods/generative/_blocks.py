"""Networks that the feature-generating methods share, and their optimiser."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.toolkit import linear

#: What the features of the last layer look like: of a network that ends in a ReLU, scaled to [0, 1], of either sign.
Output = Literal["relu", "sigmoid", "linear"]
_OUTPUTS: dict[str, Callable[[Tensor], Tensor]] = {"relu": F.relu, "sigmoid": torch.sigmoid, "linear": nn.Identity()}


#: That of every LeakyReLU below 0.
SLOPE = 0.2


def mlp(sizes: list[int], rng: torch.Generator, std: float = 0.02) -> nn.Sequential:
    """Linear layers of the given ``sizes`` with LeakyReLU(0.2) between them.

    Weights are normal, of deviation ``std``: by default that of the f-CLSWGAN line of methods.
    """
    layers: list[nn.Module] = []
    for n_in, n_out in itertools.pairwise(sizes):
        layers += [linear(n_in, n_out, rng, std=std), nn.LeakyReLU(SLOPE)]
    return nn.Sequential(*layers[:-1])


def standard_normal(shape: Sequence[int], like: Tensor, rng: torch.Generator) -> Tensor:
    """Standard normal numbers of a ``shape``, of the type and on the device of a tensor ``like`` them."""
    return torch.randn(tuple(shape), generator=rng, dtype=like.dtype, device=like.device)


def adam(
    lr: float, *modules: nn.Module, groups: Iterable[dict[str, Any]] = (), betas: tuple[float, float] = (0.5, 0.999)
) -> torch.optim.Adam:
    """Adam for the parameters of ``modules`` and further parameter ``groups``; betas as in the f-CLSWGAN line."""
    own = [parameter for module in modules for parameter in module.parameters()]
    return torch.optim.Adam([{"params": own}, *groups], lr=lr, betas=betas, fused=True)


class FeatureGenerator(nn.Module):
    """G: (B, Z) noise and (B, A) attributes to (B, D) features, through one hidden layer."""

    def __init__(
        self, n_noise: int, n_attributes: int, hidden: int, n_features: int, output: Output, rng: torch.Generator
    ) -> None:
        super().__init__()
        self.n_noise = n_noise
        self.first = linear(n_noise + n_attributes, hidden, rng, std=0.02)
        self.last = linear(hidden, n_features, rng, std=0.02)
        self.output = output

    def forward(self, noise: Tensor, attributes: Tensor, feedback: Tensor | None = None) -> Tensor:
        """(B, D) features; ``feedback`` (B, hidden) is added to the hidden layer."""
        hidden = F.leaky_relu(self.first(torch.cat([noise, attributes], dim=1)), SLOPE)
        return _OUTPUTS[self.output](self.last(hidden if feedback is None else hidden + feedback))

    def draw(self, attributes: Tensor, rng: torch.Generator) -> Tensor:
        """(B, Z) standard normal noise for (B, A) ``attributes``."""
        return torch.randn(len(attributes), self.n_noise, generator=rng, device=attributes.device)


class SemanticDecoder(nn.Module):
    """Reads (B, n_outputs) numbers from (B, D) features, through a hidden layer that the classifiers take as well."""

    def __init__(self, n_features: int, hidden: int, n_outputs: int, rng: torch.Generator) -> None:
        super().__init__()
        self.first = linear(n_features, hidden, rng, std=0.02)
        self.last = linear(hidden, n_outputs, rng, std=0.02)

    def hidden(self, x: Tensor) -> Tensor:
        """(B, hidden) the hidden layer."""
        return F.leaky_relu(self.first(x), SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """(B, n_outputs)."""
        outputs: Tensor = self.last(self.hidden(x))
        return outputs

    def attributes(self, x: Tensor) -> Tensor:
        """(B, n_outputs) of unit norm."""
        return F.normalize(self(x), dim=1)

    def beside(self, x: Tensor) -> Tensor:
        """(B, D + hidden + n_outputs) features, the hidden layer, and ``attributes``: what TF-VAEGAN classifies."""
        hidden = self.hidden(x)
        return torch.cat([x, hidden, F.normalize(self.last(hidden), dim=1)], dim=1)


class PairNet(nn.Module):
    """r: (B, D) features and (C, A) attributes to (B, C) scores, one for each pair, through one hidden layer.

    The first layer of a concatenated pair is the sum of two products, so that B + C rows are multiplied and not B C.
    Its activation is a LeakyReLU of a ``slope``; a ReLU has one of 0.
    """

    def __init__(
        self, n_features: int, n_attributes: int, hidden: int, rng: torch.Generator, slope: float = SLOPE
    ) -> None:
        super().__init__()
        self.slope = slope
        self.of_features = linear(n_features, hidden, rng, std=0.02)
        self.of_attributes = linear(n_attributes, hidden, rng, std=0.02)
        self.last = linear(hidden, 1, rng, std=0.02)

    def forward(self, x: Tensor, attributes: Tensor) -> Tensor:
        """(B, C) scores."""
        hidden = F.leaky_relu(self.of_features(x)[:, None] + self.of_attributes(attributes), self.slope)
        scores: Tensor = self.last(hidden)
        return scores.squeeze(-1)
