"""GenZSL's mixtures, objective and gradient against loops from its formulas, and a short training on tiny data."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from benchmark.api import Incompatible, TrainData
from methods.generative.genzsl import GenZSL
from tests.reference.descents import check_descent, descents_and_log, moved, without
from tests.reference.generative import (
    Row,
    first_run,
    lively,
    make_batch,
    own_slot,
    slow_code,
    slow_divergence,
    slow_encoding,
    slow_generated,
    unseen_accuracy,
)
from tests.reference.networks import slow_layer
from tests.reference.toy import class_slot, dot, make_float64, seeded, slow_class_loss

NETWORKS = ("encoder", "generator", "projection", "regressor")
SHARES = (0.75, 0.25)  # which are float32


def unit(row: Row) -> Row:
    return [v / math.sqrt(dot(row, row)) for v in row]


def make(data: TrainData, **settings: Any) -> Any:
    """A tiny method in float64; the weights of the terms are such that none is lost beside another."""
    config = {"hidden": 3, "latent": 2, "shares": SHARES, "contrast_weight": 1.7, "contrast_temperature": 0.5}
    return lively(GenZSL(data.meta, GenZSL.Config(**config, regression_weight=2.5, **settings), seeded(0)))


def slow_mixture(data: TrainData, y: int, numbers: Row, vectors: list[Row]) -> Row:
    """Of the images of the two seen classes most similar to ``y``, which ``numbers`` in [0, 1) choose."""
    others = [c for c in range(data.n_seen) if c != y]
    others.sort(key=lambda c: -dot(unit(vectors[y]), unit(vectors[c])))
    mixture = [0.0] * data.features.shape[1]
    for share, c, number in zip(SHARES, others[:2], numbers, strict=True):
        images = [x for x, label in zip(data.features.tolist(), data.labels.tolist(), strict=True) if label == c]
        chosen = images[int(number * len(images))]
        mixture = [m + share * v for m, v in zip(mixture, chosen, strict=True)]
    return mixture


def slow_induced(
    method: Any, data: TrainData, labels: list[int], drawn: tuple[Tensor, Tensor]
) -> tuple[list[Row], float]:
    """The features of unit norm that are generated for ``labels``, and the mean divergence of their codes."""
    vectors, features, divergence = data.attributes.tolist(), [], 0.0
    for y, numbers, noise in zip(labels, drawn[0].tolist(), drawn[1].tolist(), strict=True):
        gaussian = slow_encoding(method.encoder, slow_mixture(data, y, numbers, vectors) + vectors[y])
        divergence += slow_divergence(gaussian) / len(labels)
        features.append(unit(slow_generated(method.generator, slow_code(gaussian, noise), vectors[y])))
    return features, divergence


def draw(n: int, noise: torch.Generator, latent: int = 2) -> tuple[Tensor, Tensor]:
    """As the method draws: uniform numbers for the images of a mixture, then normal ones for codes."""
    return torch.rand(n, 2, generator=noise), torch.randn(n, latent, generator=noise, dtype=torch.float64)


def slow_contrast(features: list[Row], vectors: list[Row], labels: list[int], temperature: float) -> float:
    """Of every row against the rows of other classes, in both directions."""
    total, n = 0.0, len(labels)
    for i in range(n):
        against = [j for j in range(n) if j == i or labels[j] != labels[i]]
        for own, others in ((features[i], vectors), (vectors[i], features)):
            scores = {j: dot(unit(own), unit(others[j])) / temperature for j in against}
            total += (math.log(sum(math.exp(s) for s in scores.values())) - scores[i]) / (2 * n)
    return total


def slow_objective(
    method: Any, data: TrainData, batch: TrainData, drawn: tuple[Tensor, Tensor], with_loss: bool
) -> float:
    labels, real = batch.labels.tolist(), batch.features.tolist()
    fake, value = slow_induced(method, data, labels, drawn)
    for x, made in zip(real, fake, strict=True):
        value += sum((p - q) ** 2 for p, q in zip(made, x, strict=True)) / len(labels)
    vectors = [slow_layer(method.projection, data.attributes[y].tolist()) for y in labels]
    value += method.config.contrast_weight * slow_contrast(fake, vectors, labels, method.config.contrast_temperature)
    if with_loss:
        for side in (fake, real):
            predicted = [slow_layer(method.regressor, x) for x in side]
            value += method.config.regression_weight * slow_class_loss(predicted, batch)
    return value


@pytest.mark.parametrize("with_loss", [False, True])
def test_the_objective_and_its_gradient(with_loss: bool):
    data, batch = make_batch()
    method = make(data, lr=0.02)
    (found,), logged = descents_and_log(method, data, batch, own_slot(method, data, with_loss))
    drawn = draw(len(batch.labels), first_run().rng("noise"))
    found = found if with_loss else without(found, "regressor")
    held = NETWORKS if with_loss else NETWORKS[:-1]
    check_descent(method, found, partial(slow_objective, method, data, batch, drawn, with_loss), *held)
    assert set(logged) == {"error", "divergence", "contrast"}
    assert moved(method, data, batch, own_slot(method, data, with_loss)) == set(held)
    assert all(group["lr"] == 0.02 for group in found.optimizer.param_groups)


def test_generated_features_are_induced_from_images_of_similar_seen_classes():
    data, _ = make_batch()
    method = make(data)
    method.prepare(data, class_slot(data, None), first_run())
    labels = torch.tensor([0, 5, 4, 3, 3, 5, 1])
    found = method.generate(data.attributes[labels], seeded(7))
    expected, _ = slow_induced(method, data, labels.tolist(), draw(7, seeded(7)))
    assert found.tolist() == [pytest.approx(row, abs=1e-12) for row in expected]


@pytest.mark.parametrize("include_unseen", [False, True])
@pytest.mark.parametrize("named", [False, True])
def test_what_is_common_to_the_classes_is_taken_out(named: bool, include_unseen: bool):
    """E - s1 u1 v1^T by numpy, of the seen classes or of all; of names where there are vectors of them."""
    data = make_float64()
    vectors = torch.randn(len(data.attributes), 3, generator=seeded(1), dtype=torch.float64) + 2
    data = replace(data, class_vectors=vectors if named else None, features=data.features.float())
    config = GenZSL.Config(hidden=3, latent=2, include_unseen=include_unseen, epochs=1, n_generated=2)
    method = GenZSL(data.meta, config, seeded(0)).double()
    double = replace(data, features=data.features.double())
    method.train_gzsl_classifier = lambda *_: None  # type: ignore[method-assign]
    method.train_zsl_classifier = lambda *_: None  # type: ignore[method-assign]
    method.fit(double, class_slot(data, None), first_run())
    matrix = np.array([unit(row) for row in vectors.tolist()]) if named else data.attributes.numpy()
    u, s, v = np.linalg.svd(matrix if include_unseen else matrix[: data.n_seen])
    assert method.vectors.numpy() == pytest.approx(matrix - np.outer(matrix @ v[0], v[0]), abs=1e-12)
    if include_unseen:
        assert method.vectors.numpy() == pytest.approx(matrix - s[0] * np.outer(u[:, 0], v[0]), abs=1e-12)
    made = method.synthesise(data.attributes, data.unseen, seeded(2))
    assert torch.equal(made, method.generate(method.vectors[data.unseen], seeded(2)))


def test_it_needs_other_seen_classes_to_mix():
    data = make_float64(n_seen=2)
    with pytest.raises(Incompatible, match="mixes 2 other seen classes, and there are 2 in all"):
        GenZSL(data.meta, GenZSL.Config(), seeded(0))


@pytest.mark.parametrize("loss", [None, "remse"])
def test_unseen_classes_are_recognised(loss: str | None):
    settings = {"hidden": 32, "latent": 8, "lr": 3e-3}
    assert unseen_accuracy(GenZSL, loss, 40, "l2", **settings) > 0.7
