"""The Wasserstein critic with gradient penalty that the adversarial methods share."""

from __future__ import annotations

from collections.abc import Callable

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import Meta, Run, TrainData
from benchmark.config import Config
from benchmark.toolkit import descend
from methods.generative._blocks import SLOPE, FeatureGenerator, Output, adam, mlp
from methods.generative._synthesis import GenerativeMethod, Round, Term


class CriticSettings(Config):
    """Settings of the methods whose generator a critic judges.

    Attributes:
        hidden: units of the hidden layer of every network.
        output: what the generator's features look like: ``relu`` for features of a network that ends in a ReLU,
            ``sigmoid`` for features scaled to [0, 1], ``linear`` for features of either sign.
        critic_steps: critic updates for each generator update, each with a batch of its own; the generator takes the
            last one's.
        penalty_weight: the weight of the gradient penalty.
    """

    hidden: int = Field(4096, ge=1)
    output: Output = "relu"
    critic_steps: int = Field(5, ge=1)
    penalty_weight: float = Field(10.0, ge=0)


class ClassificationSettings(Config):
    """Settings of the methods whose generated features a frozen classifier has to recognise.

    Attributes:
        classification_weight: the weight of the frozen classifier's cross-entropy.
    """

    classification_weight: float = Field(0.01, ge=0)


class Critic(nn.Module):
    """D: (B, D) features and (B, A) attributes to (B, 1), higher for real ones; one hidden layer.

    The penalty of its gradient's norm is that of Gulrajani et al., Improved Training of Wasserstein GANs, NeurIPS 2017,
    arXiv 1704.00028, eq. 3. With one hidden layer the gradient is a product of weights, of which autograd needs no
    second derivative.

    Args:
        n_features: D.
        n_attributes: A.
        settings: the size of its hidden layer, and how it is trained.
        rng: the source of the initial weights.
    """

    def __init__(self, n_features: int, n_attributes: int, settings: CriticSettings, rng: torch.Generator) -> None:
        super().__init__()
        self.settings = settings
        self.net = mlp([n_features + n_attributes, settings.hidden, 1], rng)

    def forward(self, x: Tensor, attributes: Tensor) -> Tensor:
        """(B, 1) the criticism."""
        value: Tensor = self.net(torch.cat([x, attributes], dim=1))
        return value

    def objective(self, real: Tensor, fake: Tensor, attributes: Tensor, rng: torch.Generator) -> Tensor:
        """What the critic minimises: mean D(fake) - mean D(real) + the weighted gradient penalty; see ``compared``."""
        difference, penalty = self.compared(real, fake, attributes, rng)
        return self.settings.penalty_weight * penalty - difference.mean()

    def compared(self, real: Tensor, fake: Tensor, attributes: Tensor, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(B,) D(real) - D(fake), and the gradient penalty without its weight.

        Args:
            real: (B, D) features.
            fake: (B, D) features, detached.
            attributes: (B, A) the condition of both.
            rng: draws the places where the gradient is penalised.
        """
        mix = torch.rand(len(real), 1, generator=rng, device=real.device)
        first, activation, last = self.net
        assert isinstance(first, nn.Linear)
        assert isinstance(last, nn.Linear)
        of_features, of_attributes = first.weight.split([real.shape[1], attributes.shape[1]], dim=1)
        of_class = F.linear(attributes, of_attributes, first.bias)
        hidden = F.linear(torch.cat([fake, real]), of_features).unflatten(0, (2, -1)) + of_class
        of_fake, of_real = last(activation(hidden)).squeeze(-1)
        # Between two features the hidden layer, before its activation, is between those of the two.
        active = (mix * hidden[1] + (1 - mix) * hidden[0]).detach() > 0
        gradient = torch.where(active, last.weight, SLOPE * last.weight) @ of_features
        penalty: Tensor = (gradient.norm(dim=1) - 1).square().mean()
        return of_real - of_fake, penalty


def gan(meta: Meta, settings: CriticSettings, rng: torch.Generator) -> tuple[FeatureGenerator, Critic]:
    """The generator and the critic of f-CLSWGAN and of all that grew from it.

    The noise has as many dimensions as the attributes, as published.
    """
    d, a = meta.n_features, meta.n_attributes
    generator = FeatureGenerator(a, a, settings.hidden, d, settings.output, rng)
    return generator, Critic(d, a, settings, rng)


class Adversary:
    """Trains a critic against a generator.

    Args:
        critic: the network that is trained, as its settings say.
        lr: its learning rate.
        rng: draws the places where the gradient is penalised.
    """

    def __init__(self, critic: Critic, lr: float, rng: torch.Generator) -> None:
        self._critic = critic
        self._rng = rng
        self._optimiser = adam(lr, critic)

    def train(self, x: Tensor, attributes: Tensor, generate: Callable[[], Tensor]) -> Tensor:
        """One step of the critic on (B, D) real features and fresh generated ones; returns its value."""
        with torch.no_grad():
            fake = generate()
        return descend(self._critic.objective(x, fake, attributes, self._rng), self._optimiser)

    def value(self, fake: Tensor, attributes: Tensor) -> Tensor:
        """What a generator minimises: minus the mean criticism of its (B, D) features."""
        criticism: Tensor = self._critic(fake, attributes)
        return -criticism.mean()


def classifying_wgan(
    method: GenerativeMethod, critic: Critic, settings: ClassificationSettings, data: TrainData, run: Run, term: Term
) -> Round:
    """f-CLSWGAN's training: a critic, and a generator that also has to be classified.

    The generator of ``method`` minimises minus the criticism, the cross-entropy of a softmax classifier that was
    trained on real seen features and frozen (Xian et al., CVPR 2018, eq. 4), and a term of the method's own.

    Args:
        method: the method whose generator is trained.
        critic: the critic.
        settings: the weight of the cross-entropy.
        data: the training data.
        run: lends random numbers.
        term: the method's own term, of generated features and their classes.
    """
    frozen = method.train_softmax(data.features, data.labels, data.n_seen, run.rng("frozen classifier"))

    def classification(fake: Tensor, y: Tensor) -> Tensor:
        return settings.classification_weight * F.cross_entropy(frozen(fake), y)

    return wgan(method, critic, data, run, classification, term)


def wgan(method: GenerativeMethod, critic: Critic, data: TrainData, run: Run, *terms: Term) -> Round:
    """A critic, and a generator that minimises minus the criticism and further ``terms``.

    Args:
        method: the method whose generator is trained.
        critic: the critic.
        data: the training data.
        run: lends random numbers.
        terms: of generated features and their classes.
    """
    noise = run.rng("noise")
    adversary = Adversary(critic, method.config.lr, noise)
    optimiser = adam(method.config.lr, method.generator)

    def train_critic(x: Tensor, y: Tensor, epoch: int) -> dict[str, Tensor]:  # noqa: ARG001
        attributes = data.attributes[y]
        return {"critic": adversary.train(x, attributes, lambda: method.generate(attributes, noise))}

    def train_generator(x: Tensor, y: Tensor, epoch: int) -> dict[str, Tensor]:  # noqa: ARG001
        attributes = data.attributes[y]
        fake = method.generate(attributes, noise)
        objective = adversary.value(fake, attributes)
        for term in terms:
            objective = objective + term(fake, y)
        return {"generator": descend(objective, optimiser)}

    return Round(train_generator, train_critic, critic.settings.critic_steps)
