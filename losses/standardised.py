"""Squared errors in units of each semantic's own variance: a control of what errors are measured in."""

import torch
from pydantic import Field
from torch import Tensor

from benchmark.api import LossConfig
from benchmark.registries import LOSSES
from losses._common import Scale, StaticallyWeighted, scaled


@LOSSES.register(
    "standardised",
    title="Standardised MSE",
    family="control",
    year=2026,
    source="this suite's own: regression of standardised targets, with a ridge on their variances",
)
class Standardised(StaticallyWeighted):
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

    def weigh(self, values: Tensor, images: Tensor) -> Tensor:
        """(A,) the weights of the semantics; all are 1 where no semantic varies."""
        shares = images / images.sum()
        variances = (shares * (values - (shares * values).sum(0)).square()).sum(0)
        spread = variances + self.config.eps * variances.mean()
        return scaled(torch.where(spread > 0, 1 / spread, 1), self.config.scale)
