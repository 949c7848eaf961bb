"""What the attribute regressors that classify by cosine share."""

from __future__ import annotations

from abc import abstractmethod

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import Meta, Method, MethodConfig, Run, Slot, TrainData
from benchmark.config import Config
from benchmark.toolkit import minimise


class CosineSettings(Config):
    """Settings of classification by cosine.

    Attributes:
        scale: the factor of the cosines inside the cross-entropy.
        classification_weight: the weight of the cross-entropy; 0 leaves pure attribute regression.
    """

    scale: float = Field(20.0, gt=0)
    classification_weight: float = Field(1.0, ge=0)


class CosineClassifier(Method):
    """v(x) is trained by CE(scale * cos(v, attributes of seen classes), y) + lambda * regression(v, a_y).

    Args:
        meta: see ``Method``.
        config: a ``GradientConfig`` that is a ``CosineSettings`` too.
        rng: see ``Method``.
    """

    def __init__(self, meta: Meta, config: MethodConfig, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        assert isinstance(config, CosineSettings)
        self._cosine: CosineSettings = config

    @abstractmethod
    def semantics(self, x: Tensor) -> Tensor:
        """(B, A) v(x)."""

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        self.attributes = data.attributes

        def objective(x: Tensor, y: Tensor) -> Tensor:
            predicted = self.semantics(x)
            classes = F.cross_entropy(self._cosines(predicted, data.seen), y)
            return self._cosine.classification_weight * classes + slot(predicted, y)

        minimise(self, objective, data, slot, run)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:
        return self._cosines(self.semantics(x), classes)

    def _cosines(self, predicted: Tensor, classes: Tensor) -> Tensor:
        attributes = F.normalize(self.attributes[classes], dim=1)
        return self._cosine.scale * F.normalize(predicted, dim=1) @ attributes.T
