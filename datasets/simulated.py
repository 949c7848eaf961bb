"""Simulated stand-ins for CUB, SUN and AWA2, for use where the real files are absent. Nothing here is real data.

**Class semantics.** A class belongs to a family and shares most of its latent factors with it. A semantic loads on the
factors; where that latent strength exceeds the semantic's own threshold, a saturating (Hill) curve turns it into a
value, else the value is 0. Rows are then scaled to unit norm. Parameters were set by hand to these statistics, computed
from ``att`` of the Proposed Splits release (Xian et al., arXiv 1707.00600), real -> simulated:

=====================================  =====================  =====================  =====================
statistic                              CUB                    SUN                    AWA2
=====================================  =====================  =====================  =====================
share of zeros                         0.43 -> 0.43           0.46 -> 0.49           0.29 -> 0.26
share of zeros, q10 / q90 semantic     0.02/0.79 -> 0.04/0.89 0.19/0.78 -> 0.14/0.81 0.01/0.73 -> 0.01/0.64
skewness, median semantic              2.98 -> 2.01           2.81 -> 2.44           1.18 -> 1.08
effective rank of the correlations     24.9 -> 24.2           16.0 -> 17.5           11.8 -> 13.9
variance in the first 10 components    0.53 -> 0.49           0.60 -> 0.56           0.74 -> 0.72
mean |correlation| of two semantics    0.13 -> 0.15           0.17 -> 0.17           0.21 -> 0.20
cosine to the nearest class, median    0.91 -> 0.91           0.95 -> 0.92           0.89 -> 0.90
cosine of two classes, mean            0.59 -> 0.58           0.50 -> 0.43           0.58 -> 0.63
largest value                          0.29 -> 0.39           0.68 -> 0.76           0.36 -> 0.56
=====================================  =====================  =====================  =====================

(Effective rank: the participation ratio (sum e)^2 / sum e^2 of the eigenvalues e of the correlation matrix.)

**Images.** An image's semantics are its class's plus independent Gaussian noise, whose standard deviation grows with
the value (``noise: graded``) or is the same everywhere at the same total energy (``noise: equal``, the control). With
nuisance (in part fixed for a class: looks that no semantic tells) they pass through random weights and a ReLU, which
leaves half of the features 0.

**Difficulty.** The noise of each size was set once, by ridge regression from features to semantics with cosine to the
nearest class and nothing else: regulariser chosen on the validation classes, per-class accuracies in percent. Its T1
lies where embedding methods of the literature lie (CUB 45-55, SUN 50-60, AWA2 50-62), with their bias to seen classes:

========  ==================  ==================  ==================
T1/U/S    cub-sim             sun-sim             awa2-sim
========  ==================  ==================  ==================
small     51.0 / 20.5 / 65.9  54.3 / 19.9 / 37.1  62.0 /  5.0 / 86.4
full      51.2 / 19.4 / 68.8  58.1 / 23.5 / 51.8  59.2 /  5.4 / 92.3
========  ==================  ==================  ==================

**What the control shows.** Let E[c, k] be that ridge's squared error of semantic k over the test images of class c,
split into the squared error of the class's mean prediction (bias) and the variance around it. Pearson r between label
value and E over classes, mean over semantics, on test_seen, graded -> equal noise:

===============  ============  ============  ============
r with           cub-sim       sun-sim       awa2-sim
===============  ============  ============  ============
variance, small  0.12 -> 0.03  0.25 -> 0.04  0.23 -> 0.03
variance, full   0.37 -> 0.07  0.54 -> 0.20  0.64 -> 0.23
error, small     0.65 -> 0.64  0.68 -> 0.67  0.54 -> 0.52
error, full      0.70 -> 0.67  0.73 -> 0.72  0.56 -> 0.53
===============  ============  ============  ============

Equal noise takes the correlation away from the variance, not from the error, which is nearly all bias: a regressor
shrinks to the mean, its squared bias goes with (label - mean)^2, and that is correlated with the label wherever labels
are skewed to the right. Given (label - mean)^2, the partial correlation of error and label is small under both (-0.15
to 0.04). Give the semantics Gaussian scores with the covariance kept, hence no skewness, and under equal noise every r
is within 0.05 of 0: skewed labels and graded noise are the two causes, and the first is the larger. Real images behave
alike: r of variance / error is 0.41 / 0.62 on 50 classes of CUB (EfficientNet-Lite0) and 0.29 / 0.55 on AWA1
(hand-made descriptors).
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import numpy.typing as npt
from scipy.special import ndtri

from benchmark.api import Dataset, DatasetConfig, Split, derive_seed
from benchmark.registries import DATASETS

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

#: Part of every revision; a test that pins values fails when they move and this does not.
VERSION = 1

N_FACTORS = 60
OWN_SHARE = 0.03  # of a semantic's latent variance: what no factor explains
HILL_EXPONENT, HILL_HALF = 2.6, 2.4  # the curve from latent strength, in standard deviations, to a value
SALIENCE_SPREAD = 0.3  # log standard deviation of the semantics' scales
N_NUISANCE = 128
NUISANCE = 1.0  # standard deviation in a feature, relative to that of class semantics
APPEARANCE = 0.7  # of the nuisance variance: what is fixed for a class
# Symmetric about 0: a semantic then moves as many features at a low value as at a high one. Were most features silent
# at low values, predictions would vary more at high ones although the noise is equal.
THRESHOLD_SPREAD = 0.5
SMALLEST_CLASS = 0.15  # relative to the mean class


class SimulatedConfig(DatasetConfig):
    """What a stand-in can be set to.

    Attributes:
        size: ``full`` has the image counts of the real data set and 2048 features, ``small`` trains in seconds.
        noise: ``graded`` noise of an image's semantics grows with their value; ``equal`` noise has the same total
            energy but is the same for all classes and semantics.
    """

    size: Literal["small", "full"] = "small"
    noise: Literal["graded", "equal"] = "graded"


@dataclass(frozen=True)
class Size:
    """How much is generated, and how noisy; more features average more noise out, so equal difficulty needs more of it.

    Attributes:
        trainval, test_seen, test_unseen: numbers of images.
        n_features: their dimension.
        noise: standard deviation of an image's semantics around its class's, relative to that between classes.
    """

    trainval: int
    test_seen: int
    test_unseen: int
    n_features: int
    noise: float


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What tells one stand-in from another.

    Attributes:
        n_seen, n_unseen, n_validation, n_attributes: sizes of the real data set.
        small, full: the two sizes on offer.
        count_spread: standard deviation of the classes' numbers of images, relative to their mean.
        zero_share: mean share of classes in which a semantic is exactly 0.
        zero_concentration: a + b of the Beta(a, b) distribution of that share over semantics.
        n_families: number of families (genera, kinds of scene, groups of animals).
        family_share: share of the variance of a class's factors that its family has in common.
        decay: exponent of the power law of the factors' variances; the larger, the lower the effective rank.
    """

    n_seen: int
    n_unseen: int
    n_validation: int
    n_attributes: int
    small: Size
    full: Size
    count_spread: float
    zero_share: float
    zero_concentration: float
    n_families: int
    family_share: float
    decay: float

    @property
    def n_classes(self) -> int:
        """Seen and unseen classes together."""
        return self.n_seen + self.n_unseen


