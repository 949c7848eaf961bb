"""cycle-CLSWGAN's objectives against loops from its formulas, with and without unseen classes, and a short training."""

from __future__ import annotations

import copy
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.api import TrainData
from methods.generative.cycle_clswgan import CycleCLSWGAN
from tests.reference.generative import RecordingLoss, Row, first_run, make_batch, own_slot, slow_features
from tests.reference.networks import slow_layer
from tests.reference.toy import slot_for, slow_class_loss
from tests.reference.wgan import check_trained_regressor, check_wgan, make_wgan, short_accuracy, wgan_descents


def slow_error(predicted: list[Row], batch: TrainData, with_loss: bool) -> float:
    """``ClassLoss``, or Felix et al. 2018, eq. 6, the plain mean squared error."""
    if with_loss:
        return slow_class_loss(predicted, batch)
    pairs = zip(predicted, batch.targets.tolist(), strict=True)
    squares = [(p - t) ** 2 for row, target in pairs for p, t in zip(row, target, strict=True)]
    return sum(squares) / len(squares)


def drawn_unseen(data: TrainData, n: int, n_noise: int) -> tuple[Tensor, Tensor]:
    """The unseen classes of the first batch, and the noise of their features."""
    rng = first_run().rng("unseen classes")
    drawn = torch.randint(data.n_seen, len(data.attributes), (n,), generator=rng)
    return drawn, torch.randn(n, n_noise, generator=rng)


def slow_cycle(method: Any, data: TrainData, batch: TrainData, with_loss: bool, fake: list[Row]) -> float:
    """The weighted error of generated features, with those of unseen classes in the same batch."""
    labels, features = batch.labels, fake
    if method.config.unseen:
        drawn, noise = drawn_unseen(data, len(fake), method.generator.n_noise)
        features = fake + slow_features(method.generator, noise, data.attributes[drawn])
        labels = torch.cat([labels, drawn])
    predicted = [slow_layer(method.regressor, x) for x in features]
    return method.config.regression_weight * slow_error(predicted, replace(batch, labels=labels), with_loss)


@pytest.mark.parametrize("unseen", [False, True])
@pytest.mark.parametrize("with_loss", [False, True])
def test_every_objective_and_its_gradient(with_loss: bool, unseen: bool):
    """The critic and the frozen classifier judge seen classes alone."""
    data, batch = make_batch()
    method = make_wgan(CycleCLSWGAN, data, unseen=unseen, regression_weight=2.5)
    prepare = partial(method.prepare, data, own_slot(method, data, with_loss))
    check_wgan(method, data, batch, prepare, partial(slow_cycle, method, data, batch, with_loss))


@pytest.mark.parametrize("with_loss", [False, True])
def test_the_regressor_is_trained_by_the_same_error(with_loss: bool):
    data, batch = make_batch()
    method = make_wgan(CycleCLSWGAN, data, unseen=True)
    start = copy.deepcopy(method.regressor)
    wgan_descents(method, data, batch, partial(method.prepare, data, own_slot(method, data, with_loss)))
    check_trained_regressor(start, method.regressor, data, lambda rows: slow_error(rows, data, with_loss))


def test_the_published_error_has_the_weight_too():
    """And where it is 0, the objective is that of no cycle."""
    data, batch = make_batch()
    values = []
    for weight in (0.0, 1.0, 3.0):
        method = make_wgan(CycleCLSWGAN, data, regression_weight=weight)
        prepare = partial(method.prepare, data, own_slot(method, data, False))
        values.append(wgan_descents(method, data, batch, prepare)[-1].value)
    assert values[1] - values[0] > 1e-3
    assert values[2] - values[0] == pytest.approx(3 * (values[1] - values[0]))


def to_float32(data: TrainData) -> TrainData:
    return replace(data, features=data.features.float(), attributes=data.attributes.float())


def recorded(unseen: bool, n_batches: int) -> tuple[TrainData, TrainData, list[tuple[Tensor, Tensor]]]:
    """The data, the batch, and the loss's calls in the generator's objective."""
    data, batch = make_batch()
    method, loss = make_wgan(CycleCLSWGAN, data, unseen=unseen), RecordingLoss(data)
    narrow = to_float32(data)
    training = method.float().prepare(narrow, slot_for(method, narrow, loss), first_run())
    before = len(loss.calls)
    for labels, _ in loss.calls:
        assert (labels < data.n_seen).all()  # the regressor is trained on real features
    for _ in range(n_batches):
        training([(batch.features.float(), batch.labels)], 1)
    return data, batch, loss.calls[before:]


def test_a_loss_sees_seen_and_unseen_classes_in_one_batch():
    data, batch, calls = recorded(unseen=True, n_batches=30)
    assert len(calls) == 30
    for labels, target in calls:
        assert torch.equal(labels[:6], batch.labels)
        assert len(labels) == 12
        assert (labels[6:] >= data.n_seen).all()
        assert torch.equal(target, data.attributes.float()[labels])
    counts = torch.bincount(torch.cat([labels[6:] for labels, _ in calls]))[data.n_seen :]
    assert counts.tolist() == pytest.approx([90, 90], abs=30)  # both unseen classes, at random


def test_without_unseen_it_sees_the_seen_alone():
    data, batch, calls = recorded(unseen=False, n_batches=2)
    for labels, target in calls:
        assert torch.equal(labels, batch.labels)
        assert torch.equal(target, data.attributes.float()[labels])


@pytest.mark.parametrize("with_loss", [False, True])
def test_attributes_are_predicted_with_and_without_a_loss(with_loss: bool):
    data, batch = make_batch()
    method = make_wgan(CycleCLSWGAN, data)
    wgan_descents(method, data, batch, partial(method.prepare, data, own_slot(method, data, with_loss)))
    assert not CycleCLSWGAN.semantics_need_loss
    found = method.semantics(batch.features)
    assert found.tolist() == [pytest.approx(slow_layer(method.regressor, x)) for x in batch.features.tolist()]


@pytest.mark.parametrize(("loss_name", "unseen"), [(None, False), ("remse", False), ("remse", True)])
def test_unseen_classes_are_recognised(loss_name: str | None, unseen: bool):
    assert short_accuracy(CycleCLSWGAN, loss_name, unseen=unseen) > 0.8
