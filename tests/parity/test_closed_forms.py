"""Closed forms and ReMSE on real data, against derivations of their own in float64.

Run ``python -m pytest -m parity tests/parity``.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
import torch

from benchmark.api import TrainData
from benchmark.engine.runs import RefitRun
from datasets.xlsa17 import Xlsa17
from losses import build
from methods.embedding.eszsl import ESZSL
from methods.embedding.sae import SAE
from tests.reference.toy import CPU, seeded, slot_for

Floats = npt.NDArray[np.float64]

pytestmark = [pytest.mark.parity, pytest.mark.real_data]


@cache
def _read(name: str, root: Path) -> TrainData | None:
    dataset = Xlsa17(name, Xlsa17.Config(), root)
    if not dataset.is_present:
        return None
    split = dataset.load()
    order = np.concatenate([split.seen, split.unseen])
    labels = np.searchsorted(split.seen, split.labels[split.trainval])
    features, attributes = (torch.from_numpy(a).double() for a in (split.features[split.trainval], split.attributes))
    return TrainData(features, torch.from_numpy(labels), attributes[torch.from_numpy(order)], len(split.seen))


@pytest.fixture(params=["cub50", "awa1"])
def data(request: pytest.FixtureRequest, real_data_root: Path) -> TrainData:
    """All images to train on, in float64."""
    found = _read(request.param, real_data_root)
    if found is None:
        pytest.skip(f"{real_data_root} holds no features of {request.param}")
    return found


def difference(found: torch.Tensor, expected: Floats) -> float:
    return float(np.linalg.norm(found.numpy() - expected) / np.linalg.norm(expected))


@pytest.mark.parametrize(("gamma", "lambda_"), [(1.0, 1.0), (1e3, 1e-1), (1e2, 1e2)])
@pytest.mark.parametrize("negative", [0.0, -1.0])
def test_eszsl_is_the_papers_two_sided_inverse(data: TrainData, gamma: float, lambda_: float, negative: float) -> None:
    """V = (X X^T + gamma I)^-1 X Y S^T (S S^T + lambda I)^-1, where the paper's columns are images and classes."""
    x, s = data.features.numpy().T, data.attributes[: data.n_seen].numpy().T
    y = np.where(np.arange(data.n_seen) == data.labels.numpy()[:, None], 1.0, negative)
    left, right = x @ x.T + gamma * np.eye(len(x)), s @ s.T + lambda_ * np.eye(len(s))
    expected = np.linalg.solve(right.T, np.linalg.solve(left, x @ y @ s.T).T).T
    config = ESZSL.Config(feature_ridge=(gamma,), attribute_ridge=(lambda_,), negative_label=negative)
    method = ESZSL(data.meta, config, seeded(0))
    method.fit(data, slot_for(method, data, None), RefitRun(CPU, 0, "parity", 1))
    assert difference(method.weight, expected) < 1e-6


@pytest.mark.parametrize("lambda_", [0.2, 5.0, 100.0])
def test_sae_solves_the_papers_sylvester_equation(data: TrainData, lambda_: float) -> None:
    """S S^T W + W (lambda X X^T) = (1 + lambda) S X^T, where the paper's columns are images; images of unit norm."""
    unit = torch.nn.functional.normalize(data.features, dim=1)
    data = TrainData(unit, data.labels, data.attributes, data.n_seen)
    x, s = unit.numpy().T, data.targets.numpy().T
    expected = scipy.linalg.solve_sylvester(s @ s.T, lambda_ * x @ x.T, (1 + lambda_) * s @ x.T).T
    method = SAE(data.meta, SAE.Config(reconstruction=(1 / lambda_,)), seeded(0))
    method.fit(data, slot_for(method, data, None), RefitRun(CPU, 0, "parity", 1))
    assert difference(method.weight, expected) < 1e-6


@pytest.mark.parametrize(("alpha", "beta"), [(0.1, 0.75), (1.0, 0.1), (0.75, 0.0)])
def test_remse_of_real_predictions(data: TrainData, alpha: float, beta: float) -> None:
    """A batch of images under a ridge regression: value, weights and gradient by loops from the formula."""
    n, a = 48, data.attributes.shape[1]
    rows = torch.randperm(len(data.labels), generator=seeded(0))[:n]
    x, t = data.features, data.targets
    ridge = torch.linalg.solve(x.T @ x + torch.eye(x.shape[1], dtype=x.dtype), x.T @ t)
    predicted, labels, target = (x[rows] @ ridge).requires_grad_(), data.labels[rows], t[rows]
    loss = build("remse", n_classes=data.n_seen, n_attributes=a, alpha=alpha, beta=beta)
    value = loss(predicted, target, labels)
    value.backward()
    weights = loss.weights(predicted.detach(), target, labels)
    expected_weights, expected, slopes = _slow_remse(predicted.tolist(), target.tolist(), labels.tolist(), alpha, beta)
    assert weights is not None
    assert predicted.grad is not None
    assert difference(weights, expected_weights) < 1e-6
    assert float(value.detach()) == pytest.approx(expected, rel=1e-6)
    assert difference(predicted.grad, slopes) < 1e-6


def _slow_remse(
    predicted: list[list[float]], target: list[list[float]], labels: list[int], alpha: float, beta: float
) -> tuple[Floats, float, Floats]:
    """(B, A) weights, the loss, and (B, A) its gradient in the predictions, with the weights held constant."""
    n, a = len(predicted), len(predicted[0])
    norms = [math.sqrt(sum(p * p for p in row)) for row in predicted]
    p = [[v / (norm + 1e-10) for v in row] for row, norm in zip(predicted, norms, strict=True)]
    t = [[v / (math.sqrt(sum(q * q for q in row)) + 1e-10) for v in row] for row in target]
    means: dict[int, list[float]] = {}
    for c in set(labels):
        own = [i for i in range(n) if labels[i] == c]
        means[c] = [sum((p[i][k] - t[i][k]) ** 2 for i in own) / len(own) for k in range(a)]
    weights = np.ones((n, a))
    for i, c in enumerate(labels):
        of_class = min(e for e in means[c] if e > 0)
        for k in range(a):
            if means[c][k] > 0:
                of_semantic = min(e[k] for e in means.values() if e[k] > 0)
                over_classes = (1 + math.log(means[c][k] / of_semantic)) ** alpha
                weights[i, k] = over_classes * (1 + math.log(means[c][k] / of_class)) ** beta
    value = sum(weights[i, k] * (p[i][k] - t[i][k]) ** 2 for i in range(n) for k in range(a)) / (n * a)
    slopes = np.zeros((n, a))
    for i in range(n):
        # d/dv of sum_k w_k (v_k / |v| - t_k)^2: the slope in the unit vector, less its part along it, by the norm.
        slope = [2 * weights[i, k] * (p[i][k] - t[i][k]) / (n * a) for k in range(a)]
        along = sum(slope[k] * p[i][k] for k in range(a))
        for k in range(a):
            slopes[i, k] = (slope[k] - along * p[i][k]) / norms[i]
    return weights, value, slopes
