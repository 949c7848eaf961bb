"""GEM-ZSL: objective, gradient, scores and attention by loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmark.api import TrainData
from methods.local._local import compactness
from methods.local.gem import GEM
from tests.reference.local import (
    GRIDS,
    WEIGHTS,
    build,
    check_objective,
    cosine,
    cosine_cross_entropy,
    local_data,
    mean,
    product,
    regions_of,
    softmax,
    spread,
)
from tests.reference.toy import dot, seeded, slow_class_loss

SETTINGS: list[dict[str, Any]] = [
    {"scale": 5.0},
    {"scale": 7.0, "attention_weight": 3.0, "compactness_weight": 0.0},
    {"scale": 7.0, "attention_weight": 0.0, "compactness_weight": 2.0},
]


def slow_maps(method: Any, image: torch.Tensor) -> list[list[float]]:
    """(A, R)."""
    queries = [product(method.query, w) for w in method.vectors.tolist()]
    return [softmax([dot(q, f) for f in regions_of(image)]) for q in queries]


def slow_predict(method: Any, image: torch.Tensor) -> list[float]:
    return product(method.projection, mean(regions_of(image)))


def slow_objective(method: Any, data: TrainData, weight: float | None) -> float:
    predicted = [slow_predict(method, image) for image in data.features]
    value = cosine_cross_entropy(predicted, data, method.config.scale)
    peaks, spreads = [], []
    for image, target in zip(data.features, data.targets.tolist(), strict=True):
        for one, a in zip(slow_maps(method, image), target, strict=True):
            peaks.append((max(one) - a) ** 2)
            spreads.append(spread(one, method.grid) / len(one))
    value += method.config.attention_weight * sum(peaks) / len(peaks)
    value += method.config.compactness_weight * sum(spreads) / len(spreads)
    return value if weight is None else value + weight * slow_class_loss(predicted, data)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("grid", GRIDS)
def test_objective_and_gradient_agree_with_the_loops(
    grid: tuple[int, int], weight: float | None, settings: dict[str, Any]
):
    check_objective(GEM, slow_objective, grid, weight, **settings)


def test_scores_semantics_and_attention_agree_with_the_loops():
    data, classes = local_data(), [5, 0, 4]
    method = build(GEM, data, scale=7.0)
    scores, attention = method.scores(data.features, torch.tensor(classes)), method.attention(data.features)
    for i, image in enumerate(data.features):
        v = slow_predict(method, image)
        assert method.semantics(data.features)[i].tolist() == pytest.approx(v)
        expected = [7 * cosine(v, data.attributes[c].tolist()) for c in classes]
        assert scores[i].tolist() == pytest.approx(expected)
        for j, one in enumerate(slow_maps(method, image)):
            assert attention[i, j].flatten().tolist() == pytest.approx(one)


def test_the_spread_of_maps_is_not_rounded_in_mixed_precision():
    """Of a map with one peak it is small, and what it is made of grows with the grid."""
    maps = (8 * torch.rand(3, 14 * 14, 5, generator=seeded(0))).softmax(1)
    peaked = 0.01 * maps + 0.99 * torch.nn.functional.one_hot(torch.tensor(170), 196)[:, None]
    outside = compactness(peaked, (14, 14))
    with torch.autocast("cpu", torch.bfloat16):
        inside = compactness(peaked, (14, 14))
    assert torch.equal(inside, outside)
    assert compactness(peaked.bfloat16(), (14, 14)).dtype == torch.float32
