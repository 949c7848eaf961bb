"""A simulated stand-in with local features, small enough for tests of methods that need them. Nothing here is real.

Classes, their semantics and the division into seen and unseen are made as in ``datasets.simulated``. Semantics belong
to parts (of a bird, say). Each image puts every part into a region of its own, drawn at random. A region with a part
holds the part's own pattern, and the pattern of each of its semantics times the image's value of it; all regions hold
noise. The vector of a semantic's name tells, through random weights, of its part and of its own pattern, as words that
are used alike look alike.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from benchmark.api import Split
from benchmark.registries import DATASETS
from datasets.simulated import Floats, Ints, Recipe, Simulated, Size, graded


@dataclass(frozen=True, kw_only=True)
class LocalRecipe(Recipe):
    """What is added to ``Recipe``; ``Size.n_features`` is that of a region.

    Attributes:
        grid: rows and columns of regions.
        n_parts: parts that semantics belong to, in turn; at most one a region.
        part_strength: size of a part's own pattern, relative to that of a semantic one standard deviation high.
        region_noise: standard deviation of a region's noise, likewise.
        n_vector: dimension of the vectors of the semantics' names.
    """

    grid: tuple[int, int]
    n_parts: int
    part_strength: float
    region_noise: float
    n_vector: int


@DATASETS.register(
    "cub-local-sim",
    title="CUB, local (SIMULATED)",
    family="simulated",
    year=2026,
    source="imitates local features of CUB-200-2011: parts in a grid",
)
class CubLocalSim(Simulated):
    """Few classes of birds whose semantics show in the region of a part."""

    recipe: ClassVar[LocalRecipe] = LocalRecipe(
        n_seen=40,
        n_unseen=10,
        n_validation=10,
        n_attributes=40,
        small=Size(800, 200, 250, n_features=64, noise=1.0),
        full=Size(4000, 1000, 1250, n_features=256, noise=1.5),
        count_spread=0.05,
        zero_share=0.43,
        zero_concentration=1.7,
        n_families=12,
        family_share=0.6,
        decay=1.2,
        grid=(4, 4),
        n_parts=8,
        part_strength=3.0,
        region_noise=1.0,
        n_vector=16,
    )

    def read(self) -> Split:
        """Generate the data, seeded from the name alone."""
        recipe, (parts, semantics) = self.recipe, self._patterns()
        weights = self._rng("vectors").standard_normal((self._size.n_features, recipe.n_vector))
        vectors = (parts[self._part_of_semantic] + semantics) @ weights
        return replace(super().read(), attribute_vectors=vectors.astype(np.float32))

    @property
    def _part_of_semantic(self) -> Ints:
        """(A,) the part of each semantic."""
        return np.arange(self.recipe.n_attributes) % self.recipe.n_parts

    def _patterns(self) -> tuple[Floats, Floats]:
        """(P, D) patterns of parts and (A, D) of semantics, of unit norm on average."""
        sizes = self.recipe.n_parts, self.recipe.n_attributes
        patterns = self._rng("patterns").standard_normal((sum(sizes), self._size.n_features))
        parts, semantics = np.split(patterns / np.sqrt(self._size.n_features), [sizes[0]])
        return parts, semantics

    def _features(self, attributes: Floats, labels: Ints) -> npt.NDArray[np.float16]:
        """(N, h, w, D) regions of images with ``labels`` (N,), given the (C, A) class semantics."""
        recipe, size, n = self.recipe, self._size, len(labels)
        parts, semantics = self._patterns()
        means = (attributes - attributes.mean(axis=0)) / np.sqrt(attributes.var(axis=0).mean())
        stds = size.noise * (graded(attributes) if self.config.noise == "graded" else np.ones_like(attributes))
        values = means[labels] + stds[labels] * self._rng("images").standard_normal((n, recipe.n_attributes))
        of_part = np.arange(recipe.n_parts)[:, None] == self._part_of_semantic  # (P, A)
        shown = recipe.part_strength * parts + np.einsum("na,pa,ad->npd", values, of_part, semantics, optimize=True)
        n_regions = recipe.grid[0] * recipe.grid[1]
        noise = self._rng("regions").standard_normal((n, n_regions, size.n_features))
        features: Floats = recipe.region_noise / np.sqrt(size.n_features) * noise
        places = self._rng("places").random((n, n_regions)).argsort(axis=1)[:, : recipe.n_parts]
        features[np.arange(n)[:, None], places] += shown
        return features.reshape(n, *recipe.grid, size.n_features).astype(np.float16)
