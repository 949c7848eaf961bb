"""What losses share: how predictions and targets are compared, how weights are scaled, and weights that are static."""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import Tensor

from benchmark.api import LossConfig, RegressionLoss

#: Smallest error that the weights of absolute-error losses divide by; unit-norm attributes err by about 0.05.
SMALLEST_ERROR = 1e-5
#: ``mean_one`` divides weights by their mean over the batch, so that a loss is not also a larger regression weight.
Scale = Literal["raw", "mean_one"]


def upcast(x: Tensor) -> Tensor:
    """``x`` in float32 where it was narrower; float64 stays."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def unit_rows(x: Tensor) -> Tensor:
    """(B, A) rows u / (||u||_2 + 1e-10).

    A row of zeros stays zero and gets no gradient: the formula's own, 1e10, would overflow half precision.
    """
    norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return x * torch.where(norm > 0, 1 / (norm + 1e-10), 0)


def as_compared(rows: Tensor, normalize: bool) -> Tensor:
    """(B, A) ``rows`` as they are compared: in float32 at least, of unit norm where asked."""
    return unit_rows(upcast(rows)) if normalize else upcast(rows)


def comparable(predicted: Tensor, target: Tensor, normalize: bool) -> tuple[Tensor, Tensor]:
    """(B, A) predictions and targets as they are compared."""
    return as_compared(predicted, normalize), as_compared(target, normalize)


def errors(predicted: Tensor, target: Tensor, normalize: bool) -> Tensor:
    """(B, A) differences of comparable predictions and targets."""
    predicted, target = comparable(predicted, target, normalize)
    return predicted - target


def smooth_abs(error: Tensor) -> Tensor:
    """sqrt(e^2 + 1e-10) of each ``error``, which has a gradient at 0 too."""
    return (error.square() + SMALLEST_ERROR**2).sqrt()


def mean_weight(weights: Tensor) -> Tensor:
    """The scalar mean of ``weights`` to divide by; 1 where they are all 0."""
    mean = weights.mean()
    return torch.where(mean > 0, mean, 1)


def scaled(weights: Tensor, scale: Scale) -> Tensor:
    """The ``weights`` as they are, or divided by their mean."""
    return weights if scale == "raw" else weights / mean_weight(weights)


def prepared(value: Tensor | None) -> Tensor:
    """What a loss has learnt from the training set.

    Raises:
        RuntimeError: ``prepare`` was not called.
    """
    if value is None:
        raise RuntimeError("prepare(attributes, counts) must be called before the loss is used")
    return value


class StaticallyWeighted(RegressionLoss):
    """mean over i, k of w[y_i,k] (p_ik - t_ik)^2 with weights that follow from attributes and image counts."""

    static_weights: Tensor | None

    def __init__(self, n_classes: int, n_attributes: int, config: LossConfig) -> None:
        super().__init__(n_classes, n_attributes, config)
        # Not persistent: it follows from the training set, for which `prepare` is called anyway.
        self.register_buffer("static_weights", None, persistent=False)

    @abstractmethod
    def weigh(self, values: Tensor, images: Tensor) -> Tensor:
        """(n_classes, A) weights, or ones that can be expanded to them.

        Args:
            values: (n_classes, A) attributes as they are compared.
            images: (n_classes, 1) training images of the classes.
        """

    @torch.no_grad()
    def prepare(self, attributes: Tensor, counts: Tensor) -> None:
        """Compute the weights from the (n_classes, A) attributes and (n_classes,) image counts."""
        values = as_compared(attributes, self.config.normalize)
        self.static_weights = self.weigh(values, counts.to(values.dtype)[:, None]).expand_as(values)

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """The weighted squared error of (B, A) predictions.

        Raises:
            RuntimeError: ``prepare`` was not called.
        """
        error = errors(predicted, target, self.config.normalize)
        return (self.weights(predicted, target, labels) * error.square()).mean()

    def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """(B, A) weights of the classes ``labels``, whatever the prediction; raises as ``forward`` does."""
        return prepared(self.static_weights)[labels]
