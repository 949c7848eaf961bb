"""LATEM's objective, one step of its training, its scores and its semantics, against loops from its formula."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from benchmark.api import TrainData
from methods.embedding.latem import LATEM
from tests.reference.toy import (
    check_first_step,
    class_slot,
    dot,
    make_float64,
    objective_of,
    problems,
    seeded,
    slow_class_loss,
)


def slow_images(method: Any, x: list[float]) -> list[list[float]]:
    """x^T W_k for each k; W_k is the k-th block of columns."""
    columns, size = method.weight.T.tolist(), method.meta.n_attributes
    return [[dot(x, columns[k * size + j]) for j in range(size)] for k in range(method.config.n_maps)]


def slow_objective(method: Any, data: TrainData, weight: float | None) -> float:
    """Xian et al. 2016, eq. 2 and 3, and the regression of the map that scores the true class highest."""
    seen, labels = data.attributes[: data.n_seen].tolist(), data.labels.tolist()
    total, predicted = 0.0, []
    for x, y in zip(data.features.tolist(), labels, strict=True):
        images = slow_images(method, x)
        compatibility = [max(dot(image, a) for image in images) for a in seen]
        total += sum(max(0.0, 1 + s - compatibility[y]) for c, s in enumerate(compatibility) if c != y)
        predicted.append(max(images, key=lambda image: dot(image, seen[y])))
    value = total / len(labels)
    return value if weight is None else value + weight * slow_class_loss(predicted, data)


@given(problems(), st.integers(1, 4), st.booleans(), st.sampled_from([None, 0.0, 2.5]))
def test_the_objective_agrees_with_the_loops(data: TrainData, n_maps: int, whole: bool, weight: float | None):
    method = LATEM(data.meta, LATEM.Config(n_maps=n_maps, regression_weight=weight or 0.0), seeded(0)).double()
    if whole:  # scores in whole numbers: ties among the maps, and scores exactly on the margin
        for values in (method.weight.data.mul_(2), data.features, data.attributes):
            values.round_()
    value = objective_of(method, data, class_slot(data, weight))(data.features, data.labels)
    assert float(value.detach()) == pytest.approx(slow_objective(method, data, weight), rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("n_maps", [1, 3])
@pytest.mark.parametrize("weight", [None, 0.0, 2.5])
def test_one_step_of_training(n_maps: int, weight: float | None):
    check_first_step(LATEM, slow_objective, weight, n_maps=n_maps)


def test_scores_take_the_best_map_of_each_class_and_semantics_that_of_the_best_class():
    data = make_float64(n_seen=2)
    method = LATEM(data.meta, LATEM.Config(n_maps=3), seeded(0)).double()
    objective_of(method, data, class_slot(data, None))
    classes, attributes = torch.tensor([len(data.attributes) - 1, 0, 2]), data.attributes.tolist()
    features = torch.randn(30, 5, generator=seeded(1), dtype=torch.float64)
    scores, semantics = method.scores(features, classes), method.semantics(features)
    chosen = []
    for i, x in enumerate(features.tolist()):
        images = slow_images(method, x)
        for j, c in enumerate(classes.tolist()):
            assert scores[i, j].item() == pytest.approx(max(dot(image, attributes[c]) for image in images), abs=1e-12)
        _, k, best = max((dot(image, a), k, c) for k, image in enumerate(images) for c, a in enumerate(attributes))
        assert semantics[i].tolist() == pytest.approx(images[k], abs=1e-12)
        chosen.append((k, best >= data.n_seen))
    assert len({k for k, _ in chosen}) > 1
    assert len({unseen for _, unseen in chosen}) == 2  # unseen classes compete too
