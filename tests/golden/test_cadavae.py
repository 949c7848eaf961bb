"""CADA-VAE's objective and gradient against loops from its formulas, its codes, and a short training on tiny data."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import torch
from torch import Tensor, nn

from benchmark.api import Slot, TrainData
from methods.generative.cadavae import CADAVAE, WarmUp, _grown, wasserstein
from tests.reference.descents import check_descent, descents
from tests.reference.generative import (
    Row,
    first_run,
    learning_loss,
    lively,
    make_batch,
    slow_divergence,
    slow_encoding,
    slow_mlp,
    unseen_accuracy,
)
from tests.reference.toy import class_slot, seeded, slot_for, slow_class_loss

NETWORKS = ("feature_encoder", "feature_decoder", "attribute_encoder", "attribute_decoder")


def hidden(n_units: int) -> dict[str, Any]:
    return {f"{network}_hidden": n_units for network in NETWORKS}


def make_method(data: TrainData, **settings: Any) -> Any:
    config: Any = {
        **hidden(3),
        "latent": 2,
        "cross_weight": 1.3,
        "divergence_weight": 0.7,
        "alignment_weight": 1.9,
        "cross_epochs": (1, 5),
        "divergence_epochs": (0, 4),
        "alignment_epochs": (2, 3),
        **settings,
    }
    return lively(CADAVAE(data.meta, CADAVAE.Config(**config), seeded(0)))


# The distance of Gaussians and the growth of weights ------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_the_distance_agrees_with_that_of_any_two_gaussians(seed: int):
    """Squared: |m - m'|^2 + tr(C + C' - 2 (C'^1/2 C C'^1/2)^1/2), for the covariances C and C'."""
    means, log_variances = torch.randn(2, 2, 4, 3, generator=seeded(seed), dtype=torch.float64)
    distances = []
    for i in range(4):
        first, second = (np.diag(np.exp(log_variances[k, i].numpy())) for k in range(2))
        root = scipy.linalg.sqrtm(second)
        between = np.trace(first + second - 2 * scipy.linalg.sqrtm(root @ first @ root))
        distances.append(math.sqrt((means[0, i] - means[1, i]).square().sum().item() + between))
    found = wasserstein((means[0], log_variances[0]), (means[1], log_variances[1]))
    assert found.item() == pytest.approx(sum(distances) / 4, rel=1e-10)


def test_alike_gaussians_have_no_distance_and_a_finite_gradient():
    parameters = [torch.ones(2, 3, requires_grad=True) for _ in range(4)]
    value = wasserstein((parameters[0], parameters[1]), (parameters[2], parameters[3]))
    value.backward()
    assert value.item() == pytest.approx(0, abs=1e-5)
    for parameter in parameters:
        assert parameter.grad is not None
        assert torch.equal(parameter.grad, torch.zeros(2, 3))


@pytest.mark.parametrize(
    ("epochs", "epoch", "share"),
    [
        ((6, 22), 1, 0.0),  # the epochs of a setting are counted from 0, those of training from 1
        ((6, 22), 7, 0.0),
        ((6, 22), 8, 1 / 16),
        ((6, 22), 15, 0.5),
        ((6, 22), 22, 15 / 16),
        ((6, 22), 23, 1.0),
        ((6, 22), 100, 1.0),
        ((0, 93), 1, 0.0),
        ((0, 93), 2, 1 / 93),
        ((0, 93), 94, 1.0),
    ],
)
def test_a_weight_grows_along_a_line(epochs: WarmUp, epoch: int, share: float):
    assert _grown(2.5, epochs, epoch) == pytest.approx(2.5 * share, abs=1e-15)


# The objective --------------------------------------------------------------------------------------------------------


def slow_code(method: Any, gaussian: tuple[Row, Row], noise: Row) -> Row:
    """``noise`` has a number for each dimension, or one for all."""
    scale = 1.0 if method.config.deviation == "exp" else 0.5
    numbers = noise if len(noise) > 1 else noise * len(gaussian[0])
    return [m + math.exp(scale * v) * e for m, v, e in zip(*gaussian, numbers, strict=True)]


def slow_distance(first: tuple[Row, Row], second: tuple[Row, Row]) -> float:
    of_means = sum((m - n) ** 2 for m, n in zip(first[0], second[0], strict=True))
    of_deviations = sum((math.exp(v / 2) - math.exp(w / 2)) ** 2 for v, w in zip(first[1], second[1], strict=True))
    return math.sqrt(of_means + of_deviations)


def slow_absolute(predicted: Row, target: Row) -> float:
    return sum(abs(p - t) for p, t in zip(predicted, target, strict=True))


