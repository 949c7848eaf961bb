"""The stand-ins: shape, legality, determinism, likeness to the real attribute matrices, difficulty, and the control."""

import hashlib
import os
import random
import subprocess
import sys
from dataclasses import astuple, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.io
import scipy.stats
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.api import Split
from benchmark.config import validate
from benchmark.errors import InputError
from benchmark.registries import DATASETS
from datasets import simulated
from datasets.simulated import Simulated

Array = npt.NDArray[np.float64]

NAMES = ["cub-sim", "sun-sim", "awa2-sim"]
#: classes, seen, validation and attributes of the real data sets.
SIZES = {"cub-sim": (200, 150, 50, 312), "sun-sim": (717, 645, 65, 102), "awa2-sim": (50, 40, 13, 85)}
#: images in trainval, test_seen and test_unseen of the Proposed Splits release.
REAL_IMAGES = {"cub-sim": (7057, 1764, 2967), "sun-sim": (10320, 2580, 1440), "awa2-sim": (23527, 5882, 7913)}
STATISTICS = ("zeros", "skew", "rank", "top10", "correlation", "nearest", "cosine")
#: ``statistics`` of att in the Proposed Splits release; a test below compares them to the files where they are present.
REAL = {
    "cub-sim": np.array([0.426, 2.98, 24.9, 0.53, 0.128, 0.913, 0.591]),
    "sun-sim": np.array([0.465, 2.81, 16.0, 0.60, 0.172, 0.948, 0.496]),
    "awa2-sim": np.array([0.287, 1.18, 11.8, 0.74, 0.211, 0.893, 0.579]),
}
#: How far a stand-in may be from the real value.
BANDS = np.array([0.04, 1.0, 3.0, 0.06, 0.03, 0.04, 0.08])


def dataset(name: str, size: str = "small", noise: str = "graded") -> Simulated:
    cls = DATASETS[name].obj
    made = cls(name, cls.Config.model_validate({"size": size, "noise": noise}), None)
    assert isinstance(made, Simulated)
    return made


@cache
def split(name: str, noise: str = "graded") -> Split:
    return dataset(name, noise=noise).load()


def digest(made: Split) -> str:
    arrays = (a for a in astuple(made) if isinstance(a, np.ndarray))
    return hashlib.sha256(b"".join(a.tobytes() for a in arrays)).hexdigest()


def statistics(attributes: Array) -> Array:
    """What ``STATISTICS`` names, of (C, A) attributes.

    Share of zeros; median skewness of a semantic; participation ratio, first ten components and mean size of the
    correlations of semantics; median cosine to the nearest class, and mean cosine of two classes.
    """
    unit = attributes / np.linalg.norm(attributes, axis=1, keepdims=True)
    cosine = unit @ unit.T
    pairs = ~np.eye(len(cosine), dtype=bool)
    correlation = np.atleast_2d(np.corrcoef(attributes.T))
    eigenvalues = np.linalg.eigvalsh(correlation)[::-1]
    return np.array(
        [
            (attributes == 0).mean(),
            np.median(scipy.stats.skew(attributes, axis=0)),
            eigenvalues.sum() ** 2 / (eigenvalues**2).sum(),
            eigenvalues[:10].sum() / eigenvalues.sum(),
            np.abs(correlation[np.triu_indices(len(correlation), 1)]).mean(),
            np.median(np.where(pairs, cosine, -1).max(axis=1)),
            cosine[pairs].mean(),
        ]
    )


class Ridge:
    """Closed-form ridge regression from features to the attributes of the class, with an intercept."""

    def __init__(self, made: Split, images: npt.NDArray[np.int64], penalty: float, attributes: Array) -> None:
        x, target = made.features[images].astype(np.float64), attributes[made.labels[images]]
        self.x_mean, self.target_mean = x.mean(axis=0), target.mean(axis=0)
        x, target = x - self.x_mean, target - self.target_mean
        gram = x.T @ x
        self.weights = np.linalg.solve(gram + penalty * np.trace(gram) / len(gram) * np.eye(len(gram)), x.T @ target)

    def __call__(self, features: npt.NDArray[Any]) -> Array:
        return np.asarray((features - self.x_mean) @ self.weights + self.target_mean)


def accuracy(
    model: Ridge, made: Split, images: npt.NDArray[np.int64], classes: npt.NDArray[np.int64], attributes: Array
) -> float:
    """Mean per-class top-1 accuracy in percent, by the cosine to the nearest of ``classes``."""
    rows = attributes[classes] / np.linalg.norm(attributes[classes], axis=1, keepdims=True)
    hit = classes[(model(made.features[images]) @ rows.T).argmax(axis=1)] == made.labels[images]
    return 100 * float(np.mean([hit[made.labels[images] == c].mean() for c in np.unique(made.labels[images])]))


