"""What the methods with a variational autoencoder share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from methods.generative._blocks import FeatureGenerator, Output, mlp

#: (B, Z) means and (B, Z) log-variances of diagonal Gaussians.
Gaussian = tuple[Tensor, Tensor]


class GaussianEncoder(nn.Module):
    """E: inputs to the mean and the log-variance of a Gaussian over (B, Z) codes.

    Args:
        sizes: of the layers, from the inputs to Z.
        generator: of the initial weights.
    """

    #: Log-variances are clamped to this range: its ends are standard deviations of 0.007 and 148.
    RANGE = (-10.0, 10.0)

    def __init__(self, sizes: list[int], generator: torch.Generator) -> None:
        super().__init__()
        self.net = mlp([*sizes[:-1], 2 * sizes[-1]], generator)

    def forward(self, *inputs: Tensor) -> Gaussian:
        """The Gaussian of each row, for inputs that are concatenated, (B, ...) each."""
        mean, log_variance = self.net(torch.cat(inputs, dim=1)).chunk(2, dim=1)
        return mean, log_variance.clamp(*self.RANGE)

    def draw(self, *inputs: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B, Z) a code drawn for each input, and the mean divergence of the codes from N(0, 1)."""
        gaussian = self(*inputs)
        return sample(gaussian, generator), kl_divergence(gaussian)


def sample(gaussian: Gaussian, generator: torch.Generator) -> Tensor:
    """(B, Z) codes of Gaussians, differentiable in their parameters."""
    mean, log_variance = gaussian
    noise = torch.randn(mean.shape, generator=generator, device=mean.device, dtype=mean.dtype)
    return mean + (0.5 * log_variance).exp() * noise


def kl_divergence(gaussian: Gaussian) -> Tensor:
    """KL(N(mean, variance) || N(0, 1)), summed over the code and averaged over the batch of (B, Z)."""
    mean, log_variance = gaussian
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()


def reconstruction_error(reconstructed: Tensor, x: Tensor, output: Output) -> Tensor:
    """Negative log-likelihood of (B, D) features, summed over D and averaged over the batch.

    Cross-entropy for features in [0, 1] (``sigmoid``), as in the VAE-GAN line; else half the squared error, which is a
    Gaussian of unit variance. Unclipped test features may lie outside [0, 1]; training features do not.
    """
    if output == "sigmoid":
        with torch.autocast(x.device.type, enabled=False):
            return F.binary_cross_entropy(reconstructed.to(x.dtype), x.clamp(0, 1), reduction="none").sum(1).mean()
    return 0.5 * (reconstructed - x).square().sum(1).mean()


def reconstruct(
    encoder: GaussianEncoder, generator: FeatureGenerator, x: Tensor, attributes: Tensor, noise: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(B, D) features decoded from a code drawn for (B, D) features and (B, A) attributes, and its divergence."""
    code, divergence = encoder.draw(x, attributes, generator=noise)
    return generator(code, attributes), divergence
