"""f-CLSWGAN: a conditional Wasserstein GAN generates features of unseen classes for a softmax classifier."""

from __future__ import annotations

import torch

from benchmark.api import Meta, RegressionLoss, Run, TrainData
from methods import METHODS
from methods.generative._adversarial import Critic, WGANConfig, classifying_wgan
from methods.generative._blocks import FeatureGenerator
from methods.generative._synthesis import GenerativeMethod, Step, cycle_term
from methods.layers import linear


@METHODS.register(
    "clswgan",
    title="f-CLSWGAN",
    family="generative",
    year=2018,
    source="Xian et al., Feature Generating Networks for Zero-Shot Learning, CVPR 2018, arXiv 1712.00981",
)
class CLSWGAN(GenerativeMethod):
    """WGAN-GP on features, with a classification term.

    As published (``none``): critic and generator are conditioned on attributes, and the generator also minimises the
    cross-entropy of a softmax classifier that was trained on real seen features and frozen (eq. 4). The published
    method regresses no attributes. With a loss, it gets a linear regressor in a cycle (see ``cycle_term``). Only seen
    classes are generated in training, so a re-weighted loss sees the classes that the batch holds, in both places.
    """

    #: The defaults are those of the authors' CUB script.
    Config = WGANConfig

    def __init__(self, meta: Meta, config: WGANConfig, generator: torch.Generator) -> None:
        super().__init__(meta, config, generator)
        d, a = meta.n_features, meta.n_attributes
        # The noise has as many dimensions as the attributes, as published.
        self.generator = FeatureGenerator(a, a, config.hidden, d, config.output, generator)
        self.critic = Critic(d, a, config.hidden, generator)
        self.regressor = linear(d, a, generator)

    def prepare(self, data: TrainData, loss: RegressionLoss | None, run: Run) -> Step:  # noqa: D102
        self._regresses = loss is not None
        cycle = cycle_term(self.regressor, loss, data, self.config, run) if loss else None
        return classifying_wgan(self, self.critic, data, run, cycle)
