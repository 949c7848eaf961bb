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

    Ours against a release (mvp18/Popular-ZSL-Algorithms), with settings matched within the noise of seeds on CUB50 and,
    for the first line, not on AWA1; effects on CUB50:

    ===============  ============================  ================================================================
    item             release                       ours, and what the difference was measured to do
    ===============  ============================  ================================================================
    violators        the first in order of labels  the sum over all; not measured. An order of labels would make
                                                   figures hang on the names of the classes, so it is no option
    start of W       uniform in [0, 1), columns    almost 0; not measured
                     of unit norm
    steps            SGD, one image each           AdamW, batches of several images a class; with settings: T1 +10
    margin, lr       by data set (1 to 150; 0.001  1; 0.001
                     to 1)
    features         unit norm, raw or             standardised
                     standardised, by data set
    scores           cosine for T1, product else   product; not measured
    selection        accuracy of unseen classes    AUSUC
    ===============  ============================  ================================================================
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
