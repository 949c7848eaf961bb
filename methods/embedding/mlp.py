"""MLP attribute regressor (BasicNet): features to attributes through a hidden layer, classified by cosine."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn

from benchmark.api import Meta
from benchmark.registries import METHODS
from benchmark.toolkit import GradientConfig, linear
from methods._cosine import CosineSettings
from methods.embedding._cosine import CosineClassifier, RegressorSettings


@METHODS.register(
    "mlp",
    title="MLP (BasicNet)",
    family="embedding",
    year=2023,
    source="BasicNet in Ye et al., Rebalanced Zero-shot Learning, IEEE TIP 2023, arXiv 2210.07031",
)
class MLP(CosineClassifier):
    """v(x) = W2 LeakyReLU(W1 x + b1) + b2, trained as ``linear`` is: cosine cross-entropy + lambda * regression.

    Ours against the release (BasicNet of FouriYe/ReZSL-TIP23): the hidden layer is followed by LeakyReLU(0.1) as there,
    and has 1024 units (``hidden``); all else is in the table of ``methods.embedding.linear``.
    """

    class Config(GradientConfig, CosineSettings, RegressorSettings):
        """Settings.

        Attributes:
            hidden: units of the hidden layer.
        """

        hidden: int = Field(1024, ge=1)

    config: Config

    def __init__(self, meta: Meta, config: Config, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        self.net = nn.Sequential(
            linear(meta.n_features, config.hidden, rng),
            nn.LeakyReLU(0.1),
            linear(config.hidden, meta.n_attributes, rng),
        )

    def semantics(self, x: Tensor) -> Tensor:  # noqa: D102
        attributes: Tensor = self.net(x)
        return attributes
