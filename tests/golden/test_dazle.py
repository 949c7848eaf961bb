"""DAZLE: objective, gradient, scores and attention by loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmark.api import TrainData
from methods.local.dazle import DAZLE
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
    sigmoid,
    softmax,
)
from tests.reference.toy import class_slot, dot, objective_of, seeded, slow_class_loss

SETTINGS: list[dict[str, Any]] = [
    {},
    {"gate": False, "calibration_weight": 2.0},
    {"normalize_vectors": True, "calibration_weight": 0.0},
]


def slow_vectors(method: Any) -> list[list[float]]:
    vectors: list[list[float]] = method.vectors.tolist()
    return [[x / dot(v, v) ** 0.5 for x in v] for v in vectors] if method.config.normalize_vectors else vectors


def slow_attention(method: Any, v: Vector, regions: list[list[float]]) -> list[float]:
    return softmax([bilinear(v, method.attention_map, f) for f in regions])


def slow_predict(method: Any, image: torch.Tensor) -> tuple[list[float], list[float]]:
    """(A,) s and b."""
    regions, s, b = regions_of(image), [], []
    for v in slow_vectors(method):
        weights = slow_attention(method, v, regions)
        s.append(sum(a * bilinear(v, method.value_map, f) for a, f in zip(weights, regions, strict=True)))
        attended = [sum(a * f[d] for a, f in zip(weights, regions, strict=True)) for d in range(len(regions[0]))]
        b.append(sigmoid(bilinear(v, method.gate_map, attended)) if method.config.gate else 1.0)
    return s, b


def slow_objective(method: Any, data: TrainData, weight: float | None) -> float:
    both = [slow_predict(method, image) for image in data.features]
    scores = dots([[p * q for p, q in zip(s, b, strict=True)] for s, b in both], data)
    value = cross_entropy(scores, data) + method.config.calibration_weight * self_calibration(scores, data.n_seen)
    return value if weight is None else value + weight * slow_class_loss([s for s, _ in both], data)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("grid", GRIDS)
def test_objective_and_gradient_agree_with_the_loops(
    grid: tuple[int, int], weight: float | None, settings: dict[str, Any]
):
    check_objective(DAZLE, slow_objective, grid, weight, **settings)


@pytest.mark.parametrize("settings", SETTINGS)
def test_scores_semantics_and_attention_agree_with_the_loops(settings: dict[str, Any]):
    data, classes = local_data(), [5, 0, 4]
    method = build(DAZLE, data, **settings)
    scores, attention = method.scores(data.features, torch.tensor(classes)), method.attention(data.features)
    for i, image in enumerate(data.features):
        s, b = slow_predict(method, image)
        assert method.semantics(data.features)[i].tolist() == pytest.approx(s)
        gated = [p * q for p, q in zip(s, b, strict=True)]
        raised = [dot(gated, data.attributes[c].tolist()) + (1 if c >= data.n_seen else -1) for c in classes]
        assert scores[i].tolist() == pytest.approx(raised)
        for j, v in enumerate(slow_vectors(method)):
            assert attention[i, j].flatten().tolist() == pytest.approx(slow_attention(method, v, regions_of(image)))


def test_it_starts_from_the_name_vectors_with_even_attention_and_half_open_gates():
    data = local_data()
    method = DAZLE(data.meta, DAZLE.Config(), seeded(0)).double()
    objective_of(method, data, class_slot(data, None))
    assert data.attribute_vectors is not None
    assert torch.allclose(method.vectors, torch.nn.functional.normalize(data.attribute_vectors, dim=1))
    assert method.vectors.requires_grad
    assert torch.allclose(method.attention(data.features), torch.full((9, 4, 2, 3), 1 / 6, dtype=torch.float64))
    s, b = slow_predict(method, data.features[0])
    assert b == [0.5] * 4
    assert any(abs(value) > 0.1 for value in s)
