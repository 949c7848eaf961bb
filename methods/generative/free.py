"""FREE: f-VAEGAN-D2 whose features are refined, so that the classes come apart and attributes can be read."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import Meta, RegressionLoss, Run, TrainData
from benchmark.train import descend
from methods import METHODS
from methods.generative._adversarial import AdversarialConfig, Adversary, Critic
from methods.generative._blocks import FeatureGenerator, Output, adam, self_weighted_error
from methods.generative._synthesis import GenerativeMethod, Step
from methods.generative._variational import GaussianEncoder, reconstruct, reconstruction_error
from methods.layers import linear


class FeatureRefinement(nn.Module):
    """FR: (B, D) features to codes (B, A) with a noise of its own making, and attributes in (0, 1) read from them."""

    def __init__(self, n_features: int, hidden: int, n_attributes: int, generator: torch.Generator) -> None:
        super().__init__()
        self.first = linear(n_features, hidden, generator, std=0.02)
        self.last = linear(hidden, 2 * n_attributes, generator, std=0.02)

    def hidden(self, x: Tensor) -> Tensor:
        """(B, hidden)."""
        return F.leaky_relu(self.first(x), 0.2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(B, A) mean and (B, A) standard deviation of the code."""
        mean, spread = self.last(self.hidden(x)).chunk(2, dim=1)
        return mean, torch.sigmoid(spread)


@METHODS.register(
    "free",
    title="FREE",
    family="generative",
    year=2021,
    source="Chen et al., FREE: Feature Refinement for Generalized Zero-Shot Learning, ICCV 2021, arXiv 2107.13807",
)
class FREE(GenerativeMethod):
    """f-VAEGAN-D2 plus feature refinement FR, trained on real and on reconstructed features.

    FR minimises, with squared distances d between the means of its codes and learnt centres of the seen classes,

        0.5 * mean max(0, margin + balance d(mean, c_y) - (1 - balance) d(mean, c_y')) + w * error(attributes)

    (self-adaptive margin centre loss, y' another class); the generator minimises the error of the attributes that FR
    reads from its reconstructions, weighted by w. The classifiers take features, FR's hidden layer and its attributes.

    Those attributes, the sigmoid of the code, are the attribute-regression slot, on real and on reconstructed
    features. ``none`` is the published self-weighted error; a loss takes its place in both, and sees the classes of
    the batch, of which reconstructions are. Departures from public code: codes carry their noise in training and not
    in synthesis or at test; y' = y is never drawn; the penalty's weight is fixed (see ``vaegan``).
    """

    class Config(AdversarialConfig):
        """Settings; the defaults are those of the authors' CUB script.

        Attributes:
            adversarial_weight: of the critic's judgement in the generator's objective.
            margin: between own and other centre, a squared distance.
            balance: weight of the distance to the own centre, against that to the other one.
            other: the other class: drawn at random, or that of the nearest other centre.
        """

        output: Output = "sigmoid"
        adversarial_weight: float = Field(10.0, ge=0)
        margin: float = Field(200.0, ge=0)
        balance: float = Field(0.8, ge=0, le=1)
        other: Literal["random", "nearest"] = "random"

    def __init__(self, meta: Meta, config: Config, generator: torch.Generator) -> None:
        d, a, hidden = meta.n_features, meta.n_attributes, config.hidden
        super().__init__(meta, config, generator, n_represented=d + hidden + a)
        self.encoder = GaussianEncoder([d + a, hidden, a], generator)
        self.generator = FeatureGenerator(a, a, hidden, d, config.output, generator)
        self.critic = Critic(d, a, hidden, generator)
        self.refinement = FeatureRefinement(d, hidden, a, generator)
        self.centres = nn.Parameter(torch.randn(meta.n_seen, a, generator=generator))

    def prepare(self, data: TrainData, loss: RegressionLoss | None, run: Run) -> Step:  # noqa: D102
        config, noise = self.config, run.generator("noise")
        adversary = Adversary(self.critic, config, noise)
        rebuild = functools.partial(reconstruct, self.encoder, self.generator, noise=noise)
        generator = adam(config.lr, self.encoder, self.generator)
        groups = [{"params": [self.centres]}, *(loss.parameter_groups() if loss else [])]
        refinement = adam(config.lr, self.refinement, groups=groups)

        def regression(mean: Tensor, spread: Tensor, attributes: Tensor, y: Tensor) -> Tensor:
            """The weighted error of the attributes that are read from a code."""
            code = mean + spread * torch.randn(mean.shape, generator=noise, device=mean.device)
            predicted = torch.sigmoid(code)
            error = loss(predicted, attributes, y) if loss else self_weighted_error(predicted, attributes)
            return config.regression_weight * error

        def step(x: Tensor, y: Tensor, epoch: int) -> dict[str, Tensor]:  # noqa: ARG001
            attributes = data.attributes[y]
            mean, spread = self.refinement(x)
            refined = regression(mean, spread, attributes, y) + 0.5 * self._centre_loss(mean, y, noise)
            refined = descend(refined, refinement)
            critic = adversary.train(x, attributes, lambda: rebuild(x, attributes)[0])
            fake, divergence = rebuild(x, attributes)
            autoencoder = reconstruction_error(fake, x, config.output) + divergence
            value = autoencoder + config.adversarial_weight * adversary.value(fake, attributes)
            mean, spread = self.refinement(fake)
            value = value + regression(mean, spread, attributes, y)
            return {
                "critic": critic,
                "autoencoder": autoencoder.detach(),
                "generator": descend(value, generator, refinement),
                "refinement": refined,
            }

        return step

    def represent(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.cat([x, self.refinement.hidden(x), self.regress(x)], dim=1)

    def regress(self, x: Tensor) -> Tensor:  # noqa: D102
        return torch.sigmoid(self.refinement(x)[0])

    def _centre_loss(self, codes: Tensor, y: Tensor, noise: torch.Generator) -> Tensor:
        if len(self.centres) == 1:
            return torch.zeros((), device=codes.device)
        distances = torch.cdist(codes, self.centres).square()
        own = distances.gather(1, y[:, None])
        if self.config.other == "nearest":
            other = distances.scatter(1, y[:, None], torch.inf).amin(1, keepdim=True)
        else:
            shift = torch.randint(1, len(self.centres), y.shape, generator=noise, device=y.device)
            other = distances.gather(1, ((y + shift) % len(self.centres))[:, None])
        balance = self.config.balance
        return F.relu(self.config.margin + balance * own - (1 - balance) * other).mean()