def slow_objective(
    method: Any, batch: TrainData, noise: tuple[list[Row], list[Row]], weights: tuple[float, ...], weight: float | None
) -> float:
    """Schönfeld et al. 2019, eq. 3 to 7, with the ``weights`` of what is crossed, the divergences and the distance."""
    crossing, diverging, aligning = weights
    value, n_images = 0.0, len(batch.labels)
    predicted: tuple[list[Row], list[Row]] = [], []
    for x, a, e_x, e_a in zip(batch.features.tolist(), batch.targets.tolist(), *noise, strict=True):
        of_x, of_a = slow_encoding(method.feature_encoder, x), slow_encoding(method.attribute_encoder, a)
        z_x, z_a = slow_code(method, of_x, e_x), slow_code(method, of_a, e_a)
        own = slow_absolute(slow_mlp(method.feature_decoder, z_x), x)
        crossed = slow_absolute(slow_mlp(method.feature_decoder, z_a), x)
        own_attributes, crossed_attributes = (slow_mlp(method.attribute_decoder, z) for z in (z_a, z_x))
        predicted[0].append(own_attributes)
        predicted[1].append(crossed_attributes)
        if weight is None:
            own += slow_absolute(own_attributes, a)
            crossed += slow_absolute(crossed_attributes, a)
        value += own + crossing * crossed
        value += diverging * (slow_divergence(of_x) + slow_divergence(of_a)) + aligning * slow_distance(of_x, of_a)
    value /= n_images
    if weight is not None:
        own_loss, crossed_loss = (weight * slow_class_loss(rows, batch) for rows in predicted)
        value += own_loss + crossing * crossed_loss
    return value


def draw(n_rows: int, n_numbers: int = 1) -> tuple[list[Row], list[Row]]:
    """The noise of a batch: of the codes of features, then of those of attributes."""
    rng = first_run().rng("noise")
    of_x, of_a = (torch.randn(n_rows, n_numbers, generator=rng, dtype=torch.float64).tolist() for _ in range(2))
    return of_x, of_a


# The weights of what is crossed, of the divergences and of the distance, in shares of their own.
GROWTH = {1: (0, 0, 0), 3: (0.25, 0.5, 0), 4: (0.5, 0.75, 1), 9: (1, 1, 1)}


#: The settings of a code's noise, and how many numbers it is.
NOISES: Any = [("shared", 1), ("independent", 2)]
DEVIATIONS: Any = ["exp", "root"]


@pytest.mark.parametrize("deviation", DEVIATIONS)
@pytest.mark.parametrize(("noise", "n_numbers"), NOISES)
@pytest.mark.parametrize("epoch", GROWTH)
@pytest.mark.parametrize("weight", [None, 2.5])
def test_the_objective_and_its_gradient(weight: float | None, epoch: int, noise: str, n_numbers: int, deviation: str):
    data, batch = make_batch()
    method = make_method(data, noise=noise, deviation=deviation)
    slot = Slot(data.attributes, None, 4.0) if weight is None else class_slot(data, weight)
    (descent,) = descents(method, data, batch, slot, epoch)
    weights = tuple(whole * share for whole, share in zip((1.3, 0.7, 1.9), GROWTH[epoch], strict=True))
    check_descent(
        method, descent, partial(slow_objective, method, batch, draw(6, n_numbers), weights, weight), *NETWORKS
    )


def test_of_weight_0_a_loss_leaves_no_error_of_attributes():
    data, batch = make_batch()
    method = make_method(data)
    (descent,) = descents(method, data, batch, class_slot(data, 0.0), 9)
    expected = slow_objective(method, batch, draw(6), (1.3, 0.7, 1.9), 0.0)
    assert descent.value == pytest.approx(expected, rel=1e-10)
    for name, gradient in descent.gradients.items():
        assert not (name.startswith("attribute_decoder") and gradient.any())


def test_what_the_loss_learns_is_trained_with_the_networks():
    data, batch = make_batch()
    method = make_method(data)
    (descent,) = descents(method, data, batch, slot_for(method, data, learning_loss(data)), 9)
    assert descent.held == {*NETWORKS, "loss"}
    assert descent.gradients["loss.log_noise"].abs() > 1e-3


def test_the_optimiser_is_amsgrad():
    """One large gradient, then small ones, by which Adam's own second moment would fall again."""
    data, batch = make_batch()
    (descent,) = descents(make_method(data, lr=0.02), data, batch, class_slot(data, None), 1)
    first = descent.optimizer.param_groups[0]["params"][0]
    value, moment, square, largest = first[0, 0].item(), 0.0, 0.0, 0.0
    for t in range(1, 30):
        gradient = 1.0 if t == 1 else 0.01
        first.grad = torch.full_like(first, gradient)
        descent.optimizer.step()
        moment, square = 0.9 * moment + 0.1 * gradient, 0.999 * square + 0.001 * gradient**2
        largest = max(largest, square)
        value -= 0.02 * moment / (1 - 0.9**t) / (math.sqrt(largest / (1 - 0.999**t)) + 1e-8)
        assert first[0, 0].item() == pytest.approx(value, abs=1e-12)
    assert square < 0.99 * largest


