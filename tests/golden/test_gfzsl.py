"""GFZSL's Gaussians, regressor and scores against SciPy, scikit-learn and dense solutions of its formulas."""

from __future__ import annotations

import gc
import itertools
import math
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.kernel_ridge import KernelRidge
from sklearn.linear_model import Ridge
from torch import Tensor

from benchmark.api import Incompatible, RegressionLoss, TrainData
from benchmark.engine.runs import RefitRun, SelectionRun
from losses import build
from methods import _least_squares
from methods.generative.gfzsl import GFZSL, log_likelihood
from tests.reference.least_squares import Floats
from tests.reference.toy import CPU, FixedWeights, ToyLoss, make_float64, make_split, make_train, seeded, slot_for


def fit(data: TrainData, loss: RegressionLoss | None, choice: int = 1, **settings: Any) -> Any:
    """Fitted with the candidate number ``choice``; settings that are one number are the only candidate."""
    ridges = {name: (value,) for name, value in settings.items() if "ridge" in name and isinstance(value, float)}
    method = GFZSL(data.meta, GFZSL.Config(**settings | ridges), seeded(0))
    method.fit(data, slot_for(method, data, loss), RefitRun(CPU, 0, "toy", choice))
    return method


def registered(name: str, data: TrainData, **parameters: Any) -> RegressionLoss:
    return build(name, n_classes=len(data.attributes), n_attributes=data.meta.n_attributes, **parameters).double()


def uneven() -> TrainData:
    """Classes of different numbers of images, in random order."""
    data = make_float64(n=60)
    kept = torch.tensor([i for i in range(60) if i % 6 > 2 or i < 30 or i % 6 == i % 5])
    kept = kept[torch.randperm(len(kept), generator=seeded(1))]
    data = TrainData(data.features[kept], data.labels[kept], data.attributes, data.n_seen)
    assert len(data.class_counts.unique()) > 1
    return data


# The Gaussians --------------------------------------------------------------------------------------------------------


def slow_log_densities(x: Tensor, means: Floats, variances: Floats) -> Floats:
    """(B, C), without the constant."""
    pairs = [multivariate_normal(m, np.diag(v)) for m, v in zip(means, variances, strict=True)]
    constant = 0.5 * x.shape[1] * math.log(2 * math.pi)
    return np.stack([pair.logpdf(x.numpy()) + constant for pair in pairs], axis=1)


@pytest.mark.parametrize("seed", range(3))
def test_the_log_likelihood_is_that_of_scipy_but_for_a_constant(seed: int):
    rng = seeded(seed)
    x, means = (torch.randn(n, 4, generator=rng, dtype=torch.float64) for n in (7, 3))
    variances = 0.1 + 2 * torch.rand(3, 4, generator=rng, dtype=torch.float64)
    expected = slow_log_densities(x, means.numpy(), variances.numpy())
    assert log_likelihood(x, means, variances).numpy() == pytest.approx(expected, abs=1e-9)


def slow_gaussians(data: TrainData, mean_ridge: float, variance_ridge: float, floor: float) -> tuple[Floats, Floats]:
    """Means and variances of all classes: measured by numpy, and predicted by scikit-learn."""
    x, y = data.features.numpy(), data.labels.numpy()
    means = np.stack([x[y == c].mean(0) for c in range(data.n_seen)])
    variances = np.stack([x[y == c].var(0) + floor for c in range(data.n_seen)])
    attributes = data.attributes.tolist()
    kernel = np.array(
        [[(1 + sum(p * q for p, q in zip(a, b, strict=True))) ** 2 for b in attributes] for a in attributes]
    )
    among, to_unseen = kernel[: data.n_seen, : data.n_seen], kernel[data.n_seen :, : data.n_seen]

    def predict(of_seen: Floats, ridge: float) -> Floats:
        return np.asarray(KernelRidge(alpha=ridge, kernel="precomputed").fit(among, of_seen).predict(to_unseen))

    unseen_variances = np.exp(predict(np.log(variances), variance_ridge))
    return np.concatenate([means, predict(means, mean_ridge)]), np.concatenate([variances, unseen_variances])


@pytest.mark.parametrize(("mean_ridge", "variance_ridge", "floor"), [(0.3, 2.0, 0.05), (20.0, 0.5, 0.7)])
def test_parameters_are_measured_for_seen_classes_and_predicted_for_unseen_ones(
    mean_ridge: float, variance_ridge: float, floor: float
):
    data = uneven()
    method = fit(data, None, mean_ridge=mean_ridge, variance_ridge=variance_ridge, variance_floor=floor)
    means, variances = slow_gaussians(data, mean_ridge, variance_ridge, floor)
    assert method.means.numpy() == pytest.approx(means, rel=1e-9, abs=1e-9)
    assert method.variances.numpy() == pytest.approx(variances, rel=1e-9)
    assert np.abs(variances[data.n_seen :] - 1).min() > 1e-3