class Simulated(Dataset):
    """A data set made by code; subclasses say what it imitates."""

    Config = SimulatedConfig
    config: SimulatedConfig
    recipe: ClassVar[Recipe]

    @property
    def features(self) -> str:
        """``sim-small`` or ``sim-full``; ``-equal-noise`` is added where the noise is equal."""
        return f"sim-{self.config.size}" + ("-equal-noise" if self.config.noise == "equal" else "")

    @property
    def revision(self) -> str:
        """The version of the simulation, and a digest of its parameters and settings."""
        # Recipes were called Spec when the first results were stored, whose revisions are to stay.
        recipe = repr(self.recipe).replace("Recipe(", "Spec(")
        defined_by = f"({VERSION}, {self.name!r}, {recipe}, {self.config.model_dump_json()!r})"
        return f"sim{VERSION}-{hashlib.sha256(defined_by.encode()).hexdigest()[:12]}"

    def read(self) -> Split:
        """Generate the data, seeded from the name alone.

        The same bits each time on one machine; on another, or with another numpy, matrix products may round otherwise.
        Sizes and kinds of noise share classes, semantics and the division into seen and unseen.
        """
        recipe = self.recipe
        attributes = class_attributes(recipe, self._rng("attributes"))
        order = self._rng("classes").permutation(recipe.n_classes)
        seen, unseen = np.sort(order[: recipe.n_seen]), np.sort(order[recipe.n_seen :])
        counts = self._counts(seen, unseen)
        labels = np.concatenate([np.repeat(np.arange(recipe.n_classes), row) for row in counts])
        trainval, test_seen, test_unseen = np.split(np.arange(len(labels)), counts.sum(axis=1).cumsum()[:-1])
        split = Split(
            features=self._features(attributes, labels),
            labels=labels,
            attributes=attributes.astype(np.float32),
            class_names=tuple(f"simulated-{c:03d}" for c in range(recipe.n_classes)),
            trainval=trainval,
            test_seen=test_seen,
            test_unseen=test_unseen,
            validation_classes=np.sort(self._rng("validation").choice(seen, recipe.n_validation, replace=False)),
        )
        split.check(self.name)
        return split

    @property
    def _size(self) -> Size:
        return self.recipe.full if self.config.size == "full" else self.recipe.small

    def _rng(self, draw: str) -> np.random.Generator:
        """Random numbers of its own for every draw, so that a change of one moves no other."""
        return np.random.default_rng(derive_seed("simulated", self.name, draw))

    def _counts(self, seen: Ints, unseen: Ints) -> Ints:
        """(3, C) numbers of images in trainval, test_seen and test_unseen."""
        size, n_classes = self._size, self.recipe.n_classes
        spread = self.recipe.count_spread * self._rng("counts").standard_normal(n_classes)
        weights = np.maximum(1 + spread, SMALLEST_CLASS)
        counts = np.zeros((3, n_classes), dtype=np.int64)
        images = apportion(size.trainval + size.test_seen, weights[seen])
        counts[1, seen] = apportion(size.test_seen, images)
        counts[0, seen] = images - counts[1, seen]
        counts[2, unseen] = apportion(size.test_unseen, weights[unseen])
        return counts

    def _features(self, attributes: Floats, labels: Ints) -> npt.NDArray[np.float32 | np.float16]:
        """(N, D) features of images with ``labels`` (N,), given the (C, A) class semantics."""
        size, (n_classes, n_attributes) = self._size, attributes.shape
        n_latent = n_attributes + N_NUISANCE
        means = np.zeros((n_classes, n_latent), dtype=np.float32)
        stds = np.empty_like(means)
        means[:, :n_attributes] = (attributes - attributes.mean(axis=0)) / np.sqrt(attributes.var(axis=0).mean())
        stds[:, :n_attributes] = size.noise * (graded(attributes) if self.config.noise == "graded" else 1.0)
        looks = self._rng("appearance").standard_normal((n_classes, N_NUISANCE))
        means[:, n_attributes:] = NUISANCE * np.sqrt(APPEARANCE) * looks
        stds[:, n_attributes:] = NUISANCE * np.sqrt(1 - APPEARANCE)

        latent = self._rng("images").standard_normal((len(labels), n_latent), dtype=np.float32)
        latent *= stds[labels]
        latent += means[labels]
        weights = self._rng("weights").standard_normal((n_latent, size.n_features), dtype=np.float32)
        weights[:n_attributes] /= np.sqrt(n_attributes)
        weights[n_attributes:] /= np.sqrt(N_NUISANCE)
        features: npt.NDArray[np.float32] = latent @ weights
        features -= THRESHOLD_SPREAD * self._rng("thresholds").standard_normal(size.n_features, dtype=np.float32)
        return np.maximum(features, 0, out=features)


