"""CE-GZSL's objectives and gradients against loops from its formulas, and a short training on tiny data."""

from __future__ import annotations

import itertools
import math
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import TrainData
from methods.generative._contrast import supervised_contrast
from methods.generative.cegzsl import CEGZSL
from tests.reference.descents import check_descent, descents, moved, without
from tests.reference.generative import (
    Row,
    first_run,
    learning_loss,
    lively,
    make_batch,
    round_of,
    slow_contrast,
    slow_critic_objective,
    slow_features,
    slow_mlp,
    slow_pair,
    unseen_accuracy,
)
from tests.reference.networks import slow_layer
from tests.reference.toy import class_slot, dot, rankings, seeded, slot_for, slow_class_loss

# The contrast of images -----------------------------------------------------------------------------------------------


@given(rankings(), st.sampled_from([0.1, 0.7, 5.0]))
def test_the_contrast_of_images_agrees_with_the_loops(case: tuple[Tensor, Tensor], temperature: float):
    z, labels = F.normalize(case[0], dim=1), case[1]
    expected = slow_contrast(z.tolist(), labels.tolist(), temperature)
    assert supervised_contrast(z, labels, temperature).item() == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_worked_example():
    # Images 0 and 1 have each other; to 0, image 2 is as near as image 1, hence log 2; to 1 it is opposite, hence
    # log(1 + 1/e^2). Image 2 has no positive and is no part of the mean.
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, -1.0]], dtype=torch.float64)
    expected = (math.log(2) + math.log(1 + math.exp(-2))) / 2
    assert supervised_contrast(z, torch.tensor([4, 4, 1]), 0.5).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_its_gradient_agrees_with_finite_differences(seed: int):
    z = F.normalize(torch.randn(5, 3, generator=seeded(seed), dtype=torch.float64), dim=1).requires_grad_()
    labels = torch.tensor([0, 1, 0, 2, 0])
    supervised_contrast(z, labels, 0.3).backward()
    assert z.grad is not None
    for i, d in itertools.product(range(5), range(3)):
        ends = []
        for move in (1e-6, -1e-6):
            moved = z.detach().clone()
            moved[i, d] += move
            ends.append(slow_contrast(moved.tolist(), labels.tolist(), 0.3))
        assert z.grad[i, d].item() == pytest.approx((ends[0] - ends[1]) / 2e-6, abs=1e-7)


@pytest.mark.parametrize("labels", [[0, 1, 2], [5]])
def test_without_any_positive_it_is_zero_with_a_zero_gradient(labels: list[int]):
    z = torch.eye(3)[: len(labels)].requires_grad_()
    value = supervised_contrast(z, torch.tensor(labels), 0.1)
    value.backward()
    assert value == 0
    assert z.grad is not None
    assert torch.equal(z.grad, torch.zeros_like(z))


# The objectives -------------------------------------------------------------------------------------------------------


def make_method(data: TrainData, **settings: Any) -> Any:
    config: Any = {
        "hidden": 3,
        "embedding": 4,
        "projection": 3,
        "comparator": 3,
        "critic_steps": 2,
        "penalty_weight": 2.0,
        "temperature": 0.4,
        "class_temperature": 0.7,
        "instance_weight": 0.6,
        "class_weight": 1.7,
        **settings,
    }
    return lively(CEGZSL(data.meta, CEGZSL.Config(**config), seeded(0)))


def slow_embedding(method: Any, x: Row) -> Row:
    return [max(0.0, h) for h in slow_layer(method.embedding, x)]


def slow_projection(method: Any, x: Row) -> Row:
    z = slow_layer(method.projection, slow_embedding(method, x))
    return [v / math.sqrt(dot(z, z)) for v in z]


def slow_class_contrast(method: Any, h: list[Row], batch: TrainData) -> float:
    """Cross-entropy of the comparator's scores of the seen classes."""
    total = 0.0
    for row, y in zip(h, batch.labels.tolist(), strict=True):
        seen = batch.attributes[: batch.n_seen].tolist()
        scores = [slow_pair(method.comparator, row, a) / method.config.class_temperature for a in seen]
        total -= math.log(math.exp(scores[y]) / sum(math.exp(s) for s in scores))
    return total / len(h)


def slow_regression(method: Any, h: list[Row], batch: TrainData, weight: float | None) -> float:
    return weight * slow_class_loss([slow_layer(method.decoder, row) for row in h], batch) if weight else 0.0


def slow_embedding_objective(method: Any, batch: TrainData, weight: float | None) -> float:
    real = batch.features.tolist()
    h, z = [slow_embedding(method, x) for x in real], [slow_projection(method, x) for x in real]
    value = slow_contrast(z, batch.labels.tolist(), method.config.temperature)
    return value + slow_class_contrast(method, h, batch) + slow_regression(method, h, batch, weight)


