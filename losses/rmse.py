"""Root mean squared error, in the two meanings that the literature gives it."""

import math
from typing import Literal

import torch
from torch import Tensor

from benchmark.api import LossConfig, RegressionLoss
from benchmark.registries import LOSSES
from losses._common import SMALLEST_ERROR, errors, smooth_abs


@LOSSES.register(
    "rmse",
    title="RMSE",
    family="plain",
    year=2023,
    source="reduction=batch: the root of mse; reduction=element: 'RMSE' in the code of Ye et al., arXiv 2210.07031",
)
class RMSE(RegressionLoss):
    """``batch``: sqrt(mean over i, k of e_ik^2), with gradient 0 at 0; ``element``: mean of sqrt(e_ik^2 + 1e-10)."""

    class Config(LossConfig):
        """Settings.

        Attributes:
            reduction: take the root of the ``batch``'s mean, or of each ``element`` (a smooth absolute error).
        """

        reduction: Literal["batch", "element"] = "batch"

    config: Config

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """The root mean squared error of (B, A) predictions."""
        error = errors(predicted, target, self.config.normalize)
        if self.config.reduction == "element":
            return smooth_abs(error).mean()
        return _root_mean_square(error)

    @torch.no_grad()
    def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """(B, A) weights 1 / (2 max(loss, 1e-5)) for ``batch``, 1 / (2 sqrt(e^2 + 1e-10)) for ``element``."""
        error = errors(predicted, target, self.config.normalize)
        if self.config.reduction == "element":
            return 0.5 / smooth_abs(error)
        return (0.5 / _root_mean_square(error).clamp_min(SMALLEST_ERROR)).expand_as(error)


def _root_mean_square(error: Tensor) -> Tensor:
    # The gradient of a vector's norm is defined as 0 at 0, that of sqrt is not.
    norm: Tensor = torch.linalg.vector_norm(error)
    return norm / math.sqrt(error.numel())
