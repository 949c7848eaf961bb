"""ESZSL's solutions against a dense least-squares problem, written out by Kronecker products from its objective."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor

from benchmark.api import Incompatible, RegressionLoss, TrainData
from benchmark.engine.runs import RefitRun, SelectionRun
from losses import build
from methods import _least_squares
from methods.embedding.eszsl import ESZSL
from tests.reference.least_squares import REWEIGHTED, Floats, close, iterate_to_the_end, loss_for
from tests.reference.toy import CPU, FixedWeights, ToyLoss, make_float64, make_train, seeded, slot_for

RIDGES = [(0.1, 10.0), (3.0, 0.01), (1e-3, 1e-3), (1e3, 1e3)]


def system(
    data: TrainData,
    g: float,
    l: float,  # noqa: E741
    weights: Floats | None,
    negative: float = 0.0,
) -> tuple[Floats, Floats]:
    """All terms, each as rows of one least-squares problem in the row-major vec(V): its matrix and right-hand side.

    Of P V Q^T the row-major vec is (P kron Q) vec(V). The regression's own ridge is g times the mean weight.
    """
    x, s, t = (m.numpy() for m in (data.features, data.attributes[: data.n_seen], data.targets))
    n, d, a = len(x), x.shape[1], s.shape[1]
    y = np.full((n, data.n_seen), negative)
    for i, c in enumerate(data.labels.tolist()):
        y[i, c] = 1.0
    blocks = [
        (np.kron(x, s), y.ravel()),  # ||X V S^T - Y||^2
        (np.sqrt(g) * np.kron(np.eye(d), s), np.zeros(d * data.n_seen)),  # g ||V S^T||^2
        (np.sqrt(l) * np.kron(x, np.eye(a)), np.zeros(n * a)),  # l ||X V||^2
        (np.sqrt(g * l) * np.eye(d * a), np.zeros(d * a)),  # g l ||V||^2
    ]
    if weights is not None:
        root = np.sqrt(weights).ravel()
        blocks.append((root[:, None] * np.kron(x, np.eye(a)), root * t.ravel()))
        blocks.append((np.sqrt(weights.mean() * g) * np.eye(d * a), np.zeros(d * a)))
    matrix, right = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    return matrix, right


def dense(data: TrainData, g: float, l: float, weights: Floats | None, negative: float = 0.0) -> Floats:  # noqa: E741
    """The minimiser V (D, A) of all terms."""
    return np.asarray(scipy.linalg.lstsq(*system(data, g, l, weights, negative))[0]).reshape(data.features.shape[1], -1)


def gradient(data: TrainData, v: Tensor, g: float, l: float, weights: Floats) -> float:  # noqa: E741
    """The norm of the objective's gradient in V, with W held fixed, as a share of that at V = 0."""
    matrix, right = system(data, g, l, weights)
    slope = matrix.T @ (matrix @ v.numpy().ravel() - right)
    return float(np.linalg.norm(slope) / np.linalg.norm(matrix.T @ right))


def fit(data: TrainData, loss: RegressionLoss | None, ridges: tuple[float, float], **settings: Any) -> ESZSL:
    config = ESZSL.Config(feature_ridge=ridges[:1], attribute_ridge=ridges[1:], **settings)
    method = ESZSL(data.meta, config, seeded(0))
    method.fit(data, slot_for(method, data, loss), RefitRun(CPU, 0, "toy", 1))
    return method


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    iterate_to_the_end(monkeypatch)


