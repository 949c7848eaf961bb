"""Balanced MSE, in its batch-based Monte-Carlo form (BMC)."""

import math
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import LossConfig, RegressionLoss
from benchmark.registries import LOSSES
from losses._common import comparable


@LOSSES.register(
    "balanced-mse",
    title="Balanced MSE (BMC)",
    family="re-weighted",
    year=2022,
    source="Ren et al., Balanced MSE for Imbalanced Visual Regression, CVPR 2022, arXiv 2203.16427",
)
class BalancedMSE(RegressionLoss):
    """2 s^2 / A * cross entropy of logits -||p_i - t_c||^2 / (2 s^2) over the classes c of the batch, with s learnt.

    Departures from the paper, made for class-level attributes:

    - One target a class, each of the same weight: as many targets as images would make images of the same class each
      other's negatives. A batch of a single class therefore has loss 0.
    - Division by A puts the loss on the scale of MSE, so that one regression weight suits both; the noise s is learnt
      with the undivided gradient, as published.
    - log s is learnt instead of s, which keeps s positive.
    """

    class Config(LossConfig):
        """Settings.

        Attributes:
            noise: the initial s, on the scale of an attribute's error (published: 1 for ages).
            noise_lr: the learning rate of log s.
        """

        noise: float = Field(0.1, gt=0)
        noise_lr: float = Field(0.01, ge=0)

    config: Config

    def __init__(self, n_classes: int, n_attributes: int, config: Config) -> None:
        super().__init__(n_classes, n_attributes, config)
        self.log_noise = nn.Parameter(torch.tensor(math.log(config.noise)))

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """The balanced loss of (B, A) predictions; gradients reach ``log_noise``."""
        predicted, target = comparable(predicted, target, self.config.normalize)
        n_attributes = predicted.shape[1]
        first = (labels[:, None] == labels).int().argmax(dim=1)  # of each image, the batch's first of its class
        repeated = first != torch.arange(len(labels), device=labels.device)
        log_noise = self.log_noise + (n_attributes - 1) * (self.log_noise - self.log_noise.detach())
        doubled_variance = 2 * torch.exp(2 * log_noise)
        # Not a product of matrices: autocast would compute that in half precision, where the differences cancel.
        logits = -torch.cdist(predicted, target).square() / doubled_variance
        balanced = F.cross_entropy(logits.masked_fill(repeated, -torch.inf), first)
        return doubled_variance.detach() / n_attributes * balanced

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The noise, with its own learning rate and no weight decay."""
        return [{"params": [self.log_noise], "lr": self.config.noise_lr, "weight_decay": 0.0}]
