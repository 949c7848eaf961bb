"""What the attribute regressors that classify by cosine share."""

from __future__ import annotations

from abc import abstractmethod

from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import Method, RegressionLoss, Run, TrainData
from benchmark.train import GradientConfig, fit


class CosineConfig(GradientConfig):
    """Settings.

    Attributes:
        scale: the factor of the cosines inside the cross-entropy.
        classification_weight: the weight of the cross-entropy; 0 leaves pure attribute regression.
    """

    scale: float = Field(20.0, gt=0)
    classification_weight: float = Field(1.0, ge=0)


class CosineClassifier(Method):
    """v(x) is trained by CE(scale * cos(v, attributes of seen classes), y) + lambda * regression(v, a_y)."""

    Config = CosineConfig

    @abstractmethod
    def semantics(self, x: Tensor) -> Tensor:
        """(B, A) v(x)."""

    def fit(self, data: TrainData, loss: RegressionLoss | None, run: Run) -> None:
        self.attributes = data.attributes

        def objective(x: Tensor, y: Tensor) -> Tensor:
            predicted = self.semantics(x)
            classes = F.cross_entropy(self._cosines(predicted, data.seen), y)
            value: Tensor = self.config.classification_weight * classes
            if loss is not None:
                value = value + self.config.regression_weight * loss(predicted, data.attributes[y], y)
            return value

        fit(self, objective, data, loss, run)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:
        return self._cosines(self.semantics(x), classes)

    def _cosines(self, predicted: Tensor, classes: Tensor) -> Tensor:
        attributes = F.normalize(self.attributes[classes], dim=1)
        return self.config.scale * F.normalize(predicted, dim=1) @ attributes.T
