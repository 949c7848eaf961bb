"""APN: objective, gradient, scores and maps by loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from benchmark.api import TrainData
from methods.local.apn import APN
from tests.reference.local import (
    GRIDS,
    WEIGHTS,
    Vector,
    build,
    check_objective,
    cross_entropy,
    local_data,
    mean,
    product,
    regions_of,
    sigmoid,
    spread,
)
from tests.reference.toy import dot, slow_class_loss

SETTINGS: list[dict[str, Any]] = [
    {"pooling": "avg", "regression_weight": 0.3, "compactness_weight": 0.1},
    {"pooling": "max", "regression_weight": 1.0, "global_regression": 0.4, "local_weight": 0.7},
]


def slow_maps(method: Any, image: torch.Tensor) -> list[list[float]]:
    """(A, R)."""
    return [[dot(p, f) for f in regions_of(image)] for p in method.prototypes.tolist()]


def slow_global(method: Any, image: torch.Tensor) -> list[float]:
    if method.config.pooling == "avg":
        return product(method.projection, mean(regions_of(image)))
    return [max(dot(w, f) for f in regions_of(image)) for w in method.projection.tolist()]


def slow_error(predicted: list[list[float]], data: TrainData, weight: float | None) -> float:
    if weight is not None:
        return slow_class_loss(predicted, data)
    pairs = zip(predicted, data.targets.tolist(), strict=True)
    squares = [(p - t) ** 2 for row, target in pairs for p, t in zip(row, target, strict=True)]
    return sum(squares) / len(squares)


def slow_cross_entropy(predicted: list[list[float]], data: TrainData) -> float:
    seen: list[Vector] = data.attributes[: data.n_seen].tolist()
    return cross_entropy([[dot(v, a) for a in seen] for v in predicted], data)


def slow_objective(method: Any, data: TrainData, weight: float | None) -> float:
    config = method.config
    of_image = [slow_global(method, image) for image in data.features]
    maps = [slow_maps(method, image) for image in data.features]
    of_regions = [[max(one) for one in of_one] for of_one in maps]
    value = slow_cross_entropy(of_image, data) + config.local_weight * slow_cross_entropy(of_regions, data)
    error = slow_error(of_regions, data, weight) + config.global_regression * slow_error(of_image, data, weight)
    spreads = [spread([sigmoid(m) for m in one], method.grid) for of_one in maps for one in of_one]
    return value + config.regression_weight * error + config.compactness_weight * sum(spreads) / len(maps)


@pytest.mark.parametrize("settings", SETTINGS)
@pytest.mark.parametrize("weight", WEIGHTS)
@pytest.mark.parametrize("grid", GRIDS)
def test_objective_and_gradient_agree_with_the_loops(
    grid: tuple[int, int], weight: float | None, settings: dict[str, Any]
):
    own = {key: value for key, value in settings.items() if weight is None or key != "regression_weight"}
    check_objective(APN, slow_objective, grid, weight, **own)


@pytest.mark.parametrize("settings", SETTINGS)
def test_scores_semantics_and_maps_agree_with_the_loops(settings: dict[str, Any]):
    data, classes = local_data(), [5, 0, 4]
    method = build(APN, data, **settings)
    scores, attention = method.scores(data.features, torch.tensor(classes)), method.attention(data.features)
    for i, image in enumerate(data.features):
        v = slow_global(method, image)
        assert method.semantics(data.features)[i].tolist() == pytest.approx(v)
        assert scores[i].tolist() == pytest.approx([dot(v, data.attributes[c].tolist()) for c in classes])
        for j, one in enumerate(slow_maps(method, image)):
            assert attention[i, j].flatten().tolist() == pytest.approx([sigmoid(m) for m in one])