@pytest.mark.parametrize("ridges", RIDGES)
@pytest.mark.parametrize("seed", range(3))
class TestExact:
    def test_without_a_loss(self, ridges: tuple[float, float], seed: int):
        data = make_float64(seed)
        expected = dense(data, *ridges, None)
        assert close(fit(data, None, ridges).weight, expected, 1e-7)
        # The paper's form, by NumPy: (X^T X + g I)^-1 X^T Y S (S^T S + l I)^-1 with Y in {0, 1}.
        x, s = data.features.numpy(), data.attributes[: data.n_seen].numpy()
        y = np.eye(data.n_seen)[data.labels.numpy()]
        left = np.linalg.solve(x.T @ x + ridges[0] * np.eye(5), x.T @ y @ s)
        assert close(torch.from_numpy(left @ np.linalg.inv(s.T @ s + ridges[1] * np.eye(4))), expected, 1e-7)

    @pytest.mark.parametrize("negative", [-1.0, -0.25, 0.0])
    def test_labels_of_wrong_classes(self, ridges: tuple[float, float], seed: int, negative: float):
        data = make_float64(seed)
        found = fit(data, None, ridges, negative_label=negative).weight
        assert close(found, dense(data, *ridges, None, negative), 1e-7)
        loss = build("mse", n_classes=6, n_attributes=4)
        found = fit(data, loss, ridges, negative_label=negative, regression_weight=0.5).weight
        assert close(found, dense(data, *ridges, np.full((40, 4), 0.5), negative), 1e-7)

    @pytest.mark.parametrize("weight", [0.1, 1.0, 30.0])
    def test_mse(self, ridges: tuple[float, float], seed: int, weight: float):
        data = make_float64(seed)
        expected = dense(data, *ridges, np.full((40, 4), weight))
        assert not close(torch.from_numpy(expected), dense(data, *ridges, None), 1e-6)  # the term has a say
        loss = build("mse", n_classes=6, n_attributes=4)
        assert close(fit(data, loss, ridges, regression_weight=weight).weight, expected, 1e-7)

    @pytest.mark.usefixtures("exact")
    @pytest.mark.parametrize("spread", [0.1, 3.0])
    def test_any_element_weights(self, ridges: tuple[float, float], seed: int, spread: float):
        data = make_float64(seed)
        weights = torch.exp(spread * torch.randn(40, 4, generator=seeded(seed, "weights"), dtype=torch.float64))
        expected = dense(data, *ridges, weights.numpy())
        assert close(fit(data, FixedWeights(weights), ridges).weight, expected, 1e-6)

    def test_the_solver_stops_at_its_tolerance(self, ridges: tuple[float, float], seed: int):
        """With the tolerance as shipped: the residual of the normal equations is as small as promised."""
        data = make_float64(seed)
        weights = torch.exp(torch.randn(40, 4, generator=seeded(seed, "weights"), dtype=torch.float64))
        v = fit(data, FixedWeights(weights), ridges).weight.numpy()
        (g, l), x, s, w = ridges, data.features.numpy(), data.attributes[:6].numpy(), weights.numpy()  # noqa: E741
        y = np.eye(6)[data.labels.numpy()]
        right = x.T @ y @ s + x.T @ (w * data.targets.numpy())
        left = (x.T @ x + g * np.eye(5)) @ v @ (s.T @ s + l * np.eye(4)) + x.T @ (w * (x @ v)) + w.mean() * g * v
        assert np.linalg.norm(left - right) <= 1.01 * _least_squares.SOLVER_TOLERANCE * np.linalg.norm(right)


#: The weights of small absolute errors are large and change fast: the rounds may end first, and the history says so.
HARD = {("mae", 1.0)}


@pytest.mark.parametrize("name", REWEIGHTED)
@pytest.mark.parametrize("weight", [0.1, 1.0, 10.0])
def test_reweighting_converges_as_shipped_or_says_that_it_did_not(name: str, weight: float):
    data, run = make_float64(1, n=48), RefitRun(CPU, 0, "toy", 1)
    config = ESZSL.Config(feature_ridge=[0.5], attribute_ridge=[0.5], regression_weight=weight)
    method = ESZSL(data.meta, config, seeded(0))
    method.fit(data, slot_for(method, data, loss_for(name, data)), run)
    (row,) = run.history
    weights = loss_for(name, data).weights(data.features @ method.weight, data.targets, data.labels)
    assert weights is not None
    left = gradient(data, method.weight, 0.5, 0.5, weight * weights.double().numpy())
    assert row["reweighting_residual"] == pytest.approx(left, rel=1e-5, abs=1e-12)
    if left > _least_squares.REWEIGHTING_TOLERANCE:
        assert (name, weight) in HARD
        assert row["reweightings"] == _least_squares.REWEIGHTINGS
    else:
        assert row["reweightings"] <= _least_squares.REWEIGHTINGS


