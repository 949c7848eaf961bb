"""SDGZSL's objectives and gradients against loops from its formulas, and a short training on tiny data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import torch

from benchmark.api import TrainData
from methods.generative.sdgzsl import SDGZSL
from tests.reference.descents import check_descent, descents, moved, without
from tests.reference.generative import (
    Row,
    first_run,
    leaky,
    learning_loss,
    lively,
    make_batch,
    slow_generated,
    slow_mlp,
    slow_pair,
    take_round,
    unseen_accuracy,
)
from tests.reference.networks import slow_layer
from tests.reference.toy import class_slot, seeded, slot_for, slow_class_loss

NETWORKS = ("encoder", "generator", "coder", "decoder", "relation")


def make_method(data: TrainData, **settings: Any) -> Any:
    config: Any = {
        "hidden": 3,
        "noise": 2,
        "semantic": 2,
        "output": "linear",
        "relation_weight": 3.0,
        "independence_weight": 1.4,
        "discriminator_steps": 2,
        "divergence_epochs": 4,
        "independence_epochs": 8,
        "encoder_dropout": 0.0,
        "code_dropout": 0.0,
        **settings,
    }
    return lively(SDGZSL(data.meta, SDGZSL.Config(**config), seeded(0)))


@dataclass(frozen=True)
class Drawn:
    """All random numbers of a batch, in the order in which they are drawn.

    Attributes:
        dropped: (B, D) factors of the features that the encoder takes.
        noise: (B, Z) of the VAE's code.
        dropped_codes: (B, 2 H) factors of the codes of real and of reconstructed features, as the decoder takes them.
        orders: (2 B,) of each discriminator step.
    """

    dropped: list[Row]
    noise: list[Row]
    dropped_codes: tuple[list[Row], list[Row]]
    orders: list[list[int]]


def draw(method: Any, batch: TrainData) -> Drawn:
    config, n, run = method.config, len(batch.labels), first_run()
    rng, drops = run.rng("noise"), run.rng("dropout")

    def drop(n_columns: int, share: float) -> list[Row]:
        if share == 0:
            return [[1.0] * n_columns] * n
        uniform = torch.rand(n, n_columns, generator=drops).tolist()
        return [[1 / (1 - share) if u >= share else 0.0 for u in row] for row in uniform]

    dropped = drop(batch.features.shape[1], config.encoder_dropout)
    noise = torch.randn(n, config.noise, generator=rng, dtype=torch.float64).tolist()
    of_real, of_fake = (drop(2 * config.semantic, config.code_dropout) for _ in range(2))
    orders = [torch.randperm(2 * n, generator=rng).tolist() for _ in range(config.discriminator_steps)]
    return Drawn(dropped, noise, (of_real, of_fake), orders)


def times(u: Row, v: Row) -> Row:
    return [p * q for p, q in zip(u, v, strict=True)]


def slow_reconstructions(method: Any, batch: TrainData, drawn: Drawn) -> tuple[list[Row], float]:
    """Features decoded from a code drawn for each image, and the mean divergence of the codes' Gaussians."""
    fake, divergence = [], 0.0
    for x, a, factors, noise in zip(
        batch.features.tolist(), batch.targets.tolist(), drawn.dropped, drawn.noise, strict=True
    ):
        encoded = slow_mlp(method.encoder.net, times(x, factors) + a)
        means, log_variances = encoded[: len(noise)], encoded[len(noise) :]
        code = [m + math.exp(v / 2) * e for m, v, e in zip(means, log_variances, noise, strict=True)]
        fake.append(slow_generated(method.generator, code, a))
        divergence += 0.5 * sum(m**2 + math.exp(v) - 1 - v for m, v in zip(means, log_variances, strict=True))
    return fake, divergence / len(fake)


def slow_codes(method: Any, x: Row) -> Row:
    return leaky(slow_layer(method.coder, x))