def fit(made: Split, attributes: Array | None = None) -> Ridge:
    """Ridge on trainval, with the penalty that is best on the validation classes."""
    attributes = made.attributes.astype(np.float64) if attributes is None else attributes
    held_out = made.validation_classes
    assert held_out is not None
    is_held_out = np.isin(made.labels[made.trainval], held_out)
    train, test = made.trainval[~is_held_out], made.trainval[is_held_out]
    penalties = [0.001, 0.01, 0.1, 1.0, 10.0]
    scores = [accuracy(Ridge(made, train, p, attributes), made, test, held_out, attributes) for p in penalties]
    return Ridge(made, made.trainval, penalties[int(np.argmax(scores))], attributes)


def correlations(made: Split, images: npt.NDArray[np.int64]) -> tuple[float, float]:
    """Pearson r over classes, mean over semantics, of label value and (squared error, its within-class variance)."""
    predicted, attributes = fit(made)(made.features[images]), made.attributes.astype(np.float64)
    classes = np.unique(made.labels[images])
    error, variance = np.empty((2, len(classes), attributes.shape[1]))
    for row, c in enumerate(classes):
        mine = predicted[made.labels[images] == c]
        error[row] = ((mine - attributes[c]) ** 2).mean(axis=0)
        variance[row] = mine.var(axis=0)
    labels = attributes[classes]
    varies = np.flatnonzero(labels.std(axis=0) > 0)
    error_r, variance_r = (
        float(np.mean([np.corrcoef(labels[:, k], figure[:, k])[0, 1] for k in varies])) for figure in (error, variance)
    )
    return error_r, variance_r


@pytest.mark.parametrize("name", NAMES)
def test_small_has_the_classes_and_attributes_of_the_real_one(name: str) -> None:
    made = split(name)
    classes, seen, validation, attributes = SIZES[name]
    made.check()
    assert made.attributes.shape == (classes, attributes)
    assert made.attributes.dtype == made.features.dtype == np.float32
    assert len(made.seen) == seen
    assert len(made.unseen) == classes - seen
    assert made.validation_classes is not None
    assert len(made.validation_classes) == validation
    assert made.class_names[17] == "simulated-017"
    assert len(set(made.class_names)) == classes
    assert 3000 <= len(made.labels) <= 7500
    assert 128 <= made.features.shape[1] <= 256


@pytest.mark.parametrize("name", NAMES)
def test_every_image_is_in_one_part_and_a_fifth_of_each_seen_class_is_tested(name: str) -> None:
    made = split(name)
    parts = np.concatenate([made.trainval, made.test_seen, made.test_unseen])
    assert np.array_equal(np.sort(parts), np.arange(len(made.labels)))
    train, test = (np.bincount(made.labels[part], minlength=200)[made.seen] for part in (made.trainval, made.test_seen))
    assert np.all(np.abs(test - 0.2 * (train + test)) < 1)
    assert test.min() >= 1


def test_class_sizes_are_as_unequal_as_the_real_ones() -> None:
    ratio = {name: (lambda n: n.max() / n.min())(np.bincount(split(name).labels)) for name in NAMES}
    assert ratio["sun-sim"] == 1
    assert 1 < ratio["cub-sim"] < 1.6  # real: 41 to 60
    assert 8 < ratio["awa2-sim"] < 25  # real: 100 to 1645


@pytest.mark.parametrize("name", NAMES)
def test_full_has_the_real_counts(name: str) -> None:
    full = dataset(name, "full").recipe.full
    assert (full.trainval, full.test_seen, full.test_unseen, full.n_features) == (*REAL_IMAGES[name], 2048)


def test_full_as_generated() -> None:
    made = dataset("cub-sim", "full").load()
    assert made.features.shape == (11788, 2048)
    assert tuple(len(p) for p in (made.trainval, made.test_seen, made.test_unseen)) == REAL_IMAGES["cub-sim"]
    assert np.array_equal(made.attributes, split("cub-sim").attributes)
    assert np.array_equal(made.seen, split("cub-sim").seen)


@pytest.mark.parametrize("name", NAMES)
def test_features_look_like_those_after_a_relu(name: str) -> None:
    features = split(name).features
    assert np.isfinite(features).all()
    assert features.min() == 0
    assert 0.3 < (features == 0).mean() < 0.7
    assert (features.std(axis=0) > 0).all()


