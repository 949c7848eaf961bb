"""Mean absolute error."""

import torch
from torch import Tensor

from benchmark.api import RegressionLoss
from losses import LOSSES
from losses._common import SMALLEST_ERROR, errors


@LOSSES.register(
    "mae",
    title="MAE",
    family="plain",
    year=1757,
    source="least absolute deviations: Boscovich, 1757",
)
class MAE(RegressionLoss):
    """mean over i, k of |p_ik - t_ik|, with gradient 0 where they are equal."""

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """The mean absolute error of (B, A) predictions."""
        return errors(predicted, target, self.config.normalize).abs().mean()

    @torch.no_grad()
    def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """(B, A) weights 1 / (2 max(|e|, 1e-5)) of iteratively re-weighted least squares."""
        return 0.5 / errors(predicted, target, self.config.normalize).abs().clamp_min(SMALLEST_ERROR)
