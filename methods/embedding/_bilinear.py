"""What the bilinear ranking methods share: F(x, c) = x^T W a_c, its training, and the margin violations to rank by."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from benchmark.api import Meta, Method, RegressionLoss, Run, TrainData
from benchmark.train import GradientConfig, fit
from methods.layers import linear


class Bilinear(Method):
    """F(x, c) = x^T W a_c, trained by a ranking loss of its own; x^T W is regressed on the attributes."""

    Config = GradientConfig

    def __init__(self, meta: Meta, config: GradientConfig, generator: torch.Generator) -> None:
        super().__init__(meta, config, generator)
        self.weight = bilinear(meta.n_features, meta.n_attributes, generator)

    @abstractmethod
    def ranking(self, scores: Tensor, labels: Tensor) -> Tensor:
        """The scalar ranking loss of (B, n_seen) compatibilities, whose true classes are ``labels`` (B,)."""

    def fit(self, data: TrainData, loss: RegressionLoss | None, run: Run) -> None:
        self.attributes = data.attributes
        seen = data.attributes[: data.n_seen]

        def objective(x: Tensor, y: Tensor) -> Tensor:
            predicted = x @ self.weight
            value = self.ranking(predicted @ seen.T, y)
            if loss is not None:
                value = value + self.config.regression_weight * loss(predicted, seen[y], y)
            return value

        fit(self, objective, data, loss, run)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:
        return self.semantics(x) @ self.attributes[classes].T

    def semantics(self, x: Tensor) -> Tensor:
        return x @ self.weight


def bilinear(n_features: int, n_attributes: int, generator: torch.Generator) -> torch.nn.Parameter:
    """(n_features, n_attributes) W, without a bias as published, and almost 0 at first.

    What a larger random start adds to the scores stays in directions that no violated margin corrects: it is noise on
    images of unseen classes.
    """
    return torch.nn.Parameter(
        linear(n_features, n_attributes, generator, std=0.01 * n_features**-0.5).weight.detach().T
    )


def violations(scores: Tensor, labels: Tensor, margin: float) -> Tensor:
    """(B, C) max(0, margin + s_ic - s_iy) for (B, C) ``scores`` and true classes ``labels`` (B,); 0 where c = y."""
    hinges = margin + scores - scores.gather(1, labels[:, None])
    return hinges.scatter(1, labels[:, None], 0.0).clamp(min=0)
