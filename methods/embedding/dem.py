"""DEM: deep embedding model, which maps attributes into the visual space and classifies by the nearest prototype."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import Meta, Method, RegressionLoss, Run, TrainData
from benchmark.train import GradientConfig, fit
from methods import METHODS
from methods.layers import linear


@METHODS.register(
    "dem",
    title="DEM",
    family="embedding",
    year=2017,
    source="Zhang et al., Learning a Deep Embedding Model for Zero-Shot Learning, CVPR 2017, arXiv 1611.05088",
)
class DEM(Method):
    """f(a) = ReLU(W2 ReLU(W1 a + b1) + b2) is pulled to the features: mean (f(a_y) - x)^2 + l2/2 * ||parameters||^2.

    Its own regression runs from attributes to features, where no semantics are predicted. So the slot is a linear
    decoder g from features to attributes, which with a loss is trained along: regression(g(x), a_y) on the real
    features trains g, and regression(g(f(a_y)), a_y) on the prototypes asks of f that its prototypes can be told apart
    by the same semantics. Without the second term g would never reach the classifier. The loss sees the two in turn, so
    that a ReMSE with a memory (``window``) mixes both in it. The decoder is no part of ``none``, which predicts no
    semantics.
    """

    class Config(GradientConfig):
        """Settings.

        Attributes:
            hidden: units of the hidden layer.
            l2: the penalty on weights and biases, inside the loss as published.
            output: what ends f: ``relu`` (published) for non-negative features, ``linear`` for features of either sign.
            distance: ``euclidean`` (published for SUN and AWA) or ``cosine`` (published for CUB) to the prototypes.
        """

        hidden: int = Field(1600, ge=1)
        l2: float = Field(1e-3, ge=0)
        output: Literal["relu", "linear"] = "relu"
        distance: Literal["euclidean", "cosine"] = "euclidean"

    def __init__(self, meta: Meta, config: Config, generator: torch.Generator) -> None:
        super().__init__(meta, config, generator)
        self.net = nn.Sequential(
            linear(meta.n_attributes, config.hidden, generator),
            nn.ReLU(),
            linear(config.hidden, meta.n_features, generator),
            nn.ReLU() if config.output == "relu" else nn.Identity(),
        )
        self.decoder = linear(meta.n_features, meta.n_attributes, generator)
        self._decodes = False

    def fit(self, data: TrainData, loss: RegressionLoss | None, run: Run) -> None:  # noqa: D102
        self.attributes = data.attributes
        self._decodes = loss is not None
        self.decoder.requires_grad_(self._decodes)

        def objective(x: Tensor, y: Tensor) -> Tensor:
            # Images of a class share its prototype: f is computed once for each class of the batch.
            classes, of_image = y.unique(return_inverse=True)
            prototypes = self.prototypes(data.attributes[classes])
            penalty = sum(parameter.square().sum() for parameter in self.net.parameters())
            value = F.mse_loss(prototypes[of_image], x) + self.config.l2 / 2 * penalty
            if loss is not None:
                attributes = data.attributes[y]
                of_prototypes = loss(self.decoder(prototypes)[of_image], attributes, y)
                value = value + self.config.regression_weight * (loss(self.decoder(x), attributes, y) + of_prototypes)
            return value

        fit(self, objective, data, loss, run)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:  # noqa: D102
        prototypes = self.prototypes(self.attributes[classes])
        if self.config.distance == "cosine":
            return F.normalize(x, dim=1) @ F.normalize(prototypes, dim=1).T
        # A product of matrices in place of a distance for each pair: ||x||^2 is the same for all classes.
        return 2 * x @ prototypes.T - prototypes.square().sum(1)

    def semantics(self, x: Tensor) -> Tensor | None:  # noqa: D102
        return self.decoder(x) if self._decodes else None

    def prototypes(self, attributes: Tensor) -> Tensor:
        """(C, D) the visual prototypes f(a) of (C, A) unit-norm ``attributes``, which enter with a mean square of 1."""
        return self.net(attributes * self.meta.n_attributes**0.5)
