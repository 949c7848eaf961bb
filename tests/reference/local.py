"""What the golden tests of the methods on local features share: tiny data, steps of their formulas by loops, checks."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch

from benchmark.api import Method, TrainData
from tests.reference.toy import class_slot, dot, objective_of, seeded, slot_for

#: Weights of ``ClassLoss`` to test with; None is a method without a loss.
WEIGHTS = [None, 0.0, 2.5]
#: Grids, down to a single region.
GRIDS = [(2, 3), (1, 1), (3, 2)]

Vector = Sequence[float]
Slow = Callable[[Any, TrainData, float | None], float]


def local_data(grid: tuple[int, int] = (2, 3), seed: int = 0) -> TrainData:
    """Regions in float64, so that agreement can be exact: 9 images of 4 seen classes, D = 5, A = 4, V = 3."""
    rng = seeded(seed, "local data")

    def draw(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=rng, dtype=torch.float64)

    labels = torch.tensor([0, 1, 2, 3, 3, 1, 0, 0, 2])
    return TrainData(draw(9, *grid, 5), labels, draw(6, 4).abs(), 4, draw(4, 3))


def build(kind: type[Method], data: TrainData, **settings: Any) -> Any:
    """The method in float64, ready to score, with random parameters: none is left at a 0 that would hide it."""
    method = kind(data.meta, kind.Config(**settings), seeded(0)).double()
    objective_of(method, data, class_slot(data, None))
    rng = seeded(0, "parameters")
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.7 * torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    return method


def check_objective(
    kind: type[Method], slow: Slow, grid: tuple[int, int], weight: float | None, **settings: Any
) -> None:
    """The objective, and its slope along a random direction of each parameter, agree with ``slow``'s.

    Args:
        kind: the method.
        slow: its objective by loops: ``slow(method, data, weight)``.
        grid: of the data.
        weight: of ``ClassLoss``; None: without a loss.
        **settings: of the method.
    """
    data, step = local_data(grid), 1e-6
    method = build(kind, data, **settings, **({} if weight is None else {"regression_weight": weight}))
    parameters = {name: p.detach().clone() for name, p in method.named_parameters()}
    slot = slot_for(method, data, class_slot(data, weight).loss)
    objective = objective_of(method, data, slot)
    for name, p in method.named_parameters():  # taking the objective has set the vectors anew
        p.data.copy_(parameters[name])
    value = objective(data.features, data.labels)
    value.backward()
    assert float(value.detach()) == pytest.approx(slow(method, data, weight), rel=1e-9, abs=1e-9)
    for name, p in method.named_parameters():
        if not p.requires_grad:
            assert p.grad is None
            continue
        direction = torch.randn(p.shape, generator=seeded(1, name), dtype=torch.float64)
        values = []
        for sign in (1, -1):
            p.data.copy_(parameters[name] + sign * step * direction)
            values.append(slow(method, data, weight))
        p.data.copy_(parameters[name])
        slope = 0.0 if p.grad is None else float((p.grad * direction).sum())
        assert slope == pytest.approx((values[0] - values[1]) / (2 * step), rel=1e-5, abs=1e-7), name


def regions_of(image: torch.Tensor) -> list[list[float]]:
    """The regions of one image (h, w, D), row by row."""
    return [cell.tolist() for row in image for cell in row]


def mean(vectors: Sequence[Vector]) -> list[float]:
    return [sum(column) / len(vectors) for column in zip(*vectors, strict=True)]


def product(matrix: torch.Tensor, x: Vector) -> list[float]:
    return [dot(row, x) for row in matrix.tolist()]


def layer(linear: torch.nn.Linear, x: Vector) -> list[float]:
    return [p + b for p, b in zip(product(linear.weight, x), linear.bias.tolist(), strict=True)]


def softmax(logits: Vector) -> list[float]:
    powers = [math.exp(logit) for logit in logits]
    return [power / sum(powers) for power in powers]


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def cosine(u: Vector, v: Vector) -> float:
    return dot(u, v) / math.sqrt(dot(u, u) * dot(v, v))


def cross_entropy(scores: Sequence[Vector], data: TrainData) -> float:
    """Mean over images, of (N, C) scores."""
    labels = data.labels.tolist()
    return -sum(math.log(softmax(row)[y]) for row, y in zip(scores, labels, strict=True)) / len(labels)


def cosine_cross_entropy(predicted: Sequence[Vector], data: TrainData, scale: float) -> float:
    """Of scaled cosines with the seen classes."""
    seen = data.attributes[: data.n_seen].tolist()
    return cross_entropy([[scale * cosine(v, a) for a in seen] for v in predicted], data)


def squared_distance(r: int, p: int, grid: tuple[int, int]) -> float:
    """Of two regions, in cells."""
    columns = grid[1]
    return float((r // columns - p // columns) ** 2 + (r % columns - p % columns) ** 2)


def spread(one_map: Vector, grid: tuple[int, int]) -> float:
    """Sum over regions of the map times the squared distance to its peak."""
    peak = max(range(len(one_map)), key=lambda r: one_map[r])
    return sum(m * squared_distance(r, peak, grid) for r, m in enumerate(one_map))


def self_calibration(scores: Sequence[Vector], n_seen: int) -> float:
    """-ln of the mean probability of unseen classes, their scores raised by 1 and those of seen ones lowered by 1."""
    shares = [sum(softmax([s - 1 if c < n_seen else s + 1 for c, s in enumerate(row)])[n_seen:]) for row in scores]
    return -math.log(sum(shares) / len(shares))


def dots(predicted: Sequence[Vector], data: TrainData) -> list[list[float]]:
    """(N, C) scores <v, a_c> of all classes."""
    return [[dot(v, a) for a in data.attributes.tolist()] for v in predicted]


def bilinear(v: Vector, matrix: torch.Tensor, f: Vector) -> float:
    return dot(v, product(matrix, f))
