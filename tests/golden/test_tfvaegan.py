"""TF-VAEGAN's objectives and gradients against loops from its formulas, and a short training on tiny data."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
from torch import Tensor

from benchmark.api import TrainData
from methods.generative.tfvaegan import TFVAEGAN
from tests.reference.descents import check_descent, descents, descents_and_log, learning_rates, moved
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
    slow_mlp,
    unseen_accuracy,
)
from tests.reference.networks import slow_layer
from tests.reference.toy import dot, slot_for
from tests.reference.vaegan import (
    check_classifiers,
    check_critics,
    check_the_critics_weight,
    draw,
    make_method,
    noise_of_a_run,
    slow_rebuild,
    slow_vaegan,
)

GENERATING = {"encoder", "generator"}


def slow_hidden(method: Any, x: Row) -> Row:
    return leaky(slow_layer(method.decoder.first, x))


def slow_decoded(method: Any, x: Row) -> Row:
    """Attributes of unit norm."""
    attributes = slow_layer(method.decoder.last, slow_hidden(method, x))
    return [a / math.sqrt(dot(attributes, attributes)) for a in attributes]


def slow_represented(method: Any, x: Row) -> Row:
    return x + slow_hidden(method, x) + slow_decoded(method, x)


def slow_feedback(method: Any, hidden: Row, weight: float) -> Row:
    additions = slow_mlp([*method.feedback[:3]], hidden)
    return [weight * f for f in (leaky(additions) if method.config.feedback_output == "leaky" else additions)]


def first_hidden(method: Any, batch: TrainData, noise: Tensor) -> list[Row]:
    """Dec's hidden layer for what the generator makes first."""
    return [slow_hidden(method, x) for x in slow_rebuild(method, batch, noise)[0]]


def slow_twice(method: Any, batch: TrainData, noise: Tensor, hidden: list[Row] | None) -> tuple[list[Row], float]:
    """Reconstructions with the feedback from ``hidden``, or without any."""
    weight = method.config.feedback_weight
    additions = None if hidden is None else [slow_feedback(method, h, weight) for h in hidden]
    return slow_rebuild(method, batch, noise, additions)


def slow_regression(method: Any, features: list[Row], batch: TrainData, with_loss: bool) -> float:
    return slow_error([slow_decoded(method, x) for x in features], batch, with_loss)


def slow_objective(method: Any, batch: TrainData, noise: Tensor, hidden: list[Row] | None, with_loss: bool) -> float:
    """f-VAEGAN-D2's, and the weighted error of reconstructions; ``hidden`` does not change with the networks."""
    fake, divergence = slow_twice(method, batch, noise, hidden)
    regression = method.config.regression_weight * slow_regression(method, fake, batch, with_loss)
    return slow_vaegan(method, batch, fake, divergence) + regression


@pytest.mark.parametrize(("output", "feedback"), [("sigmoid", "leaky"), ("linear", "leaky"), ("linear", "linear")])
@pytest.mark.parametrize("freeze_decoder", [False, True])
@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("with_loss", [False, True])
def test_every_objective_and_its_gradient(
    with_loss: bool, epoch: int, freeze_decoder: bool, output: str, feedback: str
):
    data, batch = make_scaled_batch(output)
    rates: Any = {"lr": 0.02, "decoder_lr": 0.03, "feedback_lr": 0.04, "feedback_output": feedback}
    method = make_method(
        TFVAEGAN, data, output=output, freeze_decoder=freeze_decoder, feedback_weight=0.8, critic_steps=2, **rates
    )
    found, logged = descents_and_log(method, data, batch, own_slot(method, data, with_loss), epoch)
    *steps, generator = found
    regressions, critics = steps[::2], steps[1::2]

    def rebuild(batch: TrainData, noise: Tensor) -> tuple[list[Row], float]:
        return slow_twice(method, batch, noise, first_hidden(method, batch, noise) if epoch % 2 == 0 else None)

    assert len(regressions) == 2  # at every step of the critic, on its batch
    for regression, own in zip(regressions, round_of(batch, 2), strict=True):
        slow = partial(slow_regression, method, own.features.tolist(), own, with_loss)
        check_descent(method, regression, slow, "decoder")
        assert learning_rates(method, regression) == {"decoder": 0.03}
    noise = noise_of_a_run()
    check_critics(method, batch, critics, rebuild, noise)
    drawn = draw(batch, noise)
    hidden = first_hidden(method, batch, drawn) if epoch % 2 == 0 else None
    of_modules = dict.fromkeys(GENERATING, 0.02)
    if not freeze_decoder:
        of_modules["decoder"] = 0.03
    if epoch % 2 == 0:
        of_modules["feedback"] = 0.04
    check_descent(method, generator, partial(slow_objective, method, batch, drawn, hidden, with_loss), *of_modules)
    assert learning_rates(method, generator) == of_modules
    fake, divergence = rebuild(batch, drawn)
    method.config = method.config.model_copy(update={"adversarial_weight": 0.0})
    expected = {
        "critic": critics[-1].value,
        "autoencoder": slow_vaegan(method, batch, fake, divergence),
        "generator": generator.value,
        "regression": regressions[-1].value,
    }
    assert logged == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("freeze_decoder", [False, True])
