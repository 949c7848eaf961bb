"""A residual adapter before classification by class names: trained on seen classes, the identity at the start."""

from __future__ import annotations

from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import Meta, Method, Rules, Run, Slot, TrainData
from benchmark.registries import METHODS
from benchmark.toolkit import GradientConfig, minimise
from methods._cosine import cosines
from methods._least_squares import in_float64
from methods.embedding.names import Space, require_shared, space


@METHODS.register(
    "names-adapter",
    title="Names, adapter",
    family="embedding",
    year=2021,
    source="residual form of Gao et al., CLIP-Adapter: Better Vision-Language Models with Feature Adapters, arXiv "
    "2110.04544",
)
class NamesAdapter(Method):
    """``names`` with v(x) = n(z + strength * M z), trained by CE(cos(v, a_c) / temperature, y) + lambda * slot(v, y).

    n(.) is L2 normalisation, and z = n(x) in a shared space; elsewhere z = n(V^T x), V being the ridge regression of
    ``names`` with squared errors, which then stays. M starts at 0, hence all at ``names``; the cross-entropy is over
    seen classes. The paper's adapter has two layers with ReLU and a bottleneck, and is trained on a few images of every
    class; this is a matrix, and of unseen classes nothing is used in training.

    On CUB2010, where the space is that of a ridge, it lifts T1 of ``names`` from 37.5 to 50.5 with attributes and from
    9.9 to 14.2 with MiniLM's embeddings of names (AUSUC from 18.7 to 30.9, and from 4.0 to 7.4; ``mse``, seed 0).
    """

    class Config(GradientConfig):
        """Settings.

        Attributes:
            space: ``shared`` or ``ridge``.
            base_ridge: the ridge g of the regression.
            strength: the share of the adapter.
            temperature: what cosines are divided by; CLIP's learned one is 0.01.
        """

        rules: ClassVar[Rules] = {**GradientConfig.rules, "space": space}

        space: Space = "ridge"
        base_ridge: float = Field(100.0, gt=0)
        strength: float = Field(0.2, gt=0)
        temperature: float = Field(0.01, gt=0)

    config: Config
    weight: Tensor

    def __init__(self, meta: Meta, config: Config, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        self.register_buffer("weight", torch.zeros(meta.n_features, meta.n_attributes))
        self.adapter = nn.Parameter(torch.zeros(meta.n_attributes, meta.n_attributes))

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:  # noqa: D102
        self.attributes = data.attributes
        if self.config.space == "shared":
            require_shared(self.meta)
        else:
            self.weight = ridge(data, self.config.base_ridge, self.config.batch_size)

        def objective(x: Tensor, y: Tensor) -> Tensor:
            predicted = self.semantics(x)
            return F.cross_entropy(self._cosines(predicted, data.seen), y) + slot(predicted, y)

        minimise(self, objective, data, slot, run)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:  # noqa: D102
        return self._cosines(self.semantics(x), classes)

    def semantics(self, x: Tensor) -> Tensor:  # noqa: D102
        z = F.normalize(x if self.config.space == "shared" else x @ self.weight, dim=1)
        return F.normalize(z + self.config.strength * z @ self.adapter, dim=1)

    def _cosines(self, predicted: Tensor, classes: Tensor) -> Tensor:
        return cosines(predicted, self.attributes[classes], 1 / self.config.temperature)


def ridge(data: TrainData, penalty: float, size: int) -> Tensor:
    """(D, A) the ridge regression of images on the semantics of their classes, ``size`` images at a time."""
    d, a = data.meta.n_features, data.meta.n_attributes
    gram, right = in_float64(*(data.features.new_zeros(d, n) for n in (d, a)))
    for rows in torch.arange(len(data.labels), device=data.labels.device).split(size):
        x, targets = in_float64(data.features.index_select(0, rows), data.attributes[data.labels[rows]])
        gram, right = gram + x.T @ x, right + x.T @ targets
    gram.diagonal().add_(penalty)
    solution: Tensor = torch.linalg.solve(gram, right)
    return solution.to(data.features)
