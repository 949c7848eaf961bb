"""The self-weighted error of TF-VAEGAN: within an image, semantics count by their own error."""

import torch
from torch import Tensor

from benchmark.api import LossConfig, RegressionLoss
from benchmark.registries import LOSSES
from benchmark.toolkit.self_weighted import self_weighted_error
from losses._common import Scale, comparable, errors, mean_weight, scaled


@LOSSES.register(
    "self-weighted",
    title="Self-weighted",
    family="re-weighted",
    year=2020,
    source="Narayan et al., Latent Embedding Feedback and Discriminative Features, ECCV 2020, arXiv 2003.07833",
)
class SelfWeighted(RegressionLoss):
    """mean over i of sum_k |e_ik|^3 / ||e_i||: the mean over i, k of W_ik e_ik^2 with W_ik = A |e_ik| / ||e_i||.

    It re-weighs by the errors of the image alone, without statistics of classes: what does as much as ReMSE does needs
    none. For normal errors its value is 1.6 sqrt(A) times that of MSE (28 on CUB), whatever their size: beside ``mse``
    it is also a larger regression weight unless ``scale`` is ``mean_one``.

    As published, the gradient flows through W. It then pushes the smallest errors of an image away from 0 (40 % of
    them where errors are normal), so that no weights of squared errors have this gradient, and closed forms refuse it.
    """

    class Config(LossConfig):
        """Settings.

        Attributes:
            detach: hold W constant in the gradient; then there is a least-squares form.
            scale: ``raw``, as published, or ``mean_one``: W is divided by its mean over the batch.
        """

        detach: bool = False
        scale: Scale = "raw"

    config: Config

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # noqa: ARG002
        """The self-weighted error of (B, A) predictions; 0 for an image without error."""
        predicted, target = comparable(predicted, target, self.config.normalize)
        if self.config.detach:
            error = predicted - target
            return (scaled(_own_weights(error), self.config.scale) * error.square()).mean()
        value = self_weighted_error(predicted, target)
        return value if self.config.scale == "raw" else value / mean_weight(_own_weights(predicted - target))

    def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor | None:  # noqa: ARG002
        """(B, A) weights W, or None unless ``detach`` is on."""
        if not self.config.detach:
            return None
        return scaled(_own_weights(errors(predicted, target, self.config.normalize)), self.config.scale)


@torch.no_grad()
def _own_weights(error: Tensor) -> Tensor:
    """(B, A) A |e_ik| / ||e_i||."""
    norms: Tensor = torch.linalg.vector_norm(error, dim=1, keepdim=True)
    return error.shape[1] * error.abs() / norms.clamp_min(1e-10)