@pytest.mark.parametrize("with_loss", [False, True])
def test_the_feedback_learns_in_every_other_epoch(with_loss: bool, freeze_decoder: bool):
    data, batch = make_batch()
    always = GENERATING | {"critic", "decoder"}
    for epoch in range(1, 5):
        method = make_method(TFVAEGAN, data, freeze_decoder=freeze_decoder)
        slot = own_slot(method, data, with_loss)
        assert moved(method, data, batch, slot, epoch) == always | (set() if epoch % 2 else {"feedback"})


def test_without_a_feedback_in_training_all_epochs_are_alike():
    data, batch = make_batch()
    method = make_method(TFVAEGAN, data, feedback_weight=0.0)
    (*_, odd), (*_, even) = (descents(method, data, batch, own_slot(method, data, True), epoch) for epoch in (1, 2))
    assert odd.value == even.value
    assert odd.held == even.held == GENERATING | {"decoder"}


@pytest.mark.parametrize("freeze_decoder", [False, True])
def test_what_the_loss_learns_is_trained_with_the_decoder(freeze_decoder: bool):
    data, batch = make_batch()
    method = make_method(TFVAEGAN, data, freeze_decoder=freeze_decoder)
    slot = slot_for(method, data, learning_loss(data))
    *steps, generator = descents(method, data, batch, slot)
    regressions, critics = steps[::2], steps[1::2]
    assert all(regression.held == {"decoder", "loss"} for regression in regressions)
    assert generator.held == GENERATING | (set() if freeze_decoder else {"decoder", "loss"})
    for descent in regressions if freeze_decoder else (*regressions, generator):
        assert descent.gradients["loss.log_noise"].abs() > 1e-3
    assert not any("loss" in critic.held for critic in critics)


@pytest.mark.parametrize("weight", [0.0, 0.6])
def test_images_are_classified_with_the_decoders_layers(weight: float):
    """What is generated for that went through the generator twice, with the feedback of synthesis."""
    data, _ = make_batch()
    method = make_method(TFVAEGAN, data, n_generated=3, feedback_weight=7.0, synthesis_feedback_weight=weight)

    def generate(noise: Row, attributes: Row) -> Row:
        hidden = slow_hidden(method, slow_generated(method.generator, noise, attributes))
        return slow_generated(method.generator, noise, attributes, slow_feedback(method, hidden, weight))

    check_classifiers(method, data, partial(slow_represented, method), generate)


@pytest.mark.parametrize("with_loss", [False, True])
def test_semantics_are_the_decoders(with_loss: bool):
    data, batch = make_batch()
    method = make_method(TFVAEGAN, data)
    descents(method, data, batch, own_slot(method, data, with_loss))
    assert not TFVAEGAN.semantics_need_loss
    found = method.semantics(batch.features)
    for row, x in zip(found.tolist(), batch.features.tolist(), strict=True):
        assert row == pytest.approx(slow_decoded(method, x), abs=1e-12)
        assert dot(row, row) == pytest.approx(1)


def test_an_adversarial_weight_of_0_leaves_the_critic_out():
    # The feedback is not held in epoch 1, and the decoder learns from the regression alone.
    check_the_critics_weight(TFVAEGAN)


@pytest.mark.parametrize("loss_name", [None, "remse"])
def test_unseen_classes_are_recognised(loss_name: str | None):
    settings: Any = {"hidden": 128, "critic_steps": 2, "lr": 3e-3, "decoder_lr": 1e-3, "adversarial_weight": 1.0}
    weight = 1.0 if loss_name else 0.01
    assert unseen_accuracy(TFVAEGAN, loss_name, 12, **settings, regression_weight=weight) > 0.8
