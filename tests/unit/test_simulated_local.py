"""The stand-in with local features: shapes, determinism, and that semantics show where their parts are."""

import numpy as np
import pytest

from benchmark.api import Split
from datasets.simulated_local import CubLocalSim


def dataset(**options: str) -> CubLocalSim:
    return CubLocalSim("cub-local-sim", CubLocalSim.Config.model_validate(options), None)


@pytest.fixture(scope="module")
def split() -> Split:
    return dataset().load()


def test_it_has_regions_in_half_precision_and_a_vector_of_each_name(split: Split):
    assert split.kind == "local"
    assert split.features.shape == (1250, 4, 4, 64)
    assert split.features.dtype == np.float16
    assert split.attribute_vectors is not None
    assert split.attribute_vectors.shape == (40, 16)
    assert (len(split.seen), len(split.unseen)) == (40, 10)


def test_it_is_the_same_each_time_and_noise_and_size_keep_the_classes(split: Split):
    again, equal, full = dataset().load(), dataset(noise="equal").load(), dataset(size="full").load()
    assert np.array_equal(split.features, again.features)
    assert split.attribute_vectors is not None
    assert again.attribute_vectors is not None
    assert np.array_equal(split.attribute_vectors, again.attribute_vectors)
    assert not np.array_equal(split.features, equal.features)
    for other in (equal, full):
        assert np.array_equal(split.attributes, other.attributes)
        assert np.array_equal(split.unseen, other.unseen)
    assert len({dataset().revision, dataset(noise="equal").revision, dataset(size="full").revision}) == 3


def test_a_semantic_is_told_by_the_region_of_its_part_and_not_by_others(split: Split):
    parts, semantics = dataset()._patterns()
    regions = split.features.reshape(len(split.labels), 16, 64).astype(np.float64)
    values = split.attributes[split.labels]
    # A part's own pattern finds its region; the rest of the region is read off along the semantic's pattern.
    found = (regions @ parts.T).argmax(axis=1)
    correlations = {own: np.zeros(40) for own in (True, False)}
    for k in range(40):
        here = found[:, k % 8]
        for own, place in ((True, here), (False, (here + 1) % 16)):
            shown = regions[np.arange(len(place)), place] @ semantics[k]
            correlations[own][k] = np.corrcoef(shown, values[:, k])[0, 1]
    assert np.median(correlations[True]) > 0.5
    assert np.abs(np.median(correlations[False])) < 0.1
    counts = [len(np.unique(row)) for row in found]
    assert np.mean(counts) > 7  # of 8 parts, nearly each in a region of its own


def test_vectors_of_semantics_of_one_part_are_alike(split: Split):
    assert split.attribute_vectors is not None
    unit = split.attribute_vectors / np.linalg.norm(split.attribute_vectors, axis=1, keepdims=True)
    same = np.arange(40)[:, None] % 8 == np.arange(40) % 8
    cosines = unit @ unit.T
    assert cosines[same & ~np.eye(40, dtype=bool)].mean() > cosines[~same].mean() + 0.3
