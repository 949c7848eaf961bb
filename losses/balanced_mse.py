"""Balanced MSE: with the label distribution of the batch (BMC), or with that of the training set (BNI)."""

import math
from typing import Any, Literal

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import LossConfig, RegressionLoss
from benchmark.registries import LOSSES
from losses._common import as_compared, comparable, prepared


@LOSSES.register(
    "balanced-mse",
    title="Balanced MSE",
    family="re-weighted",
    year=2022,
    source="Ren et al., Balanced MSE for Imbalanced Visual Regression, CVPR 2022, arXiv 2203.16427",
)
class BalancedMSE(RegressionLoss):
    """2 s^2 / A * (ln sum_c pi_c exp(-||p_i - t_c||^2 / (2 s^2)) + ||p_i - t_y||^2 / (2 s^2)), with s learnt.

    The classes c are those of the batch, each with pi_c = 1 (the batch-based Monte-Carlo form, BMC: a cross entropy),
    or with ``prior: training`` all seen classes with their shares pi_c of the training images (BNI, whose buckets of
    labels are exact here). BMC knows nothing of these shares; BNI tells classes apart in a batch of one class too.

    It is a softmax over distances rather than a regression: once the right class wins, the gradient vanishes however
    far p is. There is no least-squares form.

    Departures from the paper, made for class-level attributes:

    - One target a class in BMC, each of the same weight: as many targets as images would make images of the same class
      each other's negatives. A batch of a single class therefore has loss 0.
    - Division by A puts the loss on the scale of MSE, so that one regression weight suits both; the noise s is learnt
      with the undivided gradient, as published.
    - log s is learnt instead of s, which keeps s positive.
    """

    class Config(LossConfig):
        """Settings.

        Attributes:
            noise: the initial s, on the scale of an attribute's error (published: 1 for ages).
            noise_lr: the learning rate of log s.
            prior: the classes to tell apart: those of the ``batch``, or of the ``training`` set, with their shares.
            per: of ``training``: tell classes apart by the whole ``image``'s semantics, or by each ``semantic`` alone,
                and take the mean over semantics; that makes a number for each image, class and semantic.
        """

        noise: float = Field(0.1, gt=0)
        noise_lr: float = Field(0.01, ge=0)
        # Left out of the settings at their defaults, so that results from before them keep their keys.
        prior: Literal["batch", "training"] = Field("batch", exclude_if=lambda prior: prior == "batch")
        per: Literal["image", "semantic"] = Field("image", exclude_if=lambda per: per == "image")

        @field_validator("per")
        @classmethod
        def _needs_the_training_prior(cls, value: str, info: ValidationInfo) -> str:
            if value == "semantic" and info.data.get("prior") == "batch":
                raise ValueError("'image' unless prior=training")
            return value

    config: Config
    classes: Tensor | None
    log_shares: Tensor | None

    def __init__(self, n_classes: int, n_attributes: int, config: Config) -> None:
        super().__init__(n_classes, n_attributes, config)
        self.log_noise = nn.Parameter(torch.tensor(math.log(config.noise)))
        # Not persistent: they follow from the training set, for which `prepare` is called anyway.
        self.register_buffer("classes", None, persistent=False)
        self.register_buffer("log_shares", None, persistent=False)

    @torch.no_grad()
    def prepare(self, attributes: Tensor, counts: Tensor) -> None:
        """Keep the (n_classes, A) attributes as they are compared, and the log of the classes' shares of images."""
        self.classes = as_compared(attributes, self.config.normalize)
        images = counts.to(self.classes.dtype)
        self.log_shares = (images / images.sum()).log()

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """The balanced loss of (B, A) predictions; gradients reach ``log_noise``.

        Raises:
            RuntimeError: ``prior`` is ``training`` and ``prepare`` was not called.
        """
        predicted, target = comparable(predicted, target, self.config.normalize)
        log_noise = self.log_noise + (self.n_attributes - 1) * (self.log_noise - self.log_noise.detach())
        doubled_variance = 2 * torch.exp(2 * log_noise)
        if self.config.prior == "batch":
            balanced = self._among_the_batch(predicted, target, labels, doubled_variance)
        else:
            balanced = self._among_all(predicted, labels, doubled_variance)
        return doubled_variance.detach() / self.n_attributes * balanced

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The noise, with its own learning rate and no weight decay."""
        return [{"params": [self.log_noise], "lr": self.config.noise_lr, "weight_decay": 0.0}]

    def _among_the_batch(self, predicted: Tensor, target: Tensor, labels: Tensor, doubled_variance: Tensor) -> Tensor:
        first = (labels[:, None] == labels).int().argmax(dim=1)  # of each image, the batch's first of its class
        repeated = first != torch.arange(len(labels), device=labels.device)
        # Not a product of matrices: autocast would compute that in half precision, where the differences cancel.
        logits = -torch.cdist(predicted, target).square() / doubled_variance
        return F.cross_entropy(logits.masked_fill(repeated, -torch.inf), first)

    def _among_all(self, predicted: Tensor, labels: Tensor, doubled_variance: Tensor) -> Tensor:
        classes = prepared(self.classes).to(predicted.dtype)
        log_shares = prepared(self.log_shares).to(predicted.dtype)
        if self.config.per == "image":
            logits = -torch.cdist(predicted, classes).square() / doubled_variance
            own = logits.gather(1, labels[:, None])
            return ((logits + log_shares).logsumexp(1, keepdim=True) - own).mean()
        logits = -(predicted[:, None] - classes).square() / doubled_variance
        own = logits.gather(1, labels[:, None, None].expand_as(logits[:, :1]))
        return ((logits + log_shares[:, None]).logsumexp(1, keepdim=True) - own).mean(0).sum()