@pytest.mark.usefixtures("exact")
class TestReweighting:
    @pytest.mark.parametrize("name", REWEIGHTED)
    def test_the_fixed_point_solves_its_own_weighted_problem(self, name: str):
        data, ridges = make_float64(1, n=48), (0.5, 0.5)
        method = fit(data, loss_for(name, data), ridges, regression_weight=0.1)
        weights = loss_for(name, data).weights(data.features @ method.weight, data.targets, data.labels)
        assert weights is not None
        assert close(method.weight, dense(data, *ridges, 0.1 * weights.double().numpy()), 1e-6)

    def test_remse_is_another_solution_than_mse(self):
        data = make_float64(1, n=48)
        plain, rebalanced = (
            fit(data, build(n, n_classes=6, n_attributes=4), (0.5, 0.5)).weight for n in ("mse", "remse")
        )
        assert not close(plain, rebalanced.numpy(), 1e-3)

    def test_without_exponents_remse_is_mse(self):
        data = make_float64(1)
        losses = [
            build("mse", n_classes=6, n_attributes=4),
            build("remse", n_classes=6, n_attributes=4, alpha=0, beta=0),
        ]
        plain, rebalanced = (fit(data, loss, (0.5, 0.5)).weight for loss in losses)
        assert torch.equal(plain, rebalanced)

    @pytest.mark.parametrize("window", ["running", "ema"])
    def test_a_loss_with_a_memory_works_too(self, window: str):
        data = make_float64(1, n=48)
        loss = build("remse", n_classes=6, n_attributes=4, window=window)
        assert fit(data, loss, (0.5, 0.5)).weight.isfinite().all()

    def test_rounds_are_limited_and_reported(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(_least_squares, "REWEIGHTINGS", 3)
        data = make_float64(1, n=48)
        run = RefitRun(CPU, 0, "toy", 1)
        method = ESZSL(data.meta, ESZSL.Config(feature_ridge=[1], attribute_ridge=[2]), seeded(0))
        method.fit(data, slot_for(method, data, ToyLoss(6, 4, ToyLoss.Config())), run)
        (row,) = run.history
        assert row.keys() == {"candidate", "feature_ridge", "attribute_ridge", "reweightings", "reweighting_residual"}
        assert (row["feature_ridge"], row["attribute_ridge"], row["reweightings"]) == (1, 2, 3)
        assert row["reweighting_residual"] > 1e-10


def test_a_loss_without_weights_is_refused():
    loss = build("balanced-mse", n_classes=6, n_attributes=4)
    with pytest.raises(Incompatible, match="no least-squares form"):
        fit(make_float64(), loss, (1.0, 1.0))


def test_every_pair_of_ridges_is_tried_and_the_best_is_kept():
    data, held = make_train()
    config = ESZSL.Config(feature_ridge=(0.1, 10, 1000), attribute_ridge=(1, 100))
    method, run = ESZSL(data.meta, config, seeded(0)), SelectionRun(CPU, 0, "toy", held)
    method.fit(data, slot_for(method, data, None), run)
    pairs = list(itertools.product((0.1, 10, 1000), (1, 100)))
    assert [(row["feature_ridge"], row["attribute_ridge"]) for row in run.history] == pairs
    best = max(range(6), key=lambda i: run.history[i]["held-out AUSUC"])  # the first of equals
    assert run.choice == best + 1
    assert torch.equal(method.weight, fit(data, None, pairs[best]).weight)


def test_scores_are_bilinear():
    data, held = make_train()
    method = fit(data, None, (1.0, 1.0))
    classes = torch.tensor([5, 0])
    expected = held.unseen_features @ method.weight @ data.attributes[classes].T
    assert torch.allclose(method.scores(held.unseen_features, classes), expected)
    assert torch.allclose(method.semantics(held.unseen_features), held.unseen_features @ method.weight)


@pytest.mark.parametrize("key", ["feature_ridge", "attribute_ridge"])
def test_a_ridge_below_zero_is_refused(key: str):
    for value in (-1.0, 0.0):
        with pytest.raises(ValueError, match="greater than 0"):
            ESZSL.Config(**{key: (value,)})
