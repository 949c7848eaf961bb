"""TransZero: objective, gradient, scores and attention by loops."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch

from benchmark.api import TrainData
from methods.local.transzero import TransZero
from tests.reference.local import (
    GRIDS,
    WEIGHTS,
    Vector,
    build,
    check_objective,
    cross_entropy,
    dots,
    layer,
    local_data,
    mean,
    product,
    regions_of,
    self_calibration,
    softmax,
)
from tests.reference.toy import class_slot, dot, objective_of, seeded, slow_class_loss

SMALL: dict[str, Any] = {"width": 3, "hidden": 4, "dropout": 0.0, "attention_dropout": 0.0}
SETTINGS: list[dict[str, Any]] = [
    SMALL | {"error_weight": 0.7},
    SMALL | {"self_attention": False, "calibration_weight": 2.0},
    SMALL | {"normalize_vectors": True},
]


def add(u: Vector, v: Vector) -> list[float]:
    return [p + q for p, q in zip(u, v, strict=True)]


def slow_norm(norm: torch.nn.LayerNorm, x: Vector) -> list[float]:
    centre = sum(x) / len(x)
    deviation = math.sqrt(sum((value - centre) ** 2 for value in x) / len(x) + norm.eps)
    scaled = zip(x, norm.weight.tolist(), norm.bias.tolist(), strict=True)
    return [(value - centre) / deviation * scale + shift for value, scale, shift in scaled]


def slow_feed_forward(block: Any, x: Vector) -> list[float]:
    return slow_norm(block.norm, add(x, layer(block.last, [max(h, 0.0) for h in layer(block.first, x)])))


def slow_attention(
    block: Any, queries: Sequence[Vector], keys: Sequence[Vector], penalties: Sequence[Vector]
) -> tuple[list[list[float]], list[list[float]]]:
    """(Q, d) what the queries become, and their (Q, K) weights."""
    asked, values = [layer(block.key, key) for key in keys], [layer(block.value, key) for key in keys]
    found, weights = [], []
    for query, penalty in zip(queries, penalties, strict=True):
        sought = layer(block.query, query)
        logits = [dot(sought, key) / math.sqrt(len(query)) - p for key, p in zip(asked, penalty, strict=True)]
        weights.append(softmax(logits))
        attended = [sum(w * value[i] for w, value in zip(weights[-1], values, strict=True)) for i in range(len(query))]
        found.append(slow_norm(block.norm, add(query, layer(block.output, attended))))
    return found, weights


def slow_places(one: int, other: int, grid: tuple[int, int]) -> list[float]:
    """Of two boxes in a picture of side 1, as the release has it: centres, sides and one."""
    waves = []
    for axis, n in enumerate(grid):
        centres = [((r // grid[1], r % grid[1])[axis] + 0.5) / n for r in (one, other)]
        number = math.log(max(abs(centres[0] - centres[1]) / (1 / n + 1), 1e-3))
        angles = [100 * number / 1000 ** (k / 8) for k in range(8)]
        waves += [math.sin(angle) for angle in angles] + [math.cos(angle) for angle in angles]
    return waves


def slow_penalties(method: Any) -> list[list[float]]:
    n, grid = math.prod(method.grid), method.grid
    return [[max(layer(method.place, slow_places(r, s, grid))[0], 0.0) for s in range(n)] for r in range(n)]


def slow_encode(method: Any, image: torch.Tensor, penalties: Sequence[Vector]) -> list[list[float]]:
    h = [layer(method.embed, f) for f in regions_of(image)]
    once, _ = slow_attention(method.over_regions, h, h, penalties)
    twice = [slow_norm(method.encoder_norm, add(own, u)) for own, u in zip(h, once, strict=True)]
    return [slow_feed_forward(method.encoder, u) for u in twice]


def slow_vectors(method: Any) -> list[list[float]]:
    vectors: list[list[float]] = method.vectors.tolist()
    return [[x / math.sqrt(dot(v, v)) for x in v] for v in vectors] if method.config.normalize_vectors else vectors


def slow_predict(method: Any, images: torch.Tensor) -> list[tuple[list[float], list[list[float]]]]:
    """For each image (A,) psi and (A, R) weights."""
    vectors, penalties = slow_vectors(method), slow_penalties(method)
    queries = [layer(method.query, v) for v in vectors]
    if method.config.self_attention:
        none = [[0.0] * len(queries)] * len(queries)
        queries, _ = slow_attention(method.over_attributes, queries, queries, none)
    readers = [product(method.value_map.T, v) for v in vectors]
    predicted = []
    for image in images:
        encoded = slow_encode(method, image, penalties)
        none = [[0.0] * len(encoded)] * len(queries)
        attended, weights = slow_attention(method.to_regions, queries, encoded, none)
        decoded = [slow_feed_forward(method.decoder, p) for p in attended]
        predicted.append(([dot(*pair) for pair in zip(readers, decoded, strict=True)], weights))
    return predicted


def slow_objective(method: Any, data: TrainData, weight: float | None) -> float:
    predicted = [psi for psi, _ in slow_predict(method, data.features)]
    scores, config = dots(predicted, data), method.config
    value = cross_entropy(scores, data) + config.calibration_weight * self_calibration(scores, data.n_seen)
    if weight is not None:
        return value + weight * slow_class_loss(predicted, data)
    targets = data.attributes[data.labels].tolist()
    errors = [[(p - t) ** 2 for p, t in zip(*pair, strict=True)] for pair in zip(predicted, targets, strict=True)]
    return value + config.error_weight * sum(mean(errors)) / len(errors[0])


@pytest.mark.parametrize(("grid", "weight", "settings"), [*zip(GRIDS, WEIGHTS, SETTINGS, strict=True)])
def test_objective_and_gradient_agree_with_the_loops(
    grid: tuple[int, int], weight: float | None, settings: dict[str, Any]
):
    check_objective(TransZero, slow_objective, grid, weight, **settings)


@pytest.mark.parametrize("settings", SETTINGS)
def test_scores_semantics_and_attention_agree_with_the_loops(settings: dict[str, Any]):
    data, classes = local_data(), [5, 0, 4]
    method = build(TransZero, data, **settings)
    scores, attention = method.scores(data.features, torch.tensor(classes)), method.attention(data.features)
    for i, (psi, maps) in enumerate(slow_predict(method, data.features)):
        assert method.semantics(data.features)[i].tolist() == pytest.approx(psi)
        raised = [dot(psi, data.attributes[c].tolist()) + (1 if c >= data.n_seen else -1) for c in classes]
        assert scores[i].tolist() == pytest.approx(raised)
        for j, one_map in enumerate(maps):
            assert attention[i, j].flatten().tolist() == pytest.approx(one_map)


def test_places_lower_logits_of_the_encoder_and_raise_none():
    data = local_data()
    method = build(TransZero, data, **SMALL)
    with torch.no_grad():
        method.place.bias -= sum(map(sum, slow_penalties(method))) / math.prod(method.grid) ** 2
    cut = [penalty == 0 for penalties in slow_penalties(method) for penalty in penalties]
    assert any(cut)
    assert not all(cut)
    for found, (psi, _) in zip(method.semantics(data.features), slow_predict(method, data.features), strict=True):
        assert found.tolist() == pytest.approx(psi)


@pytest.mark.parametrize("share", ["dropout", "attention_dropout"])
def test_dropout_is_in_training_alone(share: str):
    data = local_data()
    method = build(TransZero, data, **SMALL | {share: 0.4})
    objective = objective_of(method, data, class_slot(data, None))
    first, second = (float(objective(data.features, data.labels).detach()) for _ in range(2))
    assert first != second
    method.eval()
    first, second = (float(objective(data.features, data.labels).detach()) for _ in range(2))
    assert first == second


def test_it_starts_from_the_name_vectors_which_are_trained():
    data = local_data()
    method = TransZero(data.meta, TransZero.Config(**SMALL), seeded(0)).double()
    objective_of(method, data, class_slot(data, None))
    assert data.attribute_vectors is not None
    assert torch.allclose(method.vectors, torch.nn.functional.normalize(data.attribute_vectors, dim=1))
    assert method.vectors.requires_grad


def test_regions_start_unmixed():
    data = local_data()
    method = TransZero(data.meta, TransZero.Config(**SMALL), seeded(0)).double()
    objective_of(method, data, class_slot(data, None))
    regions = data.features.flatten(1, 2)
    alone = torch.nn.functional.layer_norm(method.embed(regions), (SMALL["width"],), eps=0.0)
    assert torch.allclose(method._encode(regions), alone, atol=1e-4)
