"""ESZSL's solutions against a dense least-squares problem, written out by Kronecker products from its objective."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
import torch
from torch import Tensor

from benchmark.api import Incompatible, RegressionLoss, TrainData
from benchmark.train import RefitRun, SelectionRun
from losses import build
from methods.embedding import eszsl
from methods.embedding.eszsl import ESZSL, _Problem
from tests.unit.toy import CPU, ToyLoss, make_train, seeded

Floats = npt.NDArray[np.float64]
RIDGES = [(0.1, 10.0), (3.0, 0.01), (1e-3, 1e-3), (1e3, 1e3)]


def toy(seed: int = 0, n: int = 40, d: int = 5, a: int = 4, n_seen: int = 6) -> TrainData:
    """Tiny data in float64, so that agreement can be exact; more seen classes than attributes."""
    generator = seeded(seed)
    labels = torch.arange(n) % n_seen
    attributes = torch.rand(n_seen + 2, a, generator=generator, dtype=torch.float64)
    mapping = torch.randn(a, d, generator=generator, dtype=torch.float64)
    noise = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return TrainData(attributes[labels] @ mapping + 0.3 * noise, labels, attributes, n_seen)


def dense(data: TrainData, g: float, l: float, weights: Floats | None, negative: float = -1.0) -> Floats:  # noqa: E741
    """The minimiser V (D, A) of all terms, each as rows of one least-squares problem in the row-major vec(V).

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
    return np.asarray(scipy.linalg.lstsq(matrix, right)[0]).reshape(d, a)


def exactly(data: TrainData, ridges: tuple[float, float], weight: float) -> Tensor:
    problem = _Problem(data, -1.0)
    return problem.weight(problem.solve_exactly(*ridges, weight))


def weighted(data: TrainData, ridges: tuple[float, float], weights: Tensor) -> Tensor:
    problem = _Problem(data, -1.0)
    return problem.weight(problem.solve(*ridges, weights, torch.zeros(5, 4, dtype=torch.float64)))


def close(found: Tensor, expected: Floats, tolerance: float) -> bool:
    return bool(np.linalg.norm(found.numpy() - expected) <= tolerance * np.linalg.norm(expected))


