"""FREE's objectives and gradients against loops from its formulas, and a short training on tiny data."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmark.api import Meta, TrainData
from methods.generative.free import FREE
from tests.reference.descents import check_descent, descents, descents_and_log, learning_rates, moved, without
from tests.reference.generative import (
    Row,
    leaky,
    learning_loss,
    make_batch,
    make_scaled_batch,
    own_slot,
    round_of,
    slow_error,
    slow_generated,
    slow_sigmoid,
    unseen_accuracy,
)
from tests.reference.networks import slow_layer
from tests.reference.toy import seeded, slot_for
from tests.reference.vaegan import (
    check_classifiers,
    check_critic,
    check_the_critics_weight,
    draw,
    make_method,
    noise_of_a_run,
    slow_rebuild,
    slow_vaegan,
)

REFINING, GENERATING = {"refinement", "centres"}, {"encoder", "generator"}


# The centre loss ------------------------------------------------------------------------------------------------------


def squared_distance(u: Row, v: Row) -> float:
    return sum((p - q) ** 2 for p, q in zip(u, v, strict=True))


def draw_others(labels: Tensor, n_seen: int, noise: torch.Generator) -> list[int]:
    """A class for each image that is not its own, as many places after it as is drawn."""
    shifts = torch.randint(1, n_seen, labels.shape, generator=noise)
    others = [list(range(n_seen)) * 2 for _ in shifts]
    return [row[y + shift] for row, y, shift in zip(others, labels.tolist(), shifts.tolist(), strict=True)]


def slow_centre_loss(method: Any, codes: list[Row], labels: list[int], others: list[int] | None) -> float:
    """Mean max(0, margin + balance d(code, c_y) - (1 - balance) d(code, c_y')); ``others`` None: y' is the nearest."""
    config, centres, total = method.config, method.centres.tolist(), 0.0
    if len(centres) == 1:
        return 0.0
    for i, (code, y) in enumerate(zip(codes, labels, strict=True)):
        away = [squared_distance(code, centre) for centre in centres]
        other = away[others[i]] if others else min(d for c, d in enumerate(away) if c != y)
        total += max(0.0, config.margin + config.balance * away[y] - (1 - config.balance) * other)
    return total / len(codes)


@given(
    st.integers(0, 10_000),
    st.integers(1, 5),
    st.sampled_from([0.0, 1.5]),
    st.sampled_from([0.0, 0.3, 0.8, 1.0]),
    st.sampled_from(["random", "nearest"]),
)
def test_the_centre_loss_agrees_with_the_loops(seed: int, n_seen: int, margin: float, balance: float, other: str):
    data = TrainData(torch.zeros(1, 3), torch.zeros(1).long(), torch.zeros(n_seen + 1, 2), n_seen)
    method = make_method(FREE, data, margin=margin, balance=balance, other=other)
    rng = seeded(seed)
    codes = torch.randn(7, 2, generator=rng, dtype=torch.float64)
    labels = torch.randint(n_seen, (7,), generator=rng)
    found = method._centre_loss(codes, labels, seeded(3)).item()
    others = draw_others(labels, n_seen, seeded(3)) if other == "random" and n_seen > 1 else None
    expected = slow_centre_loss(method, codes.tolist(), labels.tolist(), others)
    assert found == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_worked_example():
    # Codes at 0 and 3 of classes at 1 and 5, and an unused class at -4: image 1 has d = 1 and nearest other 16, image 2
    # d = 4 and nearest other 4: max(0, 2 + 0.6 - 6.4) = 0 and 2 + 2.4 - 1.6 = 2.8.
    config = FREE.Config(hidden=3, margin=2.0, balance=0.6, other="nearest")
    method = FREE(Meta(3, 1, 3, 1), config, seeded(0))
    method.centres.data = torch.tensor([[1.0], [5.0], [-4.0]])
    value = method._centre_loss(torch.tensor([[0.0], [3.0]]), torch.tensor([0, 1]), seeded(0))
    assert value.item() == pytest.approx(1.4, rel=1e-6)


@pytest.mark.parametrize("n_seen", [2, 3, 5])
def test_every_other_class_is_drawn_and_never_the_own_one(n_seen: int):
    """With centres on a line and balance 0, the loss of a lone code tells which one was drawn."""
    config = FREE.Config(hidden=3, margin=1000.0, balance=0.0)
    method = FREE(Meta(3, 1, n_seen, 1), config, seeded(0))
    method.centres.data = torch.arange(float(n_seen))[:, None]
    noise = seeded(1)
    for y in range(n_seen):
        code, label = torch.tensor([[-2.0]]), torch.tensor([y])
        drawn = [method._centre_loss(code, label, noise).item() for _ in range(100)]
        counts = {c: drawn.count(1000.0 - (2.0 + c) ** 2) for c in range(n_seen)}
        assert counts.pop(y) == 0
        assert sum(counts.values()) == 100
        assert min(counts.values()) > 100 / n_seen / 3


# The objectives -------------------------------------------------------------------------------------------------------


def slow_hidden(method: Any, x: Row) -> Row:
    return leaky(slow_layer(method.refinement.first, x))


def slow_refined(method: Any, x: Row) -> tuple[Row, Row]:
    """Mean and standard deviation of the code."""
    both = slow_layer(method.refinement.last, slow_hidden(method, x))
    half = len(both) // 2
    return both[:half], [slow_sigmoid(v) for v in both[half:]]


def slow_regressed(method: Any, x: Row) -> Row:
    return [slow_sigmoid(m) for m in slow_refined(method, x)[0]]


def slow_represented(method: Any, x: Row) -> Row:
    return x + slow_hidden(method, x) + slow_regressed(method, x)


def slow_regression(method: Any, features: list[Row], batch: TrainData, noise: Tensor, with_loss: bool) -> float:
    """The weighted error of the attributes that are read from codes with noise."""
    predicted = []
    for x, e in zip(features, noise.tolist(), strict=True):
        mean, deviation = slow_refined(method, x)
        predicted.append([slow_sigmoid(m + s * v) for m, s, v in zip(mean, deviation, e, strict=True)])
    return method.config.regression_weight * slow_error(predicted, batch, with_loss)


def slow_refinement(method: Any, batch: TrainData, noise: Tensor, others: list[int] | None, with_loss: bool) -> float:
    """Half the centre loss of the codes' means + the weighted error, on real features."""
    real = batch.features.tolist()
    codes = [slow_refined(method, x)[0] for x in real]
    separation = 0.5 * slow_centre_loss(method, codes, batch.labels.tolist(), others)
    return separation + slow_regression(method, real, batch, noise, with_loss)


def slow_objective(method: Any, batch: TrainData, noise: Tensor, code_noise: Tensor, with_loss: bool) -> float:
    """f-VAEGAN-D2's, and the weighted error of reconstructions, whose codes have a noise too."""
    fake, divergence = slow_rebuild(method, batch, noise)
    value = slow_vaegan(method, batch, fake, divergence)
    return value + slow_regression(method, fake, batch, code_noise, with_loss)


@pytest.mark.parametrize("output", ["sigmoid", "linear"])
@pytest.mark.parametrize("other", ["random", "nearest"])
@pytest.mark.parametrize("with_loss", [False, True])
def test_every_objective_and_its_gradient(with_loss: bool, other: str, output: str):
    data, batch = make_scaled_batch(output)
    method = make_method(FREE, data, output=output, lr=0.02, margin=0.5, balance=0.3, other=other)
    found, logged = descents_and_log(method, data, batch, own_slot(method, data, with_loss))
    *steps, generator = found
    refinements, critics = steps[::2], steps[1::2]
    noise = noise_of_a_run()
    for refinement, critic, own in zip(refinements, critics, round_of(batch, 2), strict=True):
        code_noise = draw(own, noise, torch.float32)
        others = draw_others(own.labels, data.n_seen, noise) if other == "random" else None
        slow = partial(slow_refinement, method, own, code_noise, others, with_loss)
        check_descent(method, refinement, slow, *REFINING)
        check_critic(method, own, critic, partial(slow_rebuild, method), noise)
    drawn, code_noise = draw(batch, noise), draw(batch, noise, torch.float32)
    assert generator.held == GENERATING | REFINING
    slow = partial(slow_objective, method, batch, drawn, code_noise, with_loss)
    check_descent(method, without(generator, "centres"), slow, *GENERATING, "refinement")
    assert learning_rates(method, generator) == dict.fromkeys(GENERATING | REFINING, 0.02)
    fake, divergence = slow_rebuild(method, batch, drawn)
    method.config = method.config.model_copy(update={"adversarial_weight": 0.0})
    expected = {
        "critic": critics[-1].value,
        "autoencoder": slow_vaegan(method, batch, fake, divergence),
        "generator": generator.value,
        "refinement": refinements[-1].value,
    }
    assert logged == pytest.approx(expected, rel=1e-10)


# What learns when -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("with_loss", [False, True])
def test_a_step_moves_all_and_the_centres_once(with_loss: bool):
    """Adam's first step is by the learning rate; a second one, by its momentum, must not come with the generator's."""
    data, batch = make_batch()
    method = make_method(FREE, data, lr=0.02, margin=50.0, critic_steps=1)
    start = method.centres.detach().clone()
    assert moved(method, data, batch, own_slot(method, data, with_loss)) == {*GENERATING, *REFINING, "critic"}
    assert torch.allclose((method.centres.detach() - start).abs(), torch.full_like(start, 0.02), rtol=1e-5)


@pytest.mark.parametrize("with_loss", [False, True])
@pytest.mark.parametrize("other", ["random", "nearest"])
def test_the_centre_of_one_class_alone_stays(other: str, with_loss: bool):
    data, batch = (replace(part, labels=0 * part.labels, n_seen=1) for part in make_batch())
    method = make_method(FREE, data, other=other)
    slot = own_slot(method, data, with_loss)
    assert moved(method, data, batch, slot) == {*GENERATING, "refinement", "critic"}
    assert descents(method, data, batch, slot)[0].value > 0  # the regression remains


def test_what_the_loss_learns_is_trained_with_the_refinement():
    data, batch = make_batch()
    method = make_method(FREE, data)
    slot = slot_for(method, data, learning_loss(data))
    *steps, generator = descents(method, data, batch, slot)
    refinements, critics = steps[::2], steps[1::2]
    assert all(refinement.held == REFINING | {"loss"} for refinement in refinements)
    assert generator.held == GENERATING | REFINING | {"loss"}
    for descent in (*refinements, generator):
        assert descent.gradients["loss.log_noise"].abs() > 1e-3
    assert not any("loss" in critic.held for critic in critics)


# What is made of it ---------------------------------------------------------------------------------------------------


def test_images_are_classified_with_the_refinements_layers_without_noise():
    data, _ = make_batch()
    method = make_method(FREE, data, n_generated=3)
    check_classifiers(method, data, partial(slow_represented, method), partial(slow_generated, method.generator))


@pytest.mark.parametrize("with_loss", [False, True])
def test_semantics_are_the_refinements_without_noise(with_loss: bool):
    data, batch = make_batch()
    method = make_method(FREE, data)
    descents(method, data, batch, own_slot(method, data, with_loss))
    assert not FREE.semantics_need_loss
    found = method.semantics(batch.features)
    expected = [slow_regressed(method, x) for x in batch.features.tolist()]
    assert found.tolist() == [pytest.approx(row, abs=1e-12) for row in expected]


def test_an_adversarial_weight_of_0_leaves_the_critic_out():
    check_the_critics_weight(FREE)


@pytest.mark.parametrize("loss_name", [None, "remse"])
def test_unseen_classes_are_recognised(loss_name: str | None):
    settings: Any = {"hidden": 128, "critic_steps": 2, "lr": 3e-3, "adversarial_weight": 1.0, "margin": 5.0}
    weight = 1.0 if loss_name else 0.01
    assert unseen_accuracy(FREE, loss_name, 12, **settings, regression_weight=weight) > 0.8