def slow_disentangling(
    method: Any, features: list[Row], batch: TrainData, dropped: list[Row], independence: float, weight: float | None
) -> float:
    """Autoencoder + relation + total correlation + regression, of real or of reconstructed features."""
    config, n_images, labels = method.config, len(features), batch.labels.tolist()
    value, predicted = 0.0, []
    for x, y, factors in zip(features, labels, dropped, strict=True):
        codes = slow_codes(method, x)
        semantic = codes[: config.semantic]
        decoded = slow_layer(method.decoder, times(codes, factors))
        value += sum((p - q) ** 2 for p, q in zip(decoded, x, strict=True)) / (n_images * len(x))
        for c in range(batch.n_seen):
            share = 1 / (1 + math.exp(-slow_pair(method.relation, semantic, batch.attributes[c].tolist())))
            value += config.relation_weight * (share - (c == y)) ** 2 / (n_images * batch.n_seen)
        # The log-odds that the halves belong together, of which the total correlation is the mean.
        value += independence * slow_layer(method.discriminator, codes)[0] / n_images
        predicted.append(slow_layer(method.regressor, semantic))
    return value + weight * slow_class_loss(predicted, batch) if weight else value


def slow_objective(method: Any, batch: TrainData, drawn: Drawn, epoch: int, weight: float | None) -> float:
    config = method.config
    fake, divergence = slow_reconstructions(method, batch, drawn)
    real = batch.features.tolist()
    squares = [(p - q) ** 2 for row, x in zip(fake, real, strict=True) for p, q in zip(row, x, strict=True)]
    value = sum(squares) / len(real) + min(1, epoch / config.divergence_epochs) * divergence
    independence = config.independence_weight * min(1, epoch / config.independence_epochs)
    for features, dropped in zip((real, fake), drawn.dropped_codes, strict=True):
        value += slow_disentangling(method, features, batch, dropped, independence, weight)
    return value


def slow_discrimination(method: Any, codes: list[Row], order: list[int]) -> float:
    """Cross-entropy of telling codes from those whose second half is of the image ``order`` says."""
    half, total = method.config.semantic, 0.0
    for i, other in enumerate(order):
        together = slow_layer(method.discriminator, codes[i])[0]
        apart = slow_layer(method.discriminator, codes[i][:half] + codes[other][half:])[0]
        total -= math.log(1 / (1 + math.exp(-together))) + math.log(1 - 1 / (1 + math.exp(-apart)))
    return total / (2 * len(order))


# Epoch 1: both weights grow; 4: the divergence's is whole; 6: the other one grows still; 9: both are whole.
@pytest.mark.parametrize("epoch", [1, 4, 6, 9])
@pytest.mark.parametrize("weight", [None, 2.5])
def test_every_objective_and_its_gradient(weight: float | None, epoch: int):
    data, batch = make_batch()
    method = make_method(data)
    objective, *discriminator = descents(method, data, batch, class_slot(data, weight), epoch)
    drawn = draw(method, batch)
    held = NETWORKS + (("regressor",) if weight else ())
    objective = objective if weight else without(objective, "regressor")
    check_descent(method, objective, partial(slow_objective, method, batch, drawn, epoch, weight), *held)
    fake, _ = slow_reconstructions(method, batch, drawn)
    codes = [slow_codes(method, x) for x in batch.features.tolist() + fake]
    assert len(discriminator) == 2
    for descent, order in zip(discriminator, drawn.orders, strict=True):
        check_descent(method, descent, partial(slow_discrimination, method, codes, order), "discriminator")
        assert descent.reached == {"discriminator"}  # the codes are detached


def test_dropout_is_of_the_inputs_and_of_the_codes_in_training():
    data, batch = make_batch()
    method = make_method(data, encoder_dropout=0.4, code_dropout=0.3, discriminator_steps=1)
    objective, discriminator = descents(method, data, batch, class_slot(data, 1.0), 3)
    drawn = draw(method, batch)
    factors = {f for rows in (drawn.dropped, *drawn.dropped_codes) for row in rows for f in row}
    assert sorted(factors) == pytest.approx([0, 1 / 0.7, 1 / 0.6])
    assert objective.value == pytest.approx(slow_objective(method, batch, drawn, 3, 1.0), rel=1e-10)
    fake, _ = slow_reconstructions(method, batch, drawn)
    codes = [slow_codes(method, x) for x in batch.features.tolist() + fake]
    assert discriminator.value == pytest.approx(slow_discrimination(method, codes, drawn.orders[0]), rel=1e-10)


