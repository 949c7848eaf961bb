"""CADA-VAE: two aligned variational autoencoders, of features and of attributes, whose codes are classified."""

from __future__ import annotations

from typing import Annotated, ClassVar

import torch
from pydantic import AfterValidator, Field
from torch import Tensor

from benchmark.api import Meta, Rules, Run, Slot, TrainData
from benchmark.registries import METHODS
from benchmark.toolkit import descend
from methods.generative._blocks import adam, mlp
from methods.generative._synthesis import GenerativeConfig, GenerativeMethod, Round
from methods.generative._variational import Deviation, Gaussian, GaussianEncoder, Noise, kl_divergence, sample


def _ascending(epochs: tuple[int, int]) -> tuple[int, int]:
    if not 0 <= epochs[0] <= epochs[1]:
        raise ValueError("two epochs, the first not after the last")
    return epochs


#: The epochs, counted from 0, between which a weight grows from 0 to its value.
WarmUp = Annotated[tuple[int, int], AfterValidator(_ascending)]


@METHODS.register(
    "cadavae",
    title="CADA-VAE",
    family="generative",
    year=2019,
    source="Schönfeld et al., Generalized Zero- and Few-Shot Learning via Aligned VAEs, CVPR 2019, arXiv 1812.01784",
)
class CADAVAE(GenerativeMethod):
    """A VAE of features x and one of attributes a share a latent space; unseen classes are codes of their attributes.

    Minimised, with codes z_x and z_a and absolute errors summed over dimensions:

        |x - x(z_x)| + |a - a(z_a)| + cross_weight (|x - x(z_a)| + |a - a(z_x)|) + divergence_weight (KL_x + KL_a)
        + alignment_weight * 2-Wasserstein distance of the two codes' Gaussians

    with weights that grow over the first epochs (eq. 3 to 7). The classifiers take codes: drawn for real images of seen
    classes, drawn from the attributes of unseen classes, and the mean code of an image that is scored.

    Both errors of attributes are the attribute-regression slot; that of a(z_x), read from an image, is the one that
    the imbalance is measured on. ``none`` is the published absolute error; a loss takes its place in both. Codes of
    the batch's classes only are decoded: they are all that a re-weighted loss sees.

    Ours against the release (edgarschnfld/CADA-VAE-PyTorch):

    | item | release | here | effect |
    | --- | --- | --- | --- |
    | noise of a code | one number for all dimensions | ``noise``: the same, or one each | below |
    | its scale | exp(log-variance) | ``deviation``: the same, or the root | below |
    | log-variances | free | within -10 and 10 | not measured |
    | layers | ReLU, Xavier with gain 0.5 | LeakyReLU 0.2, N(0, 0.02) | not measured |
    | attributes as networks take them | unit norm | ``condition``: the same, or standardised | below |
    | batches | each drawn anew | passes over all images | not measured |
    | codes of seen classes | first images of a class, repeated | images drawn at random | not measured |

    On CUB50 (literature protocol, published widths, 30 epochs, no loss), T1, U, S, H and AUSUC are 64.2, 40.3, 78.2,
    53.2 and 51.5 in the released way; with the root 65.2, 46.2, 75.3, 57.3 and 51.0; with the root and independent
    noise 64.0, 21.4, 80.0, 33.8 and 43.8. The release itself has 66.1, 40.3, 77.9 and 53.1.

    Standardised attributes, which ``small`` takes, against unit norm (validation AUSUC, mse, one seed): CUB50 55.4 and
    57.9, CUB2010 30.7 and 31.9, cub-sim 29.7 and 27.0, AWA1 7.7 and 7.8; 800 classes of 1,000 semantics at random, 86
    and 0.
    """

    class Config(GenerativeConfig):
        """Settings; the defaults are those of the authors, for all data sets.

        Attributes:
            latent: dimensions of a code.
            noise: the dimensions of a code share one number of noise (``shared``, as released), or have one each.
            deviation: noise is scaled by the exponential of the log-variance (``exp``, as released), or by its root,
                the Gaussian's deviation.
            feature_encoder_hidden: units of the hidden layer of the features' encoder.
            feature_decoder_hidden: units of the hidden layer of the features' decoder.
            attribute_encoder_hidden: units of the hidden layer of the attributes' encoder.
            attribute_decoder_hidden: units of the hidden layer of the attributes' decoder.
            cross_weight: the weight of what is decoded from the other's code.
            divergence_weight: the weight of the divergence from N(0, 1).
            alignment_weight: the weight of the distance of the codes' Gaussians.
            cross_epochs: the epochs between which ``cross_weight`` grows.
            divergence_epochs: the epochs between which ``divergence_weight`` grows.
            alignment_epochs: the epochs between which ``alignment_weight`` grows.
            n_seen_codes: codes drawn for each seen class to train the GZSL classifier.
        """

        rules: ClassVar[Rules] = {
            **GenerativeConfig.rules,
            "cross_epochs": lambda _, config: _share(config, 0.21, 0.75),
            "divergence_epochs": lambda _, config: _share(config, 0.0, 0.93),
            "alignment_epochs": lambda _, config: _share(config, 0.06, 0.22),
            "divergence_weight": lambda facts, _: 0.25 * facts.n_features / 2048,
        }

        lr: float = Field(1.5e-4, gt=0)
        epochs: int = Field(100, ge=1)
        batch_size: int = Field(50, ge=2)
        n_generated: int = Field(400, ge=1)
        classifier_batch_size: int = Field(32, ge=1)
        latent: int = Field(64, ge=1)
        noise: Noise = "shared"
        deviation: Deviation = "exp"
        feature_encoder_hidden: int = Field(1560, ge=1)
        feature_decoder_hidden: int = Field(1660, ge=1)
        attribute_encoder_hidden: int = Field(1450, ge=1)
        attribute_decoder_hidden: int = Field(665, ge=1)
        cross_weight: float = Field(2.37, ge=0)
        divergence_weight: float = Field(0.25, ge=0)
        alignment_weight: float = Field(8.13, ge=0)
        cross_epochs: WarmUp = (21, 75)
        divergence_epochs: WarmUp = (0, 93)
        alignment_epochs: WarmUp = (6, 22)
        n_seen_codes: int = Field(200, ge=1)

        @property
        def code_size(self) -> int:  # noqa: D102
            return self.latent

    config: Config

    def __init__(self, meta: Meta, config: Config, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng, n_represented=config.code_size)
        d, a, z = meta.n_features, meta.n_attributes, config.latent
        self.feature_encoder = GaussianEncoder([d, config.feature_encoder_hidden, z], rng)
        self.feature_decoder = mlp([z, config.feature_decoder_hidden, d], rng)
        self.attribute_encoder = GaussianEncoder([a, config.attribute_encoder_hidden, z], rng)
        self.attribute_decoder = mlp([z, config.attribute_decoder_hidden, a], rng)

    def prepare(self, data: TrainData, slot: Slot, run: Run) -> Round:  # noqa: D102
        config, noise = self.config, run.rng("noise")
        slot = slot.or_else(_absolute, weight=1.0)
        networks = self.feature_encoder, self.feature_decoder, self.attribute_encoder, self.attribute_decoder
        optimiser = adam(config.lr, *networks, groups=slot.parameter_groups(), betas=(0.9, 0.999))
        optimiser.param_groups[0]["amsgrad"] = True

        def step(x: Tensor, y: Tensor, epoch: int) -> dict[str, Tensor]:
            attributes = data.attributes[y]
            of_x, of_a = self.feature_encoder(x), self.attribute_encoder(attributes)
            z_x, z_a = self._draw(of_x, noise), self._draw(of_a, noise)
            own = _absolute(self.feature_decoder(z_x), x) + slot(self.attribute_decoder(z_a), y)
            regression = slot(self.attribute_decoder(z_x), y)
            crossed = _absolute(self.feature_decoder(z_a), x) + regression
            divergence = kl_divergence(of_x) + kl_divergence(of_a)
            value = own + _grown(config.cross_weight, config.cross_epochs, epoch) * crossed
            value = value + _grown(config.divergence_weight, config.divergence_epochs, epoch) * divergence
            alignment = wasserstein(of_x, of_a)
            value = value + _grown(config.alignment_weight, config.alignment_epochs, epoch) * alignment
            noted = {"own": own, "crossed": crossed, "regression": regression, "alignment": alignment}
            return {name: term.detach() for name, term in noted.items()} | {"objective": descend(value, optimiser)}

        return Round(step)

    def generate(self, attributes: Tensor, rng: torch.Generator) -> Tensor:  # noqa: D102
        features: Tensor = self.feature_decoder(self._draw(self.attribute_encoder(attributes), rng))
        return features

    def represent(self, x: Tensor) -> Tensor:  # noqa: D102
        mean: Tensor = self.feature_encoder(x)[0]
        return mean

    def semantics(self, x: Tensor) -> Tensor:  # noqa: D102
        attributes: Tensor = self.attribute_decoder(self.represent(x))
        return attributes

    def unseen_data(self, data: TrainData, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(M, Z) codes and (M,) labels of unseen classes, from their attributes."""
        labels = data.unseen.repeat_interleave(self.config.n_generated)
        return self._draw(self.attribute_encoder(data.attributes[labels]), rng), labels

    def seen_data(self, data: TrainData, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(M, Z) codes and (M,) labels: as many for each seen class, of its images, drawn with replacement."""
        counts = data.class_counts
        share = torch.rand(data.n_seen, self.config.n_seen_codes, generator=rng, device=counts.device)
        places = (counts.cumsum(0) - counts)[:, None] + (share * counts[:, None]).long()
        images = data.labels.argsort(stable=True)[places.flatten()]
        return self._draw(self.feature_encoder(data.features[images]), rng), data.labels[images]

    def _draw(self, gaussian: Gaussian, rng: torch.Generator) -> Tensor:
        """(B, Z) codes of Gaussians."""
        return sample(gaussian, rng, self.config.noise, self.config.deviation)


def wasserstein(a: Gaussian, b: Gaussian) -> Tensor:
    """Mean 2-Wasserstein distance of pairs of diagonal Gaussians, each as (B, Z) mean and log-variance (eq. 6)."""
    (mean_a, log_a), (mean_b, log_b) = a, b
    spread = (0.5 * log_a).exp() - (0.5 * log_b).exp()
    # Its root has no gradient at 0.
    return ((mean_a - mean_b).square() + spread.square()).sum(1).clamp_min(1e-12).sqrt().mean()


def _absolute(predicted: Tensor, target: Tensor) -> Tensor:
    return (predicted - target).abs().sum(1).mean()


def _share(config: CADAVAE.Config, first: float, last: float) -> WarmUp:
    """The same share of the epochs as the published warm-ups have of 100."""
    return round(first * config.epochs), max(1, round(last * config.epochs))


def _grown(weight: float, epochs: WarmUp, epoch: int) -> float:
    """The weight in an epoch (from 1): 0 up to the first of ``epochs``, whole from the last on, a line between."""
    first, last = epochs
    if epoch - 1 >= last:
        return weight
    return weight * max(0.0, (epoch - 1 - first) / (last - first))
