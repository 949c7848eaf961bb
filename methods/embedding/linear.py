"""Linear attribute regressor: features to attributes, classified by cosine."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.api import Meta
from methods import METHODS
from methods.embedding._cosine import CosineClassifier, CosineConfig
from methods.layers import linear


@METHODS.register(
    "linear",
    title="Linear",
    family="embedding",
    year=2023,
    source="the linear form of BasicNet in Ye et al., Rebalanced Zero-shot Learning, IEEE TIP 2023, arXiv 2210.07031",
)
class Linear(CosineClassifier):
    """v(x) = W x + b, trained by CE(scale * cos(v, attributes of seen classes), y) + lambda * regression(v, a_y)."""

    def __init__(self, meta: Meta, config: CosineConfig, generator: torch.Generator) -> None:
        super().__init__(meta, config, generator)
        self.projection = linear(meta.n_features, meta.n_attributes, generator)

    def semantics(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.projection(x)