def test_the_largest_variance_ridge_makes_predicted_variances_1():
    method = fit(make_float64(), None, variance_ridge=GFZSL.Config().variance_ridge[-1])
    assert method.variances[6:].numpy() == pytest.approx(np.ones((2, 5)), abs=1e-5)
    assert (method.variances[:6] - 1).abs().max() > 0.1


def test_a_feature_that_is_constant_in_a_class_has_the_floor_as_its_variance():
    data = make_float64()
    data.features[data.labels == 2, 3] = 7.0
    method = fit(data, None, variance_floor=0.2)
    assert method.variances[2, 3].item() == pytest.approx(0.2, abs=1e-12)


# The regressor --------------------------------------------------------------------------------------------------------


def residual_variances(method: Any, data: TrainData) -> Floats:
    residuals = method.semantics(data.features).numpy() - data.targets.numpy()
    return np.asarray((residuals**2).mean(0))


@pytest.mark.parametrize("ridge", [1e-3, 1.0, 50.0])
@pytest.mark.parametrize("normalize", [True, False])
def test_with_constant_weights_it_is_ridge_regression_with_a_free_intercept(ridge: float, normalize: bool):
    data = uneven()
    method = fit(data, registered("mse", data, normalize=normalize), regression_ridge=ridge)
    reference = Ridge(alpha=ridge).fit(data.features.numpy(), data.targets.numpy())
    x = torch.randn(9, 5, generator=seeded(4), dtype=torch.float64)
    assert method.semantics(x).numpy() == pytest.approx(reference.predict(x.numpy()), abs=1e-9)
    assert method.residual_variances.numpy() == pytest.approx(residual_variances(method, data), rel=1e-9)


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weighted problems are solved to rounding."""
    monkeypatch.setattr(_least_squares, "REWEIGHTING_TOLERANCE", 0.0)
    monkeypatch.setattr(_least_squares, "SOLVER_TOLERANCE", 1e-12)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize("ridge", [0.01, 10.0])
def test_with_other_weights_it_is_a_weighted_one_whose_intercept_is_drawn_to_the_mean(ridge: float):
    """For each semantic k: sum_i W_ik (x_i w + b + mean t_k - t_ik)^2 + ridge mean(W) (|w|^2 + b^2), x centred."""
    data = uneven()
    weights = 0.2 + 3 * torch.rand(data.targets.shape, generator=seeded(2), dtype=torch.float64)
    method = fit(data, FixedWeights(weights), regression_ridge=ridge)
    x, t = data.features.numpy(), data.targets.numpy()
    design = np.hstack([x - x.mean(0), np.ones((len(x), 1))])
    test = torch.randn(9, 5, generator=seeded(4), dtype=torch.float64)
    for k in range(t.shape[1]):
        weighted = weights[:, k, None].numpy() * design
        left = weighted.T @ design + ridge * weights.mean().item() * np.eye(design.shape[1])
        solution = np.linalg.solve(left, weighted.T @ (t[:, k] - t[:, k].mean()))
        expected = (test.numpy() - x.mean(0)) @ solution[:-1] + solution[-1] + t[:, k].mean()
        assert method.semantics(test)[:, k].numpy() == pytest.approx(expected, abs=1e-8)
    assert method.residual_variances.numpy() == pytest.approx(residual_variances(method, data), rel=1e-9)


def test_remse_regresses_otherwise_than_mse_and_leaves_the_gaussians_as_they_are():
    data = uneven()
    plain, rebalanced = (fit(data, registered(name, data)) for name in ("mse", "remse"))
    assert (plain.semantics(data.features) - rebalanced.semantics(data.features)).abs().max() > 1e-3
    assert torch.equal(plain.means, rebalanced.means)
    assert torch.equal(plain.variances, rebalanced.variances)


def test_a_loss_without_a_least_squares_form_is_refused():
    data = make_float64()
    with pytest.raises(Incompatible, match="least-squares"):
        fit(data, registered("balanced-mse", data))


# The scores -----------------------------------------------------------------------------------------------------------


def test_scores_are_log_likelihoods_of_features_and_with_a_loss_also_of_semantics():
    data, floor = uneven(), 0.05
    x, classes = 2 * torch.randn(9, 5, generator=seeded(4), dtype=torch.float64), torch.tensor([7, 0, 4, 6])
    settings = {"mean_ridge": 0.3, "variance_ridge": 2.0, "variance_floor": floor, "regression_ridge": 1.0}
    means, variances = slow_gaussians(data, 0.3, 2.0, floor)
    of_features = slow_log_densities(x, means[classes], variances[classes])
    assert fit(data, None, **settings).scores(x, classes).numpy() == pytest.approx(of_features, abs=1e-8)

    method = fit(data, registered("mse", data), **settings, regression_weight=2.5)
    attributes = data.attributes[classes].numpy()
    spread = np.tile(residual_variances(method, data), (4, 1))
    of_semantics = slow_log_densities(method.semantics(x), attributes, spread)
    expected = of_features + 2.5 * of_semantics
    assert method.scores(x, classes).numpy() == pytest.approx(expected, rel=1e-9)
    # The second part moves classes against each other.
    assert (np.argsort(expected, axis=1) != np.argsort(of_features, axis=1)).any()


def test_a_regression_weight_of_0_scores_as_no_loss():
    data, classes = make_float64(), torch.arange(8)
    none, zero = fit(data, None), fit(data, ToyLoss(8, 4, ToyLoss.Config()), regression_weight=0.0)
    assert torch.equal(none.scores(data.features, classes), zero.scores(data.features, classes))
    assert GFZSL.semantics_need_loss
    assert (zero.semantics(data.features) - data.targets).square().mean() < data.targets.var()


# The choice of the ridges ---------------------------------------------------------------------------------------------

CANDIDATES = {"mean_ridge": (0.01, 1.0), "variance_ridge": (1.0, 30.0), "regression_ridge": (1e-3, 1.0, 100.0)}


@pytest.mark.parametrize("loss_name", [None, "mse"])
def test_every_combination_is_tried_and_the_selected_one_stays(loss_name: str | None):
    data, held = make_train(make_split(noise=0.4))
    loss = registered(loss_name, data).float() if loss_name else None
    run = SelectionRun(CPU, 0, "toy", held)
    method = GFZSL(data.meta, GFZSL.Config(**CANDIDATES), seeded(0))
    method.fit(data, slot_for(method, data, loss), run)
    names = list(CANDIDATES)[: 3 if loss else 2]
    options = list(itertools.product(*(CANDIDATES[name] for name in names)))
    assert sorted(tuple(row[name] for name in names) for row in run.history) == sorted(options)

    scored = [row["held-out AUSUC"] for row in run.history]
    assert scored[run.choice - 1] == max(scored) > min(scored)
    best: Any = {name: run.history[run.choice - 1][name] for name in names}
    alone, again = fit(data, loss, **best), fit(data, loss, run.choice, **CANDIDATES)
    for name, found in method.state_dict().items():
        assert torch.equal(found, alone.state_dict()[name]), name
        assert torch.equal(found, again.state_dict()[name]), name


@pytest.mark.parametrize("loss_name", [None, "mse", "remse"])
def test_nothing_of_the_size_of_the_training_set_outlives_a_fit(loss_name: str | None):
    """What a fit computes of each image, in double precision, is gone after it, though ridges were remembered."""
    data, _ = make_train(make_split(per_class=23))
    loss = registered(loss_name, data).float() if loss_name else None

    def left() -> int:
        gc.collect()
        tensors = (thing for thing in gc.get_objects() if type(thing) is Tensor)
        return sum(t.dtype == torch.float64 and len(data.labels) in t.shape for t in tensors)

    before, methods = left(), []
    for _ in range(3):
        methods.append(GFZSL(data.meta, GFZSL.Config(**CANDIDATES), seeded(0)))
        methods[-1].fit(data, slot_for(methods[-1], data, loss), RefitRun(CPU, 0, "toy", 12))
    assert left() == before


def test_no_random_number_is_drawn():
    data, rng = make_float64(), seeded(0)
    before, globally, run = rng.get_state(), torch.get_rng_state(), RefitRun(CPU, 0, "toy", 1)
    method = GFZSL(data.meta, GFZSL.Config(), rng).double()
    method.fit(data, slot_for(method, data, registered("remse", data)), run)
    assert not run.drew
    assert torch.equal(rng.get_state(), before)
    assert torch.equal(torch.get_rng_state(), globally)


# Gaussian data --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss_name", [None, "remse"])
def test_unseen_classes_are_recognised(loss_name: str | None):
    split = make_split(3, n_seen=24, n_unseen=4, n_attributes=4, per_class=20, noise=0.05)
    data, held = make_train(split)
    method = fit(data, registered(loss_name, data, window="running") if loss_name else None)
    predicted = method.scores(held.unseen_features, data.unseen).argmax(1) + data.n_seen
    assert (predicted == held.unseen_labels).double().mean() > 0.9  # chance: 0.25


def test_classes_of_the_same_mean_are_told_by_their_variances():
    labels = torch.arange(400) % 2
    deviations = torch.tensor([[0.3, 3.0], [3.0, 0.3]], dtype=torch.float64)
    features = deviations[labels] * torch.randn(400, 2, generator=seeded(0), dtype=torch.float64)
    train, test = slice(200), slice(200, None)
    data = TrainData(features[train], labels[train], torch.eye(3, dtype=torch.float64), 2)
    predicted = fit(data, None).scores(features[test], data.seen).argmax(1)
    assert (predicted == labels[test]).double().mean() > 0.9
