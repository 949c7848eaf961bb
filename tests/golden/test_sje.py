"""SJE's ranking loss and one step of its training, against loops written from its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from benchmark.api import Meta, TrainData
from methods.embedding.sje import SJE
from tests.unit.toy import check_first_step, dot, rankings, seeded, slow_class_loss


def ranking(scores: Tensor, labels: Tensor, margin: float) -> Tensor:
    return SJE(Meta(1, 1, 1, 0), SJE.Config(margin=margin), seeded(0)).ranking(scores, labels)


def slow_ranking(scores: list[list[float]], labels: list[int], margin: float) -> float:
    """Akata et al. 2015, eq. 3 and 4: the maximum runs over all classes, the true one too."""
    total = 0.0
    for row, y in zip(scores, labels, strict=True):
        total += max(margin * (c != y) + s for c, s in enumerate(row)) - row[y]
    return total / len(scores)


def slow_objective(method: Any, data: TrainData, weight: float | None) -> float:
    columns, seen = method.weight.T.tolist(), data.attributes[: data.n_seen].tolist()
    predicted = [[dot(x, column) for column in columns] for x in data.features.tolist()]
    scores = [[dot(row, a) for a in seen] for row in predicted]
    value = slow_ranking(scores, data.labels.tolist(), method.config.margin)
    return value if weight is None else value + weight * slow_class_loss(predicted, data)


@given(rankings(), st.sampled_from([0.5, 1.0, 3.7]))
def test_agrees_with_the_loops(case: tuple[Tensor, Tensor], margin: float):
    scores, labels = case
    expected = slow_ranking(scores.tolist(), labels.tolist(), margin)
    assert float(ranking(scores, labels, margin)) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_worked_example():
    # margin 1, row 1: the true class scores 2; classes at 1.5 and 3 violate by 0.5 and 2, the one at 0 does not.
    # Row 2: the wrong classes lie exactly on the margin.
    scores = torch.tensor([[2.0, 1.5, 3.0, 0.0], [4.0, 5.0, 4.0, 4.0]], dtype=torch.float64)
    assert float(ranking(scores, torch.tensor([0, 1]), 1.0)) == 2.0 / 2


@pytest.mark.parametrize("scores", [[[3.0], [-3.0]], [[1.0, 0.0], [9.0, 0.0]]])
def test_one_class_alone_or_one_on_the_margin_costs_nothing(scores: list[list[float]]):
    assert ranking(torch.tensor(scores), torch.tensor([0, 0]), 1.0) == 0


def test_without_violators_the_gradient_is_zero():
    scores = torch.tensor([[5.0, 0.0, 3.9], [0.0, 1.1, 0.0]], requires_grad=True)
    ranking(scores, torch.tensor([0, 1]), 1.0).backward()
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(2, 3))


@pytest.mark.parametrize("margin", [1.0, 0.3])
@pytest.mark.parametrize("weight", [None, 0.0, 2.5])
def test_one_step_of_training(margin: float, weight: float | None):
    check_first_step(SJE, slow_objective, weight, margin=margin)
