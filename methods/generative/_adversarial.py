"""The Wasserstein critic with gradient penalty that the adversarial methods share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import Run, TrainData
from benchmark.train import descend
from methods.generative._blocks import Output, adam, mlp
from methods.generative._synthesis import CycleConfig, GenerativeConfig, GenerativeMethod, Step


class AdversarialConfig(GenerativeConfig):
    """Settings of the methods whose generator a critic judges.

    Attributes:
        hidden: units of the hidden layer of every network.
        output: of the generator: ``relu`` for features of a network that ends in a ReLU, ``sigmoid`` for features
            scaled to [0, 1], ``linear`` for features of either sign.
        critic_steps: critic updates for each generator update.
        penalty_weight: of the gradient penalty.
    """

    hidden: int = Field(4096, ge=1)
    output: Output = "relu"
    critic_steps: int = Field(5, ge=1)
    penalty_weight: float = Field(10.0, ge=0)


class Critic(nn.Module):
    """D: (B, D) features and (B, A) attributes to (B, 1), higher for real ones; one hidden layer."""

    def __init__(self, n_features: int, n_attributes: int, hidden: int, generator: torch.Generator) -> None:
        super().__init__()
        self.net = mlp([n_features + n_attributes, hidden, 1], generator)

    def forward(self, x: Tensor, attributes: Tensor) -> Tensor:
        """(B, 1) the criticism."""
        value: Tensor = self.net(torch.cat([x, attributes], dim=1))
        return value

    def objective(
        self, real: Tensor, fake: Tensor, attributes: Tensor, penalty_weight: float, generator: torch.Generator
    ) -> Tensor:
        """What the critic minimises: mean D(fake) - mean D(real) + the weighted gradient penalty.

        Args:
            real: (B, D) features.
            fake: (B, D) features, detached.
            attributes: (B, A) the condition of both.
            penalty_weight: of the penalty, 10 as a rule.
            generator: draws the places where the gradient is penalised.
        """
        mix = torch.rand(len(real), 1, generator=generator, device=real.device)
        penalty = gradient_penalty(self, real, fake, attributes, mix)
        return self(fake, attributes).mean() - self(real, attributes).mean() + penalty_weight * penalty


def gradient_penalty(
    critic: Callable[[Tensor, Tensor], Tensor], real: Tensor, fake: Tensor, attributes: Tensor, mix: Tensor
) -> Tensor:
    """Mean squared deviation from 1 of the critic's gradient norm, between real and fake features.

    Source: Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017, arXiv 1704.00028, eq. 3.

    Args:
        critic: (features (B, D), attributes (B, A)) -> (B, 1).
        real: (B, D) features.
        fake: (B, D) features, detached.
        attributes: (B, A) the condition of both.
        mix: (B, 1) uniform in [0, 1], the share of ``real``.
    """
    between = (mix * real + (1 - mix) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(critic(between, attributes).sum(), between, create_graph=True)
    return ((gradient.norm(dim=1) - 1) ** 2).mean()


class Adversary:
    """Trains a critic against a generator.

    Args:
        critic: whose parameters are trained.
        config: settings.
        generator: draws the places where the gradient is penalised.
    """

    def __init__(self, critic: Critic, config: AdversarialConfig, generator: torch.Generator) -> None:
        self._critic = critic
        self._config = config
        self._generator = generator
        self._optimizer = adam(config.lr, critic)

    def train(self, x: Tensor, attributes: Tensor, generate: Callable[[], Tensor]) -> Tensor:
        """As many steps as the settings say on (B, D) real features and fresh generated ones; the last one's value."""
        for _ in range(self._config.critic_steps):
            with torch.no_grad():
                fake = generate()
            value = descend(
                self._critic.objective(x, fake, attributes, self._config.penalty_weight, self._generator),
                self._optimizer,
            )
        return value

    def value(self, fake: Tensor, attributes: Tensor) -> Tensor:
        """What a generator minimises: minus the mean criticism of its (B, D) features."""
        return -self._critic(fake, attributes).mean()


class WGANConfig(AdversarialConfig, CycleConfig):
    """Settings of f-CLSWGAN and its kin.

    Attributes:
        classification_weight: of the frozen classifier's cross-entropy.
    """

    classification_weight: float = Field(0.01, ge=0)


def classifying_wgan(
    method: GenerativeMethod, critic: Critic, data: TrainData, run: Run, term: Callable[[Tensor, Tensor], Tensor] | None
) -> Step:
    """f-CLSWGAN's training: a critic, and a generator that also has to be classified.

    The generator of ``method`` minimises minus the criticism, the cross-entropy of a softmax classifier that was
    trained on real seen features and frozen (Xian et al., CVPR 2018, eq. 4), and a term of the method's own.

    Args:
        method: with a ``WGANConfig``.
        critic: the critic.
        data: the training data.
        run: lends random numbers.
        term: (generated features (B, D), their classes (B,)) -> scalar.
    """
    config, noise = method.config, run.generator("noise")
    frozen = method.train_softmax(data.features, data.labels, data.n_seen, run.generator("frozen classifier"))
    adversary = Adversary(critic, config, noise)
    optimizer = adam(config.lr, method.generator)

    def step(x: Tensor, y: Tensor, epoch: int) -> dict[str, Tensor]:  # noqa: ARG001
        attributes = data.attributes[y]
        value = adversary.train(x, attributes, lambda: method.generate(attributes, noise))
        fake = method.generate(attributes, noise)
        objective = adversary.value(fake, attributes)
        objective = objective + config.classification_weight * F.cross_entropy(frozen(fake), y)
        if term:
            objective = objective + term(fake, y)
        return {"critic": value, "generator": descend(objective, optimizer)}

    return step
