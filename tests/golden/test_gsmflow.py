"""GSMFlow's flow, its determinant, its anchors and its objective against slow code, and short trainings."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmark.api import TrainData
from methods.generative.gsmflow import Flow, GSMFlow, anchors
from tests.reference.descents import check_descent, descents, descents_and_log, moved, without
from tests.reference.generative import (
    Row,
    first_run,
    learning_loss,
    lively,
    make_batch,
    slow_mlp,
    unseen_accuracy,
)
from tests.reference.networks import slow_layer
from tests.reference.toy import class_slot, dot, seeded, slot_for, slow_class_loss

NETWORKS = ("flow", "position")


def make_flow(n_features: int, n_condition: int = 2, blocks: int = 3) -> Flow:
    flow: Flow = lively(Flow(n_features, n_condition, 4, blocks, seeded(0)))
    return flow


def make_method(data: TrainData, **settings: Any) -> Any:
    small: Any = {"hidden": 3, "position_hidden": 2, "blocks": 2, "prototype_weight": 1.7, "perturbation": 0.6}
    return lively(GSMFlow(data.meta, GSMFlow.Config(**{**small, **settings}), seeded(0)))


def normal(seed: int, *shape: int) -> Tensor:
    return 2 * torch.randn(shape, generator=seeded(seed), dtype=torch.float64)


# The flow -------------------------------------------------------------------------------------------------------------


def slow_coupling(coupling: Any, x: Row, condition: Row) -> tuple[Row, float]:
    """One image: what becomes of it, and the logarithm of the determinant."""
    half = len(x) // 2
    first, second = x[:half], x[half:]
    log_det = 0.0
    for net, is_first in ((coupling.of_second, True), (coupling.of_first, False)):
        given, other = (second, first) if is_first else (first, second)
        outputs = slow_mlp(net, given + condition)
        logs = [math.atan(s) / (math.pi / 2) for s in outputs[: len(other)]]
        other = [v * math.exp(s) + t for v, s, t in zip(other, logs, outputs[len(other) :], strict=True)]
        log_det += sum(logs)
        first, second = (other, second) if is_first else (first, other)
    return first + second, log_det


def slow_inverse(flow: Any, z: Row, condition: Row) -> Row:
    """Undone step by step: the second half is known by the first, then the first by the second."""
    half = len(z) // 2
    for coupling in list(flow.couplings)[::-1]:
        first, second = z[:half], z[half:]
        outputs = slow_mlp(coupling.of_first, first + condition)
        n = len(second)
        second = [(v - outputs[n + i]) / math.exp(2 / math.pi * math.atan(outputs[i])) for i, v in enumerate(second)]
        outputs = slow_mlp(coupling.of_second, second + condition)
        first = [(v - outputs[half + i]) / math.exp(2 / math.pi * math.atan(outputs[i])) for i, v in enumerate(first)]
        z = first + second
    return z


def slow_flow(flow: Any, x: Row, condition: Row) -> tuple[Row, float]:
    log_det = 0.0
    for coupling in flow.couplings:
        x, own = slow_coupling(coupling, x, condition)
        log_det += own
    return x, log_det


@pytest.mark.parametrize("n_features", [2, 3, 6, 7])
def test_the_flow_is_invertible_and_as_the_formula_says(n_features: int):
    flow, x, condition = make_flow(n_features), normal(1, 5, n_features), normal(2, 5, 2)
    z, log_det = flow(x, condition)
    assert (z - x).abs().amin() > 1e-3  # every feature is moved
    torch.testing.assert_close(flow.inverse(z, condition), x, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(flow(flow.inverse(x, condition), condition)[0], x, rtol=1e-9, atol=1e-9)
    for i in range(5):
        expected, determinant = slow_flow(flow, x[i].tolist(), condition[i].tolist())
        assert z[i].tolist() == pytest.approx(expected, abs=1e-12)
        assert log_det[i].item() == pytest.approx(determinant, abs=1e-12)
        assert flow.inverse(x, condition)[i].tolist() == pytest.approx(
            slow_inverse(flow, x[i].tolist(), condition[i].tolist()), abs=1e-10
        )


@pytest.mark.parametrize("n_features", [2, 3, 6, 7])
def test_the_determinant_is_that_of_the_jacobian(n_features: int):
    flow, condition = make_flow(n_features), normal(2, 1, 2)
    for x in normal(1, 5, n_features):
        jacobian = torch.autograd.functional.jacobian(lambda row: flow(row[None], condition)[0][0], x)
        sign, log_det = torch.linalg.slogdet(jacobian)
        assert sign == 1
        assert flow(x[None], condition)[1].item() == pytest.approx(log_det.item(), abs=1e-9)


def test_couplings_differ_and_every_output_depends_on_features_and_condition():
    flow, x, condition = make_flow(4), normal(1, 1, 4), normal(2, 1, 2)
    of_x, of_condition = torch.autograd.functional.jacobian(lambda a, c: flow(a, c)[0][0], (x, condition))
    assert of_x.abs().amin() > 1e-6
    assert of_condition.abs().amin() > 1e-6


# Positions ------------------------------------------------------------------------------------------------------------


def slow_anchors(attributes: list[Row]) -> list[Row]:
    def cosine(a: Row, b: Row) -> float:
        return dot(a, b) / math.sqrt(dot(a, a) * dot(b, b))

    by_sum = sorted(attributes, key=lambda a: sum(cosine(a, b) for b in attributes))
    return [by_sum[0], by_sum[-1], by_sum[(len(by_sum) - 1) // 2]]


@pytest.mark.parametrize("n_classes", [3, 4, 9, 10])
def test_anchors_are_the_least_the_most_and_the_middling_central_class(n_classes: int):
    for seed in range(5):
        attributes = normal(seed, n_classes, 4)
        assert anchors(attributes).tolist() == slow_anchors(attributes.tolist())


@pytest.mark.parametrize(("among", "n_classes"), [("seen", 4), ("all", 6)])
def test_anchors_are_found_among_the_classes_that_the_setting_names(among: str, n_classes: int):
    data, _ = make_batch()
    method = make_method(data, anchors=among)
    method.prepare(data, class_slot(data, None), first_run())
    assert method.position.anchors.tolist() == slow_anchors(data.attributes.tolist()[:n_classes])
    assert slow_anchors(data.attributes.tolist()[:4]) != slow_anchors(data.attributes.tolist())


def slow_position(position: Any, a: Row) -> Row:
    total = [0.0] * position.layers[0].out_features
    for layer, anchor in zip(position.layers, position.anchors.tolist(), strict=True):
        moved_by = slow_layer(layer, [v - w for v, w in zip(a, anchor, strict=True)])
        total = [t + max(0.0, v) for t, v in zip(total, moved_by, strict=True)]
    return total


# The objective --------------------------------------------------------------------------------------------------------


def slow_objective(
    method: Any, data: TrainData, batch: TrainData, noise: list[Row], weight: float | None, fixed: list[Row]
) -> float:
    """The terms, one image after the other; ``fixed`` are the positions of prototypes, by which g is not trained."""
    config, n_features, n_images = method.config, data.meta.n_features, len(batch.labels)
    value = 0.0
    predicted: tuple[list[Row], list[Row]] = [], []
    for i, (x, y, e) in enumerate(zip(batch.features.tolist(), batch.labels.tolist(), noise, strict=True)):
        position = slow_position(method.position, data.attributes[y].tolist())
        z, log_det = slow_flow(method.flow, [v + config.perturbation * n for v, n in zip(x, e, strict=True)], position)
        value += (dot(z, z) / 2 - log_det) / n_features / n_images
        prototype = slow_inverse(method.flow, [0.0] * n_features, fixed[i])
        of_class = [row for row, label in zip(data.features.tolist(), data.labels.tolist(), strict=True) if label == y]
        mean = [sum(column) / len(of_class) for column in zip(*of_class, strict=True)]
        squares = sum((p - m) ** 2 for p, m in zip(prototype, mean, strict=True))
        value += config.prototype_weight * squares / n_features / n_images
        predicted[0].append(slow_layer(method.regressor, prototype))
        predicted[1].append(slow_layer(method.regressor, x))
    if weight is not None:
        value += weight * sum(slow_class_loss(rows, batch) for rows in predicted)
    return value


@pytest.mark.parametrize("weight", [None, 2.5])
def test_the_objective_and_its_gradient(weight: float | None):
    data, batch = make_batch()
    method = make_method(data)
    found, logged = descents_and_log(method, data, batch, class_slot(data, weight))
    (descent,) = found
    noise = torch.randn(6, 3, generator=first_run().rng("noise"), dtype=torch.float64).tolist()
    fixed = [slow_position(method.position, a) for a in batch.targets.tolist()]
    slow = partial(slow_objective, method, data, batch, noise, weight, fixed)
    if weight is None:
        check_descent(method, without(descent, "regressor"), slow, *NETWORKS)
    else:
        check_descent(method, descent, slow, *NETWORKS, "regressor")
    assert logged["objective"] == descent.value


def test_the_regressor_learns_with_a_loss_alone():
    data, batch = make_batch()
    for weight in (None, 1.0):
        expected = {*NETWORKS, "regressor"} if weight else set(NETWORKS)
        assert moved(make_method(data), data, batch, class_slot(data, weight)) == expected
    assert GSMFlow.semantics_need_loss


def test_what_the_loss_learns_is_trained_with_the_networks():
    data, batch = make_batch()
    method = make_method(data)
    (descent,) = descents(method, data, batch, slot_for(method, data, learning_loss(data)))
    assert descent.held == {*NETWORKS, "regressor", "loss"}


@pytest.mark.parametrize(("epoch", "lr"), [(1, 0.04), (3, 0.04), (4, 0.02), (7, 0.01)])
def test_the_learning_rate_falls_and_weights_decay(epoch: int, lr: float):
    data, batch = make_batch()
    method = make_method(data, lr=0.04, decay=0.5, decay_every=3, weight_decay=0.3)
    (descent,) = descents(method, data, batch, class_slot(data, 1.0), epoch)
    own, regressor = descent.optimizer.param_groups
    assert (own["lr"], own["weight_decay"], own["betas"]) == (pytest.approx(lr), 0.3, (0.9, 0.999))
    assert regressor["weight_decay"] == 0


# Generation -----------------------------------------------------------------------------------------------------------


def test_features_are_generated_by_the_inverse_from_noise_of_full_scale():
    data, _ = make_batch()
    method = make_method(data)
    method.position.anchors = normal(4, 3, 2)
    noise = torch.randn(6, 3, generator=seeded(3), dtype=torch.float64).tolist()
    expected = [
        pytest.approx(slow_inverse(method.flow, e, slow_position(method.position, a)), abs=1e-10)
        for a, e in zip(data.attributes.tolist(), noise, strict=True)
    ]
    assert method.generate(data.attributes, seeded(3)).tolist() == expected


def test_a_trained_flow_turns_features_into_standard_normal_noise():
    """Those of a class whose two features depend on each other, of another mean and scale than noise."""
    z = torch.randn(2000, 2, generator=seeded(1))
    x = torch.stack([0.5 * z[:, 0] + 1, 0.3 * z[:, 0] - 0.6 * z[:, 1]], dim=1)
    flow, condition = Flow(2, 1, 16, 2, seeded(0)), torch.zeros(2000, 1)
    optimiser = torch.optim.Adam(flow.parameters(), 0.01)
    for _ in range(300):
        found, log_det = flow(x, condition)
        loss = 0.5 * found.square().sum(1).mean() - log_det.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        assert F.mse_loss(flow(x, condition)[0].T.cov(), torch.eye(2)) < 0.01
        drawn = flow.inverse(torch.randn(2000, 2, generator=seeded(2)), condition)
    torch.testing.assert_close(drawn.T.cov(), x.T.cov(), rtol=0.15, atol=0.05)
    torch.testing.assert_close(drawn.mean(0), x.mean(0), rtol=0, atol=0.1)


@pytest.mark.parametrize("loss_name", [None, "remse"])
def test_unseen_classes_are_recognised(loss_name: str | None):
    settings: Any = {"hidden": 64, "position_hidden": 32, "blocks": 2, "lr": 3e-3}
    assert unseen_accuracy(GSMFlow, loss_name, 15, preprocess="standard", **settings) > 0.8
