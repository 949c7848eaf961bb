"""TF-VAEGAN: f-VAEGAN-D2 with a semantic decoder, which feeds back into the generator and into the classifier."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import Meta, RegressionLoss, Run, TrainData
from benchmark.train import descend
from methods import METHODS
from methods.generative._adversarial import AdversarialConfig, Adversary, Critic
from methods.generative._blocks import FeatureGenerator, Output, adam, mlp, self_weighted_error
from methods.generative._synthesis import GenerativeMethod, Step
from methods.generative._variational import GaussianEncoder, reconstruction_error
from methods.layers import linear


class SemanticDecoder(nn.Module):
    """Dec: (B, D) features to (B, A) attributes of unit norm, through a hidden layer that others read."""

    def __init__(self, n_features: int, hidden: int, n_attributes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = linear(n_features, hidden, generator, std=0.02)
        self.last = linear(hidden, n_attributes, generator, std=0.02)

    def hidden(self, x: Tensor) -> Tensor:
        """(B, hidden)."""
        return F.leaky_relu(self.first(x), 0.2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, A)."""
        return F.normalize(self.last(self.hidden(x)), dim=1)


@METHODS.register(
    "tfvaegan",
    title="TF-VAEGAN",
    family="generative",
    year=2020,
    source="Narayan et al., Latent Embedding Feedback and Discriminative Features, ECCV 2020, arXiv 2003.07833",
)
class TFVAEGAN(GenerativeMethod):
    """f-VAEGAN-D2 plus a semantic decoder Dec and a feedback network F.

    Dec learns attributes from real features, and the generator and (unless ``freeze_decoder``) Dec from reconstructed
    ones. In every other epoch the generator runs twice: F turns Dec's hidden layer for the first output into an
    addition to the generator's hidden layer for the second; F is trained then. Synthesis always runs twice. The
    classifiers take features, Dec's hidden layer and its attributes.

    Dec is the attribute-regression slot, on real and on reconstructed features. ``none`` is the published
    self-weighted error (``self_weighted_error``); a loss takes its place in both, and sees the classes of the batch, of
    which reconstructions are. Departures from public code: the penalty's weight is fixed (see ``vaegan``), and Dec
    takes one step on real features a batch, not one for each step of the critic.
    """

    class Config(AdversarialConfig):
        """Settings; the defaults are those of the authors' CUB script.

        Attributes:
            adversarial_weight: of the critic's judgement in the generator's objective.
            feedback_weight: of the feedback in training.
            synthesis_feedback_weight: of the feedback in synthesis.
            feedback_lr: learning rate of F.
            decoder_lr: learning rate of Dec.
            freeze_decoder: Dec learns from real features alone.
        """

        output: Output = "sigmoid"
        adversarial_weight: float = Field(10.0, ge=0)
        feedback_weight: float = Field(1.0, ge=0)
        synthesis_feedback_weight: float = Field(1.0, ge=0)
        feedback_lr: float = Field(1e-5, gt=0)
        decoder_lr: float = Field(1e-4, gt=0)
        freeze_decoder: bool = False

    def __init__(self, meta: Meta, config: Config, generator: torch.Generator) -> None:
        d, a, hidden = meta.n_features, meta.n_attributes, config.hidden
        super().__init__(meta, config, generator, n_represented=d + hidden + a)
        self.encoder = GaussianEncoder([d + a, hidden, a], generator)
        self.generator = FeatureGenerator(a, a, hidden, d, config.output, generator)
        self.critic = Critic(d, a, hidden, generator)
        self.decoder = SemanticDecoder(d, hidden, a, generator)
        self.feedback = mlp([hidden, hidden, hidden], generator)

    def prepare(self, data: TrainData, loss: RegressionLoss | None, run: Run) -> Step:  # noqa: D102
        config, noise = self.config, run.generator("noise")
        adversary = Adversary(self.critic, config, noise)
        generator = adam(config.lr, self.encoder, self.generator)
        decoder = adam(config.decoder_lr, self.decoder, groups=loss.parameter_groups() if loss else [])
        feedback = adam(config.feedback_lr, self.feedback)

        def error(x: Tensor, attributes: Tensor, y: Tensor) -> Tensor:
            predicted = self.decoder(x)
            return loss(predicted, attributes, y) if loss else self_weighted_error(predicted, attributes)

        def reconstruct(x: Tensor, attributes: Tensor, weight: float) -> tuple[Tensor, Tensor]:
            """The reconstruction, and the divergence of its code."""
            code, divergence = self.encoder.draw(x, attributes, generator=noise)
            return self._generate(code, attributes, weight), divergence

        def step(x: Tensor, y: Tensor, epoch: int) -> dict[str, Tensor]:
            attributes = data.attributes[y]
            weight = config.feedback_weight if epoch % 2 == 0 else 0.0
            regression = descend(error(x, attributes, y), decoder)
            critic = adversary.train(x, attributes, lambda: reconstruct(x, attributes, weight)[0])
            fake, divergence = reconstruct(x, attributes, weight)
            autoencoder = reconstruction_error(fake, x, config.output) + divergence
            value = autoencoder + config.adversarial_weight * adversary.value(fake, attributes)
            value = value + config.regression_weight * error(fake, attributes, y)
            learners = [generator, *([] if config.freeze_decoder else [decoder]), *([feedback] if weight else [])]
            return {
                "critic": critic,
                "autoencoder": autoencoder.detach(),
                "generator": descend(value, *learners),
                "regression": regression,
            }

        return step

    def generate(self, attributes: Tensor, generator: torch.Generator) -> Tensor:  # noqa: D102
        noise = self.generator.draw(attributes, generator)
        return self._generate(noise, attributes, self.config.synthesis_feedback_weight)

    def represent(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.cat([x, self.decoder.hidden(x), self.decoder(x)], dim=1)

    def regress(self, x: Tensor) -> Tensor:  # noqa: D102
        attributes: Tensor = self.decoder(x)
        return attributes

    def _generate(self, code: Tensor, attributes: Tensor, weight: float) -> Tensor:
        """(B, D) features for (B, Z) codes; from the second run where the feedback has a ``weight``."""
        features: Tensor = self.generator(code, attributes)
        if not weight:
            return features
        hidden = self.decoder.hidden(features).detach()
        second: Tensor = self.generator(code, attributes, weight * self.feedback(hidden))
        return second
