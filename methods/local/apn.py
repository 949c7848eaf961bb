"""APN: attribute prototypes found by their most similar region, trained beside a global projection."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import Meta, Slot
from benchmark.registries import METHODS
from benchmark.toolkit import GradientConfig
from methods.local._local import LocalMethod, RegionSettings, compactness, project


@METHODS.register(
    "apn",
    title="APN",
    family="local",
    year=2020,
    source="Xu et al., Attribute Prototype Network for Zero-Shot Learning, NeurIPS 2020, arXiv 2008.08290",
)
class APN(LocalMethod):
    """A global projection g = pool over r of W f_r, and a local one whose maps M_jr = <P_j, f_r> show the attributes.

    With l_j = max over r of M_jr and CE the cross-entropy of scores <., a_c> over seen classes, minimised is

        CE(g) + local_weight * CE(l) + lambda * (error(l) + global_regression * error(g))
        + compactness_weight * sum over j, r of sigmoid(M_jr) * squared distance of r to the peak of M_j

    Both errors are the attribute-regression slot; ``none`` is the published method, whose error is the plain mean of
    (v_j - a_j)^2; a loss takes its place in both. Images are scored by g. Departures from the authors' code: their
    cross-entropy takes the softmax of a softmax, here it is one; their penalty on groups of attributes (body parts) is
    left out, as data sets do not have such groups, and the compactness is of all attributes; Adam keeps its state over
    epochs and its usual momentum. With cached features g and l share no parameter, and the local part teaches g
    nothing; it does when a backbone is trained.

    Ours against the release (wenjiaXu/APN-ZSL); no effect was measured:

    =================  ==========================================  =====================================================
    item               release                                     ours (option), effect where measured
    =================  ==========================================  =====================================================
    backbone           ResNet-101 that was fine-tuned on seen      stored regions, or ``backbone``, whose statistics
                       classes, trained on at 224 px; statistics   stay
                       of batch normalisation follow
    cross-entropy      of a softmax of a softmax                   of one softmax
    groups             a penalty on the norms of body parts'       none: data sets have no groups
                       prototypes
    compactness        within groups alone, summed over the batch  of all attributes, mean over the batch
                                                                   (``compactness_weight``)
    steps              Adam, beta1 0.5, made anew each epoch,      AdamW, beta1 0.9, kept; ``decay_every``, ``decay``
                       times 0.8 every 10 epochs
    pooling            max for CUB, else mean                      the same (``pooling``)
    start              2e-4 times uniform in [0, 1)                the same
    scores             softmax of g, less a fixed gamma for seen   g itself; gamma chosen on validation
                       classes
    accuracy           a mean over images for AWA2, over classes   over classes
                       else
    selection          the best epochs on the test classes         AUSUC on validation
    regression         mean squared error, twice                   the slot, twice; ``none`` as released
    =================  ==========================================  =====================================================
    """

    vectors_are = "unused"

    class Config(GradientConfig, RegionSettings):
        """Settings.

        Attributes:
            pooling: how W f_r is pooled over regions (published: max for CUB, avg for the others).
            local_weight: the weight of the local cross-entropy.
            global_regression: the weight of the error of g, relative to that of l.
            compactness_weight: the weight of the spread of the maps, summed over attributes, mean over images.
        """

        pooling: Literal["max", "avg"] = "avg"
        local_weight: float = Field(1.0, ge=0)
        global_regression: float = Field(0.1, ge=0)
        compactness_weight: float = Field(0.0, ge=0)

    config: Config

    def __init__(self, meta: Meta, config: Config, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        shape = meta.n_attributes, self.n_channels
        self.projection = nn.Parameter(2e-4 * torch.rand(shape, generator=rng))
        self.prototypes = nn.Parameter(2e-4 * torch.rand(shape, generator=rng))

    def objective(self, regions: Tensor, y: Tensor, slot: Slot) -> Tensor:  # noqa: D102
        config, maps = self.config, project(regions, self.prototypes.T)
        of_image, of_regions = self.predict(regions), maps.amax(1)
        value = self._cross_entropy(of_image, y) + config.local_weight * self._cross_entropy(of_regions, y)
        error = slot.or_else(F.mse_loss)
        value = value + (error(of_regions, y) + config.global_regression * error(of_image, y))
        if config.compactness_weight:
            value = value + config.compactness_weight * compactness(maps.sigmoid(), self.grid).sum(1).mean()
        return value

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:  # noqa: D102
        return self.semantics(x) @ self.attributes[classes].T

    def predict(self, regions: Tensor) -> Tensor:
        """(B, A) g."""
        if self.config.pooling == "avg":
            return regions.mean(1) @ self.projection.T
        return project(regions, self.projection.T).amax(1)

    def maps(self, regions: Tensor) -> Tensor:
        """(B, R, A) the sigmoid of M."""
        return project(regions, self.prototypes.T).sigmoid()

    def _cross_entropy(self, predicted: Tensor, y: Tensor) -> Tensor:
        return F.cross_entropy(predicted @ self.attributes[: self.n_seen].T, y)
