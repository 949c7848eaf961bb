"""ESZSL: an embarrassingly simple approach to zero-shot learning, in closed form."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from benchmark.api import Incompatible, Meta, Method, MethodConfig, RegressionLoss, Run, TrainData
from methods import METHODS

Ridge = Annotated[float, Field(gt=0)]
POWERS = tuple(10.0**power for power in range(-3, 4))
#: Re-weighting ends when a solution's own weights differ from those that it was found with by this share of their norm.
REWEIGHTING_TOLERANCE = 1e-2
#: The residual of a linear solve, as a share of the right-hand side's norm.
SOLVER_TOLERANCE = 1e-5
SOLVER_STEPS = 500


@METHODS.register(
    "eszsl",
    title="ESZSL",
    family="embedding",
    year=2015,
    source="Romera-Paredes and Torr, An embarrassingly simple approach to zero-shot learning, ICML 2015",
)
class ESZSL(Method):
    """F(x, c) = x^T V a_c, where V minimises a regularised least-squares problem.

    With features X (N, D), labels Y (N, n_seen) in {negative_label, 1}, seen attributes S (n_seen, A), targets T (N, A)
    (the attributes of each image's class), ridges g and l, regression weight w and the loss's element weights W (N, A),

        ||X V S^T - Y||^2 + g ||V S^T||^2 + l ||X V||^2 + g l ||V||^2
        + w (||sqrt(W) * (X V - T)||^2 + g mean(W) ||V||^2).

    The first four terms are the paper's (eq. 3 and 4); the last is the attribute-regression slot, with the ridge that
    keeps it as well-posed as the rest. With W constant (``none``, ``mse``) the solution is exact:
    V = (X^T X + g I)^-1 (X^T Y S + w W X^T T) (S^T S + (l + w W) I)^-1. Otherwise W is taken from the last residuals,
    the weighted problem is solved by conjugate gradients, preconditioned by that exact solution, and both repeat until
    the weights stay (iteratively re-weighted least squares; rounds and last difference are in the history). X V is
    regressed as it is; a loss with ``normalize`` takes its weights from normalised predictions.
    """

    class Config(MethodConfig):
        """Settings; of the ridges, every pair is tried and validation chooses.

        Attributes:
            feature_ridge: candidates of g, the paper's gamma.
            attribute_ridge: candidates of l, the paper's lambda.
            reweightings: the most rounds of re-weighting.
            negative_label: what Y holds for the wrong classes: -1 in the paper, 0 in much public code. With hundreds
                of classes the -1s drown the single 1.
        """

        feature_ridge: tuple[Ridge, ...] = Field(POWERS, min_length=1)
        attribute_ridge: tuple[Ridge, ...] = Field(POWERS, min_length=1)
        reweightings: int = Field(60, ge=1)
        negative_label: float = Field(-1.0, ge=-1, le=0)

    def __init__(self, meta: Meta, config: Config, generator: torch.Generator) -> None:
        super().__init__(meta, config, generator)
        self.register_buffer("weight", torch.zeros(meta.n_features, meta.n_attributes))

    def fit(self, data: TrainData, loss: RegressionLoss | None, run: Run) -> None:  # noqa: D102
        self.attributes = data.attributes
        problem = _Problem(data, self.config.negative_label)
        pairs = list(itertools.product(self.config.feature_ridge, self.config.attribute_ridge))
        for feature_ridge, attribute_ridge in run.candidates(self, pairs):
            if loss is None:
                solution = problem.solve_exactly(feature_ridge, attribute_ridge, 0.0)
            else:
                solution = self._reweighted(problem, feature_ridge, attribute_ridge, loss, run)
            self.weight = problem.weight(solution).to(data.features)
            run.log(feature_ridge=feature_ridge, attribute_ridge=attribute_ridge)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:  # noqa: D102
        return self.semantics(x) @ self.attributes[classes].T

    def semantics(self, x: Tensor) -> Tensor:  # noqa: D102
        return x @ self.weight

    def _reweighted(
        self, problem: _Problem, feature_ridge: float, attribute_ridge: float, loss: RegressionLoss, run: Run
    ) -> Tensor:
        scale = self.config.regression_weight
        solution = problem.solve_exactly(feature_ridge, attribute_ridge, scale)
        weights = self._weights(problem, solution, loss)
        step, last = 1.0, float("inf")
        for rounds in range(1, self.config.reweightings + 1):  # noqa: B007 - logged after the loop
            solution = problem.solve(feature_ridge, attribute_ridge, scale * weights, solution)
            change = self._weights(problem, solution, loss) - weights
            residual = float(change.norm() / weights.norm())
            if residual <= REWEIGHTING_TOLERANCE:
                break
            # Going all the way to the new weights can flip between two solutions for ever.
            step = step if residual < last else step / 2
            weights, last = weights + step * change, residual
        run.log(reweightings=rounds, weights_residual=residual)
        return solution

    def _weights(self, problem: _Problem, solution: Tensor, loss: RegressionLoss) -> Tensor:
        weights = loss.weights(problem.predict(solution), problem.targets, problem.labels)
        if weights is None:
            raise Incompatible(f"{type(loss).__name__} has no least-squares form, which a closed-form method needs")
        return weights


class _Problem:
    """The least-squares problem in float64, in the eigenbases of X^T X and S^T S.

    There all terms but the regression's are diagonal, and so is the exact solution: V = P Z Q^T with eigenvectors P, Q.
    """

    def __init__(self, data: TrainData, negative_label: float) -> None:
        # Apple's devices know no float64.
        device = torch.device("cpu") if data.features.device.type == "mps" else data.features.device
        x = data.features.to(device).double()
        seen = data.attributes[: data.n_seen].to(device).double()
        self.labels = data.labels.to(device)
        self.targets = seen[self.labels]
        self._x_values, self._x_vectors = torch.linalg.eigh(x.T @ x)
        self._s_values, self._s_vectors = torch.linalg.eigh(seen.T @ seen)
        self._x = x @ self._x_vectors
        self._x_targets = self._x.T @ self.targets @ self._s_vectors
        # X^T Y S without the (N, n_seen) matrix Y = (1 - negative) one-hot + negative: one-hot S is T.
        background = torch.outer(self._x.sum(0), seen.sum(0) @ self._s_vectors)
        self._x_classes = (1 - negative_label) * self._x_targets + negative_label * background

    def weight(self, solution: Tensor) -> Tensor:
        """(D, A) the matrix V of a ``solution``."""
        return self._x_vectors @ solution @ self._s_vectors.T

    def predict(self, solution: Tensor) -> Tensor:
        """(N, A) the attributes X V of the training images."""
        return self._x @ solution @ self._s_vectors.T

    def solve_exactly(self, feature_ridge: float, attribute_ridge: float, weight: float) -> Tensor:
        """(D, A) the solution where one number weighs all elements of the regression."""
        values = self._values(feature_ridge, attribute_ridge + weight)
        return (self._x_classes + weight * self._x_targets) / values

    def solve(self, feature_ridge: float, attribute_ridge: float, weights: Tensor, start: Tensor) -> Tensor:
        """(D, A) the solution for (N, A) ``weights``, by preconditioned conjugate gradients from ``start``."""
        low, high, mean = weights.amin(), weights.amax(), float(weights.mean())
        if low == high:
            return self.solve_exactly(feature_ridge, attribute_ridge, mean)
        diagonal = self._values(feature_ridge, attribute_ridge) + mean * feature_ridge

        def back_project(residuals: Tensor) -> Tensor:
            return self._x.T @ (weights * residuals) @ self._s_vectors

        return _conjugate_gradients(
            lambda z: diagonal * z + back_project(self.predict(z)),
            self._x_classes + back_project(self.targets),
            self._values(feature_ridge, attribute_ridge + mean),
            start,
        )

    def _values(self, feature_ridge: float, attribute_ridge: float) -> Tensor:
        return (self._x_values + feature_ridge)[:, None] * (self._s_values + attribute_ridge)


def _conjugate_gradients(apply: Callable[[Tensor], Tensor], right: Tensor, diagonal: Tensor, start: Tensor) -> Tensor:
    """Solve ``apply(z) = right`` for a symmetric positive-definite ``apply``, preconditioned by ``diagonal``.

    Raises:
        FloatingPointError: the residual is still above the tolerance after as many steps as are ever useful.
    """
    solution = start.clone()
    residual = right - apply(solution)
    direction = conditioned = residual / diagonal
    product = (residual * conditioned).sum()
    for _ in range(SOLVER_STEPS):
        if residual.norm() <= SOLVER_TOLERANCE * right.norm():
            return solution
        applied = apply(direction)
        step = product / (direction * applied).sum()
        solution += step * direction
        residual -= step * applied
        conditioned = residual / diagonal
        product, last = (residual * conditioned).sum(), product
        direction = conditioned + product / last * direction
    raise FloatingPointError(f"conjugate gradients did not converge in {SOLVER_STEPS} steps")
