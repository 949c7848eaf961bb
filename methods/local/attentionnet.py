"""AttentionNet: vectors of attribute names attend to the regions of an image; classified by cosine."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import Meta, Slot
from benchmark.registries import METHODS
from benchmark.toolkit import GradientConfig, linear
from methods._cosine import CosineSettings, cosines
from methods.local._local import LocalMethod, RegionSettings, project


@METHODS.register(
    "attentionnet",
    title="AttentionNet",
    family="local",
    year=2023,
    source="Ye et al., Rebalanced Zero-shot Learning, IEEE TIP 2023, arXiv 2210.07031",
)
class AttentionNet(LocalMethod):
    """Each semantic j is read off the image's mean region and the regions that the vector of its name attends to.

    With regions f_r and their mean f, unit vector w_j of the name, linear maps query, key, value, output:

        alpha_jr = softmax over r of query(w_j) . key(f_r)
        z_j = f + ratio * output(sum over r of alpha_jr value(f_r))
        v_j = <embed(z_j), P_j>

    with embed linear, or the identity where ``hidden`` is 0. Trained by CE(scale * cos(v, attributes of seen classes),
    y) + lambda * regression(v, a_y). The slot is v; ``none`` is the cross-entropy alone, the published model has
    ``remse``. The attention's logits are not divided by the root of its width, as in the authors' code, whose unused
    layers are left out. As all is linear but the softmax, a region's contribution to v_j is computed before the sum
    over regions instead of z_j itself.

    Ours against the release (FouriYe/ReZSL-TIP23); no effect was measured:

    =================  ==========================================  =====================================================
    item               release                                     ours (option), effect where measured
    =================  ==========================================  =====================================================
    backbone           ResNet-101 or ViT fine-tuned at 448 px      stored regions, or ``backbone`` (``images512``)
    key                with a bias, which adds the same to all     without; the same attention
                       regions
    width, hidden      1024 (AWA2: 300), 0 (AWA2: 4096)            the same (``attention_width``, ``hidden``)
    unused layers      a sigmoid, two matrices for 85 attributes   none
    steps              SGD, momentum 0.9, times 0.1 or 0.5 every   SGD, momentum 0.9; ``decay_every``, on time, times
                       10 epochs from one epoch early              0.1 (``decay``)
    batches            300 episodes of 16 classes and 2 images,    the same where ``episodes`` is 300, else all images
                       30 epochs                                   once
    lambda, scale      0.25, 0.1, 1 and 20, 25, 20 (CUB, SUN,      the same
                       AWA2)
    semantics          ``original_att``, made unit norm in both    ``att``, the same after that
                       losses
    gamma              the best on the test images                 chosen on validation
    selection          T1, H and AUSUC each at its best epoch on   AUSUC on validation
                       the test images
    regression         ReMSE                                       the slot; ``none`` is without
    =================  ==========================================  =====================================================
    """

    vectors_are = "fixed"

    class Config(GradientConfig, RegionSettings, CosineSettings):
        """Settings.

        Attributes:
            attention_width: the dimension of queries, keys and values.
            hidden: the dimension of the embedding that the prototypes P_j live in; 0: that of the regions.
            ratio: the ratio of the attended regions to their mean.
        """

        attention_width: int = Field(1024, ge=1)
        hidden: int = Field(0, ge=0)
        ratio: float = Field(1.0, ge=0)

    config: Config

    def __init__(self, meta: Meta, config: Config, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        d, width = self.n_channels, config.attention_width
        self.query = linear(meta.n_vector, width, rng)
        # Without a bias: it would add the same to all regions.
        self.key = nn.Parameter(linear(d, width, rng).weight)
        self.value = linear(d, width, rng)
        self.output = linear(width, d, rng)
        self.embed = linear(d, config.hidden, rng) if config.hidden else None
        self.prototypes = nn.Parameter(torch.randn(meta.n_attributes, config.hidden or d, generator=rng))

    def objective(self, regions: Tensor, y: Tensor, slot: Slot) -> Tensor:  # noqa: D102
        predicted = self.predict(regions)
        scores = cosines(predicted, self.attributes[: self.n_seen], self.config.scale)
        return F.cross_entropy(scores, y) + slot(predicted, y)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:  # noqa: D102
        return cosines(self.semantics(x), self.attributes[classes], self.config.scale)

    def predict(self, regions: Tensor) -> Tensor:
        """(B, A) v."""
        classifiers: Tensor = self.prototypes if self.embed is None else self.prototypes @ self.embed.weight
        chain = self.value.weight.T, self.output.weight.T, classifiers.T
        attended = (self.maps(regions) * project(regions, *chain)).sum(1)
        attended = attended + self.output(self.value.bias) @ classifiers.T
        predicted: Tensor = regions.mean(1) @ classifiers.T + self.config.ratio * attended
        return predicted if self.embed is None else predicted + self.prototypes @ self.embed.bias

    def maps(self, regions: Tensor) -> Tensor:
        """(B, R, A) weights of the regions, for each semantic of sum 1."""
        return project(regions, self.key.T, self.query(self.vectors).T).softmax(1)
