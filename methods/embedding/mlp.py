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

    Ours against the release (BasicNet of FouriYe/ReZSL-TIP23, whose trainer cannot call it since April 2026):

    =================  ==========================================  =====================================================
    item               release                                     ours (option), effect where measured
    =================  ==========================================  =====================================================
    hidden layer       LeakyReLU(0.1)                              the same, 1024 units (``hidden``)
    images             backbone fine-tuned at 448 px, mean over    stored features, standardised; not measured
                       regions
    steps              SGD with momentum 0.9, weight decay 1e-5,   AdamW 1e-3, no decay (``optimizer``); not measured
                       5e-4 or 1e-4, times 0.1 or 0.5 every 10
                       epochs
    batches            300 episodes an epoch of 16 classes and 2   all images once an epoch, 16 classes and 4 images;
                       images, 30 epochs                           100 epochs at most
    scale              20 (SUN: 25)                                20
    lambda             0.25, 0.1, 1 with unit rows in the loss     10, chosen on validation with ``mse``; one for all
                                                                   losses
    scores             cosine; gamma the best on the test images   cosine; gamma chosen on validation
    selection          T1, H and AUSUC each at its best epoch on   AUSUC on validation
                       the test images
    =================  ==========================================  =====================================================
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
