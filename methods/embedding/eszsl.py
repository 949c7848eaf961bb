"""ESZSL: an embarrassingly simple approach to zero-shot learning, in closed form."""

from __future__ import annotations

import itertools
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from benchmark.api import Meta, Method, MethodConfig, Run, Slot, TrainData
from benchmark.registries import METHODS
from methods._least_squares import POWERS, AttributeRegression, QuadraticTerm, in_float64

Ridge = Annotated[float, Field(gt=0)]


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
    V = (X^T X + g I)^-1 (X^T Y S + w W X^T T) (S^T S + (l + w W) I)^-1. Otherwise W is taken from the last residuals
    and both repeat until the weights stay. X V is regressed as it is; a loss with ``normalize`` takes its weights from
    normalised predictions.
    """

    class Config(MethodConfig):
        """Settings; of the ridges, every pair is tried and validation chooses.

        Attributes:
            feature_ridge: candidates of g, the paper's gamma.
            attribute_ridge: candidates of l, the paper's lambda.
            negative_label: what Y holds for the wrong classes: -1 in the paper, 0 in public code. The -1s of many
                classes drown the single 1.
        """

        feature_ridge: tuple[Ridge, ...] = Field(POWERS, min_length=1)
        attribute_ridge: tuple[Ridge, ...] = Field(POWERS, min_length=1)
        negative_label: float = Field(0.0, ge=-1, le=0)

    config: Config
    weight: Tensor

    def __init__(self, meta: Meta, config: Config, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        self.register_buffer("weight", torch.zeros(meta.n_features, meta.n_attributes))

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:  # noqa: D102
        self.attributes = data.attributes
        problem = _Problem(data, self.config.negative_label)
        pairs = list(itertools.product(self.config.feature_ridge, self.config.attribute_ridge))
        for feature_ridge, attribute_ridge in run.candidates(self, pairs):
            solution = problem.solve(feature_ridge, attribute_ridge, slot, run)
            self.weight = problem.regression.weight(solution).to(data.features)
            run.log(feature_ridge=feature_ridge, attribute_ridge=attribute_ridge)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:  # noqa: D102
        return self.semantics(x) @ self.attributes[classes].T

    def semantics(self, x: Tensor) -> Tensor:  # noqa: D102
        return x @ self.weight


class _Problem:
    """The paper's four terms, which are diagonal in the eigenbases of X^T X and S^T S, beside the regression."""

    def __init__(self, data: TrainData, negative_label: float) -> None:
        features, seen = in_float64(data.features, data.attributes[: data.n_seen])
        labels = data.labels.to(features.device)
        self._s_values, basis = torch.linalg.eigh(seen.T @ seen)
        self.regression = AttributeRegression(features, seen[labels], labels, basis, None, data.features.dtype)
        x = self.regression.x
        # X^T Y S without the (N, n_seen) matrix Y = (1 - negative) one-hot + negative: one-hot S is T.
        background = torch.outer(x.sum(0), seen.sum(0))
        own = x.T @ self.regression.targets
        self._linear = self.regression.to_basis((1 - negative_label) * own + negative_label * background)

    def solve(self, feature_ridge: float, attribute_ridge: float, slot: Slot, run: Run) -> Tensor:
        """(D, A) the solution, in the coordinates of the regression."""
        own = (self.regression.values + feature_ridge)[:, None] * (self._s_values + attribute_ridge)
        term = QuadraticTerm(ridge=feature_ridge, diagonal=own, linear=self._linear)
        # Without a loss the regression is no part of the problem.
        return self.regression.solve_reweighted(0.0 if slot.absent else slot.weight, term, slot, run)
