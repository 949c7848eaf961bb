"""What the attribute regressors that classify by cosine share."""

from __future__ import annotations

from abc import abstractmethod
from typing import Protocol, cast

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import Meta, Method, MethodConfig, Run, Slot, TrainData
from benchmark.config import Config
from benchmark.toolkit import minimise
from methods._cosine import cosines


class RegressorSettings(Config):
    """Settings of the attribute regressors that classify by cosine.

    Attributes:
        classification_weight: the weight of the cross-entropy; 0 leaves pure attribute regression.
    """

    classification_weight: float = Field(1.0, ge=0)


class _Settings(Protocol):
    """What ``CosineClassifier`` needs to be set: ``CosineSettings`` and ``RegressorSettings`` in one."""

    scale: float
    classification_weight: float


class CosineClassifier(Method):
    """v(x) is trained by CE(scale * cos(v, attributes of seen classes), y) + lambda * regression(v, a_y).

    Args:
        meta: see ``Method``.
        config: a ``GradientConfig`` that is a ``CosineSettings`` and a ``RegressorSettings`` too.
        rng: see ``Method``.
    """

    def __init__(self, meta: Meta, config: MethodConfig, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        self._settings = cast(_Settings, config)

    @abstractmethod
    def semantics(self, x: Tensor) -> Tensor:
        """(B, A) v(x)."""

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        self.attributes = data.attributes

        def objective(x: Tensor, y: Tensor) -> Tensor:
            predicted = self.semantics(x)
            classes = F.cross_entropy(self._cosines(predicted, data.seen), y)
            return self._settings.classification_weight * classes + slot(predicted, y)

        minimise(self, objective, data, slot, run)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:
        return self._cosines(self.semantics(x), classes)

    def _cosines(self, predicted: Tensor, classes: Tensor) -> Tensor:
        return cosines(predicted, self.attributes[classes], self._settings.scale)