def fit(data: TrainData, loss: RegressionLoss | None, ridges: tuple[float, float], **settings: Any) -> ESZSL:
    config = ESZSL.Config(feature_ridge=ridges[:1], attribute_ridge=ridges[1:], **settings)
    method = ESZSL(data.meta, config, seeded(0))
    method.fit(data, loss, RefitRun(CPU, 0, "toy", 1))
    return method


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Iterates to the end, so that what is left is no early stop."""
    monkeypatch.setattr(eszsl, "SOLVER_TOLERANCE", 1e-13)
    monkeypatch.setattr(eszsl, "REWEIGHTING_TOLERANCE", 1e-10)


@pytest.mark.parametrize("ridges", RIDGES)
@pytest.mark.parametrize("seed", range(3))
class TestExact:
    def test_without_a_loss(self, ridges: tuple[float, float], seed: int):
        data = toy(seed)
        expected = dense(data, *ridges, None)
        assert close(exactly(data, ridges, 0.0), expected, 1e-7)
        assert close(fit(data, None, ridges).weight, expected, 1e-7)
        # The paper's form, by NumPy: (X^T X + g I)^-1 X^T Y S (S^T S + l I)^-1 with Y in {-1, 1}.
        x, s = data.features.numpy(), data.attributes[: data.n_seen].numpy()
        y = 2 * np.eye(data.n_seen)[data.labels.numpy()] - 1
        left = np.linalg.solve(x.T @ x + ridges[0] * np.eye(5), x.T @ y @ s)
        assert close(torch.from_numpy(left @ np.linalg.inv(s.T @ s + ridges[1] * np.eye(4))), expected, 1e-7)

    @pytest.mark.parametrize("negative", [-1.0, -0.25, 0.0])
    def test_labels_of_wrong_classes(self, ridges: tuple[float, float], seed: int, negative: float):
        data = toy(seed)
        found = fit(data, None, ridges, negative_label=negative).weight
        assert close(found, dense(data, *ridges, None, negative), 1e-7)
        loss = build("mse", n_classes=6, n_attributes=4)
        found = fit(data, loss, ridges, negative_label=negative, regression_weight=0.5).weight
        assert close(found, dense(data, *ridges, np.full((40, 4), 0.5), negative), 1e-7)

    @pytest.mark.parametrize("weight", [0.1, 1.0, 30.0])
    def test_mse(self, ridges: tuple[float, float], seed: int, weight: float):
        data = toy(seed)
        expected = dense(data, *ridges, np.full((40, 4), weight))
        assert not close(torch.from_numpy(expected), dense(data, *ridges, None), 1e-6)  # the term has a say
        assert close(exactly(data, ridges, weight), expected, 1e-7)
        loss = build("mse", n_classes=6, n_attributes=4)
        assert close(fit(data, loss, ridges, regression_weight=weight).weight, expected, 1e-7)

    @pytest.mark.usefixtures("exact")
    @pytest.mark.parametrize("spread", [0.1, 3.0])
    def test_any_element_weights(self, ridges: tuple[float, float], seed: int, spread: float):
        data = toy(seed)
        weights = torch.exp(spread * torch.randn(40, 4, generator=seeded(seed, "weights"), dtype=torch.float64))
        expected = dense(data, *ridges, weights.numpy())
        assert close(weighted(data, ridges, weights), expected, 1e-6)

    def test_the_solver_stops_at_its_tolerance(self, ridges: tuple[float, float], seed: int):
        """With the tolerance as shipped: the residual of the normal equations is as small as promised."""
        data = toy(seed)
        weights = torch.exp(torch.randn(40, 4, generator=seeded(seed, "weights"), dtype=torch.float64))
        v = weighted(data, ridges, weights).numpy()
        (g, l), x, s, w = ridges, data.features.numpy(), data.attributes[:6].numpy(), weights.numpy()  # noqa: E741
        y = 2 * np.eye(6)[data.labels.numpy()] - 1
        right = x.T @ y @ s + x.T @ (w * data.targets.numpy())
        left = (x.T @ x + g * np.eye(5)) @ v @ (s.T @ s + l * np.eye(4)) + x.T @ (w * (x @ v)) + w.mean() * g * v
        assert np.linalg.norm(left - right) <= 1.01 * eszsl.SOLVER_TOLERANCE * np.linalg.norm(right)


REWEIGHTED = ["remse", "mse-matched", "mae", "rmse", "focal", "lds", "toy"]


def loss_for(name: str, data: TrainData) -> RegressionLoss:
    n, a = data.n_seen, data.meta.n_attributes
    loss = ToyLoss(n, a, ToyLoss.Config()) if name == "toy" else build(name, n_classes=n, n_attributes=a)
    loss.prepare(data.attributes[: data.n_seen], data.class_counts)
    return loss


#: Errors near zero give these losses weights of almost any size (mae) or almost none (focal): where they outweigh the
#: rest of the objective by far, the rounds may end first, and the history says so.
HARD = {("mae", 1.0), ("mae", 10.0), ("focal", 10.0)}


@pytest.mark.parametrize("name", REWEIGHTED)
@pytest.mark.parametrize("weight", [0.1, 1.0, 10.0])
def test_reweighting_converges_as_shipped_or_says_that_it_did_not(name: str, weight: float):
    data, run = toy(1, n=48), RefitRun(CPU, 0, "toy", 1)
    config = ESZSL.Config(feature_ridge=[0.5], attribute_ridge=[0.5], regression_weight=weight)
    method = ESZSL(data.meta, config, seeded(0))
    method.fit(data, loss_for(name, data), run)
    (row,) = run.history
    if row["weights_residual"] > eszsl.REWEIGHTING_TOLERANCE:
        assert (name, weight) in HARD
        assert row["reweightings"] == config.reweightings
        return
    weights = loss_for(name, data).weights(data.features @ method.weight, data.targets, data.labels)
    assert weights is not None
    assert close(method.weight, dense(data, 0.5, 0.5, weight * weights.double().numpy()), 0.03)


@pytest.mark.usefixtures("exact")
class TestReweighting:
    @pytest.mark.parametrize("name", REWEIGHTED)
    def test_the_fixed_point_solves_its_own_weighted_problem(self, name: str):
        data, ridges = toy(1, n=48), (0.5, 0.5)
        method = fit(data, loss_for(name, data), ridges, regression_weight=0.1, reweightings=400)
        weights = loss_for(name, data).weights(data.features @ method.weight, data.targets, data.labels)
        assert weights is not None
        assert close(method.weight, dense(data, *ridges, 0.1 * weights.double().numpy()), 1e-6)

    def test_remse_is_another_solution_than_mse(self):
        data = toy(1, n=48)
        plain, rebalanced = (
            fit(data, build(n, n_classes=6, n_attributes=4), (0.5, 0.5)).weight for n in ("mse", "remse")
        )
        assert not close(plain, rebalanced.numpy(), 1e-3)

    def test_without_exponents_remse_is_mse(self):
        data = toy(1)
        losses = [
            build("mse", n_classes=6, n_attributes=4),
            build("remse", n_classes=6, n_attributes=4, alpha=0, beta=0),
        ]
        plain, rebalanced = (fit(data, loss, (0.5, 0.5)).weight for loss in losses)
        assert torch.equal(plain, rebalanced)

    @pytest.mark.parametrize("window", ["running", "ema"])
    def test_a_loss_with_a_memory_works_too(self, window: str):
        data = toy(1, n=48)
        loss = build("remse", n_classes=6, n_attributes=4, window=window)
        assert fit(data, loss, (0.5, 0.5)).weight.isfinite().all()

    def test_rounds_are_limited_and_reported(self):
        data = toy(1, n=48)
        run = RefitRun(CPU, 0, "toy", 1)
        method = ESZSL(data.meta, ESZSL.Config(feature_ridge=[1], attribute_ridge=[2], reweightings=3), seeded(0))
        method.fit(data, ToyLoss(6, 4, ToyLoss.Config()), run)
        (row,) = run.history
        assert row.keys() == {"candidate", "feature_ridge", "attribute_ridge", "reweightings", "weights_residual"}
        assert (row["feature_ridge"], row["attribute_ridge"], row["reweightings"]) == (1, 2, 3)
        assert row["weights_residual"] > 1e-10


def test_a_loss_without_weights_is_refused():
    loss = build("balanced-mse", n_classes=6, n_attributes=4)
    with pytest.raises(Incompatible, match="no least-squares form"):
        fit(toy(), loss, (1.0, 1.0))


def test_every_pair_of_ridges_is_tried_and_the_best_is_kept():
    data, held = make_train()
    config = ESZSL.Config(feature_ridge=(0.1, 10, 1000), attribute_ridge=(1, 100))
    method, run = ESZSL(data.meta, config, seeded(0)), SelectionRun(CPU, 0, "toy", held)
    method.fit(data, None, run)
    pairs = list(itertools.product((0.1, 10, 1000), (1, 100)))
    assert [(row["feature_ridge"], row["attribute_ridge"]) for row in run.history] == pairs
    best = max(range(6), key=lambda i: run.history[i]["held-out AUSUC"])  # the first of equals
    assert run.choice == best + 1
    assert torch.equal(method.weight, exactly(data, pairs[best], 0.0).float())


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
