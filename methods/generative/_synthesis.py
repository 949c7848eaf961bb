"""Synthesise, then classify: what every method does that generates features of unseen classes."""

from __future__ import annotations

import functools
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import Criterion, Facts, Meta, Method, MethodConfig, Rules, Run, Slot, TrainData
from benchmark.config import Config
from benchmark.toolkit import (
    BUDGETED_IMAGES,
    MOST_EPOCHS,
    SHOWN,
    Precision,
    arithmetic,
    descend,
    draw_batches,
    linear,
    power_of_two,
)
from methods._condition import Condition, mean_and_scale
from methods._softmax import train_softmax
from methods.generative._blocks import FeatureGenerator, adam
from methods.generative._zla import log_prior, train_zla

#: What one batch does: (features (B, D), labels (B,), epoch from 1) -> the scalars to log.
Step = Callable[[Tensor, Tensor, int], dict[str, Tensor]]
#: Features (B, D) and labels (B,).
Batch = tuple[Tensor, Tensor]
#: What is trained on real and generated features.
Classifier = Literal["softmax", "zla"]
#: Odds of seen to unseen classes.
Ratio = Annotated[float, Field(gt=0)]
#: Those that were published, 30 to 1000 by data set, and smaller ones for data that need less.
RATIOS = (3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
#: A term of a generator's objective: (generated features (B, D), their classes (B,)) -> scalar.
Term = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Round:
    """What is done with fresh batches, as many as a round has, over and over: all train a critic, the last a generator.

    Attributes:
        generator: what the last batch does, after all else.
        critic: what every batch does, the last one too; None: nothing.
        n_batches: batches of a round.
        data: what batches are drawn of, in no more rounds an epoch; None: the training data.
    """

    generator: Step
    critic: Step | None = None
    n_batches: int = 1
    data: TrainData | None = None

    def __call__(self, batches: Sequence[Batch], epoch: int) -> dict[str, Tensor]:
        """One round in an ``epoch`` (from 1); returns the scalars to log, of the last batch."""
        noted: dict[str, Tensor] = {}
        if self.critic:
            for x, y in batches:
                noted = self.critic(x, y, epoch)
        x, y = batches[-1]
        return noted | self.generator(x, y, epoch)


#: Multiply-adds of one layer's forward passes in all of a generator's training, for up to ``BUDGETED_IMAGES``.
BUDGET = 5e10
#: Multiply-adds of the forward passes in one training of a linear layer: the GZSL classifier, a cycle's regressor.
LINEAR_BUDGET = 1e11


def preprocess(facts: Facts, config: MethodConfig) -> str:  # noqa: ARG001
    """Features of no sign are scaled to [0, 1], each; those of either sign all alike.

    After a PCA, say, scaling each would blow up the last ones.
    """
    return "scale" if facts.signed else "minmax"


def output(facts: Facts, config: MethodConfig) -> str:
    """Linear for features of either sign; the method's own for those that are 0 or more."""
    return "linear" if facts.signed else str(type(config).model_fields["output"].default)


def hidden(facts: Facts, config: MethodConfig) -> int:  # noqa: ARG001
    """256 units, or half of that where features and semantics have more than 3,000 dimensions, for time."""
    return 256 if facts.n_features + facts.n_attributes <= 3000 else 128


def batch_size(facts: Facts, config: MethodConfig) -> int:  # noqa: ARG001
    """32, or 64 from 4,000 images on: small sets need small batches to make enough steps."""
    return 32 if facts.n_images < 4000 else 64


def epochs(facts: Facts, config: GenerativeConfig) -> int:
    """As many as show a generator ``SHOWN`` images, at least 10; fewer, down to 6, where that costs too much."""
    n_weights = (facts.n_features + facts.n_attributes) * getattr(config, "hidden", 256)
    affordable = BUDGET / (min(facts.n_images, BUDGETED_IMAGES) * n_weights)
    return int(max(6, min(MOST_EPOCHS, max(10, SHOWN / facts.n_images), affordable)))


def n_generated(facts: Facts, config: GenerativeConfig) -> int:
    """Eight times the images of a seen class, without which unseen classes are hardly ever chosen; at most 2,000.

    ZLA takes 10, as published: its prior is there instead.
    """
    if config.classifier == "zla":
        return 10
    return int(min(2000, max(50, 8 * facts.images_a_class)))


def classifier_batch_size(facts: Facts, config: GenerativeConfig) -> int:
    """A hundredth of what the classifier is trained on, from 64 to 512.

    ZLA takes 512, as published: each of its steps makes the prototypes of all classes, which costs as much as that.
    """
    return 512 if config.classifier == "zla" else power_of_two(n_classified(facts, config) / 100, 64, 512)


def classifier_epochs(facts: Facts, config: GenerativeConfig) -> int:
    """At most 20, and fewer where a pass over features, or over codes of them, and classes costs more.

    On 800 simulated classes with 4,096 features SDGZSL, which classifies 256 codes of them, has an AUSUC on validation
    of 84 with 20 epochs, and of 0.3 with 3, after which images are not told from those of unseen classes.
    """
    return int(min(20, max(3, LINEAR_BUDGET / classifier_cost(facts, config))))


def regressor_epochs(facts: Facts, config: MethodConfig) -> int:  # noqa: ARG001
    """At most 20, and fewer where a pass over features and semantics costs more."""
    cost = min(facts.n_images, BUDGETED_IMAGES) * facts.n_features * facts.n_attributes
    return int(min(20, max(3, LINEAR_BUDGET / cost)))


def evaluate_every(facts: Facts, config: GenerativeConfig) -> int:
    """A quarter of the epochs, or half of them where the classifier that each scoring trains is dear."""
    parts = 4 if 3 * classifier_cost(facts, config) <= LINEAR_BUDGET else 2
    return -(-config.epochs // parts)


def classifier_cost(facts: Facts, config: GenerativeConfig) -> int:
    """Multiply-adds of one pass of the GZSL classifier."""
    return n_classified(facts, config) * (config.code_size or facts.n_features) * (facts.n_seen + facts.n_unseen)


def adversarial_weight(facts: Facts, config: MethodConfig) -> float:  # noqa: ARG001
    """10 beside the cross-entropy of features in [0, 1]; 1 beside the squared error of others, which is smaller."""
    return 1.0 if facts.signed else 10.0


def condition(facts: Facts, config: MethodConfig) -> Condition:  # noqa: ARG001
    """``standard`` where classes' semantics are alike: of unit norm, networks would hardly tell one from another.

    On 800 simulated classes with 1,000 semantics between 0 and 1, f-CLSWGAN's AUSUC on validation is 5 with ``unit``
    and 98 with ``standard``; on CUB50 it is 60 and 48.
    """
    return "standard" if facts.alike else "unit"


def n_classified(facts: Facts, config: GenerativeConfig) -> int:
    """The real and generated features that the GZSL classifier is trained on."""
    return facts.n_images + facts.n_unseen * config.n_generated


class GenerativeConfig(MethodConfig):
    """Settings of the methods that generate features.

    Attributes:
        lr: learning rate of the generating networks.
        epochs: the most epochs; one has as many steps of the generator as the training set has batches.
        evaluate_every: epochs between two scorings on validation.
        patience: stop after this many scorings without improvement.
        batch_size: images in a batch.
        n_generated: features generated for each unseen class.
        classifier_epochs: epochs of every classifier; fixed in a run, searched on validation.
        classifier_lr: learning rate of every classifier.
        classifier_batch_size: features in a batch of every classifier.
        precision: precision of the generating networks' arithmetic; ``bfloat16`` is mixed precision, weights stay
            float32.
        condition: how attributes enter networks: of ``unit`` norm, as published, beside as many standard normal numbers
            of noise, or ``standard``, so that they weigh as much as those. What is regressed are those of unit norm.
        classifier: ``softmax``, or ``zla``: cosines with prototypes, whose training favours seen classes by a prior
            (see ``_zla``). The method is then selected by H, without calibration: the prior moves along the seen-unseen
            curve, to which AUSUC is blind.
        ratio: of ZLA: candidates for the odds of seen to unseen classes in that prior, chosen among on validation.
        prototype_temperature: of ZLA: what its cosines are divided by.
        prototype_hidden: of ZLA: units of the hidden layer between attributes and prototypes.
    """

    rules: ClassVar[Rules] = {
        "preprocess": preprocess,
        "output": output,
        "hidden": hidden,
        "batch_size": batch_size,
        "epochs": epochs,
        "n_generated": n_generated,
        "evaluate_every": evaluate_every,
        "classifier_batch_size": classifier_batch_size,
        "classifier_epochs": classifier_epochs,
        "regressor_epochs": regressor_epochs,
        "adversarial_weight": adversarial_weight,
        "condition": condition,
    }

    lr: float = Field(1e-4, gt=0)
    epochs: int = Field(60, ge=1)
    evaluate_every: int = Field(2, ge=1)
    patience: int = Field(5, ge=1)
    batch_size: int = Field(64, ge=2)
    n_generated: int = Field(300, ge=1)
    classifier_epochs: int = Field(25, ge=1)
    classifier_lr: float = Field(1e-3, gt=0)
    classifier_batch_size: int = Field(300, ge=1)
    precision: Precision = "float32"
    condition: Condition = "unit"
    # Left out of the settings at their defaults, so that results from before them keep their keys.
    classifier: Classifier = Field("softmax", exclude_if=lambda classifier: classifier == "softmax")
    ratio: tuple[Ratio, ...] = Field(RATIOS, min_length=1, exclude_if=lambda ratio: ratio == RATIOS)
    prototype_temperature: float = Field(0.04, gt=0, exclude_if=lambda temperature: temperature == 0.04)
    prototype_hidden: int = Field(256, ge=1, exclude_if=lambda hidden: hidden == 256)

    @property
    def code_size(self) -> int | None:
        """The dimensions of what is classified in place of features; None where those are."""
        return None


class CycleSettings(Config):
    """Settings of generators whose attribute regression is a cycle: features back to the attributes they came from.

    Attributes:
        regressor_epochs: epochs of the regressor's training on real seen features.
        regressor_lr: learning rate of that training.
    """

    regressor_epochs: int = Field(20, ge=1)
    regressor_lr: float = Field(1e-3, gt=0)


class GenerativeMethod(Method):
    """Trains networks that generate features from attributes; classifiers on what they generate score images.

    Subclasses set ``generator`` and ``regressor``, or say otherwise how they generate and predict semantics.

    To be scored, features of unseen classes are generated; one classifier is trained on those with the real features of
    seen classes (GZSL) and, once the state to keep is found, one on those alone (ZSL). In validation the validation
    classes play the unseen ones: their features are generated from their attributes in the same way, and which epoch of
    the generator is kept depends on how the GZSL classifiers trained on them do there.

    Args:
        meta: the sizes of the data.
        config: the settings.
        rng: the source of the initial weights.
        n_represented: the size of what ``represent`` returns; None: the features themselves.
    """

    Config = GenerativeConfig
    config: GenerativeConfig
    generator: FeatureGenerator
    regressor: nn.Module
    #: Of ZLA: that of the classifiers as they are.
    ratio: Tensor

    def __init__(
        self, meta: Meta, config: GenerativeConfig, rng: torch.Generator, n_represented: int | None = None
    ) -> None:
        super().__init__(meta, config, rng)
        self.register_buffer("attribute_mean", torch.zeros(meta.n_attributes))
        self.register_buffer("attribute_scale", torch.ones(()))
        n_inputs = n_represented or meta.n_features
        self.zsl_classifier = linear(n_inputs, meta.n_unseen, rng)
        self.gzsl_classifier = linear(n_inputs, meta.n_seen + meta.n_unseen, rng)
        if config.classifier == "zla":
            self.register_buffer("ratio", torch.tensor(config.ratio[0]))

    @classmethod
    def selected_by(cls, settings: Mapping[str, Any]) -> Criterion:
        """H for ZLA, whose ratio moves along the seen-unseen curve."""
        classifier = settings.get("classifier", cls.Config.model_fields["classifier"].default)
        return "H" if classifier == "zla" else cls.criterion

    @abstractmethod
    def prepare(self, data: TrainData, slot: Slot, run: Run) -> Round:
        """Set up optimisers, and whatever is trained beforehand; returns what batches do.

        The attributes of ``data`` are ``conditions``, as all are that networks take.
        """

    def conditions(self, attributes: Tensor) -> Tensor:
        """(B, A) ``attributes`` of unit norm as they enter networks; of a fitted method, or within ``fit``."""
        conditions: Tensor = (attributes - self.attribute_mean) / self.attribute_scale
        return conditions

    def generate(self, attributes: Tensor, rng: torch.Generator) -> Tensor:
        """(B, D) features for (B, A) ``attributes``, which are ``conditions``, with fresh noise."""
        features: Tensor = self.generator(self.generator.draw(attributes, rng), attributes)
        return features

    def represent(self, x: Tensor) -> Tensor:
        """(B, R) what the classifiers take for (B, D) features: those themselves, unless a method says otherwise."""
        return x

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        config = self.config
        if config.condition == "standard":
            self.attribute_mean, self.attribute_scale = mean_and_scale(data.attributes, data.n_seen)
        data = replace(data, attributes=self.conditions(data.attributes))
        self.class_counts = data.class_counts
        training, rng = self.prepare(data, slot, run), run.rng("batches")
        drawn, n_rounds = training.data or data, -(-len(data.labels) // config.batch_size)
        for epoch in run.epochs(
            self,
            config.epochs,
            config.patience,
            every=config.evaluate_every,
            ready=self._ways(data, run),
            state=(),
        ):
            self.train()
            values = []
            for images in rounds(drawn, config.batch_size, training.n_batches, rng)[:n_rounds]:
                batches = [(drawn.features[batch], drawn.labels[batch]) for batch in images]
                with arithmetic(config.precision, run.device):
                    values.append(training(batches, epoch))
            self.eval()
            run.log(**_means(values, epoch))
        self.eval()
        # From the same noise: what is generated is what the other classifier was trained on.
        self.train_zsl_classifier(data, run.rng("classifiers"), run.rng("zsl classifier"))

    def _ways(self, data: TrainData, run: Run) -> dict[str, Callable[[], None]]:
        """The ways to get a classifier, of which validation chooses: ZLA has one for each ratio."""

        def train(ratio: Ratio | None = None) -> None:
            if ratio is not None:
                self.ratio.fill_(ratio)
            self.train_gzsl_classifier(data, run.rng("classifiers"))

        if self.config.classifier == "softmax":
            return {"softmax": train}
        return {f"ratio {ratio:g}": functools.partial(train, ratio) for ratio in self.config.ratio}

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:
        alone = len(classes) == self.meta.n_unseen
        classifier, first = (self.zsl_classifier, self.meta.n_seen) if alone else (self.gzsl_classifier, 0)
        outputs: Tensor = classifier(self._classified(self.represent(x)))
        return outputs[:, classes - first]

    def semantics(self, x: Tensor) -> Tensor:
        attributes: Tensor = self.regressor(x)
        return attributes

    def synthesise(self, attributes: Tensor, labels: Tensor, rng: torch.Generator) -> Tensor:
        return self.generate(self.conditions(attributes)[labels], rng)

    def take_classes(self, attributes: Tensor, rng: torch.Generator) -> None:
        """Train both classifiers anew, on generated features of all classes.

        Real features of seen classes are no part of a fitted method: as many generated ones stand in for them. With the
        run's own unseen classes on CUB2010 (vaegan, mse, small profile, seed 0; three draws) that takes AUSUC from 36.9
        to 32.0 to 32.7 and calibrated H from 50.2 to 47.5 to 49.2, as seen classes are told less well (S from 73.4 to
        61.1 to 62.0); T1 stays (52.2; 51.7 to 52.6). Other draws with the real features stay within 0.9 of the run's.
        """
        conditions, n_seen, n_inputs = self.conditions(attributes), self.meta.n_seen, self.zsl_classifier.in_features
        labels = torch.arange(n_seen, device=attributes.device).repeat_interleave(self.class_counts)
        with torch.no_grad():
            data = TrainData(self.generate(conditions[labels], rng), labels, conditions, n_seen)
        for name, n_classes in (("zsl_classifier", self.meta.n_unseen), ("gzsl_classifier", len(attributes))):
            layer = nn.utils.skip_init(nn.Linear, n_inputs, n_classes, device=attributes.device)
            setattr(self, name, layer)
        self.train_gzsl_classifier(data, rng)
        self.train_zsl_classifier(data, rng, rng)

    def unseen_data(self, data: TrainData, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(M, R) inputs and (M,) labels of the classifiers: generated features of unseen classes."""
        labels = data.unseen.repeat_interleave(self.config.n_generated)
        return self.represent(self.generate(data.attributes[labels], rng)), labels

    def seen_data(self, data: TrainData, rng: torch.Generator) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        """(M, R) inputs and (M,) labels of the GZSL classifier: the real images."""
        return self.represent(data.features), data.labels

    def classifier_data(self, data: TrainData, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """(M, R) inputs and (M,) labels of the GZSL classifier, seen classes first."""
        unseen, unseen_labels = self.unseen_data(data, rng)
        seen, seen_labels = self.seen_data(data, rng)
        return torch.cat([seen, unseen]), torch.cat([seen_labels, unseen_labels])

    def train_softmax(self, x: Tensor, labels: Tensor, n_classes: int, rng: torch.Generator) -> nn.Linear:
        """A linear softmax classifier of (M, R) inputs, trained as ``config`` says."""
        config = self.config
        return train_softmax(
            x,
            labels,
            n_classes,
            epochs=config.classifier_epochs,
            lr=config.classifier_lr,
            batch_size=config.classifier_batch_size,
            rng=rng,
        )

    def _classified(self, inputs: Tensor) -> Tensor:
        """(B, R) ``inputs`` of the classifiers as they multiply weights: of unit norm for cosines."""
        return F.normalize(inputs, dim=1) if self.config.classifier == "zla" else inputs

    def _train_zla(self, x: Tensor, labels: Tensor, data: TrainData, rng: torch.Generator) -> nn.Linear:
        config = self.config
        return train_zla(
            x,
            labels,
            data.attributes,
            log_prior(labels, data.n_seen, self.meta.n_unseen, self.ratio),
            hidden=config.prototype_hidden,
            temperature=config.prototype_temperature,
            epochs=config.classifier_epochs,
            lr=config.classifier_lr,
            batch_size=config.classifier_batch_size,
            rng=rng,
        )

    def train_gzsl_classifier(self, data: TrainData, rng: torch.Generator) -> None:
        """Train the classifier of all classes; its ``rng`` draws noise, weights and batches.

        They are the same at every scoring, so that epochs differ by the generator alone.
        """
        with torch.no_grad():
            x, labels = self.classifier_data(data, rng)
        if self.config.classifier == "zla":
            layer = self._train_zla(x, labels, data, rng)
        else:
            layer = self.train_softmax(x, labels, self.meta.n_seen + self.meta.n_unseen, rng)
        self.gzsl_classifier.load_state_dict(layer.state_dict())

    def train_zsl_classifier(self, data: TrainData, noise: torch.Generator, rng: torch.Generator) -> None:
        """Train the classifier of unseen classes alone; its ``rng`` draws weights and batches.

        ZLA's is the one of all classes, asked for these.
        """
        if self.config.classifier == "zla":
            for name, parameter in self.zsl_classifier.named_parameters():
                parameter.data.copy_(self.gzsl_classifier.get_parameter(name)[data.n_seen :])
            return
        with torch.no_grad():
            x, labels = self.unseen_data(data, noise)
        layer = self.train_softmax(x, labels - data.n_seen, self.meta.n_unseen, rng)
        self.zsl_classifier.load_state_dict(layer.state_dict())


def rounds(data: TrainData, size: int, n_batches: int, rng: torch.Generator) -> list[Sequence[Tensor]]:
    """The images of an epoch's rounds of ``n_batches``: as many rounds as the training set has batches of ``size``."""
    if n_batches == 1:
        return [[batch] for batch in draw_batches(data, size, 0, rng)]
    n_rounds = -(-len(data.labels) // size)
    batches = draw_batches(data, size, 0, rng, n_rounds * n_batches)
    return [batches[k * n_batches : (k + 1) * n_batches] for k in range(n_rounds)]


def cycle_term(
    regressor: nn.Module, slot: Slot, data: TrainData, settings: CycleSettings, batch_size: int, run: Run
) -> Term:
    """The attribute-regression slot of generators that have no regression of their own.

    The ``regressor`` is trained by the slot on real seen features and frozen. The term is the weighted error of what it
    predicts for generated features against the attributes that they were generated from, as in Felix et al.,
    Multi-modal Cycle-consistent Generalized Zero-Shot Learning, ECCV 2018, arXiv 1808.00136, eq. 6 and 7.

    Args:
        regressor: the network that reads (B, A) attributes from (B, D) features.
        slot: the slot.
        data: the training data.
        settings: how long and at which learning rate the regressor is trained.
        batch_size: images in a batch of that training.
        run: lends random numbers and the log.
    """
    if not slot.absent:  # a regressor that nothing asks for is not trained
        optimiser = adam(settings.regressor_lr, regressor, groups=slot.parameter_groups(), betas=(0.9, 0.999))
        batches = run.rng("regressor batches")
        for _ in range(settings.regressor_epochs):
            for batch in draw_batches(data, batch_size, 0, batches):
                labels = data.labels[batch]
                value = descend(slot.error(regressor(data.features[batch]), labels), optimiser)
        run.log(regressor=value)
    regressor.requires_grad_(False)
    return lambda x, y: slot(regressor(x), y)


def _means(values: list[dict[str, Tensor]], epoch: int) -> dict[str, Tensor]:
    """The mean of each scalar over the steps of an epoch.

    Raises:
        FloatingPointError: one is not finite; the message has the epoch and the step, both counted from 1.
    """
    means = {}
    for name in values[0]:
        column = torch.stack([value[name].float() for value in values])
        finite = column.isfinite()
        if not finite.all():
            step = int(finite.int().argmin())
            raise FloatingPointError(f"{name} became {float(column[step])} at epoch {epoch}, step {step + 1}")
        means[name] = column.mean()
    return means
