"""f-CLSWGAN: a conditional Wasserstein GAN generates features of unseen classes for a softmax classifier."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import Meta, Method, MethodConfig, RegressionLoss, Run, TrainData
from benchmark.train import draw_batches
from methods import METHODS
from methods.generative.blocks import gradient_penalty, mlp, train_softmax
from methods.layers import linear


@METHODS.register(
    "clswgan",
    title="f-CLSWGAN",
    family="generative",
    year=2018,
    source="Xian et al., Feature Generating Networks for Zero-Shot Learning, CVPR 2018, arXiv 1712.00981",
)
class CLSWGAN(Method):
    """WGAN-GP on features, with a classification term; a regressor is its attribute-regression slot.

    As published (``none``): critic and generator are conditioned on attributes, and the generator also minimises the
    cross-entropy of a softmax classifier that was trained on real seen features and frozen. With a loss, a linear
    regressor R is first trained by it on real seen features and frozen; the generator then also minimises the loss of
    R(generated features) against the attributes that they were generated from: the cycle term of Felix et al.,
    Multi-modal Cycle-consistent Generalized Zero-Shot Learning, ECCV 2018, arXiv 1808.00136. Only seen classes are
    generated in training, so a re-weighted loss sees the classes that the batch holds, in both places.

    To be scored, features of unseen classes are generated; one softmax classifier is trained on those alone (ZSL) and
    one on those with the real seen features (GZSL).
    """

    class Config(MethodConfig):
        """Settings; the defaults are those of the authors' CUB script.

        Attributes:
            hidden: units of the hidden layer of generator and critic.
            output: of the generator: ``relu`` as published, for features of a network that ends in a ReLU; ``linear``
                for features of either sign.
            lr: learning rate of both.
            epochs: the most epochs; one has as many generator steps as the training set has batches.
            evaluate_every: epochs between two scorings on validation.
            patience: stop after this many scorings without improvement.
            batch_size: images in a batch.
            critic_steps: critic updates for each generator update.
            penalty_weight: of the gradient penalty.
            classification_weight: of the frozen classifier's cross-entropy.
            classifier_epochs: of every softmax classifier.
            classifier_lr: of every softmax classifier.
            classifier_batch_size: of every softmax classifier.
            n_generated: features generated for each unseen class.
            regressor_epochs: of the regressor's training.
            regressor_lr: of the regressor's training.
        """

        hidden: int = Field(4096, ge=1)
        output: Literal["relu", "linear"] = "relu"
        lr: float = Field(1e-4, gt=0)
        epochs: int = Field(60, ge=1)
        evaluate_every: int = Field(2, ge=1)
        patience: int = Field(5, ge=1)
        batch_size: int = Field(64, ge=2)
        critic_steps: int = Field(5, ge=1)
        penalty_weight: float = Field(10.0, ge=0)
        classification_weight: float = Field(0.01, ge=0)
        classifier_epochs: int = Field(25, ge=1)
        classifier_lr: float = Field(1e-3, gt=0)
        classifier_batch_size: int = Field(300, ge=1)
        n_generated: int = Field(300, ge=1)
        regressor_epochs: int = Field(20, ge=1)
        regressor_lr: float = Field(1e-3, gt=0)

    def __init__(self, meta: Meta, config: Config, generator: torch.Generator) -> None:
        super().__init__(meta, config, generator)
        d, a = meta.n_features, meta.n_attributes
        # The noise has as many dimensions as the attributes, as published.
        self.generator = mlp([2 * a, config.hidden, d], generator, nn.ReLU() if config.output == "relu" else None)
        self.critic = mlp([d + a, config.hidden, 1], generator)
        self.regressor = linear(d, a, generator)
        self.zsl_classifier = linear(d, meta.n_unseen, generator)
        self.gzsl_classifier = linear(d, meta.n_seen + meta.n_unseen, generator)
        self._regresses = False

    def fit(self, data: TrainData, loss: RegressionLoss | None, run: Run) -> None:  # noqa: D102
        if loss is not None:
            self._train_regressor(data, loss, run)
        frozen = self._softmax(data.features, data.labels, data.n_seen, run.generator("frozen classifier"))
        noise, batches = run.generator("noise"), run.generator("batches")
        critic_optimizer, generator_optimizer = (
            torch.optim.Adam(net.parameters(), lr=self.config.lr, betas=(0.5, 0.999))
            for net in (self.critic, self.generator)
        )
        config = self.config
        for _ in run.epochs(
            self,
            config.epochs,
            config.patience,
            every=config.evaluate_every,
            ready=lambda: self._train_classifiers(data, run),
        ):
            for batch in draw_batches(data, config.batch_size, 0, batches):
                x, y = data.features[batch], data.labels[batch]
                attributes = data.attributes[y]
                for _ in range(config.critic_steps):
                    critic_value = self._critic_value(x, attributes, noise)
                    critic_optimizer.zero_grad(set_to_none=True)
                    critic_value.backward()
                    critic_optimizer.step()
                # The generator's step needs no gradient of the critic's weights.
                self.critic.requires_grad_(False)
                generator_value = self._generator_value(attributes, y, frozen, loss, noise)
                generator_optimizer.zero_grad(set_to_none=True)
                generator_value.backward()
                generator_optimizer.step()
                self.critic.requires_grad_(True)
            run.log(critic=critic_value.detach(), generator=generator_value.detach())

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:  # noqa: D102
        if len(classes) == self.meta.n_unseen:
            return self.zsl_classifier(x)[:, classes - self.meta.n_seen]
        return self.gzsl_classifier(x)[:, classes]

    def semantics(self, x: Tensor) -> Tensor | None:  # noqa: D102
        return self.regressor(x) if self._regresses else None

    def generate(self, attributes: Tensor, generator: torch.Generator) -> Tensor:
        """(B, D) features for (B, A) ``attributes``, with fresh noise."""
        noise = torch.randn(attributes.shape, generator=generator, device=attributes.device)
        features: Tensor = self.generator(torch.cat([noise, attributes], dim=1))
        return features

    def _criticise(self, x: Tensor, attributes: Tensor) -> Tensor:
        return self.critic(torch.cat([x, attributes], dim=1))

    def _critic_value(self, x: Tensor, attributes: Tensor, noise: torch.Generator) -> Tensor:
        with torch.no_grad():
            fake = self.generate(attributes, noise)
        mix = torch.rand(len(x), 1, generator=noise, device=x.device)
        penalty = gradient_penalty(self._criticise, x, fake, attributes, mix)
        distance = self._criticise(fake, attributes).mean() - self._criticise(x, attributes).mean()
        return distance + self.config.penalty_weight * penalty

    def _generator_value(
        self, attributes: Tensor, y: Tensor, frozen: nn.Linear, loss: RegressionLoss | None, noise: torch.Generator
    ) -> Tensor:
        fake = self.generate(attributes, noise)
        value = -self._criticise(fake, attributes).mean()
        value = value + self.config.classification_weight * F.cross_entropy(frozen(fake), y)
        if loss is not None:
            value = value + self.config.regression_weight * loss(self.regressor(fake), attributes, y)
        return value

    def _train_regressor(self, data: TrainData, loss: RegressionLoss, run: Run) -> None:
        groups = [{"params": list(self.regressor.parameters())}, *loss.parameter_groups()]
        optimizer = torch.optim.Adam(groups, lr=self.config.regressor_lr)
        batches = run.generator("regressor batches")
        for _ in range(self.config.regressor_epochs):
            for batch in draw_batches(data, self.config.batch_size, 0, batches):
                y = data.labels[batch]
                value = loss(self.regressor(data.features[batch]), data.attributes[y], y)
                optimizer.zero_grad(set_to_none=True)
                value.backward()
                optimizer.step()
        run.log(regressor=value.detach())
        self.regressor.requires_grad_(False)
        self._regresses = True

    def _train_classifiers(self, data: TrainData, run: Run) -> None:
        # The same noise, weights and batches at every scoring, so that epochs differ by the generator alone.
        random = run.generator("classifiers")
        labels = data.unseen.repeat_interleave(self.config.n_generated)
        with torch.no_grad():
            features = self.generate(data.attributes[labels], random)
        zsl = self._softmax(features, labels - data.n_seen, self.meta.n_unseen, random)
        both = torch.cat([data.features, features]), torch.cat([data.labels, labels])
        gzsl = self._softmax(*both, self.meta.n_seen + self.meta.n_unseen, random)
        self.zsl_classifier.load_state_dict(zsl.state_dict())
        self.gzsl_classifier.load_state_dict(gzsl.state_dict())

    def _softmax(self, features: Tensor, labels: Tensor, n_classes: int, generator: torch.Generator) -> nn.Linear:
        config = self.config
        return train_softmax(
            features,
            labels,
            n_classes,
            epochs=config.classifier_epochs,
            lr=config.classifier_lr,
            batch_size=config.classifier_batch_size,
            generator=generator,
        )
