"""SJE: structured joint embedding, a bilinear compatibility trained on the most violating class."""

from __future__ import annotations

from pydantic import Field
from torch import Tensor

from benchmark.registries import METHODS
from benchmark.toolkit import GradientConfig
from methods.embedding._bilinear import Bilinear, violations


@METHODS.register(
    "sje",
    title="SJE",
    family="embedding",
    year=2015,
    source="Akata et al., Evaluation of Output Embeddings for Fine-Grained Image Classification, CVPR 2015, "
    "arXiv 1409.8403",
)
class SJE(Bilinear):
    """F(x, c) = x^T W a_c with the structured hinge loss; x^T W is regressed on the attributes.

    mean over i of max over c of [margin * (c != y) + F(x_i, c)] - F(x_i, y). Source: Akata et al. 2015, eq. 3 and 4.
    """

    class Config(GradientConfig):
        """Settings.

        Attributes:
            margin: by how much the true class has to win (published: 1).
        """

        margin: float = Field(1.0, gt=0)

    config: Config

    def ranking(self, scores: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        # The true class itself violates by 0, so the maximum over all classes is the structured hinge.
        return violations(scores, labels, self.config.margin).amax(1).mean()
