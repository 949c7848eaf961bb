"""ICIS's objective, one step of its training, its classifier of seen classes and its scores, against loops."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, Literal

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from benchmark.api import TrainData
from methods.embedding.icis import ICIS
from tests.reference.generative import first_run, slow_adam
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

Row = list[float]
BASE: dict[str, Any] = {"base_epochs": 2, "base_lr": 0.1, "base_batch_size": 4}


def length(row: Row) -> float:
    return math.sqrt(dot(row, row))


def distance(predicted: list[Row], target: list[Row]) -> float:
    pairs = zip(predicted, target, strict=True)
    return sum(1 - dot(p, t) / (length(p) * length(t)) for p, t in pairs) / len(target)


def code(layer: nn.Linear, row: Row) -> Row:
    return [max(0.0, v) for v in slow_layer(layer, row)]


def attribute_code(method: Any, attributes: Row) -> Row:
    return code(method.attribute_encoder, [v * math.sqrt(len(attributes)) for v in attributes])


def row_code(method: Any, row: Row) -> Row:
    return code(method.row_encoder, [v / length(row) * math.sqrt(len(row)) for v in row])


def base_rows(data: TrainData) -> torch.Tensor:
    """The rows of the classifier of seen classes, which no network plays a part in."""
    method = ICIS(data.meta, ICIS.Config(hidden=2, **BASE), seeded(3)).double()
    objective_of(method, data, class_slot(data, None))
    return method.rows


def slow_objective(method: Any, data: TrainData, weight: float | None) -> float:
    """All four terms over all seen classes; the first over the unseen ones too where the method includes them."""
    rows, seen = base_rows(data).tolist(), list(range(data.n_seen))
    known = list(range(len(data.attributes))) if method.config.include_unseen else seen
    attributes = data.attributes.tolist()
    of_attributes, of_rows = [attribute_code(method, a) for a in attributes], [row_code(method, w) for w in rows]
    sides = [
        (known, [slow_layer(method.attribute_decoder, of_attributes[c]) for c in known]),
        (seen, [slow_layer(method.attribute_decoder, of_rows[c]) for c in seen]),
    ]
    value = distance([slow_layer(method.row_decoder, z) for z in of_rows], rows)
    value += distance([slow_layer(method.row_decoder, of_attributes[c]) for c in seen], rows)
    for classes, predicted in sides:
        if weight is None:
            value += distance(predicted, [attributes[c] for c in classes])
        else:
            value += weight * slow_class_loss(predicted, replace(data, labels=torch.tensor(classes)))
    return value


def some(data: TrainData) -> bool:
    """No row, prediction or attribute vector is 0, where a cosine is a matter of convention."""
    return bool(data.features.abs().min() > 0.01)


@given(problems().filter(some), st.booleans(), st.sampled_from([None, 0.0, 2.5]))
def test_the_objective_agrees_with_the_loops(data: TrainData, include_unseen: bool, weight: float | None):
    config = ICIS.Config(hidden=5, include_unseen=include_unseen, regression_weight=weight or 0.0, **BASE)
    method = ICIS(data.meta, config, seeded(0)).double()
    for layer in (method.attribute_encoder, method.row_encoder, method.attribute_decoder, method.row_decoder):
        layer.bias.data.fill_(0.3)
    objective = objective_of(method, data, class_slot(data, weight))
    value = float(objective(method.rows, data.seen).detach())
    assert value == pytest.approx(slow_objective(method, data, weight), rel=1e-8, abs=1e-8)


@pytest.mark.parametrize("include_unseen", [False, True])
@pytest.mark.parametrize("weight", [None, 2.5])
def test_one_step_of_training(include_unseen: bool, weight: float | None):
    check_first_step(ICIS, slow_objective, weight, hidden=5, include_unseen=include_unseen, **BASE)


def test_as_many_unseen_classes_join_a_batch_as_the_seen_ones_have():
    data = make_float64(n_seen=6)
    data = replace(data, attributes=torch.cat([data.attributes, data.attributes[:3].flip(1)])[:9])
    method = ICIS(data.meta, ICIS.Config(hidden=5, include_unseen=True, **BASE), seeded(0)).double()
    slot, asked = class_slot(data, 1.0), []
    assert slot.loss is not None
    slot.loss.register_forward_pre_hook(lambda _, inputs: asked.append(inputs[2].tolist()))
    objective = objective_of(method, data, slot)
    objective(method.rows[:4], data.seen[:4])
    joined, own = asked
    assert own == joined[:4] == [0, 1, 2, 3]
    assert len(joined) == 4 + math.ceil(4 * len(data.unseen) / 6)
    assert set(joined[4:]) <= set(data.unseen.tolist())
    assert len(set(joined)) == len(joined)


def test_the_classifier_of_seen_classes_is_a_softmax_trained_by_adam():
    data = make_float64(n=8, d=3, n_seen=3)
    config = ICIS.Config(hidden=2, base_epochs=3, base_lr=0.05, base_batch_size=8)
    method = ICIS(data.meta, config, seeded(0)).double()
    objective_of(method, data, class_slot(data, None))
    layer = nn.Linear(3, 3, dtype=torch.float64)
    nn.init.normal_(layer.weight, std=0.02, generator=first_run().rng("base"))
    nn.init.zeros_(layer.bias)

    def cross_entropy() -> float:
        scores = [slow_layer(layer, x) for x in data.features.tolist()]
        pairs = zip(scores, data.labels.tolist(), strict=True)
        return sum(math.log(sum(map(math.exp, row))) - row[y] for row, y in pairs) / len(scores)

    slow_adam(layer, cross_entropy, 0.05, (0.9, 0.999), 3)
    assert torch.allclose(method.rows[:, :-1], layer.weight, atol=1e-6)
    assert torch.allclose(method.rows[:, -1], layer.bias, atol=1e-6)


@pytest.mark.parametrize("norm", ["free", "match"])
def test_scores_are_those_of_own_and_generated_rows(norm: Literal["free", "match"]):
    data = make_float64()
    method = ICIS(data.meta, ICIS.Config(hidden=5, norm=norm, **BASE), seeded(0)).double()
    objective_of(method, data, class_slot(data, None))
    rows, mean = method.rows.tolist(), sum(map(length, method.rows.tolist())) / data.n_seen
    for attributes in data.attributes[data.n_seen :].tolist():
        row = slow_layer(method.row_decoder, attribute_code(method, attributes))
        rows.append([v * mean / length(row) for v in row] if norm == "match" else row)
    classes = [len(rows) - 1, 2, 0, 3]
    found = method.scores(data.features, torch.tensor(classes)).tolist()
    for x, scores in zip(data.features.tolist(), found, strict=True):
        assert scores == pytest.approx([dot([*x, 1.0], rows[c]) for c in classes], abs=1e-12)


def test_semantics_read_an_image_as_a_row():
    data = make_float64()
    method = ICIS(data.meta, ICIS.Config(hidden=5, **BASE), seeded(0)).double()
    objective_of(method, data, class_slot(data, None))
    images = data.features.tolist()
    mean = [sum(column) / len(images) for column in zip(*images, strict=True)]
    for x, found in zip(images, method.semantics(data.features).tolist(), strict=True):
        row = [v - m for v, m in zip(x, mean, strict=True)] + [0.0]
        assert found == pytest.approx(slow_layer(method.attribute_decoder, row_code(method, row)), abs=1e-12)
