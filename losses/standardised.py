"""Squared errors in units of each semantic's own variance: a control of what errors are measured in."""

import torch
from pydantic import Field
from torch import Tensor

from benchmark.api import LossConfig, RegressionLoss
from benchmark.registries import LOSSES
from losses._common import Scale, as_compared, errors, prepared, scaled


@LOSSES.register(
    "standardised",
    title="Standardised MSE",
    family="control",
    year=2026,
    source="this suite's own: regression of standardised targets, with a ridge on their variances",
)
class Standardised(RegressionLoss):
    """mean over i, k of w_k e_ik^2 with static w_k = 1 / (v_k + eps * mean of v), v_k the variance of semantic k.

    The variance is that over training images of the semantics as they are compared. If semantics of large variance err
    most merely because they vary most, this removes it, and knows no errors: what ReMSE gains, this gains too then.
    """

    class Config(LossConfig):
        """Settings.

        Attributes:
            eps: what is added to each variance, as a share of their mean. Without it the 5 % of CUB's semantics that
                vary least would have 65 % of the weight; with 0.1 the largest weight is 3.3 (3.2 on SUN, 4.7 on AWA2).
            scale: ``raw``, or ``mean_one``: w is divided by its mean over semantics.
        """

        eps: float = Field(0.1, gt=0)
        scale: Scale = "mean_one"

    config: Config
    semantic_weights: Tensor | None

    def __init__(self, n_classes: int, n_attributes: int, config: Config) -> None:
        super().__init__(n_classes, n_attributes, config)
        # Not persistent: it follows from the training set, for which `prepare` is called anyway.
        self.register_buffer("semantic_weights", None, persistent=False)

    @torch.no_grad()
    def prepare(self, attributes: Tensor, counts: Tensor) -> None:
        """Compute the (A,) weights from the (n_classes, A) attributes and (n_classes,) image counts.

        All are 1 where no semantic varies.
        """
        values = as_compared(attributes, self.config.normalize)
        images = counts.to(values.dtype)[:, None]
        shares = images / images.sum()
        variances = (shares * (values - (shares * values).sum(0)).square()).sum(0)
        spread = variances + self.config.eps * variances.mean()
        self.semantic_weights = scaled(torch.where(spread > 0, 1 / spread, 1), self.config.scale)

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """The weighted squared error of (B, A) predictions.

        Raises:
            RuntimeError: ``prepare`` was not called.
        """
        error = errors(predicted, target, self.config.normalize)
        return (self.weights(predicted, target, labels) * error.square()).mean()

    def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """(B, A) the weights of the semantics, whatever is predicted; raises as ``forward`` does."""
        return prepared(self.semantic_weights, "standardised").expand_as(predicted)
