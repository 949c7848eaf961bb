"""The attribute regressors that classify by cosine, ``linear`` and ``mlp``: objective, training and scores by loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.api import Method, TrainData
from methods.embedding.linear import Linear
from methods.embedding.mlp import MLP
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

KINDS: list[tuple[type[Method], dict[str, Any]]] = [(Linear, {}), (MLP, {"hidden": 5})]
WEIGHTS = [None, 0.0, 2.5]


def slow_semantics(method: Any, x: list[float]) -> list[float]:
    if isinstance(method, Linear):
        return slow_layer(method.projection, x)
    hidden = [h if h > 0 else 0.1 * h for h in slow_layer(method.net[0], x)]
    return slow_layer(method.net[2], hidden)


def slow_cosine(u: list[float], v: list[float]) -> float:
    return dot(u, v) / math.sqrt(dot(u, u) * dot(v, v))


def slow_objective(method: Any, data: TrainData, weight: float | None) -> float:
    """Cross-entropy of the scaled cosines with the seen classes, and the regression."""
    predicted = [slow_semantics(method, x) for x in data.features.tolist()]
    seen, labels = data.attributes[: data.n_seen].tolist(), data.labels.tolist()
    total = 0.0
    for v, y in zip(predicted, labels, strict=True):
        powers = [math.exp(method.config.scale * slow_cosine(v, a)) for a in seen]
        total -= math.log(powers[y] / sum(powers))
    value = method.config.classification_weight * total / len(labels)
    return value if weight is None else value + weight * slow_class_loss(predicted, data)


@pytest.mark.parametrize(("kind", "settings"), KINDS)
@given(problems(), st.sampled_from([5.0, 20.0]), st.sampled_from([0.0, 1.0, 0.3]), st.sampled_from(WEIGHTS))
def test_the_objective_agrees_with_the_loops(
    kind: type[Method],
    settings: dict[str, Any],
    data: TrainData,
    scale: float,
    classification: float,
    weight: float | None,
):
    changes = {"scale": scale, "classification_weight": classification, "regression_weight": weight or 0.0}
    method = kind(data.meta, kind.Config(**settings, **changes), seeded(0)).double()
    value = objective_of(method, data, class_slot(data, weight))(data.features, data.labels)
    assert float(value.detach()) == pytest.approx(slow_objective(method, data, weight), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(("kind", "settings"), KINDS)
@pytest.mark.parametrize("weight", WEIGHTS)
def test_one_step_of_training(kind: type[Method], settings: dict[str, Any], weight: float | None):
    check_first_step(kind, slow_objective, weight, scale=5.0, **settings)


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_without_classification_it_is_regression_alone(kind: type[Method], settings: dict[str, Any]):
    def regression(method: Any, data: TrainData, weight: float | None) -> float:
        return 2.5 * slow_class_loss([slow_semantics(method, x) for x in data.features.tolist()], data)

    check_first_step(kind, regression, 2.5, classification_weight=0.0, **settings)


@pytest.mark.parametrize(("kind", "settings"), KINDS)
def test_scores_are_scaled_cosines_of_the_semantics(kind: type[Method], settings: dict[str, Any]):
    data = make_float64()
    method = kind(data.meta, kind.Config(**settings, **{"scale": 7.0}), seeded(0)).double()
    objective_of(method, data, class_slot(data, None))
    classes = [len(data.attributes) - 1, 0, 2]
    scores, semantics = method.scores(data.features, torch.tensor(classes)), method.semantics(data.features)
    assert semantics is not None
    for i, x in enumerate(data.features.tolist()):
        v = slow_semantics(method, x)
        assert semantics[i].tolist() == pytest.approx(v, abs=1e-12)
        expected = [7 * slow_cosine(v, data.attributes[c].tolist()) for c in classes]
        assert scores[i].tolist() == pytest.approx(expected, abs=1e-12)