def class_attributes(recipe: Recipe, rng: np.random.Generator) -> Floats:
    """(C, A) class semantics: not negative, many exactly 0, rows of unit norm."""
    n_classes, n_attributes = recipe.n_classes, recipe.n_attributes
    families = rng.standard_normal((recipe.n_families, N_FACTORS))
    family = families[rng.integers(recipe.n_families, size=n_classes)]
    own = rng.standard_normal((n_classes, N_FACTORS))
    factors = np.sqrt(recipe.family_share) * family + np.sqrt(1 - recipe.family_share) * own
    variances = np.arange(1, N_FACTORS + 1) ** -recipe.decay
    loadings = rng.standard_normal((N_FACTORS, n_attributes)) * np.sqrt(variances)[:, None]
    loadings /= np.linalg.norm(loadings, axis=0)
    latent = np.sqrt(1 - OWN_SHARE) * factors @ loadings
    latent += np.sqrt(OWN_SHARE) * rng.standard_normal((n_classes, n_attributes))
    latent = (latent - latent.mean(axis=0)) / latent.std(axis=0)

    a, b = recipe.zero_share * recipe.zero_concentration, (1 - recipe.zero_share) * recipe.zero_concentration
    zero_shares = rng.beta(a, b, size=n_attributes).clip(0.01, 0.97)
    strength = np.maximum(latent - ndtri(zero_shares), 0) ** HILL_EXPONENT
    values = strength / (strength + HILL_HALF**HILL_EXPONENT)
    values *= np.exp(SALIENCE_SPREAD * rng.standard_normal(n_attributes))
    unit: Floats = values / np.linalg.norm(values, axis=1, keepdims=True)
    return unit


