"""Generated features of classes whose images the generator has not seen have the statistics of the real ones.

Two yardsticks know attributes alone: ridge regression from attributes to mean features, which makes one point of each
class, and the real images of the training class with the nearest attributes. Ridge predicts means better than most
generators do; the spread around them, which a classifier lives on, it cannot give.
"""

from __future__ import annotations

import functools

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from benchmark.api import TrainData
from benchmark.engine.plan import Cell
from benchmark.engine.protocol import HeldOut, facts, held_out, train_data
from benchmark.engine.runs import RefitRun
from benchmark.engine.settings import make_spec
from benchmark.registries import DATASETS, METHODS
from benchmark.toolkit.stages import validation_stage
from methods.generative._synthesis import GenerativeMethod
from tests.reference.class_means import fitted, means_by_ridge

CPU = torch.device("cpu")
GENERATORS = [entry.name for entry in METHODS if issubclass(entry.obj, GenerativeMethod)]
#: CADA-VAE's features are a by-product of its codes, and come later.
EPOCHS = {"cadavae": 24}


def root(matrix: Tensor) -> Tensor:
    """The symmetric square root of a positive semi-definite matrix, which may be singular."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp_min(0).sqrt()) @ vectors.T


def frechet(a: Tensor, b: Tensor) -> tuple[float, float]:
    """Squared Fréchet distance of Gaussians with the moments of (N, D) and (M, D) features, as the sum of two parts.

    That of the means and that of the covariances. Source: Dowson & Landau, J. Multivariate Analysis 12, 1982.
    """
    a, b = a.double(), b.double()
    of_a, of_b = (x.T.cov() for x in (a, b))
    half = root(of_a)
    spread = (of_a + of_b).trace() - 2 * root(half @ of_b @ half).trace()
    return float((a.mean(0) - b.mean(0)).square().sum()), float(spread)


def test_the_distance_of_a_shifted_and_scaled_gaussian():
    """N(0, 1) and N(m, s^2) in each of two independent dimensions: sum of m^2, and of (1 - s)^2."""
    x = torch.randn(200_000, 2, generator=torch.Generator().manual_seed(0))
    other = x * torch.tensor([2.0, 1.0]) + torch.tensor([0.0, 3.0])
    assert frechet(x, other) == pytest.approx((9.0, 1.0), rel=0.02)
    assert frechet(x, x) == pytest.approx((0.0, 0.0), abs=1e-6)


@functools.cache
def seen_and_held_out(preprocess: str) -> tuple[TrainData, HeldOut]:
    """The training classes of awa2-sim's validation stage, and its validation classes, which are seen classes too."""
    split = DATASETS.resolve("awa2-sim", {}, None).load()
    stage = validation_stage(split, "awa2-sim")
    data, transform = train_data(split, stage, preprocess, CPU)
    return data, held_out(split, stage, transform, CPU)


def distances(classes: list[Tensor], held: HeldOut) -> tuple[float, float]:
    """Mean over the held-out classes of both parts of the distance to their real features."""
    first = held.n_seen
    parts = [frechet(x, held.unseen_features[held.unseen_labels == first + i]) for i, x in enumerate(classes)]
    return sum(mean for mean, _ in parts) / len(parts), sum(spread for _, spread in parts) / len(parts)


def points_by_ridge(data: TrainData) -> list[Tensor]:
    """Twice the same point for each held-out class."""
    return [point.expand(2, -1) for point in means_by_ridge(data)[data.n_seen :]]


def images_of_nearest(data: TrainData) -> list[Tensor]:
    attributes = normalize(data.attributes)
    nearest = (attributes[data.unseen] @ attributes[: data.n_seen].T).argmax(1)
    return [data.features[data.labels == c] for c in nearest]


@pytest.mark.parametrize("name", GENERATORS)
def test_generated_features_are_nearer_to_the_real_ones_than_attributes_alone(name: str):
    epochs = EPOCHS.get(name, 12)
    source = DATASETS.resolve("awa2-sim", {}, None)
    cell = Cell(make_spec(name, {"epochs": epochs}, ("mse", {}), source, {}, "proposed", "strict"), (0,), None, "cpu")
    data, held = seen_and_held_out(cell.method_config(facts(source.load())).preprocess)
    method = fitted(cell, data, RefitRun(CPU, 0, "", epochs))
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        generated = [
            method.generate(method.conditions(data.attributes[[c] * 200]), noise) for c in data.unseen.tolist()
        ]
    mean, spread = distances(generated, held)
    assert mean + spread < sum(distances(images_of_nearest(data), held))
    assert spread < distances(points_by_ridge(data), held)[1]