def slow_generator_objective(method: Any, batch: TrainData, weight: float | None, noise: Tensor) -> float:
    config, labels = method.config, batch.labels.tolist()
    fake = slow_features(method.generator, noise, batch.targets)
    pairs = zip(fake, batch.targets.tolist(), strict=True)
    value = -sum(slow_mlp(method.critic.net, x + a)[0] for x, a in pairs) / len(fake)
    z = [slow_projection(method, x) for x in fake + batch.features.tolist()]
    value += config.instance_weight * slow_contrast(z, labels + labels, config.temperature)
    h = [slow_embedding(method, x) for x in fake]
    return (
        value + config.class_weight * slow_class_contrast(method, h, batch) + slow_regression(method, h, batch, weight)
    )


@pytest.mark.parametrize("output", ["relu", "linear"])
@pytest.mark.parametrize("weight", [None, 2.5])
def test_every_objective_and_its_gradient(weight: float | None, output: str):
    data, batch = make_batch()
    method = make_method(data, output=output)
    *steps, generator = descents(method, data, batch, class_slot(data, weight))
    noise = first_run().rng("noise")
    parts = ["embedding", "projection", "comparator"] + (["decoder"] if weight else [])
    # The embedding learns at every step of the critic, from its batch.
    for critic, embedding, own in zip(steps[::2], steps[1::2], round_of(batch, 2), strict=True):
        n = len(own.labels)
        fake = slow_features(method.generator, torch.randn(n, 2, generator=noise), own.targets)
        mix = torch.rand(n, 1, generator=noise).flatten().tolist()
        check_descent(method, critic, partial(slow_critic_objective, method, own, fake, mix), "critic")
        assert critic.reached == {"critic"}
        embedding = embedding if weight else without(embedding, "decoder")
        check_descent(method, embedding, partial(slow_embedding_objective, method, own, weight), *parts)
        assert embedding.reached == set(parts)
    drawn = torch.randn(6, 2, generator=noise)
    check_descent(method, generator, partial(slow_generator_objective, method, batch, weight, drawn), "generator")


def test_a_regression_weight_of_0_leaves_the_objectives_of_no_loss():
    data, batch = make_batch()
    method = make_method(data)
    for none, zero in zip(*(descents(method, data, batch, class_slot(data, w)) for w in (None, 0.0)), strict=True):
        assert none.value == zero.value
        for name, gradient in none.gradients.items():
            assert torch.equal(gradient, zero.gradients[name])


@pytest.mark.parametrize("weight", [None, 2.5])
def test_the_decoder_learns_with_a_loss_alone(weight: float | None):
    data, batch = make_batch()
    learning = {"generator", "critic", "embedding", "projection", "comparator"}
    assert moved(make_method(data), data, batch, class_slot(data, weight)) == learning | (
        {"decoder"} if weight else set()
    )
    assert CEGZSL.semantics_need_loss


def test_what_the_loss_learns_is_trained_with_the_embedding():
    data, batch = make_batch()
    method = make_method(data)
    *steps, generator = descents(method, data, batch, slot_for(method, data, learning_loss(data)))
    for embedding in steps[1::2]:
        assert "loss" in embedding.held
        assert embedding.gradients["loss.log_noise"].abs() > 1e-3
    assert not any("loss" in descent.held for descent in [*steps[::2], generator])


def test_the_comparator_has_a_width_of_its_own():
    data, _ = make_batch()
    method = make_method(data, hidden=3, comparator=7)
    assert method.comparator.last.weight.shape == (1, 7)
    assert method.critic.net[0].weight.shape[0] == method.generator.first.weight.shape[0] == 3


def test_steps_are_taken_with_the_published_betas():
    data, batch = make_batch()
    for descent in descents(make_method(data, lr=0.02), data, batch, class_slot(data, None)):
        (group,) = descent.optimizer.param_groups
        assert (group["lr"], group["betas"], group["weight_decay"]) == (0.02, (0.5, 0.999), 0)


def test_images_are_classified_and_regressed_from_the_embedding():
    data, batch = make_batch()
    method = make_method(data)
    assert method.represent(batch.features).tolist() == [
        pytest.approx(slow_embedding(method, x), abs=1e-12) for x in batch.features.tolist()
    ]
    descents(method, data, batch, class_slot(data, 1.0))
    found = method.semantics(batch.features)
    for x, row in zip(batch.features.tolist(), found.tolist(), strict=True):
        assert row == pytest.approx(slow_layer(method.decoder, slow_embedding(method, x)), abs=1e-12)


@pytest.mark.parametrize("loss_name", [None, "remse"])
def test_unseen_classes_are_recognised(loss_name: str | None):
    settings: Any = {
        "hidden": 256,
        "comparator": 256,
        "embedding": 64,
        "projection": 32,
        "lr": 3e-3,
        "output": "linear",
    }
    assert unseen_accuracy(CEGZSL, loss_name, 15, **settings) > 0.5
