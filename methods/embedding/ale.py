"""ALE: attribute label embedding, a bilinear compatibility trained by a weighted ranking loss."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.api import Meta, Method, RegressionLoss, Run, TrainData
from benchmark.train import GradientConfig, fit
from methods import METHODS
from methods.layers import linear


@METHODS.register(
    "ale",
    title="ALE",
    family="embedding",
    year=2016,
    source="Akata et al., Label-Embedding for Image Classification, IEEE TPAMI 2016, arXiv 1503.08677",
)
class ALE(Method):
    """F(x, c) = x^T W a_c with the weighted approximate ranking loss; x^T W is regressed on the attributes."""

    class Config(GradientConfig):
        """Settings: those of the training loop."""

    def __init__(self, meta: Meta, config: Config, generator: torch.Generator) -> None:
        super().__init__(meta, config, generator)
        # Without a bias, as published: x^T W a_c is all there is.
        self.weight = torch.nn.Parameter(linear(meta.n_features, meta.n_attributes, generator).weight.detach().T)

    def fit(self, data: TrainData, loss: RegressionLoss | None, run: Run) -> None:  # noqa: D102
        self.attributes = data.attributes
        seen = data.attributes[: data.n_seen]

        def objective(x: Tensor, y: Tensor) -> Tensor:
            predicted = x @ self.weight
            value = weighted_ranking(predicted @ seen.T, y)
            if loss is not None:
                value = value + self.config.regression_weight * loss(predicted, seen[y], y)
            return value

        fit(self, objective, data, loss, run)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:  # noqa: D102
        return self.semantics(x) @ self.attributes[classes].T

    def semantics(self, x: Tensor) -> Tensor:  # noqa: D102
        return x @ self.weight


def weighted_ranking(scores: Tensor, labels: Tensor) -> Tensor:
    """ALE's loss with the exact rank: mean over i of (l_r / r) sum_c max(0, 1 + s_ic - s_iy), c over wrong classes.

    r is the number of wrong classes that violate the margin of 1 and l_r = 1 + 1/2 + ... + 1/r, so that mistakes near
    the top of the ranking count most. Source: Akata et al. 2016, eq. 13, after Usunier et al. 2009; where the paper
    estimates the rank by sampling, this counts it.

    Args:
        scores: (B, C) compatibilities.
        labels: (B,) the true class of each row.

    Returns:
        A scalar.
    """
    violations = 1 + scores - scores.gather(1, labels[:, None])
    violations = violations.scatter(1, labels[:, None], 0.0).clamp(min=0)
    rank = (violations > 0).sum(1)
    harmonic = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype).reciprocal().cumsum(0)
    weight = torch.where(rank > 0, harmonic[rank.clamp(min=1) - 1] / rank.clamp(min=1), 0.0)
    return (weight * violations.sum(1)).mean()
