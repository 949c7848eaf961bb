"""ALE: attribute label embedding, a bilinear compatibility trained by a weighted ranking loss."""

from __future__ import annotations

import torch
from torch import Tensor

from benchmark.registries import METHODS
from methods.embedding._bilinear import Bilinear, violations


@METHODS.register(
    "ale",
    title="ALE",
    family="embedding",
    year=2016,
    source="Akata et al., Label-Embedding for Image Classification, IEEE TPAMI 2016, arXiv 1503.08677",
)
class ALE(Bilinear):
    """F(x, c) = x^T W a_c with the weighted approximate ranking loss; x^T W is regressed on the attributes.

    Ours against a release (mvp18/Popular-ZSL-Algorithms), with settings matched within the noise of seeds:

    ===============  ============================  ================================================================
    item             release                       ours, and what the difference was measured to do
    ===============  ============================  ================================================================
    rank             estimated from the number of  counted, and the gradient shared by all violators; not measured
                     draws until one violates
    start of W       uniform in [0, 1), columns    almost 0; not measured
                     of unit norm
    steps            SGD, one image each           AdamW, batches of several images a class; not measured
    margin, lr       1; 0.01 to 0.3 by data set    1; 0.001
    features         unit norm (training alone)    standardised; not measured
    scores           cosine for T1, product else   product; not measured
    selection        accuracy of unseen classes    AUSUC
    ===============  ============================  ================================================================
    """

    def ranking(self, scores: Tensor, labels: Tensor) -> Tensor:  # noqa: D102
        return weighted_ranking(scores, labels)


def weighted_ranking(scores: Tensor, labels: Tensor) -> Tensor:
    """ALE's loss with the exact rank: mean over i of (l_r / r) sum_c max(0, 1 + s_ic - s_iy), c over wrong classes.

    r is the number of wrong classes that violate the margin of 1 and l_r = 1 + 1/2 + ... + 1/r, so that mistakes near
    the top of the ranking count most. Source: Akata et al. 2016, eq. 13, after Usunier et al. 2009; where the paper
    estimates the rank by sampling, this counts it.

    Args:
        scores: (B, C) compatibilities.
        labels: (B,) the true class of each row.

    Returns:
        A scalar.
    """
    violated = violations(scores, labels, 1.0)
    rank = (violated > 0).sum(1)
    harmonic = torch.arange(1, scores.shape[1] + 1, device=scores.device, dtype=scores.dtype).reciprocal().cumsum(0)
    weight = torch.where(rank > 0, harmonic[rank.clamp(min=1) - 1] / rank.clamp(min=1), 0.0)
    return (weight * violated.sum(1)).mean()