def test_same_bits_again_and_in_another_process() -> None:
    code = (
        "from tests.unit.test_simulated import NAMES, dataset, digest; "
        "print(*(digest(dataset(n).load()) for n in NAMES))"
    )
    root = Path(simulated.__file__).parents[1]
    environment = os.environ | {"PYTHONHASHSEED": "7", "PYTHONPATH": str(root)}
    other = subprocess.run(
        [sys.executable, "-c", code], cwd=root, env=environment, check=True, capture_output=True, text=True
    )
    again = [digest(dataset(name).load()) for name in NAMES]
    assert other.stdout.split() == again == [digest(split(name)) for name in NAMES]
    assert len(set(again)) == len(NAMES)


def test_global_random_state_is_untouched() -> None:
    def state() -> tuple[object, ...]:
        legacy = np.random.get_state()  # noqa: NPY002 -- the global state is what is tested
        return random.getstate(), legacy[1].tobytes(), legacy[2], torch.get_rng_state().tolist()  # type: ignore[index]

    before = state()
    dataset("awa2-sim").load()
    assert state() == before


def test_data_sets_differ_though_the_recipe_is_one() -> None:
    cls = DATASETS["awa2-sim"].obj
    renamed = cls("another-name", cls.Config(), None).load()
    assert not np.array_equal(renamed.attributes, split("awa2-sim").attributes)


def test_revision_and_feature_set_tell_every_configuration_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    made = [dataset(n, size, noise) for n in NAMES for size in ("small", "full") for noise in ("graded", "equal")]
    assert len({d.revision for d in made}) == len(made)
    assert dataset("cub-sim").revision == dataset("cub-sim").revision
    assert {d.features for d in made} == {"sim-small", "sim-full", "sim-small-equal-noise", "sim-full-equal-noise"}
    assert all(DATASETS[d.name].simulated and "SIMULATED" in DATASETS[d.name].title for d in made)
    before = dataset("cub-sim").revision
    cls = type(dataset("cub-sim"))
    monkeypatch.setattr(cls, "recipe", replace(cls.recipe, decay=1.3))
    parameters_moved = dataset("cub-sim").revision
    monkeypatch.setattr(simulated, "VERSION", simulated.VERSION + 1)
    assert len({before, parameters_moved, dataset("cub-sim").revision}) == 3


@pytest.mark.parametrize(
    ("name", "attribute_mean", "feature_mean", "corner", "unseen"),
    [
        ("cub-sim", 0.028503602, 1.0659356, 11.0097, [13, 18, 19, 23]),
        ("sun-sim", 0.044584332, 0.83199604, 1.17764, [15, 34, 40, 48]),
        ("awa2-sim", 0.065249665, 0.93184721, 4.277077, [0, 2, 4, 9]),
    ],
)
def test_values_are_pinned_to_the_generator_version(
    name: str, attribute_mean: float, feature_mean: float, corner: float, unseen: list[int]
) -> None:
    """If this fails after a change on purpose: bump VERSION, so that old results are not compared to new."""
    made = split(name)
    assert simulated.VERSION == 1
    assert made.attributes.mean(dtype=np.float64) == pytest.approx(attribute_mean, rel=1e-5)
    assert made.features.mean(dtype=np.float64) == pytest.approx(feature_mean, rel=1e-5)
    assert made.features[-1, :8].sum() == pytest.approx(corner, rel=1e-4)
    assert made.unseen[:4].tolist() == unseen


@pytest.mark.parametrize("settings", [{"size": "large"}, {"noise": True}, {"sizes": "small"}])
def test_wrong_settings_are_refused(settings: dict[str, object]) -> None:
    with pytest.raises(InputError):
        validate(DATASETS["cub-sim"].obj.Config, settings, "test")


