"""What the tests of f-CLSWGAN and of its kin share: its objectives by loops, and what they descend on."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from benchmark.api import Run, Slot, TrainData
from benchmark.toolkit import linear
from methods.generative import _adversarial, _synthesis
from methods.generative._synthesis import Round
from tests.reference.descents import Descent, check_descent, recorder
from tests.reference.generative import (
    Row,
    first_run,
    lively,
    round_of,
    slow_adam,
    slow_critic_objective,
    slow_features,
    slow_mlp,
    take_round,
    unseen_accuracy,
)
from tests.reference.networks import slow_layer
from tests.reference.toy import seeded, slow_class_loss


def make_wgan(kind: type[Any], data: TrainData, **settings: Any) -> Any:
    """A tiny one in float64, of which no term is small."""
    config: Any = {
        "hidden": 3,
        "output": "linear",
        "critic_steps": 2,
        "penalty_weight": 2.0,
        "classification_weight": 1.7,
        "regressor_epochs": 2,
        "regressor_lr": 0.05,
        "batch_size": 100,
        **settings,
    }
    own = {name: value for name, value in config.items() if name in kind.Config.model_fields}
    return lively(kind(data.meta, kind.Config(**own), seeded(0)))


def frozen_classifier(data: TrainData) -> nn.Linear:
    layer = linear(data.meta.n_features, data.n_seen, seeded(5), std=1.0).double()
    return layer.requires_grad_(False)


def wgan_descents(method: Any, data: TrainData, batch: TrainData, prepare: Callable[[Run], Round]) -> list[Descent]:
    """What a round descends on, in this order; no step is taken. ``frozen_classifier`` is the frozen classifier."""
    found: list[Descent] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_adversarial, "descend", recorder(method, Slot(data.attributes), found))
        patch.setattr(_synthesis, "train_softmax", lambda *_, **__: frozen_classifier(data))
        take_round(prepare(first_run()), batch)
    return found


def slow_wgan_objective(
    method: Any, data: TrainData, batch: TrainData, noise: Tensor, term: Callable[[list[Row]], float]
) -> float:
    """Xian et al. 2018, eq. 4 if it has that setting, and a further ``term`` of the generated features."""
    weight = getattr(method.config, "classification_weight", 0.0)
    fake, classifier = slow_features(method.generator, noise, batch.targets), frozen_classifier(data)
    value = 0.0
    for x, y in zip(fake, batch.labels.tolist(), strict=True):
        value -= slow_mlp(method.critic.net, x + data.attributes[y].tolist())[0]
        logits = slow_layer(classifier, x)
        value += weight * (math.log(sum(math.exp(v) for v in logits)) - logits[y])
    return value / len(fake) + term(fake)


def slow_cycle(method: Any, batch: TrainData, weight: float | None, fake: list[Row]) -> float:
    """The weighted loss of what the regressor predicts for generated features of the batch's classes."""
    return weight * slow_class_loss([slow_layer(method.regressor, x) for x in fake], batch) if weight else 0.0


def check_wgan(
    method: Any,
    data: TrainData,
    batch: TrainData,
    prepare: Callable[[Run], Round],
    term: Callable[[list[Row]], float] = lambda fake: 0.0,
) -> None:
    """The critic's objectives and then the generator's, and their gradients, agree with the loops.

    Args:
        method: of the f-CLSWGAN family.
        data: the training data.
        batch: its features and labels are the batch.
        prepare: as the method's own, for a run.
        term: the generator's further term by loops, of the generated features of the batch.
    """
    *critic, generator = wgan_descents(method, data, batch, prepare)
    noise, n = first_run().rng("noise"), len(batch.labels)
    assert len(critic) == method.config.critic_steps
    for descent, own in zip(critic, round_of(batch, len(critic)), strict=True):
        drawn = torch.randn(len(own.labels), method.generator.n_noise, generator=noise)
        fake = slow_features(method.generator, drawn, own.targets)
        mix = torch.rand(len(own.labels), 1, generator=noise).flatten().tolist()

        def of_critic(own: TrainData = own, fake: list[Row] = fake, mix: Row = mix) -> float:
            return slow_critic_objective(method, own, fake, mix)

        check_descent(method, descent, of_critic, "critic")
        assert descent.reached == {"critic"}
    drawn = torch.randn(n, method.generator.n_noise, generator=noise)
    check_descent(method, generator, lambda: slow_wgan_objective(method, data, batch, drawn, term), "generator")


def check_trained_regressor(
    start: nn.Linear, found: nn.Linear, data: TrainData, slow: Callable[[list[Row]], float]
) -> None:
    """From ``start``, two full-batch steps as ``make_wgan`` sets them, down ``slow`` of predictions, led to ``found``.

    ``start`` is trained here.
    """
    slow_adam(start, lambda: slow([slow_layer(start, x) for x in data.features.tolist()]), 0.05, (0.9, 0.999), 2)
    for expected, parameter in zip(start.parameters(), found.parameters(), strict=True):
        assert torch.allclose(parameter, expected, rtol=0, atol=1e-6)
        assert not parameter.requires_grad


def short_accuracy(kind: type[Any], loss_name: str | None, **changes: Any) -> float:
    """``unseen_accuracy`` after a training that is long enough for the f-CLSWGAN family; chance is 0.25."""
    networks: Any = {"critic_steps": 5, "hidden": 256, "lr": 3e-3, "output": "linear"}
    regressor: Any = {"regressor_lr": 0.01, "regressor_epochs": 40}
    return unseen_accuracy(kind, loss_name, 15, preprocess="standard", **networks, **regressor, **changes)
