"""What closed-form methods share: attribute regression with element weights, solved exactly or by re-weighting."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from benchmark.api import Meta, Run, Slot, TrainData

#: Candidates of a ridge: the grid of Romera-Paredes and Torr 2015, which suits other closed forms too.
POWERS = tuple(10.0**power for power in range(-3, 4))
#: The most rounds of re-weighting.
REWEIGHTINGS = 30
#: Re-weighting ends when the gradient of the problem with a solution's own weights is this share of what it is for the
#: solution without re-weighting ...
REWEIGHTING_TOLERANCE = 0.05
#: ... or this share of its norm at 0, which is rounding: a number, or so many times the precision's epsilon if larger.
ROUNDING = 1e-10
EPSILONS = 100
#: By how much a damped step grows when it helped.
GROWTH = 1.2
SMALLEST_STEP = 0.05
#: The largest residual of a weighted solve, as a share of the right-hand side's norm.
SOLVER_TOLERANCE = 1e-3
SOLVER_STEPS = 500
#: The largest entry of the normal equations for which float32 will do: weighted, squared, summed it stays below 1e38.
FLOAT32_LIMIT = 1e12


@dataclass(frozen=True)
class QuadraticTerm:
    """A method's own term beside the regression: ridge * mean(W) ||Z||^2 + <Z, diagonal * Z - 2 linear>.

    Attributes:
        ridge: the ridge of the regression; it grows with its element weights W, so that both stay as well-posed.
        diagonal: (D, A), or what broadcasts to it.
        linear: (D, A), or what broadcasts to it.
    """

    ridge: float = 0.0
    diagonal: Tensor | float = 0.0
    linear: Tensor | float = 0.0

    def to(self, precision: torch.dtype) -> QuadraticTerm:
        """The same term in another ``precision``."""
        diagonal, linear = (t.to(precision) if isinstance(t, Tensor) else t for t in (self.diagonal, self.linear))
        return QuadraticTerm(self.ridge, diagonal, linear)


class AttributeRegression:
    """Regresses (N, D) features X on (N, A) targets T by V = P Z Q^T, and adds a quadratic term of the method's own.

    Solutions are (D, A) matrices Z in the eigenbasis P of X^T X and an orthogonal basis Q of the semantics, where the
    terms of all methods here are diagonal (see ``QuadraticTerm``):

        sum_ik W_ik ((X V)_ik + offset_k - T_ik)^2 + ridge * mean(W) ||Z||^2 + <Z, diagonal * Z - 2 linear>.

    With one weight w for all elements that is diagonal as a whole, hence the solution exact:
    Z = (linear + w X^T (T - offset)) / (diagonal + w (eigenvalues + ridge)), all in the two bases. Otherwise conjugate
    gradients find it, preconditioned by that very division. What is exact is float64; what iterates is in the precision
    of the images, where products take half the time, unless numbers are so large that their squares would overflow. In
    the eigenbasis the rounding of float32 is relative to each direction's own size, hence harmless beside the
    tolerances.

    Args:
        features: (N, D) X in float64.
        targets: (N, A) T, the same for all images of a class.
        labels: (N,) the classes, for losses that weigh by class.
        basis: (A, A) Q; None: the identity.
        offset: (A,) what is added to X V; None: nothing.
        precision: the precision of what iterates: that of the images, before they became float64.
    """

    def __init__(
        self,
        features: Tensor,
        targets: Tensor,
        labels: Tensor,
        basis: Tensor | None = None,
        offset: Tensor | None = None,
        precision: torch.dtype = torch.float64,
    ) -> None:
        self._precision = torch.promote_types(precision, torch.float32)
        self.labels = labels
        self.targets = targets
        self._offset = torch.zeros_like(targets[0]) if offset is None else offset
        self._basis = basis
        self.values, self._vectors = eigenbasis(features)
        self.x = features @ self._vectors
        self._projected = self._back_project(targets - self._offset)
        # One image of each class, and the sum of its images.
        classes, self._class = labels.unique(return_inverse=True)
        self._first = torch.zeros_like(classes).scatter_(
            0, self._class, torch.arange(len(labels), device=labels.device)
        )
        self._sums = self.x.new_zeros(len(classes), self.x.shape[1]).index_add_(0, self._class, self.x)

    @cached_property
    def _iterated(self) -> AttributeRegression:
        """The same problem in the precision of what iterates: itself where float32 would overflow."""
        if self._precision == self.x.dtype or max(self.values.max(), self._projected.abs().max()) > FLOAT32_LIMIT:
            return self
        other = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, Tensor) and value.is_floating_point():
                setattr(other, name, value.to(self._precision))
        return other

    def weight(self, solution: Tensor) -> Tensor:
        """(D, A) the matrix V of a ``solution``."""
        return self._vectors @ self._to_semantics(solution)

    def predict(self, solution: Tensor) -> Tensor:
        """(N, A) the attributes X V + offset of the training images."""
        return self.x @ self._to_semantics(solution) + self._offset

    def to_basis(self, matrix: Tensor) -> Tensor:
        """(..., A) rows in the basis Q."""
        return matrix if self._basis is None else matrix @ self._basis

    def solve_exactly(self, weight: float, term: QuadraticTerm) -> Tensor:
        """(D, A) the solution where one number weighs all elements of the regression."""
        values, right = self._diagonal_equations(weight, term)
        # Directions that no term reaches: the shortest solution is 0 there.
        return torch.where(_reached(values), right / values, 0.0)

    def solve(
        self, weights: Tensor, term: QuadraticTerm, start: Tensor, tolerance: float, residual: Tensor | None = None
    ) -> Tensor:
        """(D, A) the solution for (N, A) ``weights``, by preconditioned conjugate gradients from ``start``.

        Its residual is at most the share ``tolerance`` of the right-hand side's norm; that of the start is ``residual``
        where it is known.

        Raises:
            FloatingPointError: they did not converge.
        """
        if _constant(weights):
            return self.solve_exactly(float(weights[0, 0]), term)
        apply, right = self._equations(weights, term)
        # Without a basis the columns are the semantics, and each has a mean weight of its own to divide by.
        mean = weights.mean() if self._basis is not None else weights.mean(0)
        values = (weights.mean() * term.ridge + term.diagonal + mean * self.values[:, None]).expand_as(start)
        divisor = torch.where(_reached(values), values, torch.inf)
        return conjugate_gradients(apply, right, divisor, start, tolerance, residual)

    def solve_reweighted(self, weight: float, term: QuadraticTerm, slot: Slot, run: Run) -> Tensor:
        """(D, A) the solution whose weights are ``weight`` times those that the slot's loss gives to its own residuals.

        Without a loss that is the solution for ``weight`` alone. Else weights are taken from the last residuals, the
        weighted problem is solved, and both repeat until the gradient of the problem with a solution's own weights is
        small there (iteratively re-weighted least squares). Rounds and that gradient, as a share of its norm at 0, go
        into the log of ``run``. The start is the solution for constant weights, and what is small is measured against
        the gradient there: re-weighting changes little where the residuals are small, and that little must not pass for
        convergence. The targets must be the attributes of the images' classes, with which a loss compares.

        Raises:
            Incompatible: the loss has no least-squares form.
        """
        solution = self.solve_exactly(weight, term)
        return solution if slot.absent else self._iterated._reweight(solution, weight, term, slot, run).to(solution)

    def _reweight(self, start: Tensor, weight: float, term: QuadraticTerm, slot: Slot, run: Run) -> Tensor:
        """Re-weight from the solution ``start``, all in the precision of this problem."""
        solution, term = start.to(self.x), term.to(self.x.dtype)
        weights, step, last = None, 1.0, float("inf")
        goal = max(ROUNDING, EPSILONS * torch.finfo(solution.dtype).eps)
        for rounds in range(REWEIGHTINGS + 1):
            predicted = self.predict(solution)
            own = weight * slot.element_weights(predicted, self.labels)
            residual = self._residual(own, term, solution, predicted)
            # The norm at 0 is 0 where all features are: then 0 is the solution.
            norm = self._right(own, term).norm().clamp(min=torch.finfo(residual.dtype).tiny)
            share = float(residual.norm() / norm)
            goal = max(goal, REWEIGHTING_TOLERANCE * share) if rounds == 0 else goal
            if share <= goal or rounds == REWEIGHTINGS:
                break
            # Going all the way to the new weights can flip between two solutions for ever.
            step = min(1.0, GROWTH * step) if share < last else max(SMALLEST_STEP, step / 2)
            weights = own if weights is None or step == 1.0 else torch.lerp(weights, own, step)
            tolerance = min(SOLVER_TOLERANCE, goal / 3)
            solution = self.solve(weights, term, solution, tolerance, residual if weights is own else None)
            last = share
        run.log(reweightings=rounds, reweighting_residual=share)
        return solution

    def _equations(self, weights: Tensor, term: QuadraticTerm) -> tuple[Callable[[Tensor], Tensor], Tensor]:
        """The normal equations apply(Z) = right for (N, A) ``weights``; right has no part that apply cannot reach."""
        own = weights.mean() * term.ridge + term.diagonal

        def apply(z: Tensor) -> Tensor:
            return own * z + self._back_project(weights * (self.x @ self._to_semantics(z)))

        return apply, self._right(weights, term)

    def _right(self, weights: Tensor, term: QuadraticTerm) -> Tensor:
        """(D, A) the right-hand side of the normal equations."""
        wanted, of_class = self.targets - self._offset, weights[self._first]
        if _constant(weights):
            projected = weights[0, 0] * self._projected
        elif torch.equal(weights, of_class[self._class]):
            projected = self.to_basis(self._sums.T @ (of_class * wanted[self._first]))
        else:
            projected = self._back_project(weights * wanted)
        return self._within_reach(term.linear + projected, weights, term)

    def _residual(self, weights: Tensor, term: QuadraticTerm, solution: Tensor, predicted: Tensor) -> Tensor:
        """(D, A) what the normal equations of a ``solution`` leave, whose predictions are known."""
        if _constant(weights):
            values, right = self._diagonal_equations(float(weights[0, 0]), term)
            residual = right - values * solution
        else:
            own = weights.mean() * term.ridge + term.diagonal
            residual = term.linear - own * solution + self._back_project(weights * (self.targets - predicted))
        return self._within_reach(residual, weights, term)

    def _within_reach(self, equations: Tensor, weights: Tensor, term: QuadraticTerm) -> Tensor:
        """(D, A) ``equations`` without those that no term reaches, which are rounding."""
        values = weights.mean() * (term.ridge + self.values[:, None]) + term.diagonal
        return torch.where(_reached(values), equations, 0.0)

    def _diagonal_equations(self, weight: float, term: QuadraticTerm) -> tuple[Tensor, Tensor]:
        """The two sides of ``values * Z = right``, the normal equations where one number weighs all elements."""
        values = term.diagonal + weight * (self.values + term.ridge)[:, None]
        return values, term.linear + weight * self._projected

    def _to_semantics(self, solution: Tensor) -> Tensor:
        return solution if self._basis is None else solution @ self._basis.T

    def _back_project(self, residuals: Tensor) -> Tensor:
        return self.to_basis(self.x.T @ residuals)


@dataclass(frozen=True)
class RidgeSolution:
    """A fitted ridge regression: x -> (x - mean) weight + bias.

    Attributes:
        mean: (D,) of the features.
        weight: (D, A).
        bias: (A,).
    """

    mean: Tensor
    weight: Tensor
    bias: Tensor


class CentredRidge:
    """Ridge regression with an intercept, of (N, D) features X on (N, A) targets T, with the loss of a slot.

    With features Xc that are centred and have a constant column, V (D + 1, A) minimises

        ||sqrt(W) * (Xc V + mean(T) - T)||^2 + ridge * mean(W) ||V||^2,

    where W (N, A) are the loss's element weights (see ``AttributeRegression``). Where W is constant, the constant
    column's row is 0, so that the intercept is free as usual.

    Args:
        data: X and the classes of its images.
        targets: (N, A) T; where the slot has a loss, the attributes of the images' classes.
        slot: its weight plays no role, since there is no other term to weigh the regression against.
        run: its log gets what re-weighting has to say.
    """

    def __init__(self, data: TrainData, targets: Tensor, slot: Slot, run: Run) -> None:
        features, targets = in_float64(data.features, targets)
        design = torch.cat([features - features.mean(0), torch.ones_like(features[:, :1])], dim=1)
        self._offset = targets.mean(0)
        self._regression = AttributeRegression(
            design, targets, data.labels.to(design.device), offset=self._offset, precision=data.features.dtype
        )
        self._mean = data.features.mean(0)
        self._slot = slot
        self._run = run

    def solve(self, ridge: float) -> tuple[RidgeSolution, Tensor]:
        """The solution for a ``ridge`` in the features' precision, and its (N, A) outputs for X in float64.

        Raises:
            Incompatible: the loss has no least-squares form.
        """
        solution = self._regression.solve_reweighted(1.0, QuadraticTerm(ridge=ridge), self._slot, self._run)
        weight = self._regression.weight(solution)
        slopes, intercept = weight[:-1].to(self._mean), (weight[-1] + self._offset).to(self._mean)
        return RidgeSolution(self._mean, slopes, intercept), self._regression.predict(solution)


class CentredLinear(nn.Module):
    """x -> (x - mean) weight + bias, which is 0 until it takes a ``RidgeSolution``.

    Args:
        meta: the sizes of the data.
    """

    mean: Tensor
    weight: Tensor
    bias: Tensor

    def __init__(self, meta: Meta) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(meta.n_features))
        self.register_buffer("weight", torch.zeros(meta.n_features, meta.n_attributes))
        self.register_buffer("bias", torch.zeros(meta.n_attributes))

    def forward(self, x: Tensor) -> Tensor:
        """(B, A) of (B, D) features."""
        return (x - self.mean) @ self.weight + self.bias

    def take(self, solution: RidgeSolution) -> None:
        """Become what was fitted."""
        self.mean, self.weight, self.bias = solution.mean, solution.weight, solution.bias


def _constant(weights: Tensor) -> bool:
    return bool(weights.amin() == weights.amax())


def _reached(values: Tensor) -> Tensor:
    return values > 0


def eigenbasis(rows: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (D,) and eigenvectors (D, D) of M^T M for (N, D) rows M; values that are rounding are exactly 0."""
    values, vectors = torch.linalg.eigh(rows.T @ rows)
    noise = max(rows.shape) * torch.finfo(values.dtype).eps * values.max()
    return torch.where(values > noise, values, 0.0), vectors