@pytest.mark.parametrize("name", NAMES)
def test_attributes_are_like_the_real_ones(name: str) -> None:
    attributes = split(name).attributes.astype(np.float64)
    off = np.abs(statistics(attributes) - REAL[name])
    assert [key for key, distance, band in zip(STATISTICS, off, BANDS, strict=True) if distance > band] == []
    assert np.allclose(np.linalg.norm(attributes, axis=1), 1, atol=1e-6)
    assert attributes.min() == 0
    assert (attributes.std(axis=0) > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_unseen_classes_have_relatives_among_the_seen(name: str) -> None:
    made = split(name)
    to_seen = made.attributes[made.unseen] @ made.attributes[made.seen].T
    assert np.median(to_seen.max(axis=1)) > np.median(to_seen) + 0.2


@pytest.mark.real_data
@pytest.mark.parametrize("name", NAMES)
def test_the_stated_statistics_are_those_of_the_real_files(name: str, real_data_root: Path) -> None:
    file = real_data_root / name.removesuffix("-sim").upper() / "att_splits.mat"
    if not file.is_file():
        pytest.skip(f"no real data: {file} is not there")
    real = scipy.io.loadmat(file)
    assert np.allclose(statistics(real["att"].T), REAL[name], rtol=0.01)
    parts = tuple(real[key].size for key in ("trainval_loc", "test_seen_loc", "test_unseen_loc"))
    assert parts == REAL_IMAGES[name]


@pytest.mark.parametrize(("name", "low", "high"), [("cub-sim", 45, 55), ("sun-sim", 50, 60), ("awa2-sim", 50, 63)])
def test_ridge_is_where_published_embedding_methods_are(name: str, low: float, high: float) -> None:
    made = split(name)
    attributes, everything = made.attributes.astype(np.float64), np.arange(len(made.attributes))
    model = fit(made)
    assert low <= accuracy(model, made, made.test_unseen, made.unseen, attributes) <= high
    u = accuracy(model, made, made.test_unseen, everything, attributes)
    s = accuracy(model, made, made.test_seen, everything, attributes)
    assert 2 <= u <= 25  # biased to seen classes, as published U without calibration
    assert s > 1.5 * u


@pytest.mark.parametrize("name", NAMES)
def test_shuffled_attributes_leave_chance(name: str) -> None:
    made = split(name)
    chance = 100 / len(made.unseen)
    t1 = []
    for seed in range(5):
        order = np.random.default_rng(seed).permutation(len(made.attributes))
        shuffled = made.attributes.astype(np.float64)[order]
        t1.append(accuracy(Ridge(made, made.trainval, 1.0, shuffled), made, made.test_unseen, made.unseen, shuffled))
    assert 0.3 * chance < np.mean(t1) < 2 * chance


@pytest.mark.parametrize("name", NAMES)
def test_graded_noise_spreads_predictions_where_the_label_is_high_and_equal_noise_does_not(name: str) -> None:
    """The variance of an image's prediction around its class's mean prediction: the part of the error that is noise."""
    graded, equal = (correlations(made, made.test_seen)[1] for made in (split(name), split(name, "equal")))
    assert graded > 0.1
    assert abs(equal) < 0.06
    assert graded > 3 * abs(equal)


@pytest.mark.parametrize("noise", ["graded", "equal"])
@pytest.mark.parametrize("name", NAMES)
def test_the_whole_error_follows_skewed_labels_whatever_the_noise(name: str, noise: str) -> None:
    """Shrinkage to the mean errs most on high labels where they are rare; stated so that nobody blames the noise."""
    made = split(name, noise)
    assert 0.4 < correlations(made, made.test_seen)[0] < 0.8


@pytest.mark.parametrize("name", NAMES)
def test_without_skewness_and_with_equal_noise_no_correlation_is_left(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gaussian scores in place of the classes' own, with the covariance of semantics kept: symmetric labels."""
    skewed = simulated.class_attributes

    def symmetric(recipe: simulated.Recipe, rng: np.random.Generator) -> Array:
        attributes = skewed(recipe, rng)
        u, sizes, directions = np.linalg.svd(attributes - attributes.mean(axis=0), full_matrices=False)
        scores = np.random.default_rng(0).standard_normal(u.shape)
        scores, _ = np.linalg.qr(scores - scores.mean(axis=0))
        return attributes.mean(axis=0) + scores * sizes @ directions

    monkeypatch.setattr(simulated, "class_attributes", symmetric)
    made = dataset(name, noise="equal").load()
    error_r, variance_r = correlations(made, made.test_seen)
    assert abs(error_r) < 0.1
    assert abs(variance_r) < 0.05


def test_equal_noise_has_the_energy_of_graded_noise_and_changes_nothing_else() -> None:
    attributes = split("cub-sim").attributes.astype(np.float64)
    stds = simulated.graded(attributes)
    assert (stds**2).mean() == pytest.approx(1)
    assert np.corrcoef(stds.ravel(), attributes.ravel())[0, 1] == pytest.approx(1)
    assert stds.min() > 0
    graded, equal = split("cub-sim"), split("cub-sim", "equal")
    assert np.array_equal(graded.attributes, equal.attributes)
    assert np.array_equal(graded.labels, equal.labels)
    assert not np.array_equal(graded.features, equal.features)


@given(st.integers(0, 10_000), st.lists(st.floats(0.01, 100), min_size=1, max_size=50))
def test_apportion_adds_up_and_stays_within_one_of_the_exact_share(total: int, weights: list[float]) -> None:
    shares = simulated.apportion(total, np.array(weights))
    assert shares.sum() == total
    for share, weight in zip(shares, weights, strict=True):
        assert abs(share - total * weight / sum(weights)) < 1 + 1e-6