def graded(attributes: Floats) -> Floats:
    """(C, A) relative standard deviations that grow linearly with the value; their mean square is 1."""
    raw = attributes + attributes.mean()  # the mean keeps some noise on what is 0
    relative: Floats = raw / np.sqrt((raw**2).mean())
    return relative


def apportion(total: int, weights: Floats | Ints) -> Ints:
    """Whole numbers in proportion to ``weights`` that add up to ``total``, by largest remainders."""
    exact = total * weights / weights.sum()
    whole: Ints = np.floor(exact).astype(np.int64)
    whole[np.argsort(whole - exact, kind="stable")[: total - whole.sum()]] += 1
    return whole


@DATASETS.register(
    "cub-sim",
    title="CUB (SIMULATED)",
    family="simulated",
    year=2026,
    source="imitates CUB-200-2011, Proposed Split",
    stands_in_for="cub",
)
class CubSim(Simulated):
    """Birds: 312 semantics that overlap much, about 60 images a class (small: 20)."""

    recipe = Recipe(
        n_seen=150,
        n_unseen=50,
        n_validation=50,
        n_attributes=312,
        small=Size(2400, 600, 1000, n_features=256, noise=2.2),
        full=Size(7057, 1764, 2967, n_features=2048, noise=3.0),
        count_spread=0.05,
        zero_share=0.43,
        zero_concentration=1.7,
        n_families=60,
        family_share=0.8,
        decay=1.2,
    )


@DATASETS.register(
    "sun-sim",
    title="SUN (SIMULATED)",
    family="simulated",
    year=2026,
    source="imitates SUN Attribute, Proposed Split",
    stands_in_for="sun",
)
class SunSim(Simulated):
    """Scenes: many classes of 20 images each (small: 10)."""

    recipe = Recipe(
        n_seen=645,
        n_unseen=72,
        n_validation=65,
        n_attributes=102,
        small=Size(5160, 1290, 720, n_features=256, noise=1.4),
        full=Size(10320, 2580, 1440, n_features=2048, noise=1.7),
        count_spread=0.0,
        zero_share=0.47,
        zero_concentration=3.4,
        n_families=200,
        family_share=0.85,
        decay=1.8,
    )


@DATASETS.register(
    "awa2-sim",
    title="AWA2 (SIMULATED)",
    family="simulated",
    year=2026,
    source="imitates Animals with Attributes 2, Proposed Split",
    stands_in_for="awa2",
)
class Awa2Sim(Simulated):
    """Animals: few classes, of very unequal numbers of images (small: a tenth of them)."""

    recipe = Recipe(
        n_seen=40,
        n_unseen=10,
        n_validation=13,
        n_attributes=85,
        small=Size(2353, 588, 791, n_features=256, noise=1.8),
        full=Size(23527, 5882, 7913, n_features=2048, noise=1.8),
        count_spread=0.5,
        zero_share=0.29,
        zero_concentration=2.0,
        n_families=20,
        family_share=0.7,
        decay=1.2,
    )