def conjugate_gradients(
    apply: Callable[[Tensor], Tensor],
    right: Tensor,
    diagonal: Tensor,
    start: Tensor,
    tolerance: float,
    residual: Tensor | None = None,
) -> Tensor:
    """Solve ``apply(z) = right`` for a symmetric positive-definite ``apply``, preconditioned by ``diagonal``.

    Ends when the norm of the residual is the share ``tolerance`` of that of ``right``. The residual of the start is
    ``residual`` where it is known.

    Raises:
        FloatingPointError: the residual is still above the tolerance after as many steps as are ever useful.
    """
    solution = start.clone()
    residual = right - apply(solution) if residual is None else residual.clone()
    direction = conditioned = residual / diagonal
    product = (residual * conditioned).sum()
    for _ in range(SOLVER_STEPS):
        if residual.norm() <= tolerance * right.norm():
            return solution
        applied = apply(direction)
        step = product / (direction * applied).sum()
        solution += step * direction
        residual -= step * applied
        conditioned = residual / diagonal
        product, last = (residual * conditioned).sum(), product
        direction = conditioned + product / last * direction
    raise FloatingPointError(f"conjugate gradients did not converge in {SOLVER_STEPS} steps")


def in_float64(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The ``tensors`` in float64, on their own device where it knows float64 (Apple's do not)."""
    return tuple(t.to("cpu" if t.device.type == "mps" else t.device).double() for t in tensors)
