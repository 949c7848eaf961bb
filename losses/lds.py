"""Label Distribution Smoothing: rare attribute values count more."""

from typing import Literal

import torch
from pydantic import Field, field_validator
from torch import Tensor

from benchmark.api import LossConfig
from benchmark.registries import LOSSES
from losses._common import StaticallyWeighted


@LOSSES.register(
    "lds",
    title="LDS",
    family="re-weighted",
    year=2021,
    source="Yang et al., Delving into Deep Imbalanced Regression, ICML 2021, arXiv 2102.09554",
)
class LDS(StaticallyWeighted):
    """mean over i, k of w[y_i,k] (p_ik - t_ik)^2 with static weights, the larger the rarer an attribute's value is.

    For each semantic k: training images are counted in equal bins between the smallest and the largest attribute, the
    square roots of the counts are smoothed by a Gaussian over bins, and w[c,k] is the inverse at the bin of class c's
    attribute, scaled to mean 1 over training images. ``kind`` has two other relations of weight and density.
    """

    class Config(LossConfig):
        """Settings.

        Attributes:
            kind: ``sqrt_inv``; ``inverse``: the counts themselves, clipped to 5 and 1000 before they are smoothed (Yang
                et al.'s other choice); ``dense``: 1 - alpha p, 1e-6 at least, with p the kernel density of the values,
                1 at most (DenseWeight: Steininger et al., Density-based weighting for imbalanced regression, Machine
                Learning 2021). Its kernel is a Gaussian of Silverman's bandwidth, 1.06 sd n^(-1/5), for which n is the
                number of seen classes, as images of a class share their value; the largest density is that over the
                bins' edges.
            alpha: of ``dense``, how much density counts. At its published 1, values of the densest region, and with
                them most absent attributes, have next to no weight.
            bins: the number of bins between the smallest and the largest attribute.
            kernel_size: the width of the smoothing kernel in bins; odd.
            sigma: the standard deviation of the kernel in bins.
        """

        # Left out of the settings at their defaults, so that results from before them keep their keys.
        kind: Literal["sqrt_inv", "inverse", "dense"] = Field("sqrt_inv", exclude_if=lambda kind: kind == "sqrt_inv")
        alpha: float = Field(0.5, ge=0, exclude_if=lambda alpha: alpha == 0.5)
        bins: int = Field(50, ge=1)
        kernel_size: int = Field(5, ge=1)
        sigma: float = Field(2.0, gt=0)

        @field_validator("kernel_size")
        @classmethod
        def _odd(cls, value: int) -> int:
            if value % 2 == 0:
                raise ValueError("odd")
            return value

    config: Config

    def weigh(self, values: Tensor, images: Tensor) -> Tensor:
        """(n_classes, A) the weights of the classes' attribute values."""
        images = images.expand_as(values)
        if self.config.kind == "dense":
            weights = (1 - self.config.alpha * self._kernel_density(values, images)).clamp_min(1e-6)
        else:
            weights = 1 / self._binned_density(values, images)
        return weights * images.sum(0) / (weights * images).sum(0)

    def _binned_density(self, values: Tensor, images: Tensor) -> Tensor:
        """(n_classes, A) the smoothed counts of images in the bins of the classes' ``values``."""
        lowest, highest = values.aminmax(dim=0)
        width = torch.where(highest > lowest, (highest - lowest) / self.config.bins, 1)
        bins = ((values - lowest) / width).long().clamp_max(self.config.bins - 1)
        counted = values.new_zeros(self.config.bins, values.shape[1]).scatter_add(0, bins, images)
        counted = counted.sqrt() if self.config.kind == "sqrt_inv" else counted.clamp(5, 1000)
        # The kernel is 1 in its middle, so a bin of one image has a density of at least 1, and so get empty ones.
        return self._smooth(counted).clamp_min(1).gather(0, bins)

    def _kernel_density(self, values: Tensor, images: Tensor) -> Tensor:
        """(n_classes, A) the kernel density of images at the classes' ``values``, as a share of the largest."""
        shares = images / images.sum(0)
        deviation = (shares * (values - (shares * values).sum(0)).square()).sum(0).sqrt()
        n_seen = (images[:, 0] > 0).to(values.dtype).sum()
        lowest, highest = values.aminmax(dim=0)
        bandwidth = torch.where(deviation > 0, 1.06 * deviation * n_seen**-0.2, 1)

        def density(at: Tensor) -> Tensor:
            distances = (at[:, None] - values) / bandwidth
            return (shares * torch.exp(-0.5 * distances.square())).sum(1)

        steps = torch.arange(self.config.bins + 1, dtype=values.dtype, device=values.device) / self.config.bins
        largest = density(lowest + steps[:, None] * (highest - lowest)).amax(0)
        return (density(values) / largest).clamp_max(1)

    def _smooth(self, counts: Tensor) -> Tensor:
        """(bins, A) counts, convolved over bins with the kernel; beyond the ends there is nothing."""
        half = self.config.kernel_size // 2
        offsets = torch.arange(-half, half + 1, dtype=counts.dtype, device=counts.device)
        kernel = torch.exp(-0.5 * (offsets / self.config.sigma) ** 2)
        padded = torch.nn.functional.pad(counts, (0, 0, half, half))
        return (padded.unfold(0, self.config.kernel_size, 1) * kernel).sum(-1)
