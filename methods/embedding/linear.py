"""Linear attribute regressor: features to attributes, classified by cosine."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import Meta, Method, RegressionLoss, Run, TrainData
from benchmark.train import GradientConfig, fit
from methods import METHODS
from methods.layers import linear


@METHODS.register(
    "linear",
    title="Linear",
    family="embedding",
    year=2023,
    source="the linear form of BasicNet in Ye et al., Rebalanced Zero-shot Learning, IEEE TIP 2023, arXiv 2210.07031",
)
class Linear(Method):
    """v(x) = W x + b, trained by CE(scale * cos(v, attributes of seen classes), y) + lambda * regression(v, a_y)."""

    class Config(GradientConfig):
        """Settings.

        Attributes:
            scale: the factor of the cosines inside the cross-entropy.
            classification_weight: the weight of the cross-entropy; 0 leaves pure attribute regression.
        """

        scale: float = Field(20.0, gt=0)
        classification_weight: float = Field(1.0, ge=0)

    def __init__(self, meta: Meta, config: Config, generator: torch.Generator) -> None:
        super().__init__(meta, config, generator)
        self.projection = linear(meta.n_features, meta.n_attributes, generator)

    def fit(self, data: TrainData, loss: RegressionLoss | None, run: Run) -> None:  # noqa: D102
        self.attributes = data.attributes

        def objective(x: Tensor, y: Tensor) -> Tensor:
            predicted = self.projection(x)
            classes = F.cross_entropy(self._cosines(predicted, data.seen), y)
            value: Tensor = self.config.classification_weight * classes
            if loss is not None:
                value = value + self.config.regression_weight * loss(predicted, data.attributes[y], y)
            return value

        fit(self, objective, data, loss, run)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:  # noqa: D102
        return self._cosines(self.semantics(x), classes)

    def semantics(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.projection(x)

    def _cosines(self, predicted: Tensor, classes: Tensor) -> Tensor:
        attributes = F.normalize(self.attributes[classes], dim=1)
        return self.config.scale * F.normalize(predicted, dim=1) @ attributes.T
