"""MSDN: objective, gradient, scores and attention by loops."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from benchmark.api import TrainData
from methods.local.msdn import MSDN
from tests.reference.local import (
    GRIDS,
    WEIGHTS,
    Vector,
    bilinear,
    build,
    check_objective,
    cross_entropy,
    dots,
    local_data,
    regions_of,
    self_calibration,
    softmax,
)
from tests.reference.toy import dot, slow_class_loss

SETTINGS: list[dict[str, Any]] = [
    {"distillation_weight": 0.5},
    {"distillation_weight": 0.0, "calibration_weight": 2.0, "fusion": 0.3},
]


def slow_attention(method: Any, v: Vector, regions: list[list[float]]) -> list[float]:
    return softmax([bilinear(v, method.attention_map, f) for f in regions])


def slow_predict(method: Any, image: torch.Tensor) -> tuple[list[float], list[float]]:
    """(A,) s and s'."""
    regions, vectors = regions_of(image), method.vectors.tolist()
    s, reverse = [], [0.0] * len(vectors)
    for v in vectors:
        weights = slow_attention(method, v, regions)
        s.append(sum(a * bilinear(v, method.value_map, f) for a, f in zip(weights, regions, strict=True)))
    for f in regions:
        weights = softmax([bilinear(v, method.reverse_attention_map, f) for v in vectors])
        for j, v in enumerate(vectors):
            reverse[j] += weights[j] * bilinear(v, method.reverse_value_map, f)
    return s, reverse


def slow_distillation(first: Vector, second: Vector) -> float:
    p, q = softmax(first), softmax(second)
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]
    divergences = [sum(a * math.log(a / m) for a, m in zip(one, middle, strict=True)) for one in (p, q)]
    difference = [a - b for a, b in zip(first, second, strict=True)]
    return sum(divergences) / 2 + sum(abs(d) ** 3 for d in difference) / math.sqrt(dot(difference, difference))


def slow_objective(method: Any, data: TrainData, weight: float | None) -> float:
    both = [slow_predict(method, image) for image in data.features]
    sides = [[pair[side] for pair in both] for side in (0, 1)]
    value = 0.0
    for predicted in sides:
        scores = dots(predicted, data)
        value += cross_entropy(scores, data) + method.config.calibration_weight * self_calibration(scores, data.n_seen)
        value += 0 if weight is None else weight * slow_class_loss(predicted, data)
    pairs = zip(*(dots(predicted, data) for predicted in sides), strict=True)
    distilled = [slow_distillation(first, second) for first, second in pairs]
    return value + method.config.distillation_weight * sum(distilled) / len(distilled)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("grid", GRIDS)
def test_objective_and_gradient_agree_with_the_loops(
    grid: tuple[int, int], weight: float | None, settings: dict[str, Any]
):
    check_objective(MSDN, slow_objective, grid, weight, **settings)


@pytest.mark.parametrize("settings", SETTINGS)
def test_scores_semantics_and_attention_agree_with_the_loops(settings: dict[str, Any]):
    data, classes = local_data(), [5, 0, 4]
    method = build(MSDN, data, **settings)
    scores, attention = method.scores(data.features, torch.tensor(classes)), method.attention(data.features)
    for i, image in enumerate(data.features):
        share = method.config.fusion
        v = [share * p + (1 - share) * q for p, q in zip(*slow_predict(method, image), strict=True)]
        assert method.semantics(data.features)[i].tolist() == pytest.approx(v)
        raised = [dot(v, data.attributes[c].tolist()) + (1 if c >= data.n_seen else -1) for c in classes]
        assert scores[i].tolist() == pytest.approx(raised)
        for j, name in enumerate(method.vectors.tolist()):
            assert attention[i, j].flatten().tolist() == pytest.approx(slow_attention(method, name, regions_of(image)))
