"""What the tests of f-VAEGAN-D2 and of the methods that grew from it share: what they make, and its terms by loops."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.api import TrainData
from tests.reference.descents import Descent, descents
from tests.reference.generative import (
    Row,
    first_run,
    lively,
    make_batch,
    own_slot,
    round_of,
    slow_code,
    slow_critic_objective,
    slow_divergence,
    slow_encoding,
    slow_generated,
    slow_mlp,
    slow_reconstruction,
)
from tests.reference.networks import slow_layer
from tests.reference.toy import seeded

#: Of a batch and (B, Z) standard normal noise the features that codes are decoded to, and their mean divergence.
Rebuild = Callable[[TrainData, Tensor], tuple[list[Row], float]]


def make_method(kind: type[Any], data: TrainData, **settings: Any) -> Any:
    """A tiny method in float64 of which no term is lost beside another."""
    config = {
        "hidden": 3,
        "output": "linear",
        "critic_steps": 2,
        "penalty_weight": 2.0,
        "adversarial_weight": 1.3,
        "regression_weight": 2.5,
        **settings,
    }
    return lively(kind(data.meta, kind.Config(**config), seeded(0)))


def noise_of_a_run() -> torch.Generator:
    """As the method gets it in ``descents``."""
    return first_run().rng("noise")


def draw(batch: TrainData, noise: torch.Generator, dtype: torch.dtype = torch.float64) -> Tensor:
    """As many numbers as codes have: one for each image and attribute."""
    return torch.randn(batch.targets.shape, generator=noise, dtype=dtype)


def check_critics(
    method: Any, batch: TrainData, critics: list[Descent], rebuild: Rebuild, noise: torch.Generator
) -> None:
    """Each step of the critic is between the images of its own batch and reconstructions of them, drawn anew."""
    assert len(critics) == method.config.critic_steps
    for critic, own in zip(critics, round_of(batch, len(critics)), strict=True):
        check_critic(method, own, critic, rebuild, noise)


def check_critic(method: Any, batch: TrainData, critic: Descent, rebuild: Rebuild, noise: torch.Generator) -> None:
    """One step of the critic."""
    fake, _ = rebuild(batch, draw(batch, noise))
    mix = torch.rand(len(batch.labels), 1, generator=noise).flatten().tolist()
    assert critic.value == pytest.approx(slow_critic_objective(method, batch, fake, mix), rel=1e-10)
    assert critic.held == critic.reached == {"critic"}


def check_the_critics_weight(
    kind: type[Any], critic: str = "critic", moved: Collection[str] = ("encoder", "generator"), **settings: Any
) -> None:
    """Which ``critic`` there is moves the gradient of the generator's objective, unless its weight is 0."""
    data, batch = make_batch()
    for weight in (0.0, 0.5):
        gradients = []
        for scale in (1, 2):
            method = make_method(kind, data, adversarial_weight=weight, **settings)
            getattr(method, critic).net[2].weight.data *= scale
            gradients.append(descents(method, data, batch, own_slot(method, data, True))[-1].gradients)
        one, other = gradients
        differ = {name.split(".")[0] for name in one if not torch.equal(one[name], other[name])}
        assert differ == (set(moved) if weight else set())


def check_classifiers(
    method: Any, data: TrainData, represent: Callable[[Row], Row], generate: Callable[[Row, Row], Row]
) -> None:
    """The classifiers take and score what slow code makes of real images and of (noise, attributes) of unseen classes.

    Args:
        method: with three images generated for each of the two unseen classes.
        data: the training data.
        represent: features to what classifiers take.
        generate: noise and attributes to features.
    """
    inputs, labels = method.classifier_data(data, seeded(5))
    unseen = [data.n_seen] * 3 + [data.n_seen + 1] * 3
    assert labels.tolist() == data.labels.tolist() + unseen
    noise = torch.randn(6, data.meta.n_attributes, generator=seeded(5)).tolist()
    generated = [generate(row, data.attributes[y].tolist()) for row, y in zip(noise, unseen, strict=True)]
    expected = [represent(x) for x in data.features.tolist() + generated]
    assert inputs.tolist() == [pytest.approx(row, abs=1e-12) for row in expected]
    for layer, classes in ((method.zsl_classifier, [5, 4]), (method.gzsl_classifier, [5, 0, 2, 3, 4, 1])):
        scores = method.scores(data.features, torch.tensor(classes)).tolist()
        first = data.n_seen if len(classes) == 2 else 0
        for x, found in zip(data.features.tolist(), scores, strict=True):
            of_all = slow_layer(layer, represent(x))
            assert found == pytest.approx([of_all[c - first] for c in classes], abs=1e-12)


def slow_rebuild(
    method: Any, batch: TrainData, noise: Tensor, additions: list[Row] | None = None
) -> tuple[list[Row], float]:
    """Features decoded from a code drawn for each image, and the mean divergence of the codes."""
    fake, divergence = [], 0.0
    for i, (x, a, e) in enumerate(zip(batch.features.tolist(), batch.targets.tolist(), noise.tolist(), strict=True)):
        gaussian = slow_encoding(method.encoder, x + a)
        divergence += slow_divergence(gaussian) / len(noise)
        fake.append(slow_generated(method.generator, slow_code(gaussian, e), a, additions[i] if additions else None))
    return fake, divergence


def slow_vaegan(method: Any, batch: TrainData, fake: list[Row], divergence: float) -> float:
    """Reconstruction + KL - adversarial_weight * mean D."""
    pairs = zip(fake, batch.targets.tolist(), strict=True)
    criticism = sum(slow_mlp(method.critic.net, x + a)[0] for x, a in pairs) / len(fake)
    config = method.config
    return slow_reconstruction(fake, batch, config.output) + divergence - config.adversarial_weight * criticism