@pytest.mark.parametrize("dependent", [True, False])
def test_the_discriminator_finds_no_total_correlation(dependent: bool):
    """It is linear, as the authors': not even of halves that are alike does its estimate leave 0."""
    data, _ = make_batch()
    method = SDGZSL(data.meta, SDGZSL.Config(hidden=32, noise=2, semantic=2), seeded(0))
    halves = torch.randn(2, 400, 2, generator=seeded(1))
    codes = torch.cat([halves[0], halves[0] if dependent else halves[1]], dim=1)
    optimizer, noise = torch.optim.Adam(method.discriminator.parameters(), lr=0.01), seeded(2)
    for _ in range(200):
        optimizer.zero_grad()
        method._discriminate(codes, noise).backward()
        optimizer.step()
    estimate = method.discriminator(codes).mean().item()
    assert abs(estimate) < 0.3


def test_what_the_loss_learns_is_trained_with_the_networks():
    data, batch = make_batch()
    method = make_method(data)
    objective, *discriminator = descents(method, data, batch, slot_for(method, data, learning_loss(data)))
    assert objective.held == {*NETWORKS, "regressor", "loss"}
    assert objective.gradients["loss.log_noise"].abs() > 1e-3
    assert not any("loss" in descent.held for descent in discriminator)


def test_weights_decay_but_not_those_of_the_discriminator_or_of_the_loss():
    data, batch = make_batch()
    method = make_method(data, lr=0.02, weight_decay=0.3)
    objective, discriminator, _ = descents(method, data, batch, slot_for(method, data, learning_loss(data)))
    decays = [group["weight_decay"] for group in objective.optimizer.param_groups]
    assert decays == [0.3, 0.0]
    for descent in (objective, discriminator):
        group = descent.optimizer.param_groups[0]
        assert (group["lr"], group["betas"]) == (0.02, (0.9, 0.999))
    (group,) = discriminator.optimizer.param_groups
    assert group["weight_decay"] == 0


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_decay_moves_what_has_no_gradient(decay: float):
    """A regression of weight 0 has none, so that Adam's first step is by the learning rate, towards 0, or none."""
    data, batch = make_batch()
    method = make_method(data, lr=1e-3, weight_decay=decay)
    start = method.regressor.weight.detach().clone()
    take_round(method.prepare(data, class_slot(data, 0.0), first_run()), batch)
    expected = start - (1e-3 * start.sign() if decay else 0.0)
    assert torch.allclose(method.regressor.weight.detach(), expected, rtol=0, atol=1e-8)


@pytest.mark.parametrize("weight", [None, 2.5])
def test_the_regressor_learns_with_a_loss_alone(weight: float | None):
    """Without one it does not even decay."""
    data, batch = make_batch()
    method = make_method(data, weight_decay=0.1)
    always = {*NETWORKS, "discriminator"}
    assert moved(method, data, batch, class_slot(data, weight)) == always | ({"regressor"} if weight else set())
    assert SDGZSL.semantics_need_loss


def test_images_are_classified_and_regressed_from_the_first_half():
    data, batch = make_batch()
    method = make_method(data)
    descents(method, data, batch, class_slot(data, 1.0))
    halves = [slow_codes(method, x)[:2] for x in batch.features.tolist()]
    assert method.represent(batch.features).tolist() == [pytest.approx(half, abs=1e-12) for half in halves]
    found = method.semantics(batch.features)
    expected = [slow_layer(method.regressor, half) for half in halves]
    assert found.tolist() == [pytest.approx(row, abs=1e-12) for row in expected]


@pytest.mark.parametrize("loss_name", [None, "remse"])
def test_unseen_classes_are_recognised(loss_name: str | None):
    settings: Any = {"hidden": 128, "semantic": 32, "noise": 4, "lr": 3e-3, "output": "linear", "divergence_epochs": 25}
    assert unseen_accuracy(SDGZSL, loss_name, 15, **settings) > 0.5
