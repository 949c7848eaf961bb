"""SAE's solutions against SciPy's Sylvester solver, and their objective's gradient; its scores against slow loops."""

from __future__ import annotations

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
from methods.embedding.sae import SAE
from tests.reference.least_squares import REWEIGHTED, Floats, close, iterate_to_the_end, loss_for
from tests.reference.toy import CPU, FixedWeights, ToyLoss, make_float64, make_train, seeded, slot_for

#: (reconstruction, regression weight); the paper's lambda is the second by the first.
PAIRS = [(1.0, 1.0), (0.01, 1.0), (1.0, 0.03), (50.0, 0.5), (1e-3, 20.0)]


def fit(data: TrainData, loss: RegressionLoss | None, reconstruction: float, weight: float, **settings: Any) -> SAE:
    config = SAE.Config(reconstruction=(reconstruction,), regression_weight=weight, **settings)
    method = SAE(data.meta, config, seeded(0))
    method.fit(data, slot_for(method, data, loss), RefitRun(CPU, 0, "toy", 1))
    return method


def gradient(data: TrainData, v: Tensor, reconstruction: float, weight: float, weights: Tensor | float) -> float:
    """The norm of the objective's gradient in V, with W held fixed, as a share of that at V = 0."""

    def norm(v: Tensor) -> float:
        v = v.detach().clone().requires_grad_()
        decoded = (data.features - data.targets @ v.T).square().sum()
        coded = (weights * (data.features @ v - data.targets).square()).sum()
        (slope,) = torch.autograd.grad(reconstruction * decoded + weight * coded, v)
        return float(slope.norm())

    return norm(v) / norm(torch.zeros_like(v))


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    iterate_to_the_end(monkeypatch)


@pytest.mark.parametrize(("reconstruction", "weight"), PAIRS)
@pytest.mark.parametrize("seed", range(3))
class TestUnweighted:
    def test_is_the_solution_of_the_papers_sylvester_equation(self, seed: int, reconstruction: float, weight: float):
        """T T^T W + lambda W X X^T = (1 + lambda) T X^T, where the paper's columns are images: W is V^T."""
        data, factor = make_float64(seed), weight / reconstruction
        x, t = data.features.numpy().T, data.targets.numpy().T
        expected = scipy.linalg.solve_sylvester(t @ t.T, factor * x @ x.T, (1 + factor) * t @ x.T).T
        assert close(fit(data, None, reconstruction, weight).weight, expected, 1e-9)

    def test_none_is_mse(self, seed: int, reconstruction: float, weight: float):
        data = make_float64(seed)
        mse = fit(data, build("mse", n_classes=6, n_attributes=4), reconstruction, weight).weight
        assert torch.allclose(mse, fit(data, None, reconstruction, weight).weight, rtol=1e-12, atol=0)

    def test_the_gradient_of_the_objective_vanishes(self, seed: int, reconstruction: float, weight: float):
        data = make_float64(seed)
        v = fit(data, None, reconstruction, weight).weight
        assert gradient(data, v, reconstruction, weight, 1.0) < 1e-12
        assert gradient(data, v * 1.01, reconstruction, weight, 1.0) > 1e-4

    def test_only_the_ratio_of_the_two_weights_counts(self, seed: int, reconstruction: float, weight: float):
        data = make_float64(seed)
        one, other = (fit(data, None, c * reconstruction, c * weight).weight for c in (1, 7))
        assert torch.allclose(one, other, rtol=1e-9)


