"""DeViSE: a bilinear compatibility trained by the sum of all margin violations."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from benchmark.registries import METHODS
from benchmark.toolkit import GradientConfig
from methods.embedding._bilinear import Bilinear, violations


@METHODS.register(
    "devise",
    title="DeViSE",
    family="embedding",
    year=2013,
    source="Frome et al., DeViSE: A Deep Visual-Semantic Embedding Model, NeurIPS 2013",
)
class DeViSE(Bilinear):
    """F(x, c) = x^T W a_c with the summed hinge loss; x^T W is regressed on the attributes.

    mean over i of sum over c != y of max(0, margin + F(x_i, c) - F(x_i, y)). Source: Frome et al. 2013, eq. 1, whose
    code takes the first violating class of a random order instead: a sample of this sum.
    """

    class Config(GradientConfig):
        """Settings.

        Attributes:
            margin: by how much the true class has to win (published: 0.1, with unit-norm embeddings of both).
        """

        margin: float = Field(1.0, gt=0)

    config: Config

    def ranking(self, scores: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        return violations(scores, labels, self.config.margin).sum(1).mean()
