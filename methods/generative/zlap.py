"""ZLAP: a Wasserstein GAN without a classification loss, whose features train prototypes under a prior."""

from __future__ import annotations

import torch
from pydantic import Field

from benchmark.api import Meta, Run, Slot, TrainData
from benchmark.registries import METHODS
from benchmark.toolkit import linear
from methods.generative._adversarial import CriticSettings, gan, wgan
from methods.generative._synthesis import (
    Classifier,
    CycleSettings,
    GenerativeConfig,
    GenerativeMethod,
    Round,
    cycle_term,
)


@METHODS.register(
    "zlap",
    title="ZLAP",
    family="generative",
    year=2022,
    source="Chen et al., Zero-Shot Logit Adjustment, IJCAI 2022, arXiv 2204.11822",
)
class ZLAP(GenerativeMethod):
    """WGAN-GP on features of seen classes, conditioned on attributes; ZLA classifies what it generates.

    Critic and generator are those of f-CLSWGAN without its classification term. The classifier is ZLA's, which takes a
    few generated features of each unseen class (see ``_zla``, and what it departs in); ``classifier=softmax`` trains
    the other methods' instead.

    The published method regresses no attributes. With a loss, it gets a linear regressor in a cycle (see
    ``cycle_term``), so that it differs from ``clswgan`` in what was published alone.

    Ours against the authors' release (cdb342/IJCAI-2022-ZLA):

    | item | release | here | effect |
    | --- | --- | --- | --- |
    | noise of the generator's step | that of the critic's last step | fresh | not measured |
    | batches | drawn anew for every step of the critic | the same, in passes over all images | not measured |
    | ratio | 30, 60, 1000, 300 for CUB, SUN, AWA2, aPY | the same in ``published``; else chosen on validation | - |
    | selection | the best epochs of GAN and classifier on test, by eye | H on validation; the last one | not measured |
    | regression of attributes | none | with a loss, in a cycle | - |
    """

    semantics_need_loss = True

    class Config(GenerativeConfig, CriticSettings, CycleSettings):
        """Settings; the defaults are the authors'."""

        classifier: Classifier = "zla"
        batch_size: int = Field(512, ge=2)
        n_generated: int = Field(10, ge=1)
        classifier_epochs: int = Field(60, ge=1)
        classifier_lr: float = Field(1e-4, gt=0)
        classifier_batch_size: int = Field(512, ge=1)
        prototype_hidden: int = Field(1024, ge=1)

    config: Config

    def __init__(self, meta: Meta, config: Config, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        self.generator, self.critic = gan(meta, config, rng)
        self.regressor = linear(meta.n_features, meta.n_attributes, rng)

    def prepare(self, data: TrainData, slot: Slot, run: Run) -> Round:  # noqa: D102
        cycle = cycle_term(self.regressor, slot, data, self.config, self.config.batch_size, run)
        return wgan(self, self.critic, data, run, cycle)