def test_without_regression_it_reconstructs_as_well_as_can_be():
    data = make_float64()
    expected = np.linalg.lstsq(data.targets.numpy(), data.features.numpy(), rcond=None)[0].T
    assert close(fit(data, None, 1.0, 0.0).weight, expected, 1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.usefixtures("exact")
def test_more_attributes_than_classes_and_redundant_features(seed: int, weighted: bool):
    """The objective then leaves directions of V free; the solution is the shortest, by one dense problem in vec(V)."""
    plain = make_float64(seed, n=30, d=4, a=8, n_seen=5)
    mixing = torch.randn(4, 7, generator=seeded(seed, "mixing"), dtype=torch.float64)
    data = TrainData(plain.features @ mixing, plain.labels, plain.attributes, plain.n_seen)
    weights = torch.exp(torch.randn(30, 8, generator=seeded(seed, "weights"), dtype=torch.float64) * weighted)
    x, t, root = data.features.numpy(), data.targets.numpy(), weights.sqrt().numpy().ravel()
    # Row-major: vec(X V) is (X kron I) vec(V), and vec(V T^T), which is to be vec(X^T), is (I kron T) vec(V).
    matrix = np.concatenate([np.sqrt(0.5) * np.kron(np.eye(7), t), root[:, None] * np.kron(x, np.eye(8))])
    right = np.concatenate([np.sqrt(0.5) * x.T.ravel(), root * t.ravel()])
    expected = scipy.linalg.lstsq(matrix, right, cond=1e-10)[0].reshape(7, 8)
    assert close(fit(data, FixedWeights(weights), 0.5, 1.0).weight, expected, 1e-7)


class TestWeighted:
    @pytest.mark.usefixtures("exact")
    @pytest.mark.parametrize(("reconstruction", "weight"), PAIRS)
    @pytest.mark.parametrize("spread", [0.1, 3.0])
    def test_any_element_weights(self, reconstruction: float, weight: float, spread: float):
        data = make_float64()
        weights = torch.exp(spread * torch.randn(40, 4, generator=seeded(0, "weights"), dtype=torch.float64))
        v = fit(data, FixedWeights(weights), reconstruction, weight).weight
        assert gradient(data, v, reconstruction, weight, weights) < 1e-12
        assert gradient(data, v, reconstruction, weight, 1.0) > 1e-6

    @pytest.mark.usefixtures("exact")
    @pytest.mark.parametrize("name", [name for name in REWEIGHTED if name != "mae"])
    def test_the_fixed_point_is_stationary_under_its_own_weights(self, name: str):
        data = make_float64(1, n=48)
        v = fit(data, loss_for(name, data), 1.0, 0.1).weight
        weights = loss_for(name, data).weights(data.features @ v, data.targets, data.labels)
        assert weights is not None
        assert gradient(data, v, 1.0, 0.1, weights) < 1e-8

    @pytest.mark.parametrize("name", REWEIGHTED)
    def test_as_shipped_the_gradient_under_the_solutions_own_weights_is_small(self, name: str):
        data, run = make_float64(1, n=48), RefitRun(CPU, 0, "toy", 1)
        method = SAE(data.meta, SAE.Config(reconstruction=(1.0,)), seeded(0))
        method.fit(data, slot_for(method, data, loss_for(name, data)), run)
        (row,) = run.history
        assert row.keys() == {"candidate", "reconstruction", "reweightings", "reweighting_residual"}
        weights = loss_for(name, data).weights(data.features @ method.weight, data.targets, data.labels)
        assert weights is not None
        left = gradient(data, method.weight, 1.0, 1.0, weights)
        assert left <= _least_squares.REWEIGHTING_TOLERANCE
        assert row["reweighting_residual"] == pytest.approx(left, rel=1e-5, abs=1e-12)

    def test_a_run_that_does_not_converge_says_so(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(_least_squares, "REWEIGHTINGS", 2)
        data, run, loss = make_float64(1, n=48), RefitRun(CPU, 0, "toy", 1), ToyLoss(6, 4, ToyLoss.Config())
        method = SAE(data.meta, SAE.Config(reconstruction=(1.0,)), seeded(0))
        method.fit(data, slot_for(method, data, loss), run)
        (row,) = run.history
        left = gradient(
            data, method.weight, 1.0, 1.0, loss.weights(data.features @ method.weight, data.targets, data.labels)
        )
        assert (row["reweightings"], row["reweighting_residual"]) == (2, pytest.approx(left, rel=1e-5))

    def test_a_loss_without_weights_is_refused(self):
        with pytest.raises(Incompatible, match="no least-squares form"):
            fit(make_float64(), build("balanced-mse", n_classes=6, n_attributes=4), 1.0, 1.0)


def cosine(a: Floats, b: Floats) -> float:
    return float(sum(p * q for p, q in zip(a, b, strict=True)) / np.sqrt(sum(p * p for p in a) * sum(q * q for q in b)))


@pytest.mark.parametrize("unit_rows", [False, True])
@pytest.mark.parametrize("direction", ["features-to-semantics", "semantics-to-features"])
def test_scores_are_cosines(direction: str, unit_rows: bool):
    data = make_float64()
    method = fit(data, None, 1.0, 1.0, direction=direction, unit_rows=unit_rows)
    x, classes, v = data.features[:7], torch.tensor([7, 0, 3]), method.weight.numpy()
    if unit_rows:
        v = np.stack([column / np.sqrt(sum(p * p for p in column)) for column in v.T], axis=1)
    found = method.scores(x, classes)
    assert found.shape == (7, 3)
    for i, image in enumerate(x.numpy()):
        for j, c in enumerate(classes.tolist()):
            a = data.attributes[c].numpy()
            forwards = direction == "features-to-semantics"
            expected = cosine(image @ v, a) if forwards else cosine(image, v @ a)
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-12)
    assert torch.equal(method.semantics(x), x @ method.weight)


@pytest.mark.parametrize("name", [None, "toy"])
def test_the_order_of_images_and_semantics_does_not_matter(name: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_least_squares, "SOLVER_TOLERANCE", 1e-12)
    data = make_float64()
    images, semantics = (torch.randperm(n, generator=seeded(0, "order")) for n in (40, 4))
    mixed = TrainData(data.features[images], data.labels[images], data.attributes[:, semantics], data.n_seen)
    one, other = (fit(d, ToyLoss(6, 4, ToyLoss.Config()) if name else None, 0.3, 1.0) for d in (data, mixed))
    assert torch.allclose(one.weight[:, semantics], other.weight, rtol=1e-8, atol=1e-10)
    classes = torch.arange(8)
    assert torch.allclose(one.scores(data.features, classes), other.scores(data.features, classes), atol=1e-9)


def test_every_reconstruction_is_tried_and_the_best_is_kept():
    data, held = make_train()
    candidates = (1e-3, 1.0, 1e3)
    method = SAE(data.meta, SAE.Config(reconstruction=candidates), seeded(0))
    run = SelectionRun(CPU, 0, "toy", held)
    method.fit(data, slot_for(method, data, None), run)
    assert [row["reconstruction"] for row in run.history] == pytest.approx(candidates)
    best = max(range(3), key=lambda i: run.history[i]["held-out AUSUC"])  # the first of equals
    assert run.choice == best + 1
    assert method.weight.dtype == torch.float32
    assert torch.equal(method.weight, fit(data, None, candidates[best], 1.0).weight)


@pytest.mark.parametrize("settings", [{"reconstruction": (0.0,)}, {"reconstruction": ()}, {"direction": "both"}])
def test_bad_settings_are_refused(settings: dict[str, Any]):
    with pytest.raises(ValueError, match=next(iter(settings))):
        SAE.Config(**settings)
