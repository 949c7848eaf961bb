"""DEM's objective, one step of its training, its scores and its decoder, against loops from its formula."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.api import TrainData
from benchmark.engine.runs import RefitRun
from methods.embedding.dem import DEM
from tests.reference.networks import slow_layer
from tests.reference.toy import (
    CPU,
    check_first_step,
    class_slot,
    dot,
    make_float64,
    objective_of,
    problems,
    seeded,
    slow_class_loss,
)

Output = Literal["relu", "linear"]


def slow_prototype(method: Any, attributes: list[float]) -> list[float]:
    """f(a), whose input is a times the root of the number of attributes."""
    scaled = [a * math.sqrt(len(attributes)) for a in attributes]
    found = slow_layer(method.net[2], [max(0.0, h) for h in slow_layer(method.net[0], scaled)])
    return [max(0.0, p) for p in found] if method.config.output == "relu" else found


def slow_objective(method: Any, data: TrainData, weight: float | None) -> float:
    """Zhang et al. 2017, eq. 2 (the mean over dimensions, as in the authors' code), and both regressions."""
    prototypes = [slow_prototype(method, data.attributes[y].tolist()) for y in data.labels.tolist()]
    features = data.features.tolist()
    squares = [(p - v) ** 2 for f, x in zip(prototypes, features, strict=True) for p, v in zip(f, x, strict=True)]
    layers = (method.net[0], method.net[2])
    penalty = sum(v**2 for layer in layers for p in (layer.weight, layer.bias) for v in p.flatten().tolist())
    value = sum(squares) / len(squares) + method.config.l2 * 0.5 * penalty
    if weight is None:
        return value
    decoded = [[slow_layer(method.decoder, row) for row in rows] for rows in (features, prototypes)]
    return value + weight * sum(slow_class_loss(rows, data) for rows in decoded)


@given(problems(), st.sampled_from(["relu", "linear"]), st.sampled_from([0.0, 0.1]), st.sampled_from([None, 0.0, 2.5]))
def test_the_objective_agrees_with_the_loops(data: TrainData, output: Output, l2: float, weight: float | None):
    config = DEM.Config(hidden=5, l2=l2, output=output, regression_weight=weight or 0.0)
    method = DEM(data.meta, config, seeded(0)).double()
    value = objective_of(method, data, class_slot(data, weight))(data.features, data.labels)
    assert float(value.detach()) == pytest.approx(slow_objective(method, data, weight), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("output", ["relu", "linear"])
@pytest.mark.parametrize("weight", [None, 0.0, 2.5])
def test_one_step_of_training(output: Output, weight: float | None):
    check_first_step(DEM, slow_objective, weight, hidden=5, l2=0.1, output=output)


@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_without_a_loss_the_decoder_stays_as_it_was(optimizer: Literal["adam", "sgd"], weight_decay: float):
    data, run = make_float64(), RefitRun(CPU, 0, "toy", 2)
    config = DEM.Config(hidden=5, batch_size=10, optimizer=optimizer, weight_decay=weight_decay)
    method = DEM(data.meta, config, seeded(0)).double()
    method.fit(data, class_slot(data, None), run)
    start = DEM(data.meta, method.config, seeded(0)).double()
    assert torch.equal(method.decoder.weight, start.decoder.weight)
    assert torch.equal(method.decoder.bias, start.decoder.bias)
    assert not torch.equal(next(method.net.parameters()), next(start.net.parameters()))
    assert DEM.semantics_need_loss


def test_with_a_loss_semantics_are_the_decoded_features():
    method, data = check_first_step(DEM, slow_objective, 2.5, hidden=5), make_float64()
    for x, found in zip(data.features.tolist(), method.semantics(data.features).tolist(), strict=True):
        assert found == pytest.approx(slow_layer(method.decoder, x), abs=1e-12)


def test_the_regression_reaches_the_prototypes():
    data = make_float64()
    gradients = []
    for weight in (0.0, 1.0):
        method = DEM(data.meta, DEM.Config(hidden=5, regression_weight=weight), seeded(0)).double()
        objective_of(method, data, class_slot(data, weight))(data.features, data.labels).backward()
        gradients.append([p.grad for p in method.net.parameters()])
    for without, with_it in zip(*gradients, strict=True):
        assert (with_it - without).abs().max() > 1e-3


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
@pytest.mark.parametrize("output", ["relu", "linear"])
def test_scores_rank_classes_by_their_prototypes(distance: Literal["euclidean", "cosine"], output: Output):
    data = make_float64()
    method = DEM(data.meta, DEM.Config(hidden=5, distance=distance, output=output), seeded(0)).double()
    objective_of(method, data, class_slot(data, None))
    classes = [len(data.attributes) - 1, 2, 0, 3]
    features = 4 * torch.randn(30, 5, generator=seeded(1), dtype=torch.float64)
    scores = method.scores(features, torch.tensor(classes))
    prototypes = [slow_prototype(method, data.attributes[c].tolist()) for c in classes]
    orders = set()
    for x, found in zip(features.tolist(), scores.tolist(), strict=True):
        if distance == "cosine":
            expected = [dot(x, p) / math.sqrt(dot(x, x) * dot(p, p)) for p in prototypes]
        else:  # up to what is the same for all classes of an image, and so moves no rank
            expected = [dot(x, x) - sum((v - w) ** 2 for v, w in zip(x, p, strict=True)) for p in prototypes]
        assert found == pytest.approx(expected, abs=1e-12)
        order = sorted(range(4), key=found.__getitem__)
        assert order == sorted(range(4), key=expected.__getitem__)
        orders.add(tuple(order))
    assert len(orders) > 2
