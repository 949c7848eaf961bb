"""DeViSE's and SJE's ranking losses and one step of their training, against loops written from their formulas."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmark.api import Meta, TrainData
from methods.embedding.devise import DeViSE
from methods.embedding.sje import SJE
from tests.reference.toy import check_first_step, dot, rankings, seeded, slow_class_loss

Kind = type[DeViSE] | type[SJE]
Slow = Callable[[list[float], int, float], float]


def devise_row(row: list[float], y: int, margin: float) -> float:
    """Frome et al. 2013, eq. 1."""
    return sum(max(0.0, margin - row[y] + s) for c, s in enumerate(row) if c != y)


def sje_row(row: list[float], y: int, margin: float) -> float:
    """Akata et al. 2015, eq. 3 and 4: the maximum runs over all classes, the true one too."""
    return max(margin * (c != y) + s for c, s in enumerate(row)) - row[y]


both = pytest.mark.parametrize(("kind", "slow"), [(DeViSE, devise_row), (SJE, sje_row)], ids=["devise", "sje"])


def ranking(kind: Kind, scores: Tensor, labels: Tensor, margin: float) -> Tensor:
    return kind(Meta(1, 1, 1, 0), kind.Config(margin=margin), seeded(0)).ranking(scores, labels)


def slow_ranking(slow: Slow, scores: list[list[float]], labels: list[int], margin: float) -> float:
    return sum(slow(row, y, margin) for row, y in zip(scores, labels, strict=True)) / len(scores)


def slow_objective(slow: Slow, method: Any, data: TrainData, weight: float | None) -> float:
    columns, seen = method.weight.T.tolist(), data.attributes[: data.n_seen].tolist()
    predicted = [[dot(x, column) for column in columns] for x in data.features.tolist()]
    scores = [[dot(row, a) for a in seen] for row in predicted]
    value = slow_ranking(slow, scores, data.labels.tolist(), method.config.margin)
    return value if weight is None else value + weight * slow_class_loss(predicted, data)


@both
@given(case=rankings(), margin=st.sampled_from([0.5, 1.0, 3.7]))
def test_agrees_with_the_loops(kind: Kind, slow: Slow, case: tuple[Tensor, Tensor], margin: float):
    scores, labels = case
    expected = slow_ranking(slow, scores.tolist(), labels.tolist(), margin)
    assert float(ranking(kind, scores, labels, margin)) == pytest.approx(expected, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize(("kind", "total"), [(DeViSE, 2.5), (SJE, 2.0)])
def test_worked_example(kind: Kind, total: float):
    # margin 1, row 1: the true class scores 2; classes at 1.5 and 3 violate by 0.5 and 2, the one at 0 does not.
    # Row 2: the wrong classes lie exactly on the margin.
    scores = torch.tensor([[2.0, 1.5, 3.0, 0.0], [4.0, 5.0, 4.0, 4.0]], dtype=torch.float64)
    assert float(ranking(kind, scores, torch.tensor([0, 1]), 1.0)) == total / 2


@pytest.mark.parametrize("kind", [DeViSE, SJE])
@pytest.mark.parametrize("scores", [[[3.0], [-3.0]], [[1.0, 0.0], [9.0, 0.0]]])
def test_one_class_alone_or_one_on_the_margin_costs_nothing(kind: Kind, scores: list[list[float]]):
    assert ranking(kind, torch.tensor(scores), torch.tensor([0, 0]), 1.0) == 0


@pytest.mark.parametrize("kind", [DeViSE, SJE])
def test_without_violators_the_gradient_is_zero(kind: Kind):
    scores = torch.tensor([[5.0, 0.0, 3.9], [0.0, 1.1, 0.0]], requires_grad=True)
    ranking(kind, scores, torch.tensor([0, 1]), 1.0).backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(2, 3))


@both
@pytest.mark.parametrize("margin", [1.0, 0.3])
@pytest.mark.parametrize("weight", [None, 0.0, 2.5])
def test_one_step_of_training(kind: Kind, slow: Slow, margin: float, weight: float | None):
    check_first_step(kind, partial(slow_objective, slow), weight, margin=margin)


def standard(row: list[float]) -> list[float]:
    mean = sum(row) / len(row)
    deviation = (sum((value - mean) ** 2 for value in row) / len(row)) ** 0.5
    return [(value - mean) / (deviation or 1.0) for value in row]


def slow_standardised(method: Any, data: TrainData, weight: float | None) -> float:
    """The violator is looked for in standard units; what is lowered is its raw score against the true class's."""
    columns, seen = method.weight.T.tolist(), data.attributes[: data.n_seen].tolist()
    predicted = [[dot(x, column) for column in columns] for x in data.features.tolist()]
    value = 0.0
    for row, y in zip(predicted, data.labels.tolist(), strict=True):
        scores = [dot(standard(row), a) for a in seen]
        violator = max(range(len(seen)), key=lambda c: method.config.margin * (c != y) + scores[c])
        value += (dot(row, seen[violator]) - dot(row, seen[y])) / len(predicted)
    return value if weight is None else value + weight * slow_class_loss(predicted, data)


@pytest.mark.parametrize("weight", [None, 2.5])
@pytest.mark.parametrize("margin", [0.1, 1.0])
def test_one_step_with_the_violator_in_standard_units(weight: float | None, margin: float):
    check_first_step(SJE, slow_standardised, weight, margin=margin, standardise=True)


def test_in_standard_units_a_constant_prediction_and_a_margin_that_is_kept_cost_nothing():
    seen = torch.eye(3, dtype=torch.float64)
    method = SJE(Meta(1, 3, 3, 0), SJE.Config(margin=0.5, standardise=True), seeded(0))
    constant = torch.full((1, 3), 7.0, dtype=torch.float64)  # scores of 0 in standard units: the margin is violated
    assert method.ranking_of(constant, seen, torch.tensor([0])) == 0
    kept = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    assert method.ranking_of(kept, seen, torch.tensor([0])) == 0
    assert method.ranking_of(kept, seen, torch.tensor([1])) == 1  # its raw score, not the violation of 0.5 + 2.12
