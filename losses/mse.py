"""Mean squared error."""

import torch
from torch import Tensor

from benchmark.api import RegressionLoss
from benchmark.registries import LOSSES
from losses._common import errors, upcast


@LOSSES.register(
    "mse",
    title="MSE",
    family="plain",
    year=1805,
    source="least squares: Legendre, Nouvelles méthodes pour la détermination des orbites des comètes, 1805",
    reference=True,
)
class MSE(RegressionLoss):
    """mean over i, k of (p_ik - t_ik)^2."""

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """The mean squared error of (B, A) predictions."""
        return errors(predicted, target, self.config.normalize).square().mean()

    def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """(B, A) ones."""
        return torch.ones_like(upcast(predicted.detach()))
