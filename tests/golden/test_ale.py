"""ALE's ranking loss against loops written from its formula, and one step of its training by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from torch import Tensor

from benchmark.engine.runs import RefitRun
from methods.embedding.ale import ALE, weighted_ranking
from tests.reference.toy import CPU, ToyLoss, make_train, rankings, seeded, slot_for


def slow_ranking(scores: list[list[float]], labels: list[int]) -> float:
    """Akata et al. 2016, eq. 13, with the exact rank."""
    total = 0.0
    for row, y in zip(scores, labels, strict=True):
        hinges = [1 + s - row[y] for c, s in enumerate(row) if c != y and 1 + s - row[y] > 0]
        if hinges:
            harmonic = sum(1 / j for j in range(1, len(hinges) + 1))
            total += harmonic / len(hinges) * sum(hinges)
    return total / len(scores)


@given(rankings())
def test_agrees_with_the_loops(case: tuple[Tensor, Tensor]):
    scores, labels = case
    expected = slow_ranking(scores.tolist(), labels.tolist())
    assert float(weighted_ranking(scores, labels)) == pytest.approx(expected, rel=1e-12, abs=1e-12)


def test_worked_example():
    # Row 1: the true class scores 2; classes at 1.5 and 3 violate by 0.5 and 2: l_2 / 2 = 0.75, so 1.875. The one at 0
    # does not. Row 2: nothing violates.
    scores = torch.tensor([[2.0, 1.5, 3.0, 0.0], [-5.0, 9.0, -5.0, -5.0]], dtype=torch.float64)
    assert float(weighted_ranking(scores, torch.tensor([0, 1]))) == pytest.approx(1.875 / 2, rel=1e-15)


def test_without_violators_it_is_zero_with_a_zero_gradient():
    scores = torch.tensor([[5.0, 0.0, 4.0], [0.0, 1.0, 0.0]], requires_grad=True)  # exactly on the margin
    value = weighted_ranking(scores, torch.tensor([0, 1]))
    value.backward()
    assert value == 0
    assert scores.grad is not None
    assert torch.equal(scores.grad, torch.zeros(2, 3))


def test_one_class_alone_has_nothing_to_rank():
    assert weighted_ranking(torch.tensor([[3.0], [-3.0]]), torch.tensor([0, 0])) == 0


@pytest.mark.parametrize("seed", range(5))
def test_the_gradient_agrees_with_finite_differences(seed: int):
    rng = seeded(seed)
    scores = torch.randn(4, 6, generator=rng, dtype=torch.float64)
    labels = torch.randint(6, (4,), generator=rng)
    margins = 1 + scores - scores.gather(1, labels[:, None])
    assert (margins.abs() > 1e-4).all()  # no kink, and so no change of rank, within the step
    scores.requires_grad_()
    weighted_ranking(scores, labels).backward()
    assert scores.grad is not None
    step = 1e-6
    for i, c in itertools.product(range(4), range(6)):
        up, down = scores.detach().clone(), scores.detach().clone()
        up[i, c] += step
        down[i, c] -= step
        slope = (slow_ranking(up.tolist(), labels.tolist()) - slow_ranking(down.tolist(), labels.tolist())) / (2 * step)
        assert float(scores.grad[i, c]) == pytest.approx(slope, abs=1e-8)


@pytest.mark.parametrize("weight", [None, 0.0, 2.5])
def test_one_step_of_training_by_hand(weight: float | None):
    """One batch of all images and plain gradient descent: W moves by -lr times the gradient, summed up in loops."""
    data, _ = make_train()
    n, lr = len(data.labels), 0.3
    config = ALE.Config(optimizer="sgd", lr=lr, batch_size=n, epochs=1, regression_weight=weight or 0.0)
    method = ALE(data.meta, config, seeded(0))
    start = method.weight.detach().double()
    loss = None if weight is None else ToyLoss(data.n_seen, data.meta.n_attributes, ToyLoss.Config())
    method.fit(data, slot_for(method, data, loss), RefitRun(CPU, 0, "toy", 1))

    x, a = data.features.double(), data.attributes.double()
    gradient = torch.zeros_like(start)
    for i, y in enumerate(data.labels.tolist()):
        predicted = x[i] @ start
        wrong = [c for c in range(data.n_seen) if c != y and 1 + predicted @ a[c] - predicted @ a[y] > 0]
        harmonic = sum(1 / j for j in range(1, len(wrong) + 1))
        for c in wrong:  # unseen classes take no part
            gradient += harmonic / len(wrong) * torch.outer(x[i], a[c] - a[y]) / n
        if weight is not None:
            gradient += weight * 2 * torch.outer(x[i], predicted - a[y]) / (n * a.shape[1])
    assert gradient.abs().max() > 0.01
    assert torch.allclose(method.weight.detach().double(), start - lr * gradient, atol=1e-6)


def test_scores_are_bilinear():
    data, held = make_train()
    method = ALE(data.meta, ALE.Config(epochs=1), seeded(0))
    method.fit(data, slot_for(method, data, None), RefitRun(CPU, 0, "toy", 1))
    x, classes, weight = held.unseen_features, torch.tensor([4, 0, 5]), method.weight.detach()
    found = method.scores(x, classes).detach()
    for i, j in itertools.product(range(len(x)), range(3)):
        by_hand = sum(
            float(x[i, d]) * float(weight[d, k]) * float(data.attributes[classes[j], k])
            for d in range(x.shape[1])
            for k in range(data.attributes.shape[1])
        )
        assert float(found[i, j]) == pytest.approx(by_hand, abs=1e-5)
    assert torch.allclose(method.semantics(x), x @ method.weight)
