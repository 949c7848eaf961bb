"""Focal-R: large errors count more."""

import torch
from pydantic import Field
from torch import Tensor

from benchmark.api import LossConfig, RegressionLoss
from benchmark.registries import LOSSES
from losses._common import errors


@LOSSES.register(
    "focal",
    title="Focal-R",
    family="re-weighted",
    year=2021,
    source="Yang et al., Delving into Deep Imbalanced Regression, ICML 2021, arXiv 2102.09554",
)
class FocalR(RegressionLoss):
    """mean over i, k of f(e_ik) e_ik^2 / mean(f), with f(e) = (2 sigmoid(beta |e|) - 1)^gamma.

    The sigmoid is computed as its equal tanh(beta |e| / 2)^gamma.

    As published, the gradient flows through f. The division by f's mean over the batch (held constant) is ours: it
    keeps the loss on the scale of MSE, so that one regression weight suits both.
    """

    class Config(LossConfig):
        """Settings.

        Attributes:
            beta: inverse of the error at which f saturates. Published as 0.2 for ages, with errors of about 10 years;
                the default suits unit-norm attributes, with errors of about 0.05.
            gamma: exponent of f; 0 is MSE.
        """

        beta: float = Field(20.0, gt=0)
        gamma: float = Field(1.0, ge=0)

    config: Config

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """The focal loss of (B, A) predictions."""
        error = errors(predicted, target, self.config.normalize)
        return (self._factors(error) * error.square()).mean()

    @torch.no_grad()
    def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """(B, A) weights (f + |e| f' / 2) / mean(f), the second part being that of the gradient through f."""
        error = errors(predicted, target, self.config.normalize)
        u = error.abs() * (self.config.beta / 2)
        slope = self.config.gamma * (1 - torch.tanh(u).square()) * torch.where(u > 0, u / torch.tanh(u), 1)
        return self._factors(error) * (1 + slope / 2)

    def _factors(self, error: Tensor) -> Tensor:
        tiny = torch.finfo(error.dtype).tiny  # instead of 0, where a power below 1 has an infinite slope
        f = torch.tanh(error.abs() * (self.config.beta / 2)).clamp_min(tiny) ** self.config.gamma
        return f / f.detach().mean().clamp_min(tiny)
