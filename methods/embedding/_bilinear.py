"""What the bilinear ranking methods share: F(x, c) = x^T W a_c, its training, and the margin violations to rank by."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from benchmark.api import Meta, Method, Run, Slot, TrainData
from benchmark.toolkit import GradientConfig, linear, minimise


class Bilinear(Method):
    """F(x, c) = x^T W a_c, trained by a ranking loss of its own; x^T W is regressed on the attributes."""

    Config = GradientConfig
    config: GradientConfig

    def __init__(self, meta: Meta, config: GradientConfig, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        self.weight = bilinear(meta.n_features, meta.n_attributes, rng)

    @abstractmethod
    def ranking(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The scalar ranking loss of (B, n_seen) compatibilities, whose true classes are ``labels`` (B,)."""

    def ranking_of(self, predicted: Tensor, seen: Tensor, labels: Tensor) -> Tensor:
        """The same of the (B, A) predicted attributes x^T W and those of the seen classes (n_seen, A)."""
        return self.ranking(predicted @ seen.T, labels)

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        self.attributes = data.attributes
        seen = data.attributes[: data.n_seen]

        def objective(x: Tensor, y: Tensor) -> Tensor:
            predicted = x @ self.weight
            return self.ranking_of(predicted, seen, y) + slot(predicted, y)

        minimise(self, objective, data, slot, run)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:
        return self.semantics(x) @ self.attributes[classes].T

    def semantics(self, x: Tensor) -> Tensor:
        return x @ self.weight


def bilinear(n_features: int, n_attributes: int, rng: torch.Generator) -> torch.nn.Parameter:
    """(n_features, n_attributes) W, without a bias as published, and almost 0 at first.

    What a larger random start adds to the scores stays in directions that no violated margin corrects: it is noise on
    images of unseen classes. It is contiguous, without which the fused optimiser copies everything at each step.
    """
    layer = linear(n_features, n_attributes, rng, std=0.01 * n_features**-0.5)
    return torch.nn.Parameter(layer.weight.detach().T.contiguous())


def violations(scores: Tensor, labels: Tensor, margin: float) -> Tensor:
    """(B, C) max(0, margin + s_ic - s_iy) for (B, C) ``scores`` and true classes ``labels`` (B,); 0 where c = y."""
    hinges = margin + scores - scores.gather(1, labels[:, None])
    return hinges.scatter(1, labels[:, None], 0.0).clamp(min=0)
