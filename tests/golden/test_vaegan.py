"""f-VAEGAN-D2's objectives and gradients against loops from its formulas, and a short training on tiny data."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.api import TrainData
from methods.generative import _synthesis
from methods.generative.vaegan import VAEGAN
from tests.reference.descents import (
    check_descent,
    descents_and_log,
    learning_rates,
    moved,
    parameters_of,
    recorder,
)
from tests.reference.generative import (
    Row,
    first_run,
    learning_loss,
    make_batch,
    make_scaled_batch,
    own_slot,
    slow_generated,
    unseen_accuracy,
)
from tests.reference.networks import slow_layer
from tests.reference.toy import slot_for, slow_class_loss
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

NETWORKS = {"encoder", "generator"}


def slow_regression(method: Any, features: list[Row], batch: TrainData) -> float:
    return slow_class_loss([slow_layer(method.regressor, x) for x in features], batch)


def slow_objective(method: Any, batch: TrainData, noise: Tensor, with_loss: bool) -> float:
    """Reconstruction + KL - adversarial_weight * mean D, and the weighted error read from reconstructions."""
    fake, divergence = slow_rebuild(method, batch, noise)
    value = slow_vaegan(method, batch, fake, divergence)
    return value + method.config.regression_weight * slow_regression(method, fake, batch) if with_loss else value


@pytest.mark.parametrize(("output", "depth"), [("sigmoid", 2), ("relu", 2), ("linear", 2), ("linear", 1)])
@pytest.mark.parametrize("with_loss", [False, True])
def test_every_objective_and_its_gradient(with_loss: bool, output: str, depth: int):
    data, batch = make_scaled_batch(output)
    method = make_method(VAEGAN, data, output=output, lr=0.02, regressor_epochs=1, encoder_depth=depth)
    sizes = [tuple(layer.weight.shape) for layer in method.encoder.net[::2]]
    assert sizes == ([(3, 5), (4, 3), (4, 4)] if depth == 2 else [(3, 5), (4, 3)])
    found, logged = descents_and_log(method, data, batch, own_slot(method, data, with_loss))
    *critics, generator = found
    noise = noise_of_a_run()
    check_critics(method, batch, critics, partial(slow_rebuild, method), noise)
    drawn = draw(batch, noise)
    check_descent(method, generator, partial(slow_objective, method, batch, drawn, with_loss), *NETWORKS)
    assert learning_rates(method, generator) == dict.fromkeys(NETWORKS, 0.02)
    fake, divergence = slow_rebuild(method, batch, drawn)
    method.config = method.config.model_copy(update={"adversarial_weight": 0.0})
    autoencoder = slow_vaegan(method, batch, fake, divergence)
    expected = {"critic": critics[-1].value, "autoencoder": autoencoder, "generator": generator.value}
    assert logged == pytest.approx(expected, rel=1e-10)


def test_the_regressor_is_trained_on_real_images_beforehand():
    data, _ = make_batch()
    method = make_method(VAEGAN, data, batch_size=5, regressor_epochs=2, regressor_lr=0.03)
    found, slot = [], own_slot(method, data, True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_synthesis, "descend", recorder(method, slot, found))
        method.prepare(data, slot, first_run())
    order = first_run().rng("regressor batches")
    batches = [images for _ in range(2) for images in torch.randperm(9, generator=order).split(5)]
    assert len(found) == len(batches) == 4
    for images, descent in zip(batches, found, strict=True):
        batch = TrainData(data.features[images], data.labels[images], data.attributes, data.n_seen)
        check_descent(method, descent, partial(slow_regression, method, batch.features.tolist(), batch), "regressor")
        assert [group["lr"] for group in descent.optimizer.param_groups] == [0.03]


@pytest.mark.parametrize("with_loss", [False, True])
def test_the_regressor_learns_beforehand_and_with_a_loss_alone(with_loss: bool):
    data, batch = make_batch()
    method = make_method(VAEGAN, data)
    start = method.regressor.weight.detach().clone()
    assert moved(method, data, batch, own_slot(method, data, with_loss)) == {*NETWORKS, "critic"}
    assert torch.equal(method.regressor.weight, start) != with_loss
    assert VAEGAN.semantics_need_loss


def test_what_the_loss_learns_is_trained_with_the_regressor():
    data, batch = make_batch()
    method = make_method(VAEGAN, data)
    slot = slot_for(method, data, learning_loss(data))
    start = parameters_of(method, slot)["loss.log_noise"].item()
    assert moved(method, data, batch, slot) == {*NETWORKS, "critic"}
    assert abs(parameters_of(method, slot)["loss.log_noise"].item() - start) > 1e-3


def test_images_are_classified_as_they_are():
    data, batch = make_batch()
    method = make_method(VAEGAN, data, n_generated=3)
    check_classifiers(method, data, list, partial(slow_generated, method.generator))
    method.prepare(data, own_slot(method, data, True), first_run())
    expected = [slow_layer(method.regressor, x) for x in batch.features.tolist()]
    assert method.semantics(batch.features).tolist() == [pytest.approx(row, abs=1e-12) for row in expected]


def test_an_adversarial_weight_of_0_leaves_the_critic_out():
    check_the_critics_weight(VAEGAN)


@pytest.mark.parametrize("loss_name", [None, "remse"])
def test_unseen_classes_are_recognised(loss_name: str | None):
    settings: Any = {"hidden": 128, "critic_steps": 2, "lr": 3e-3, "adversarial_weight": 1.0}
    assert unseen_accuracy(VAEGAN, loss_name, 12, **settings) > 0.8
