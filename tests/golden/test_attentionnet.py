"""AttentionNet: objective, gradient, scores and attention by loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmark.api import TrainData
from methods.local.attentionnet import AttentionNet
from tests.reference.local import (
    GRIDS,
    WEIGHTS,
    build,
    check_objective,
    cosine,
    cosine_cross_entropy,
    layer,
    local_data,
    mean,
    product,
    regions_of,
    softmax,
)
from tests.reference.toy import dot, slow_class_loss

SETTINGS: list[dict[str, Any]] = [
    {"attention_width": 6, "ratio": 0.5, "scale": 5.0},
    {"attention_width": 2, "hidden": 3, "scale": 7.0},
]


def slow_attention(method: Any, regions: list[list[float]]) -> list[list[float]]:
    """(A, R)."""
    queries = [layer(method.query, w) for w in method.vectors.tolist()]
    keys = [product(method.key, f) for f in regions]
    return [softmax([dot(q, k) for k in keys]) for q in queries]


def slow_predict(method: Any, image: torch.Tensor) -> list[float]:
    regions, found = regions_of(image), []
    values = [layer(method.value, f) for f in regions]
    for weights, prototype in zip(slow_attention(method, regions), method.prototypes.tolist(), strict=True):
        attended = [sum(a * value[m] for a, value in zip(weights, values, strict=True)) for m in range(len(values[0]))]
        back = layer(method.output, attended)
        z = [m + method.config.ratio * b for m, b in zip(mean(regions), back, strict=True)]
        found.append(dot(layer(method.embed, z) if method.embed else z, prototype))
    return found


def slow_objective(method: Any, data: TrainData, weight: float | None) -> float:
    predicted = [slow_predict(method, image) for image in data.features]
    value = cosine_cross_entropy(predicted, data, method.config.scale)
    return value if weight is None else value + weight * slow_class_loss(predicted, data)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("grid", GRIDS)
def test_objective_and_gradient_agree_with_the_loops(
    grid: tuple[int, int], weight: float | None, settings: dict[str, Any]
):
    check_objective(AttentionNet, slow_objective, grid, weight, **settings)


@pytest.mark.parametrize("settings", SETTINGS)
def test_scores_semantics_and_attention_agree_with_the_loops(settings: dict[str, Any]):
    data, classes = local_data(), [5, 0, 4]
    method = build(AttentionNet, data, **settings)
    scores, attention = method.scores(data.features, torch.tensor(classes)), method.attention(data.features)
    assert attention.shape == (9, 4, 2, 3)
    for i, image in enumerate(data.features):
        v = slow_predict(method, image)
        assert method.semantics(data.features)[i].tolist() == pytest.approx(v)
        expected = [method.config.scale * cosine(v, data.attributes[c].tolist()) for c in classes]
        assert scores[i].tolist() == pytest.approx(expected)
        for j, weights in enumerate(slow_attention(method, regions_of(image))):
            assert attention[i, j].flatten().tolist() == pytest.approx(weights)


def test_vectors_have_unit_norm_and_stay():
    data = local_data()
    method = build(AttentionNet, data)
    assert data.attribute_vectors is not None
    assert torch.allclose(method.vectors, torch.nn.functional.normalize(data.attribute_vectors, dim=1))
    assert not method.vectors.requires_grad
