"""LATEM: latent embeddings, a piecewise-linear compatibility of several bilinear maps."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from benchmark.api import Meta, Method, Run, Slot, TrainData
from benchmark.registries import METHODS
from benchmark.toolkit import GradientConfig, minimise
from methods.embedding._bilinear import bilinear, violations


@METHODS.register(
    "latem",
    title="LATEM",
    family="embedding",
    year=2016,
    source="Xian et al., Latent Embeddings for Zero-shot Classification, CVPR 2016, arXiv 1603.08895",
)
class LATEM(Method):
    """F(x, c) = max over k of x^T W_k a_c with the summed hinge loss of margin 1.

    mean over i of sum over c != y of max(0, 1 + F(x_i, c) - F(x_i, y)): the paper's eq. 3, whose algorithm draws one
    wrong class a step instead. The number of maps is a setting; the paper's pruning of rarely used maps is left out.

    The regression trains the map that explains the image best: x^T W_k with k = argmax of x^T W_k a_y in training and,
    where the class is not known, the k of the class that scores highest.

    Ours against a release (the authors' latEm_train.m and latEm_test.m):

    =================  ==========================================  =====================================================
    item               release                                     ours (option), effect where measured
    =================  ==========================================  =====================================================
    violators          one random wrong class a step               the sum over all wrong classes; not measured
    start of W_k       normal, standard deviation D^-0.5           a hundredth of that; not measured
    steps              SGD, one image each                         AdamW, batches of several images a class; not
                                                                   measured
    number of maps     2 to 12, chosen by validation; pruned in    2 (``n_maps``), searched among 2, 4, 6; no pruning
                       the paper
    features           standardised for each image (in a port)     unit norm, which validation preferred to standardised
                                                                   dimensions
    scores             max over k                                  the same
    selection          a fixed number of epochs                    AUSUC on validation
    =================  ==========================================  =====================================================
    """

    class Config(GradientConfig):
        """Settings.

        Attributes:
            n_maps: K, the number of latent maps.
        """

        n_maps: int = Field(4, ge=1)

    config: Config

    def __init__(self, meta: Meta, config: Config, rng: torch.Generator) -> None:
        super().__init__(meta, config, rng)
        # (D, K * A): all maps in one product.
        self.weight = bilinear(meta.n_features, config.n_maps * meta.n_attributes, rng)

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:  # noqa: D102
        self.attributes = data.attributes
        seen = data.attributes[: data.n_seen]

        def objective(x: Tensor, y: Tensor) -> Tensor:
            mapped = self._map(x)
            scores, best = (mapped @ seen.T).max(1)
            predicted = _take(mapped, best.gather(1, y[:, None])[:, 0])
            return violations(scores, y, 1.0).sum(1).mean() + slot(predicted, y)

        minimise(self, objective, data, slot, run)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:  # noqa: D102
        return (self._map(x) @ self.attributes[classes].T).amax(1)

    def semantics(self, x: Tensor) -> Tensor:  # noqa: D102
        mapped = self._map(x)
        return _take(mapped, (mapped @ self.attributes.T).amax(2).argmax(1))

    def _map(self, x: Tensor) -> Tensor:
        """(B, K, A) the images under each map."""
        mapped: Tensor = (x @ self.weight).unflatten(1, (self.config.n_maps, self.meta.n_attributes))
        return mapped


def _take(mapped: Tensor, k: Tensor) -> Tensor:
    """(B, A) the row ``k`` (B,) of each image of (B, K, A)."""
    return mapped[torch.arange(len(k), device=k.device), k]
