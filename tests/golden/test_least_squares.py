"""The attribute regression of the closed-form methods against dense least squares; its solver against NumPy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor

from benchmark.api import Incompatible, LossConfig, RegressionLoss, Slot
from benchmark.engine.runs import RefitRun
from losses import build
from methods import _least_squares
from methods._least_squares import (
    AttributeRegression,
    CentredLinear,
    CentredRidge,
    QuadraticTerm,
    conjugate_gradients,
    in_float64,
)
from tests.reference.least_squares import Floats, close, iterate_to_the_end
from tests.reference.toy import CPU, FixedWeights, ToyLoss, make_float64, seeded

N, D, A = 24, 6, 4


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    iterate_to_the_end(monkeypatch)


class Problem:
    """Random data for a regression, and the same problem as one dense least-squares problem in vec(Z).

    Each image is of a class of its own, so that any matrix of targets is one of classes' attributes.
    """

    def __init__(self, seed: int, n: int = N, d: int = D, rank: int = D, *, rotated: bool = True) -> None:
        self.rng = rng = np.random.default_rng(seed)
        self.x: Floats = rng.standard_normal((n, rank)) @ rng.standard_normal((rank, d))
        self.targets: Floats = rng.standard_normal((n, A))
        self.offset: Floats | None = rng.standard_normal(A) if rotated else None
        self.basis: Floats | None = np.linalg.qr(rng.standard_normal((A, A)))[0] if rotated else None
        self.weights: Floats = np.exp(rng.standard_normal((n, A)))
        self.labels = torch.arange(n)

    def build(self, precision: torch.dtype = torch.float64) -> AttributeRegression:
        basis, offset = (None if m is None else torch.from_numpy(m) for m in (self.basis, self.offset))
        x, targets = torch.from_numpy(self.x), torch.from_numpy(self.targets)
        return AttributeRegression(x, targets, self.labels, basis, offset, precision)

    def slot(self, loss: RegressionLoss | None) -> Slot:
        return Slot(torch.from_numpy(self.targets), loss)

    def system(
        self,
        regression: AttributeRegression,
        weights: Floats,
        ridge: float = 0.0,
        diagonal: Floats | float = 0.0,
        towards: Floats | float = 0.0,
    ) -> tuple[Floats, Floats]:
        """Matrix and right-hand side of all terms; ``linear`` is that of diagonal * (Z - towards)^2.

        The columns that multiply vec(Z) are X V of every unit matrix Z; what ``weight`` does is tested by itself.
        """
        units = torch.eye(self.x.shape[1] * A, dtype=torch.float64).reshape(-1, self.x.shape[1], A)
        predictions = np.stack([(self.x @ regression.weight(unit).numpy()).ravel() for unit in units], axis=1)
        root, pull = np.sqrt(weights).ravel(), np.sqrt(np.broadcast_to(diagonal, units[0].shape))
        offset = 0.0 if self.offset is None else self.offset
        blocks = [
            (root[:, None] * predictions, root * (self.targets - offset).ravel()),
            (np.sqrt(ridge * weights.mean()) * np.eye(len(units)), np.zeros(len(units))),
            (np.diag(pull.ravel()), (pull * towards).ravel()),
        ]
        matrix, right = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
        return matrix, right

    def dense(self, regression: AttributeRegression, weights: Floats, *terms: Floats | float) -> Floats:
        """The shortest Z (D, A) that minimises all terms."""
        matrix, right = self.system(regression, weights, *terms)  # type: ignore[arg-type]
        return np.asarray(scipy.linalg.lstsq(matrix, right, cond=1e-10)[0]).reshape(-1, A)

    def gradient(self, regression: AttributeRegression, z: Tensor, weights: Tensor, ridge: float = 0.0) -> float:
        """The norm of the gradient in Z, as a share of that at 0."""
        matrix, right = self.system(regression, weights.numpy(), ridge)
        slope = matrix.T @ (matrix @ z.numpy().ravel() - right)
        return float(np.linalg.norm(slope) / np.linalg.norm(matrix.T @ right))

    def own_weights(self, regression: AttributeRegression, z: Tensor, loss: RegressionLoss) -> Tensor:
        weights = loss.weights(regression.predict(z), torch.from_numpy(self.targets), self.labels)
        assert weights is not None
        return weights


def tensors(**terms: Floats | float) -> dict[str, Any]:
    return {name: torch.from_numpy(term) if isinstance(term, np.ndarray) else term for name, term in terms.items()}


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_solutions_are_in_the_eigenbasis_of_the_features_and_the_given_one(seed: int, rotated: bool):
    problem = Problem(seed, rotated=rotated)
    regression = problem.build()
    z = torch.from_numpy(problem.rng.standard_normal((D, A)))
    v = regression.weight(z).numpy()
    assert np.isclose(np.linalg.norm(v), np.linalg.norm(z))
    moved = regression.weight(regression.values[:, None] * z).numpy()
    assert np.allclose(problem.x.T @ problem.x @ v, moved)
    # On the right the basis is the one given: (Z M) in it is V Q M Q^T.
    q, m = np.eye(A) if problem.basis is None else problem.basis, problem.rng.standard_normal((A, A))
    assert np.allclose(regression.weight(z @ torch.from_numpy(m)).numpy(), v @ q @ m @ q.T)
    assert np.allclose(regression.to_basis(torch.from_numpy(problem.targets)).numpy(), problem.targets @ q)
    assert np.allclose(regression.predict(z).numpy(), problem.x @ v + (0 if problem.offset is None else problem.offset))


#: Shapes of the quadratic term: one number, one for each semantic (as SAE has it), and one for each element.
DIAGONALS: list[tuple[int, ...]] = [(), (A,), (D, A)]


@pytest.mark.parametrize("rotated", [False, True])
@pytest.mark.parametrize("ridge", [0.0, 0.1, 30.0])
@pytest.mark.parametrize("shape", DIAGONALS)
@pytest.mark.parametrize("seed", range(2))
class TestSolutions:
    def terms(self, problem: Problem, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
        return np.array(np.exp(problem.rng.standard_normal(shape))), problem.rng.standard_normal((D, A))

    @pytest.mark.parametrize("weight", [0.0, 0.2, 50.0])
    def test_one_weight(self, seed: int, shape: tuple[int, ...], ridge: float, rotated: bool, weight: float):
        problem = Problem(seed, rotated=rotated)
        regression, (diagonal, towards) = problem.build(), self.terms(problem, shape)
        expected = problem.dense(regression, np.full((N, A), weight), ridge, diagonal, towards)
        terms = tensors(ridge=ridge, diagonal=diagonal, linear=diagonal * towards)
        assert close(regression.solve_exactly(weight, QuadraticTerm(**terms)), expected, 1e-10)
        if shape == ():  # a number is as good as a tensor of it
            terms["diagonal"] = float(diagonal)
            assert close(regression.solve_exactly(weight, QuadraticTerm(**terms)), expected, 1e-10)

    @pytest.mark.usefixtures("exact")
    def test_any_weights_from_any_start(self, seed: int, shape: tuple[int, ...], ridge: float, rotated: bool):
        problem = Problem(seed, rotated=rotated)
        regression, (diagonal, towards) = problem.build(), self.terms(problem, shape)
        expected = problem.dense(regression, problem.weights, ridge, diagonal, towards)
        start = torch.from_numpy(problem.rng.standard_normal((D, A)))
        before = start.clone()
        terms = tensors(ridge=ridge, diagonal=diagonal, linear=diagonal * towards)
        found = regression.solve(torch.from_numpy(problem.weights), QuadraticTerm(**terms), start, 1e-13)
        assert close(found, expected, 1e-9)
        assert torch.equal(start, before)

    def test_equal_weights_are_one_weight(self, seed: int, shape: tuple[int, ...], ridge: float, rotated: bool):
        problem = Problem(seed, rotated=rotated)
        regression, (diagonal, towards) = problem.build(), self.terms(problem, shape)
        terms = tensors(ridge=ridge, diagonal=diagonal, linear=diagonal * towards)
        weights = torch.full((N, A), 0.7, dtype=torch.float64)
        found = regression.solve(weights, QuadraticTerm(**terms), torch.zeros(D, A, dtype=torch.float64), 1e-13)
        assert torch.allclose(found, regression.solve_exactly(0.7, QuadraticTerm(**terms)), rtol=1e-12, atol=0)


#: (N, D, rank): more features than images, features that are combinations of others, and both; D 6 as everywhere else.
DEFICIENT = [(4, D, 4), (N, D, 3), (5, D, 2), (N, 40, 9), (12, 40, 5)]


@pytest.mark.parametrize(("n", "d", "rank"), DEFICIENT)
@pytest.mark.parametrize("seed", range(8))
class TestRankDeficient:
    def test_the_shortest_solution_without_any_other_term(self, n: int, d: int, rank: int, seed: int):
        problem = Problem(seed, n, d, rank)
        regression = problem.build()
        v = regression.weight(regression.solve_exactly(3.0, QuadraticTerm())).numpy()
        assert problem.offset is not None
        expected = np.linalg.lstsq(problem.x, problem.targets - problem.offset, rcond=1e-10)[0]
        assert np.linalg.norm(v - expected) <= 1e-7 * np.linalg.norm(expected)

    @pytest.mark.usefixtures("exact")
    @pytest.mark.parametrize("weighted", [False, True])
    def test_the_shortest_solution_where_a_term_leaves_directions_out(
        self, n: int, d: int, rank: int, seed: int, weighted: bool
    ):
        problem = Problem(seed, n, d, rank)
        regression = problem.build()
        diagonal = np.array([2.0, 0.0, 0.0, 0.3])  # so that of two semantics nothing but the regression knows
        towards = problem.rng.standard_normal((d, A))
        terms = tensors(diagonal=diagonal, linear=diagonal * towards)
        start = regression.solve_exactly(1.0, QuadraticTerm(**terms))
        weights = problem.weights if weighted else np.ones((n, A))
        expected = problem.dense(regression, weights, 0.0, diagonal, towards)
        found = regression.solve(torch.from_numpy(weights), QuadraticTerm(**terms), start, 1e-13)
        assert close(found, expected, 1e-6)

    @pytest.mark.usefixtures("exact")
    def test_a_ridge_makes_it_unique(self, n: int, d: int, rank: int, seed: int):
        problem = Problem(seed, n, d, rank)
        regression = problem.build()
        start = torch.from_numpy(problem.rng.standard_normal((d, A)))
        found = regression.solve(torch.from_numpy(problem.weights), QuadraticTerm(ridge=0.5), start, 1e-13)
        assert close(found, problem.dense(regression, problem.weights, 0.5), 1e-8)


class TestConjugateGradients:
    def system(self, seed: int, size: int, spread: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
        rng = np.random.default_rng(seed)
        q = np.linalg.qr(rng.standard_normal((size, size)))[0]
        matrix = (q * 10.0 ** rng.uniform(-spread, spread, size)) @ q.T
        right, start = rng.standard_normal((2, size, 1))
        return torch.from_numpy((matrix + matrix.T) / 2), torch.from_numpy(right), torch.from_numpy(start)

    @examples(max_examples=60)
    @given(st.integers(0, 2**32), st.integers(1, 20))
    def test_solves_what_numpy_solves(self, seed: int, size: int):
        matrix, right, start = self.system(seed, size)
        found = conjugate_gradients(lambda z: matrix @ z, right, matrix.diagonal()[:, None], start, 1e-12)
        assert close(found, np.linalg.solve(matrix.numpy(), right.numpy()), 1e-9)

    @pytest.mark.parametrize("tolerance", [1e-2, 1e-6])
    @pytest.mark.parametrize("seed", range(5))
    def test_stops_at_its_tolerance(self, seed: int, tolerance: float):
        matrix, right, start = self.system(seed, 30)
        applied = 0

        def apply(z: Tensor) -> Tensor:
            nonlocal applied
            applied += 1
            return matrix @ z

        found = conjugate_gradients(apply, right, matrix.diagonal()[:, None], start, tolerance)
        assert (matrix @ found - right).norm() <= 1.01 * tolerance * right.norm()
        assert applied > 1
        applied = 0
        assert torch.equal(conjugate_gradients(apply, right, matrix.diagonal()[:, None], found, tolerance), found)
        assert applied == 1  # a start that is good enough is the solution

    def test_a_diagonal_system_takes_one_step(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(_least_squares, "SOLVER_STEPS", 2)
        diagonal = 10.0 ** torch.arange(-6, 7, dtype=torch.float64)
        right = torch.ones(13, dtype=torch.float64)
        found = conjugate_gradients(lambda z: diagonal * z, right, diagonal, torch.zeros_like(right), 1e-12)
        assert torch.allclose(found, 1 / diagonal, rtol=1e-12)

    def test_too_few_steps(self, monkeypatch: pytest.MonkeyPatch):
        matrix, right, start = self.system(0, 20)
        monkeypatch.setattr(_least_squares, "SOLVER_STEPS", 60)
        conjugate_gradients(lambda z: matrix @ z, right, torch.ones_like(right), start, 1e-9)
        monkeypatch.setattr(_least_squares, "SOLVER_STEPS", 10)
        with pytest.raises(FloatingPointError, match="did not converge in 10 steps"):
            conjugate_gradients(lambda z: matrix @ z, right, torch.ones_like(right), start, 1e-9)

    def test_what_is_not_a_number_is_not_converged(self):
        right = torch.tensor([1.0, torch.nan])
        with pytest.raises(FloatingPointError, match="did not converge"):
            conjugate_gradients(lambda z: 2 * z, right, torch.ones(2), torch.zeros(2), 1e-3)


class Quartic(RegressionLoss):
    """c e^2 + e^4 / 2, whose weights c + e^2 grow so steeply that going all the way to them never settles."""

    c = 1e-2

    def forward(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        error = predicted - target
        return (self.c * error**2 + error**4 / 2).mean()

    def weights(self, predicted: Tensor, target: Tensor, labels: Tensor) -> Tensor:
        return self.c + (predicted - target) ** 2


def solve_reweighted(
    problem: Problem, loss: RegressionLoss | None, weight: float = 1.0, **terms: Any
) -> tuple[AttributeRegression, Tensor, dict[str, float]]:
    regression, run = problem.build(), RefitRun(CPU, 0, "toy", 1)
    for _ in run.candidates(None, [0]):  # type: ignore[arg-type]
        solution = regression.solve_reweighted(weight, QuadraticTerm(**terms), problem.slot(loss), run)
    (row,) = run.history
    return regression, solution, row


class TestReweighting:
    @pytest.mark.parametrize("weight", [0.1, 1.0, 20.0])
    @pytest.mark.parametrize("seed", range(3))
    def test_the_gradient_under_its_own_weights_is_within_the_tolerance(self, seed: int, weight: float):
        problem, loss = Problem(seed), ToyLoss(N, A, ToyLoss.Config())
        regression, solution, row = solve_reweighted(problem, loss, weight, ridge=0.3)
        assert row.keys() == {"candidate", "reweightings", "reweighting_residual"}
        assert 1 <= row["reweightings"] < _least_squares.REWEIGHTINGS
        own = weight * problem.own_weights(regression, solution, loss)
        left = problem.gradient(regression, solution, own, 0.3)
        assert row["reweighting_residual"] == pytest.approx(left, rel=1e-6)
        # Against the start, which re-weighting has to get away from.
        start = regression.solve_exactly(weight, QuadraticTerm(ridge=0.3))
        own = weight * problem.own_weights(regression, start, loss)
        assert 0 < left <= _least_squares.REWEIGHTING_TOLERANCE * problem.gradient(regression, start, own, 0.3)

    @pytest.mark.usefixtures("exact")
    @pytest.mark.parametrize("weight", [0.1, 1.0, 20.0])
    def test_at_the_end_it_solves_the_problem_of_its_own_weights(self, weight: float):
        problem, loss = Problem(1), ToyLoss(N, A, ToyLoss.Config())
        diagonal, towards = np.array([1.0, 2.0, 0.5, 0.1]), problem.rng.standard_normal((D, A))
        terms = tensors(diagonal=diagonal, linear=diagonal * towards)
        regression, solution, _ = solve_reweighted(problem, loss, weight, ridge=0.3, **terms)
        own = loss.weights(regression.predict(solution), torch.from_numpy(problem.targets), problem.labels)
        expected = problem.dense(regression, weight * own.numpy(), 0.3, diagonal, towards)
        assert close(solution, expected, 1e-8)
        assert not close(solution, problem.dense(regression, np.full((N, A), weight), 0.3, diagonal, towards), 1e-3)

    @pytest.mark.parametrize("seed", range(3))
    def test_steps_that_would_flip_for_ever_are_halved(self, seed: int):
        problem, loss = Problem(seed), Quartic(N, A, LossConfig())
        regression = problem.build()
        solution = regression.solve_exactly(1.0, QuadraticTerm())
        start = problem.gradient(regression, solution, problem.own_weights(regression, solution, loss))
        for _ in range(200):
            solution = regression.solve(
                problem.own_weights(regression, solution, loss), QuadraticTerm(), solution, 1e-9
            )
        left = problem.gradient(regression, solution, problem.own_weights(regression, solution, loss))
        assert left > 0.1  # full steps do flip
        regression, solution, row = solve_reweighted(problem, loss)
        left = problem.gradient(regression, solution, problem.own_weights(regression, solution, loss))
        assert left <= _least_squares.REWEIGHTING_TOLERANCE * start
        assert row["reweighting_residual"] == pytest.approx(left, rel=1e-6)

    @pytest.mark.usefixtures("exact")
    def test_the_fixed_point_minimises_the_loss_itself(self):
        """Weights held constant have the loss's gradient, so that without a ridge its minimum is the fixed point."""
        problem, loss = Problem(2), Quartic(N, A, LossConfig())
        regression, solution, row = solve_reweighted(problem, loss)
        assert row["reweighting_residual"] <= 1e-10
        x, targets = torch.from_numpy(problem.x), torch.from_numpy(problem.targets)

        def objective(flat: Floats) -> tuple[float, Floats]:
            v = torch.from_numpy(flat).reshape(D, A).requires_grad_()
            assert problem.offset is not None
            value = loss(x @ v + torch.from_numpy(problem.offset), targets, problem.labels)
            value.backward()
            assert v.grad is not None
            return float(value.detach()), v.grad.numpy().ravel()

        found = scipy.optimize.minimize(objective, np.zeros(D * A), jac=True, method="BFGS", options={"gtol": 1e-9})
        assert np.allclose(regression.weight(solution).numpy().ravel(), found.x, atol=1e-5)

    @pytest.mark.parametrize("limit", [0, 1, 3])
    def test_rounds_are_limited_and_reported(self, limit: int, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(_least_squares, "REWEIGHTING_TOLERANCE", 1e-12)
        monkeypatch.setattr(_least_squares, "REWEIGHTINGS", limit)
        solve, solved = AttributeRegression.solve, 0

        def count(*args: Any, **terms: Any) -> Tensor:
            nonlocal solved
            solved += 1
            return solve(*args, **terms)

        monkeypatch.setattr(AttributeRegression, "solve", count)
        problem, loss = Problem(0), ToyLoss(N, A, ToyLoss.Config())
        regression, solution, row = solve_reweighted(problem, loss, ridge=0.3)
        assert row["reweightings"] == solved == limit
        # What is reported is of the solution that is returned.
        left = problem.gradient(regression, solution, problem.own_weights(regression, solution, loss), 0.3)
        assert left > 1e-12
        assert row["reweighting_residual"] == pytest.approx(left, rel=1e-5)

    def test_fixed_weights_take_one_round(self):
        problem = Problem(0)
        _, _, row = solve_reweighted(problem, FixedWeights(torch.from_numpy(problem.weights)), ridge=0.3)
        assert row["reweightings"] == 1
        assert row["reweighting_residual"] <= 1.01 * _least_squares.SOLVER_TOLERANCE

    def test_equal_weights_take_none(self):
        weights = torch.full((N, A), 0.7, dtype=torch.float64)
        _, _, row = solve_reweighted(Problem(0), FixedWeights(weights))
        assert row["reweightings"] == 0
        assert row["reweighting_residual"] < 1e-12

    def test_a_loss_of_weight_0_leaves_the_other_terms(self):
        problem = Problem(0)
        terms = tensors(diagonal=2.0, linear=problem.rng.standard_normal((D, A)))
        _, solution, _ = solve_reweighted(problem, ToyLoss(N, A, ToyLoss.Config()), 0.0, **terms)
        assert torch.allclose(solution, terms["linear"] / 2)

    def test_without_a_loss_the_solution_is_that_for_one_weight_and_nothing_is_logged(self):
        regression, solution, row = solve_reweighted(Problem(0), None, 0.7, ridge=0.3)
        assert torch.equal(solution, regression.solve_exactly(0.7, QuadraticTerm(ridge=0.3)))
        assert row.keys() == {"candidate"}

    @pytest.mark.parametrize("ridge", [0.3, 1e-3])
    @pytest.mark.parametrize("rank", [D, D - 2])
    def test_iterating_in_float32_comes_to_the_same(self, ridge: float, rank: int):
        """As many rounds, and a solution that differs by rounding, also where features are redundant."""
        problem, loss = Problem(0, rank=rank), ToyLoss(N, A, ToyLoss.Config())
        wide, expected, slow = solve_reweighted(problem, loss, ridge=ridge)
        narrow, run = problem.build(torch.float32), RefitRun(CPU, 0, "toy", 1)
        for _ in run.candidates(None, [0]):  # type: ignore[arg-type]
            found = narrow.solve_reweighted(1.0, QuadraticTerm(ridge=ridge), problem.slot(loss), run)
        assert found.dtype == torch.float64
        assert close(narrow.weight(found), wide.weight(expected).numpy(), 1e-4)
        assert run.history[0]["reweightings"] == slow["reweightings"]
        assert run.history[0]["reweighting_residual"] == pytest.approx(slow["reweighting_residual"], rel=0.01)

    def test_in_float32_less_than_its_rounding_is_no_residual(self):
        """Weights that differ by 1e-6 leave a gradient of that size, which no iteration in float32 could lower."""
        problem = Problem(0)
        weights = 1 + 1e-6 * torch.from_numpy(problem.weights)
        run, narrow = RefitRun(CPU, 0, "toy", 1), problem.build(torch.float32)
        for _ in run.candidates(None, [0]):
            narrow.solve_reweighted(1.0, QuadraticTerm(ridge=0.3), problem.slot(FixedWeights(weights.float())), run)
        assert run.history[0]["reweightings"] == 0
        _, _, row = solve_reweighted(problem, FixedWeights(weights), ridge=0.3)
        assert row["reweightings"] == 1

    def test_weights_that_are_the_same_within_a_class_take_a_shorter_way_to_the_same(self):
        """The right-hand side is then made of the sums of the classes' images."""
        problem, labels = Problem(0), torch.arange(N) % 3
        problem.labels, problem.targets = labels, problem.targets[labels.numpy()]
        weights = torch.from_numpy(problem.weights)[labels]
        regression, start = problem.build(), torch.zeros(D, A, dtype=torch.float64)
        found = regression.solve(weights, QuadraticTerm(ridge=0.3), start, 1e-13)
        assert close(found, problem.dense(regression, weights.numpy(), 0.3), 1e-9)

    def test_a_loss_without_weights_is_refused(self):
        loss = build("balanced-mse", n_classes=N, n_attributes=A)
        with pytest.raises(Incompatible, match="no least-squares form"):
            solve_reweighted(Problem(0), loss)


@examples(max_examples=20)
@given(st.integers(0, 2**32), st.randoms(use_true_random=False))
def test_the_order_of_images_and_semantics_does_not_matter(seed: int, random: Any):
    """Permuted images: the same weights. Permuted semantics (and rows of the basis): permuted weights."""
    problem = Problem(seed)
    images, semantics = list(range(N)), list(range(A))
    random.shuffle(images)
    random.shuffle(semantics)

    def weights() -> tuple[Floats, Floats]:
        regression, solution, _ = solve_reweighted(problem, ToyLoss(N, A, ToyLoss.Config()), ridge=0.3)
        exact = regression.solve_exactly(1.0, QuadraticTerm(ridge=0.3))
        return regression.weight(exact).numpy(), regression.weight(solution).numpy()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_least_squares, "SOLVER_TOLERANCE", 1e-12)
        before = weights()
        assert problem.basis is not None
        assert problem.offset is not None
        problem.x, problem.targets = problem.x[images], problem.targets[images][:, semantics]
        problem.basis, problem.offset = problem.basis[semantics], problem.offset[semantics]
        after = weights()
    for one, other in zip(before, after, strict=True):
        assert np.allclose(one[:, semantics], other, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("name", [None, "mse"])
@pytest.mark.parametrize("ridge", [1e-3, 30.0])
def test_a_centred_ridge_is_ridge_regression_with_a_free_intercept(ridge: float, name: str | None):
    data = make_float64()
    loss = None if name is None else build(name, n_classes=6, n_attributes=4)
    targets = torch.randn(40, 4, generator=seeded(0, "targets"), dtype=torch.float64) + 5
    solution, outputs = CentredRidge(data, targets, Slot(data.attributes, loss, 0.1), RefitRun(CPU, 0, "toy", 1)).solve(
        ridge
    )
    expected = Ridge(alpha=ridge).fit(data.features.numpy(), targets.numpy())
    linear, x = CentredLinear(data.meta), 2 * data.features.flip(0) + 1
    linear.take(solution)
    assert np.allclose(linear(x).numpy(), expected.predict(x.numpy()), rtol=1e-9)
    assert np.allclose(outputs.numpy(), expected.predict(data.features.numpy()), rtol=1e-9)


def test_in_float64():
    single, double = in_float64(torch.ones(2), torch.ones(3, dtype=torch.float64))
    assert single.dtype == double.dtype == torch.float64
    assert single.tolist() == [1, 1]
