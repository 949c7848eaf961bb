"""AttentionNet: vectors of attribute names attend to the regions of an image; classified by cosine."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional as F

from benchmark.api import Meta, RegressionLoss
from methods import METHODS
from methods.layers import linear
from methods.local._local import LocalConfig, LocalMethod, project


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
    """

    vectors_are = "fixed"

    class Config(LocalConfig):
        """Settings.

        Attributes:
            attention_width: the dimension of queries, keys and values.
            hidden: the dimension of the embedding that the prototypes P_j live in; 0: that of the regions.
            ratio: of the attended regions to their mean.
            scale: the factor of the cosines inside the cross-entropy.
        """

        attention_width: int = Field(1024, ge=1)
        hidden: int = Field(0, ge=0)
        ratio: float = Field(1.0, ge=0)
        scale: float = Field(20.0, gt=0)

    def __init__(self, meta: Meta, config: Config, generator: torch.Generator) -> None:
        super().__init__(meta, config, generator)
        d, width = self.n_channels, config.attention_width
        self.query = linear(meta.n_vector, width, generator)
        # Without a bias: it would add the same to all regions.
        self.key = nn.Parameter(linear(d, width, generator).weight)
        self.value = linear(d, width, generator)
        self.output = linear(width, d, generator)
        self.embed = linear(d, config.hidden, generator) if config.hidden else None
        self.prototypes = nn.Parameter(torch.randn(meta.n_attributes, config.hidden or d, generator=generator))

    def objective(self, regions: Tensor, y: Tensor, loss: RegressionLoss | None) -> Tensor:  # noqa: D102
        predicted = self._predict(regions)
        seen = torch.arange(self.n_seen, device=y.device)
        value = F.cross_entropy(self.cosines(predicted, seen), y)
        return value if loss is None else value + self.regression(predicted, y, loss)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:  # noqa: D102
        return self.cosines(self.semantics(x), classes)

    def semantics(self, x: Tensor) -> Tensor:  # noqa: D102
        return self._predict(self.regions(x))

    def attention(self, x: Tensor) -> Tensor:  # noqa: D102
        return self.over_grid(self._attention(self.regions(x)))

    def _predict(self, regions: Tensor) -> Tensor:
        """(B, A) v."""
        classifiers: Tensor = self.prototypes if self.embed is None else self.prototypes @ self.embed.weight
        chain = self.value.weight.T, self.output.weight.T, classifiers.T
        attended = (self._attention(regions) * project(regions, *chain)).sum(1)
        attended = attended + self.output(self.value.bias) @ classifiers.T
        predicted = regions.mean(1) @ classifiers.T + self.config.ratio * attended
        return predicted if self.embed is None else predicted + self.prototypes @ self.embed.bias

    def _attention(self, regions: Tensor) -> Tensor:
        """(B, R, A) weights of the regions, for each semantic of sum 1."""
        return project(regions, self.key.T, self.query(self.vectors).T).softmax(1)
