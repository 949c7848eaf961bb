"""CN-ZSL's objective, one step of its training and its scores, against loops from its formula."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.api import TrainData
from methods.embedding.cn_zsl import CNZSL, ClassStandardisation
from tests.reference.networks import slow_layer
from tests.reference.toy import (
    check_first_step,
    class_slot,
    dot,
    make_float64,
    objective_of,
    problems,
    seeded,
    slow_class_loss,
)

Divide = Literal["std", "variance"]
Rows = list[list[float]]
#: The linear layers of ``net``.
LAYERS = (0, 2, 6)


def slow_standardised(rows: Rows, divide: Divide) -> Rows:
    """Each column less its mean, over its deviation or its variance."""
    columns = []
    for column in zip(*rows, strict=True):
        mean = sum(column) / len(column)
        variance = sum((v - mean) ** 2 for v in column) / len(column) + 1e-5
        columns.append([(v - mean) / (math.sqrt(variance) if divide == "std" else variance) for v in column])
    return [list(row) for row in zip(*columns, strict=True)]


def relu(rows: Rows) -> Rows:
    return [[max(0.0, v) for v in row] for row in rows]


def slow_prototypes(method: Any, data: TrainData) -> Rows:
    """The prototypes of the seen classes in training; f's input is a times the root of the number of attributes."""
    first, second, last = (method.net[k] for k in LAYERS)
    seen = data.attributes[: data.n_seen].tolist()
    hidden = relu([slow_layer(first, [v * math.sqrt(len(a)) for v in a]) for a in seen])
    hidden = slow_standardised([slow_layer(second, row) for row in hidden], method.config.divide)
    hidden = slow_standardised(relu(hidden), method.config.divide)
    found = [slow_layer(last, row) for row in hidden]
    return relu(found) if method.config.output == "relu" else found


def cosine(v: list[float], w: list[float]) -> float:
    return dot(v, w) / (max(math.sqrt(dot(v, v)), 1e-12) * max(math.sqrt(dot(w, w)), 1e-12))


def slow_decoded(method: Any, features: list[float]) -> list[float]:
    norm = max(math.sqrt(dot(features, features)), 1e-12)
    return slow_layer(method.decoder, [v / norm * math.sqrt(len(features)) for v in features])


def slow_objective(method: Any, data: TrainData, weight: float | None) -> float:
    """The cross-entropy of scaled cosines over the seen classes, the penalty, and both regressions."""
    prototypes, features, labels = slow_prototypes(method, data), data.features.tolist(), data.labels.tolist()
    value = 0.0
    for x, y in zip(features, labels, strict=True):
        scores = [method.config.scale * cosine(x, p) for p in prototypes]
        value += (math.log(sum(math.exp(s) for s in scores)) - scores[y]) / len(labels)
    parameters = [p for k in LAYERS for p in (method.net[k].weight, method.net[k].bias)]
    value += method.config.l2 / 2 * sum(v**2 for p in parameters for v in p.flatten().tolist())
    if weight is None:
        return value
    sides = (features, [prototypes[y] for y in labels])
    return value + weight * sum(slow_class_loss([slow_decoded(method, row) for row in side], data) for side in sides)


@given(problems(), st.sampled_from(["std", "variance"]), st.sampled_from([0.0, 0.1]), st.sampled_from([None, 0.0, 2.5]))
def test_the_objective_agrees_with_the_loops(data: TrainData, divide: Divide, l2: float, weight: float | None):
    config = CNZSL.Config(hidden=5, l2=l2, divide=divide, scale=5.0, output="linear", regression_weight=weight or 0.0)
    method = CNZSL(data.meta, config, seeded(0)).double()
    value = objective_of(method, data, class_slot(data, weight))(data.features, data.labels)
    assert float(value.detach()) == pytest.approx(slow_objective(method, data, weight), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("output", ["relu", "linear"])
@pytest.mark.parametrize("weight", [None, 2.5])
def test_one_step_of_training(output: Literal["relu", "linear"], weight: float | None):
    check_first_step(CNZSL, slow_objective, weight, hidden=5, l2=0.1, scale=5.0, output=output)


def test_scores_are_cosines_with_prototypes_of_each_class_alone():
    data = make_float64()
    method = CNZSL(data.meta, CNZSL.Config(hidden=5, output="linear"), seeded(0)).double()
    objective_of(method, data, class_slot(data, None))(data.features, data.labels)
    classes = torch.tensor([len(data.attributes) - 1, 2, 0, 3])
    scores = method.scores(data.features, classes)
    prototypes = method.prototypes(method.attributes[classes]).tolist()
    for x, found in zip(data.features.tolist(), scores.tolist(), strict=True):
        assert found == pytest.approx([cosine(x, p) for p in prototypes], abs=1e-12)
    # What is standardised by running averages does not depend on the other classes.
    assert torch.allclose(method.scores(data.features, classes[1:2]), scores[:, 1:2], rtol=0, atol=1e-12)


def test_running_statistics_follow_the_classes_and_are_part_of_the_state():
    layer, rows = ClassStandardisation(3, "std"), 2 + 3 * torch.randn(50, 3, generator=seeded(0))
    for _ in range(200):
        trained = layer.train()(rows)
    assert set(layer.state_dict()) == {"mean", "variance"}
    assert torch.allclose(layer.eval()(rows), trained, atol=1e-4)
    assert torch.allclose(trained.mean(0), torch.zeros(3), atol=1e-5)
    once = ClassStandardisation(3, "std")
    once.train()(rows)
    assert torch.allclose(once.get_buffer("mean"), 0.1 * rows.mean(0))
    assert torch.allclose(once.get_buffer("variance"), 0.9 + 0.1 * rows.var(0, correction=0))
