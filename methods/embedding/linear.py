"""Linear attribute regressor: features to attributes, classified by cosine."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.api import Meta
from benchmark.registries import METHODS
from benchmark.toolkit import GradientConfig, linear
from methods.embedding._cosine import CosineClassifier, CosineSettings


@METHODS.register(
    "linear",
    title="Linear",
    family="embedding",
    year=2023,
    source="the linear form of BasicNet in Ye et al., Rebalanced Zero-shot Learning, IEEE TIP 2023, arXiv 2210.07031",
)
class Linear(CosineClassifier):
    """v(x) = W x + b, trained by CE(scale * cos(v, attributes of seen classes), y) + lambda * regression(v, a_y)."""

    class Config(GradientConfig, CosineSettings):
        """Settings."""

    config: Config

    def __init__(self, meta: Meta, config: Config, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        self.projection = linear(meta.n_features, meta.n_attributes, rng)

    def semantics(self, x: Tensor) -> Tensor:  # noqa: D102
        attributes: Tensor = self.projection(x)
        return attributes