# Codes ----------------------------------------------------------------------------------------------------------------


def test_images_are_scored_by_their_mean_code_and_regressed_from_it():
    data, batch = make_batch()
    method = make_method(data)
    codes = [slow_encoding(method.feature_encoder, x)[0] for x in batch.features.tolist()]
    assert method.represent(batch.features).tolist() == [pytest.approx(code, abs=1e-12) for code in codes]
    assert not CADAVAE.semantics_need_loss
    for weight in (None, 1.0):  # the published method regresses too
        descents(method, data, batch, class_slot(data, weight), 1)
        expected = [slow_mlp(method.attribute_decoder, code) for code in codes]
        assert method.semantics(batch.features).tolist() == [pytest.approx(row, abs=1e-12) for row in expected]


@pytest.mark.parametrize("deviation", DEVIATIONS)
@pytest.mark.parametrize(("name", "n_numbers"), NOISES)
def test_features_are_generated_from_codes_of_attributes(name: str, n_numbers: int, deviation: str):
    data, _ = make_batch()
    method = make_method(data, noise=name, deviation=deviation)
    noise = torch.randn(6, n_numbers, generator=seeded(3), dtype=torch.float64).tolist()
    expected = []
    for a, e in zip(data.attributes.tolist(), noise, strict=True):
        code = slow_code(method, slow_encoding(method.attribute_encoder, a), e)
        expected.append(pytest.approx(slow_mlp(method.feature_decoder, code), abs=1e-12))
    assert method.generate(data.attributes, seeded(3)).tolist() == expected


class TellingEncoder(nn.Module):
    """Gaussians around the inputs themselves, of deviation 2, so that a code tells what it was drawn for."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, torch.full_like(x, 2 * math.log(2))


@pytest.mark.parametrize(("setting", "of_noise"), [(("shared", "exp"), (4, 1)), (("independent", "root"), (2, 0))])
def test_the_classifier_is_trained_on_codes_as_many_for_each_seen_class_as_for_any_other(
    setting: tuple[str, str], of_noise: tuple[float, float]
):
    """Whatever its number of images; all of them are drawn from, equally often."""
    labels = torch.tensor([1, 2, 1, 1, 0, 2, 1, 1, 2, 1, 1])
    places = 1000.0 * torch.arange(len(labels))
    attributes = -1000.0 * torch.arange(1, 6)
    data = TrainData(places[:, None].repeat(1, 2), labels, attributes[:, None].repeat(1, 2), 3)
    noise, deviation = setting
    method = make_method(data, n_seen_codes=1400, n_generated=800, noise=noise, deviation=deviation).float()
    method.feature_encoder = method.attribute_encoder = TellingEncoder()
    codes, of = method.classifier_data(data, seeded(0))
    assert torch.bincount(of).tolist() == [1400, 1400, 1400, 800, 800]

    seen = of < 3
    drawn = (codes[seen] / 1000).round().long()
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    images = drawn[:, 0]
    assert torch.equal(labels[images], of[seen])
    for image, count in enumerate(torch.bincount(images, minlength=len(labels)).tolist()):
        share = 1400 / int((labels == labels[image]).sum())
        assert count == pytest.approx(share, abs=5 * math.sqrt(share) if labels[image] else 0)
    assert torch.equal((codes[~seen, 0] / -1000).round().long() - 1, of[~seen])

    spread, correlation = of_noise
    for left in (codes[seen] - 1000 * drawn, codes[~seen] + 1000 * (1 + of[~seen, None])):
        assert left.mean(0).tolist() == pytest.approx([0, 0], abs=0.3)
        assert left.std(0).tolist() == pytest.approx([spread, spread], rel=0.1)
        assert np.corrcoef(left.T.numpy())[0, 1] == pytest.approx(correlation, abs=0.2)


@pytest.mark.parametrize("loss_name", [None, "remse"])
def test_unseen_classes_are_recognised(loss_name: str | None):
    epochs: Any = {f"{term}_epochs": (0, 5) for term in ("cross", "divergence", "alignment")}
    weights = {"cross_weight": 1.0, "divergence_weight": 0.05, "alignment_weight": 1.0}
    settings = {**hidden(64), **epochs, **weights, "latent": 8, "lr": 0.01, "n_seen_codes": 20}
    assert unseen_accuracy(CADAVAE, loss_name, 20, preprocess="standard", **settings) > 0.5
