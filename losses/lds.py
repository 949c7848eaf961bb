"""Label Distribution Smoothing: rare attribute values count more."""

import torch
from pydantic import Field, field_validator
from torch import Tensor

from benchmark.api import LossConfig, RegressionLoss
from benchmark.registries import LOSSES
from losses._common import errors, unit_rows, upcast


@LOSSES.register(
    "lds",
    title="LDS",
    family="re-weighted",
    year=2021,
    source="Yang et al., Delving into Deep Imbalanced Regression, ICML 2021, arXiv 2102.09554",
)
class LDS(RegressionLoss):
    """mean over i, k of w[y_i,k] (p_ik - t_ik)^2 with static weights, inverse to the density of attribute values.

    For each semantic k: training images are counted in equal bins between the smallest and the largest attribute, the
    square roots of the counts are smoothed by a Gaussian over bins, and w[c,k] is the inverse at the bin of class c's
    attribute, scaled to mean 1 over training images.
    """

    class Config(LossConfig):
        """Settings.

        Attributes:
            bins: the number of bins between the smallest and the largest attribute.
            kernel_size: the width of the smoothing kernel in bins; odd.
            sigma: the standard deviation of the kernel in bins.
        """

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
    class_weights: Tensor | None

    def __init__(self, n_classes: int, n_attributes: int, config: Config) -> None:
        super().__init__(n_classes, n_attributes, config)
        # Not persistent: it follows from the training set, for which `prepare` is called anyway.
        self.register_buffer("class_weights", None, persistent=False)

    @torch.no_grad()
    def prepare(self, attributes: Tensor, counts: Tensor) -> None:
        """Compute the (n_classes, A) weights from the (n_classes, A) attributes and (n_classes,) image counts."""
        values = unit_rows(upcast(attributes)) if self.config.normalize else upcast(attributes)
        images = counts.to(values.dtype)[:, None].expand_as(values)
        lowest, highest = values.aminmax(dim=0)
        width = torch.where(highest > lowest, (highest - lowest) / self.config.bins, 1)
        bins = ((values - lowest) / width).long().clamp_max(self.config.bins - 1)
        counted = values.new_zeros(self.config.bins, values.shape[1]).scatter_add(0, bins, images)
        # The kernel is 1 in its middle, so a bin of one image has a density of at least 1, and so get empty ones.
        density = self._smooth(counted.sqrt()).clamp_min(1)
        weights = 1 / density.gather(0, bins)
        self.class_weights = weights * images.sum(0) / (weights * images).sum(0)

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        """The weighted squared error of (B, A) predictions.

        Raises:
            RuntimeError: ``prepare`` was not called.
        """
        error = errors(predicted, target, self.config.normalize)
        return (self.weights(predicted, target, labels) * error.square()).mean()

    def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """(B, A) weights of the classes ``labels``, whatever the prediction; raises as ``forward`` does."""
        if self.class_weights is None:
            raise RuntimeError("loss lds: prepare(attributes, counts) must be called before the loss is used")
        return self.class_weights[labels]

    def _smooth(self, counts: Tensor) -> Tensor:
        """(bins, A) counts, convolved over bins with the kernel; beyond the ends there is nothing."""
        half = self.config.kernel_size // 2
        offsets = torch.arange(-half, half + 1, dtype=counts.dtype, device=counts.device)
        kernel = torch.exp(-0.5 * (offsets / self.config.sigma) ** 2)
        padded = torch.nn.functional.pad(counts, (0, 0, half, half))
        return (padded.unfold(0, self.config.kernel_size, 1) * kernel).sum(-1)
