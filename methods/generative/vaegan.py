"""f-VAEGAN-D2: a conditional variational autoencoder whose decoder is the generator of a Wasserstein GAN."""

from __future__ import annotations

import functools

import torch
from pydantic import Field
from torch import Tensor

from benchmark.api import Meta, RegressionLoss, Run, TrainData
from benchmark.train import descend
from methods import METHODS
from methods.generative._adversarial import AdversarialConfig, Adversary, Critic
from methods.generative._blocks import FeatureGenerator, Output, adam
from methods.generative._synthesis import CycleConfig, GenerativeMethod, Step, cycle_term
from methods.generative._variational import GaussianEncoder, reconstruct, reconstruction_error
from methods.layers import linear


@METHODS.register(
    "vaegan",
    title="f-VAEGAN-D2",
    family="generative",
    year=2019,
    source="Xian et al., f-VAEGAN-D2: A Feature Generating Framework, CVPR 2019, arXiv 1903.10132",
)
class VAEGAN(GenerativeMethod):
    """Encoder E, generator G and critic D share the features x of a class with attributes a.

    E and G minimise reconstruction + KL - adversarial_weight * mean D(G(z, a), a), z from E(x, a); D is the Wasserstein
    critic between x and those reconstructions (inductive: the critic of unlabelled unseen images, the D2, is left
    out). Synthesis draws z from N(0, 1).

    The published method regresses no attributes. With a loss, it gets a linear regressor in a cycle (see
    ``cycle_term``) over the reconstructions of the batch: a re-weighted loss sees the seen classes that the batch
    holds. Departure from public code: the penalty's weight is fixed. There it is adapted towards a gradient norm that
    a good critic never has, and decays to nothing.
    """

    class Config(AdversarialConfig, CycleConfig):
        """Settings.

        Attributes:
            adversarial_weight: of the critic's judgement in the generator's objective.
        """

        output: Output = "sigmoid"
        adversarial_weight: float = Field(10.0, ge=0)

    def __init__(self, meta: Meta, config: Config, generator: torch.Generator) -> None:
        super().__init__(meta, config, generator)
        d, a = meta.n_features, meta.n_attributes
        self.encoder = GaussianEncoder([d + a, config.hidden, a], generator)
        self.generator = FeatureGenerator(a, a, config.hidden, d, config.output, generator)
        self.critic = Critic(d, a, config.hidden, generator)
        self.regressor = linear(d, a, generator)

    def prepare(self, data: TrainData, loss: RegressionLoss | None, run: Run) -> Step:  # noqa: D102
        config, noise = self.config, run.generator("noise")
        self._regresses = loss is not None
        cycle = cycle_term(self.regressor, loss, data, config, run) if loss else None
        adversary = Adversary(self.critic, config, noise)
        rebuild = functools.partial(reconstruct, self.encoder, self.generator, noise=noise)
        optimizer = adam(config.lr, self.encoder, self.generator)

        def step(x: Tensor, y: Tensor, epoch: int) -> dict[str, Tensor]:  # noqa: ARG001
            attributes = data.attributes[y]
            critic = adversary.train(x, attributes, lambda: rebuild(x, attributes)[0])
            fake, divergence = rebuild(x, attributes)
            autoencoder = reconstruction_error(fake, x, config.output) + divergence
            value = autoencoder + config.adversarial_weight * adversary.value(fake, attributes)
            if cycle:
                value = value + cycle(fake, y)
            return {"critic": critic, "autoencoder": autoencoder.detach(), "generator": descend(value, optimizer)}

        return step
