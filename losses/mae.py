"""Mean absolute error."""

import torch
from torch import Tensor

from benchmark.api import RegressionLoss
from benchmark.registries import LOSSES
from losses._common import errors

#: Below this error the weights stop growing. Unit-norm attributes err by about 0.05.
SMALLEST_ERROR = 5e-3


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
        """(B, A) weights 1 / (2 max(|e|, 5e-3)) of iteratively re-weighted least squares.

        They are those of Huber's loss with that threshold: without one, a few errors near 0 would outweigh all others.
        """
        return 0.5 / errors(predicted, target, self.config.normalize).abs().clamp_min(SMALLEST_ERROR)
