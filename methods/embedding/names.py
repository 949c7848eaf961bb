"""Zero-shot by class names: cosines in a space that images and names share, or ridge regression into that of names."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from benchmark.api import Facts, Incompatible, Meta, Method, MethodConfig, Rules, Run, Slot, TrainData
from benchmark.registries import METHODS
from methods._cosine import cosines
from methods._least_squares import AttributeRegression, QuadraticTerm, in_float64

Ridge = Annotated[float, Field(gt=0)]
Space = Literal["shared", "ridge"]


def space(facts: Facts, config: MethodConfig) -> str:  # noqa: ARG001
    """``shared`` where features and semantics have as many dimensions, as those of one model of images and texts."""
    return "shared" if facts.n_features == facts.n_attributes else "ridge"


@METHODS.register(
    "names",
    title="Names",
    family="embedding",
    year=2021,
    source="Radford et al., Learning Transferable Visual Models From Natural Language Supervision (CLIP), ICML 2021, "
    "arXiv 2103.00020; the ridge is ours",
)
class Names(Method):
    """An image x is of the class with the largest cos(v(x), a_c), a_c being the embedding of the class's name.

    ``shared``: features and names were embedded by one model, as CLIP's are, so that v(x) = x. Nothing is trained, and
    there is no slot: a loss is refused. CLIP divides the cosines by a temperature, which changes no decision.

    ``ridge``: where there is no such space, v(x) = V^T x is regressed. With features X (N, D), targets T (N, A) (the
    semantics of each image's class), ridge g and the loss's element weights W (N, A), V minimises

        ||sqrt(W) * (X V - T)||^2 + g mean(W) ||V||^2,

    exactly where W is constant, otherwise with W from the last residuals until the weights stay. ``none`` does the same
    as ``mse``, and there is no other term to weigh the regression against: ``regression_weight`` plays no role. X V is
    regressed as it is; a loss with ``normalize`` takes its weights from normalised predictions. An intercept was tried
    and left out: on CUB2010 it changes T1 from 37.5 to 37.4 with attributes, 53.4 to 52.2 with sentences and 9.9 to 9.5
    with MiniLM's embeddings of names.

    Names of unseen classes are used in tests alone. An encoder that was trained on images and texts of the web has
    probably seen these classes: with its features this is no result on a proper split, and their name should say so.
    """

    class Config(MethodConfig):
        """Settings.

        Attributes:
            space: ``shared`` or ``ridge``.
            ridge: candidates of g; all are tried and validation chooses.
        """

        rules: ClassVar[Rules] = {"space": space}

        space: Space = "ridge"
        ridge: tuple[Ridge, ...] = Field(tuple(10.0**power for power in range(-1, 5)), min_length=1)

    config: Config
    weight: Tensor

    def __init__(self, meta: Meta, config: Config, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        self.register_buffer("weight", torch.zeros(meta.n_features, meta.n_attributes))

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:  # noqa: D102
        self.attributes = data.attributes
        if self.config.space == "shared":
            self._share(slot, run)
        else:
            self._regress(data, slot, run)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:  # noqa: D102
        return cosines(self.semantics(x), self.attributes[classes])

    def semantics(self, x: Tensor) -> Tensor:  # noqa: D102
        return x if self.config.space == "shared" else x @ self.weight

    def _share(self, slot: Slot, run: Run) -> None:
        require_shared(self.meta)
        if not slot.absent:
            raise Incompatible("in a shared space it regresses nothing; --loss none, or --set space=ridge")
        for _ in run.candidates(self, ["as it is"]):
            pass

    def _regress(self, data: TrainData, slot: Slot, run: Run) -> None:
        features, targets = in_float64(data.features, data.targets)
        labels = data.labels.to(features.device)
        problem = AttributeRegression(features, targets, labels, precision=data.features.dtype)
        for ridge in run.candidates(self, self.config.ridge):
            solution = problem.solve_reweighted(1.0, QuadraticTerm(ridge=ridge), slot, run)
            self.weight = problem.weight(solution).to(data.features)
            run.log(ridge=ridge)


def require_shared(meta: Meta) -> None:
    """Assert that features and semantics can be of one space.

    Raises:
        Incompatible: they have not as many dimensions.
    """
    d, a = meta.n_features, meta.n_attributes
    if d != a:
        raise Incompatible(f"a shared space has as many features as semantics, and these are {d} and {a}")
