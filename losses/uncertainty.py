"""Uncertainty weighting: each semantic counts by the inverse of a variance that is learnt."""

from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.api import LossConfig, RegressionLoss
from benchmark.registries import LOSSES
from losses._common import SMALLEST_ERROR, Scale, errors, scaled

#: Relative to their geometric mean, weights of ``mean_one`` are at most this and at least its inverse.
LARGEST_WEIGHT = 20.0


@LOSSES.register(
    "uncertainty",
    title="Uncertainty weighting",
    family="re-weighted",
    year=2018,
    source="Kendall et al., Multi-Task Learning Using Uncertainty to Weigh Losses, CVPR 2018, arXiv 1705.07115",
)
class Uncertainty(RegressionLoss):
    """mean over k of L_k / (2 exp(s_k)) + s_k / 2, with L_k the mean squared error of semantic k and s_k learnt.

    Where s is optimal, exp(s_k) = L_k: what errs most counts least, the opposite of ReMSE's direction. s starts at the
    log of the first batch's L_k (1e-10 at least); from 0, where tasks of other papers start, it would take thousands of
    steps.

    With ``mean_one`` the weights exp(-s_k), divided by their mean and held constant, train the method, and a term of
    value 0 has the gradient for s: sum_k (L_k exp(-s_k) + s_k) / 2 with L_k held constant. The weights are kept within
    20 times and a 20th of their geometric mean, lest a semantic that is the same for all classes, whose error vanishes,
    takes all the weight. Normal logs of L_k with a standard deviation of 0.7 have weights of 0.09 to 10, which stay.
    """

    class Config(LossConfig):
        """Settings.

        Attributes:
            scale: ``raw``, as published, or ``mean_one``. Raw weights are about 1 / (2 L_k): 200 for errors of 0.05.
            variance_lr: the learning rate of s, the log of the variance.
        """

        scale: Scale = "mean_one"
        variance_lr: float = Field(0.01, ge=0)

    config: Config
    started: Tensor

    def __init__(self, n_classes: int, n_attributes: int, config: Config) -> None:
        super().__init__(n_classes, n_attributes, config)
        self.log_variance = nn.Parameter(torch.zeros(n_attributes))
        self.register_buffer("started", torch.zeros((), dtype=torch.bool))

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """The weighted squared error of (B, A) predictions; gradients reach ``log_variance``."""
        losses = errors(predicted, target, self.config.normalize).square().mean(0)
        known = self._known(losses.detach())
        if self.training:
            with torch.no_grad():
                self.log_variance.copy_(known)
                self.started.fill_(True)
        # The value is that of ``known``, the gradient goes to the parameter.
        log_variance = known + (self.log_variance - self.log_variance.detach())
        if self.config.scale == "raw":
            return (losses / (2 * log_variance.exp()) + log_variance / 2).mean()
        own = (losses.detach() * torch.exp(-log_variance) + log_variance).sum() / 2
        return (self._semantic_weights(known) * losses).mean() + own - own.detach()

    @torch.no_grad()
    def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """(B, A) the weights of the semantics, the same for all images.

        Before the first step of training, and so in closed forms, s is the log of the present L_k.
        """
        squared = errors(predicted, target, self.config.normalize).square()
        return self._semantic_weights(self._known(squared.mean(0))).expand_as(squared)

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The log-variances, with their own learning rate and no weight decay."""
        return [{"params": [self.log_variance], "lr": self.config.variance_lr, "weight_decay": 0.0}]

    @torch.no_grad()
    def _known(self, losses: Tensor) -> Tensor:
        """(A,) s as learnt so far, or where it starts."""
        start = losses.clamp_min(SMALLEST_ERROR**2).log()
        return torch.where(self.started, self.log_variance.to(losses.dtype), start)

    def _semantic_weights(self, log_variance: Tensor) -> Tensor:
        if self.config.scale == "raw":
            return torch.exp(-log_variance) / 2
        relative = torch.exp(log_variance.mean() - log_variance)
        return scaled(relative.clamp(1 / LARGEST_WEIGHT, LARGEST_WEIGHT), self.config.scale)
