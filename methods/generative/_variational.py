"""What the methods with a variational autoencoder share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import Meta
from benchmark.config import Config
from methods.generative._adversarial import Adversary, Critic, CriticSettings, gan
from methods.generative._blocks import FeatureGenerator, Output, adam, mlp

#: (B, Z) means and (B, Z) log-variances of diagonal Gaussians.
Gaussian = tuple[Tensor, Tensor]
#: (B, D) features and (B, A) attributes to (B, D) reconstructions with fresh noise, and the mean divergence of codes.
Rebuild = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
#: Whether the dimensions of a code have one number of noise in common, or one each.
Noise = Literal["shared", "independent"]
#: What noise is scaled by: the exponential of the log-variance, or its root, which is the Gaussian's deviation.
Deviation = Literal["exp", "root"]


class AutoencoderSettings(Config):
    """Settings of f-VAEGAN-D2 and of the methods that grew from it, beside those of their critic.

    They stand before ``CriticSettings`` among the bases of a method's settings, so that it is their ``output`` that
    is the default.

    Attributes:
        output: what the generator's features look like; scaled to [0, 1], they are compared by cross-entropy.
        adversarial_weight: the weight of the critic's judgement in the generator's objective.
        encoder_depth: hidden layers of the encoder: 2, the second of twice the code's size (TF-VAEGAN's release), or 1.
        encoder_beta1: the encoder's beta1 of Adam; that of the generator is 0.5.
    """

    output: Output = "sigmoid"
    adversarial_weight: float = Field(10.0, ge=0)
    encoder_depth: Literal[1, 2] = 2
    encoder_beta1: float = Field(0.9, ge=0, lt=1)


class GaussianEncoder(nn.Module):
    """E: inputs to the mean and the log-variance of a Gaussian over (B, Z) codes.

    Args:
        sizes: the sizes of the layers, from the inputs to Z.
        rng: the source of the initial weights.
    """

    #: Log-variances are clamped to this range: its ends are standard deviations of 0.007 and 148.
    RANGE = (-10.0, 10.0)

    def __init__(self, sizes: list[int], rng: torch.Generator) -> None:
        super().__init__()
        self.net = mlp([*sizes[:-1], 2 * sizes[-1]], rng)

    def forward(self, *inputs: Tensor) -> Gaussian:
        """The Gaussian of each row, for inputs that are concatenated, (B, ...) each."""
        mean, log_variance = self.net(torch.cat(inputs, dim=1)).chunk(2, dim=1)
        return mean, log_variance.clamp(*self.RANGE)

    def draw(self, *inputs: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B, Z) a code drawn for each input, and the mean divergence of the codes from N(0, 1)."""
        gaussian = self(*inputs)
        return sample(gaussian, rng), kl_divergence(gaussian)


def sample(
    gaussian: Gaussian, rng: torch.Generator, noise: Noise = "independent", deviation: Deviation = "root"
) -> Tensor:
    """(B, Z) codes of Gaussians, differentiable in their parameters."""
    mean, log_variance = gaussian
    n_numbers = 1 if noise == "shared" else mean.shape[1]
    numbers = torch.randn(len(mean), n_numbers, generator=rng, device=mean.device, dtype=mean.dtype)
    return mean + (log_variance if deviation == "exp" else 0.5 * log_variance).exp() * numbers


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
    code, divergence = encoder.draw(x, attributes, rng=noise)
    return generator(code, attributes), divergence


def feature_encoder(meta: Meta, hidden: int, depth: int, rng: torch.Generator) -> GaussianEncoder:
    """E of f-VAEGAN-D2: features and attributes to codes, with as many dimensions as attributes.

    Args:
        meta: the sizes of both.
        hidden: units of the first hidden layer.
        depth: hidden layers, 1 or 2; see ``AutoencoderSettings``.
        rng: the source of the initial weights.
    """
    d, a = meta.n_features, meta.n_attributes
    return GaussianEncoder([d + a, hidden, *[2 * a] * (depth - 1), a], rng)


def autoencoding_gan(
    meta: Meta, settings: CriticSettings, encoder_depth: int, rng: torch.Generator
) -> tuple[GaussianEncoder, FeatureGenerator, Critic]:
    """The encoder, the generator and the critic of f-VAEGAN-D2; a code has as many dimensions as the attributes."""
    encoder = feature_encoder(meta, settings.hidden, encoder_depth, rng)
    generator, critic = gan(meta, settings, rng)
    return encoder, generator, critic


def autoencoder_adam(
    lr: float, encoder: GaussianEncoder, generator: FeatureGenerator, settings: AutoencoderSettings, *others: nn.Module
) -> torch.optim.Adam:
    """The optimiser of both, with the encoder's own beta1, and of ``others`` that learn as the generator does."""
    of_encoder = {"params": list(encoder.parameters()), "betas": (settings.encoder_beta1, 0.999)}
    return adam(lr, generator, *others, groups=[of_encoder])


def autoencode(
    x: Tensor,
    attributes: Tensor,
    rebuild: Rebuild,
    adversary: Adversary,
    settings: AutoencoderSettings,
) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """What f-VAEGAN-D2's encoder and generator learn from.

    Args:
        x: (B, D) real features.
        attributes: (B, A) those of their classes.
        rebuild: reconstructs features with fresh noise.
        adversary: judges.
        settings: how features are compared, and the weight of the judgement.

    Returns:
        (B, D) reconstructions, the scalar that encoder and generator minimise, and what there is to log.
    """
    fake, divergence = rebuild(x, attributes)
    autoencoder = reconstruction_error(fake, x, settings.output) + divergence
    value = autoencoder + settings.adversarial_weight * adversary.value(fake, attributes)
    return fake, value, {"autoencoder": autoencoder.detach()}
