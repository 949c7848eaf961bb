"""DAP against scikit-learn's ridge, SciPy's optimiser for the logistic functions, and slow loops for its vote."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import torch
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch import Tensor

from benchmark.api import Incompatible, RegressionLoss, TrainData
from benchmark.engine.runs import RefitRun, SelectionRun
from losses import build
from methods import _least_squares
from methods.embedding.dap import DAP, platt
from tests.reference.least_squares import Floats, loss_for
from tests.reference.toy import CPU, FixedWeights, ToyLoss, make_float64, make_train, seeded, slot_for

RIDGES = [1e-3, 1.0, 30.0, 1e6]


def fit(data: TrainData, loss: RegressionLoss | None, ridge: float, **settings: Any) -> DAP:
    method = DAP(data.meta, DAP.Config(ridge=(ridge,), **settings), seeded(0))
    method.fit(data, slot_for(method, data, loss), RefitRun(CPU, 0, "toy", 1))
    return method


def mse() -> RegressionLoss:
    return build("mse", n_classes=6, n_attributes=4)


def new_images(n: int = 9) -> Tensor:
    return 2 * torch.randn(n, 5, generator=seeded(0, "new images"), dtype=torch.float64) + 1


def binary(data: TrainData) -> Floats:
    """(C, A) whether a class has an attribute: more of it than seen classes have on average."""
    a = data.attributes.numpy()
    return np.array([[float(v > a[: data.n_seen, m].mean()) for m, v in enumerate(row)] for row in a])


def logistic(outputs: Floats, labels: Floats) -> tuple[float, float]:
    """Platt's slope and intercept for one column by SciPy's trust region, in units in which that is well scaled."""
    positive, negative = labels.sum(), (1 - labels).sum()
    t = np.where(labels == 1, (positive + 1) / (positive + 2), 1 / (negative + 2))
    scale, centre = float(outputs.std()) or 1.0, float(outputs.mean())
    design = np.stack([(outputs - centre) / scale, np.ones_like(outputs)], axis=1)

    def cost(b: Floats) -> float:
        return float((np.logaddexp(0, design @ b) - t * (design @ b)).mean())

    def slope(b: Floats) -> Floats:
        return np.asarray(design.T @ (1 / (1 + np.exp(-design @ b)) - t)) / len(t)

    def curvature(b: Floats) -> Floats:
        p = 1 / (1 + np.exp(-design @ b))
        return np.asarray((design.T * (p * (1 - p))) @ design) / len(t)

    found = scipy.optimize.minimize(
        cost, np.zeros(2), jac=slope, hess=curvature, method="trust-exact", options={"gtol": 1e-10, "maxiter": 1000}
    )
    assert np.abs(found.jac).max() < 1e-7
    return float(found.x[0] / scale), float(found.x[1] - found.x[0] * centre / scale)


def log_sigmoid(x: float) -> float:
    return -math.log1p(math.exp(-x))


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("seed", range(3))
class TestRegressors:
    def test_with_mse_they_are_ridge_regressions_of_the_attributes(self, seed: int, ridge: float):
        data = make_float64(seed)
        expected = Ridge(alpha=ridge).fit(data.features.numpy(), data.targets.numpy())
        method, x = fit(data, mse(), ridge), new_images()
        assert np.allclose(method.regressors.weight.numpy(), expected.coef_.T, rtol=1e-8, atol=1e-13)
        assert np.allclose(method.semantics(x).numpy(), expected.predict(x.numpy()), rtol=1e-9)

    def test_without_a_loss_they_are_ridge_regressions_of_the_binary_attributes(self, seed: int, ridge: float):
        data = make_float64(seed)
        expected = Ridge(alpha=ridge).fit(data.features.numpy(), binary(data)[data.labels.numpy()])
        method = fit(data, None, ridge)
        assert np.allclose(method.regressors.weight.numpy(), expected.coef_.T, rtol=1e-8, atol=1e-13)
        bias = expected.intercept_ + data.features.mean(0).numpy() @ expected.coef_.T
        assert np.allclose(method.regressors.bias.numpy(), bias, rtol=1e-9)

    @pytest.mark.parametrize("spread", [0.1, 2.0])
    def test_any_element_weights(self, seed: int, ridge: float, spread: float, monkeypatch: pytest.MonkeyPatch):
        """A dense problem for each attribute, from the objective; the constant column is as dear as the others."""
        monkeypatch.setattr(_least_squares, "SOLVER_TOLERANCE", 1e-13)
        monkeypatch.setattr(_least_squares, "REWEIGHTING_TOLERANCE", 1e-12)
        data = make_float64(seed)
        weights = torch.exp(spread * torch.randn(40, 4, generator=seeded(seed, "weights"), dtype=torch.float64))
        x, t, w = data.features.numpy(), data.targets.numpy(), weights.numpy()
        design = np.concatenate([x - x.mean(0), np.ones((40, 1))], axis=1)
        wanted = new_images()
        method = fit(data, FixedWeights(weights), ridge)
        for m in range(4):
            root = np.sqrt(w[:, m])
            matrix = np.concatenate([root[:, None] * design, np.sqrt(ridge * w.mean()) * np.eye(6)])
            right = np.concatenate([root * (t[:, m] - t[:, m].mean()), np.zeros(6)])
            v = scipy.linalg.lstsq(matrix, right)[0]
            expected = (wanted.numpy() - x.mean(0)) @ v[:5] + v[5] + t[:, m].mean()
            assert np.allclose(method.semantics(wanted)[:, m].numpy(), expected, rtol=1e-7, atol=1e-9)

    def test_the_regression_weight_plays_no_role(self, seed: int, ridge: float):
        data = make_float64(seed)
        one, other = (fit(data, ToyLoss(6, 4, ToyLoss.Config()), ridge, regression_weight=w) for w in (0.1, 10))
        assert torch.equal(one.regressors.weight, other.regressors.weight)


def test_single_precision_is_as_good_as_it_can_be():
    double = make_float64()
    data = TrainData(double.features.float(), double.labels, double.attributes.float(), double.n_seen)
    expected = Ridge(alpha=0.5).fit(double.features.numpy(), double.targets.numpy()).predict(new_images().numpy())
    found = fit(data, mse(), 0.5).semantics(new_images().float())
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy(), expected, rtol=1e-5, atol=1e-6)


#: How outputs come about from labels: noisy, against the labels, hardly separated, and far apart; one image far out.
OUTPUTS = ["noise", "overlap", "inverse", "separable", "far apart", "outlier"]


def make_outputs(kind: str, labels: Floats, rng: np.random.Generator) -> Floats:
    noise = rng.standard_normal(labels.shape)
    outputs: Floats = {
        "noise": noise,
        "overlap": labels + noise,
        "inverse": 0.3 * noise - labels,
        "separable": labels + 0.1 * rng.uniform(-1, 1, labels.shape),
        "far apart": 1000 * labels + rng.uniform(-1, 1, labels.shape),
        "outlier": 0.1 * noise,
    }[kind]
    if kind == "outlier":
        outputs[0] = 30
    return outputs


class TestPlatt:
    @pytest.mark.parametrize("positive", [1, 2, 10, 30, 59])
    @pytest.mark.parametrize("kind", OUTPUTS)
    def test_is_the_maximum_of_the_likelihood(self, kind: str, positive: int):
        rng = np.random.default_rng(positive)
        labels = (np.arange(60)[:, None] < np.full(5, positive)).astype(float)
        outputs = make_outputs(kind, labels, rng)
        slope, intercept = platt(torch.from_numpy(outputs), torch.from_numpy(labels))
        for m in range(5):
            expected = logistic(outputs[:, m], labels[:, m])
            assert (float(slope[m]), float(intercept[m])) == pytest.approx(expected, rel=1e-4, abs=1e-4)

    def test_few_images_with_an_attribute_among_thousands(self):
        """As a ridge in many dimensions separates a rare attribute."""
        labels = torch.zeros(3000, 8, dtype=torch.float64)
        for m in range(8):
            labels[: m + 1, m] = 1
        outputs = torch.from_numpy(make_outputs("separable", labels.numpy(), np.random.default_rng(0)))
        slope, intercept = platt(outputs, labels)
        for m in range(8):
            expected = logistic(outputs[:, m].numpy(), labels[:, m].numpy())
            assert (float(slope[m]), float(intercept[m])) == pytest.approx(expected, rel=1e-3)

    @pytest.mark.parametrize("label", [0.0, 1.0])
    def test_labels_that_are_all_the_same(self, label: float):
        outputs = torch.randn(30, 3, generator=seeded(0), dtype=torch.float64)
        slope, intercept = platt(outputs, torch.full((30, 3), label, dtype=torch.float64))
        expected = 31 / 32 if label else 1 / 32
        assert torch.allclose(torch.sigmoid(slope * outputs + intercept), torch.tensor(expected, dtype=torch.float64))

    @pytest.mark.parametrize("value", [0.0, 0.1, -7.3e5])
    def test_outputs_that_are_all_the_same(self, value: float):
        """They tell nothing: every probability is the mean target."""
        labels = (torch.arange(30) < 10).double()[:, None].repeat(1, 2)
        labels[:, 1] = 0
        outputs = torch.full((30, 2), value, dtype=torch.float64)
        slope, intercept = platt(outputs, labels)
        found = torch.sigmoid(slope * outputs + intercept)
        expected = [(10 * 11 / 12 + 20 / 22) / 30, 1 / 32]
        assert torch.allclose(found, torch.tensor(expected, dtype=torch.float64).expand(30, 2))

    @examples(max_examples=50)
    @given(
        st.integers(0, 2**32), st.sampled_from(OUTPUTS), st.floats(0.02, 0.98), st.floats(0.01, 100), st.floats(-9, 9)
    )
    def test_follows_the_unit_and_the_order_of_outputs(
        self, seed: int, kind: str, share: float, factor: float, shift: float
    ):
        rng = np.random.default_rng(seed)
        labels = (rng.random((50, 3)) < share).astype(float)
        outputs, order = make_outputs(kind, labels, rng), rng.permutation(50)
        slope, intercept = platt(torch.from_numpy(outputs), torch.from_numpy(labels))
        assert slope.isfinite().all()
        assert intercept.isfinite().all()
        other, constant = platt(torch.from_numpy(factor * outputs + shift)[order], torch.from_numpy(labels)[order])
        assert torch.allclose(other * factor, slope, rtol=1e-4, atol=1e-4)
        assert torch.allclose(constant + other * shift, intercept, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("ridge", [0.1, 30.0])
@pytest.mark.parametrize("name", [None, "mse"])
@pytest.mark.parametrize("seed", range(2))
def test_scores_and_semantics_are_those_of_slow_loops(seed: int, name: str | None, ridge: float):
    """All from the data alone: scikit-learn's ridge, SciPy's logistic function, and one term after the other."""
    data, x, classes = make_float64(seed), new_images(), [7, 0, 3, 6]
    has, labels = binary(data), data.labels.numpy()
    targets = has[labels] if name is None else data.targets.numpy()
    ridge_regression = Ridge(alpha=ridge).fit(data.features.numpy(), targets)
    outputs, new = (ridge_regression.predict(m.numpy()) for m in (data.features, x))
    method = fit(data, None if name is None else mse(), ridge)
    expected, semantics = np.zeros((len(x), len(classes))), np.zeros((len(x), 4))
    for m in range(4):
        slope, intercept = logistic(outputs[:, m], has[labels, m])
        seen, having = data.attributes[: data.n_seen, m].tolist(), has[: data.n_seen, m]
        prior = sum(having) / len(having)
        assert 0 < prior < 1
        levels = [np.mean([v for v, h in zip(seen, having, strict=True) if h == b]) for b in (0, 1)]
        for i in range(len(x)):
            logit = slope * new[i, m] + intercept
            p = math.exp(log_sigmoid(logit))
            semantics[i, m] = (1 - p) * levels[0] + p * levels[1] if name is None else new[i, m]
            for j, c in enumerate(classes):
                if has[c, m]:
                    expected[i, j] += log_sigmoid(logit) - math.log(prior)
                else:
                    expected[i, j] += log_sigmoid(-logit) - math.log(1 - prior)
    assert np.allclose(method.scores(x, torch.tensor(classes)).numpy(), expected, atol=1e-4)
    assert np.allclose(method.semantics(x).numpy(), semantics, atol=1e-5)


def with_constant_columns() -> TrainData:
    """Two attributes that are the same for all seen classes: by rounding of the mean, one counts as had, one as not."""
    data = make_float64()
    values = torch.rand(500, generator=seeded(0, "values"), dtype=torch.float64)
    above = values > values.expand(6, -1).mean(0)
    data.attributes[:, 1], data.attributes[:, 2] = values[above][0], values[~above][0]
    data.attributes[6, 1] -= 0.3
    data.attributes[6, 2] += 0.3
    return data


@pytest.mark.parametrize("ridge", RIDGES)
@pytest.mark.parametrize("name", [None, "mse", "remse", "toy"])
def test_attributes_that_all_or_no_seen_classes_have(name: str | None, ridge: float):
    data = with_constant_columns()
    loss: RegressionLoss | None = ToyLoss(6, 4, ToyLoss.Config())
    if name != "toy":
        loss = None if name is None else build(name, n_classes=6, n_attributes=4)
    method, x = fit(data, loss, ridge), new_images()
    signatures, classes = method.signatures, torch.arange(8)
    assert signatures[:6, 1].all()
    assert not signatures[:6, 2].any()
    assert method.prior[[1, 2]].tolist() == [0.5, 0.5]
    scores = method.scores(x, classes)
    assert scores.isfinite().all()
    assert method.semantics(x).isfinite().all()
    # Every image has the one and not the other, as sure as Platt's targets let it be.
    logits = method._logits(x).sigmoid()
    assert torch.allclose(logits[:, 1], torch.tensor(41 / 42, dtype=torch.float64))
    assert torch.allclose(logits[:, 2], torch.tensor(1 / 42, dtype=torch.float64))
    if name in (None, "mse"):
        assert torch.allclose(method.semantics(x)[:, [1, 2]], data.attributes[0, [1, 2]])


def test_single_precision_scores_are_finite_where_the_classifiers_are_sure():
    data, _ = make_train()
    far = 1e4 * torch.randn(20, data.features.shape[1], generator=seeded(0, "far"))
    for loss in (None, build("mse", n_classes=data.n_seen, n_attributes=data.attributes.shape[1])):
        method = fit(data, loss, 1e-3)
        assert method.scores(far, torch.arange(len(data.attributes))).isfinite().all()


def gradient(data: TrainData, method: DAP, ridge: float, weights: Tensor) -> float:
    """The norm of the objective's gradient, with W held fixed, as a share of that at 0."""
    centred, mean = data.features - data.features.mean(0), data.targets.mean(0)

    def norm(v: Tensor, constant: Tensor) -> float:
        """At V's rows for the features, and that for the constant column, which is what is left of the bias."""
        parameters = [m.detach().clone().requires_grad_() for m in (v, constant)]
        v, constant = parameters
        error = (weights * (centred @ v + constant + mean - data.targets).square()).sum()
        slopes = torch.autograd.grad(
            error + ridge * weights.mean() * (v.square().sum() + constant.square().sum()), parameters
        )
        return math.sqrt(sum(float(slope.square().sum()) for slope in slopes))

    weight, bias = method.regressors.weight, method.regressors.bias
    return norm(weight, bias - mean) / norm(torch.zeros_like(weight), torch.zeros_like(bias))


class TestReweighting:
    @pytest.mark.parametrize("ridge", [0.1, 30.0])
    @pytest.mark.parametrize("name", ["remse", "mse-matched", "mae", "rmse", "focal", "lds"])
    def test_as_shipped_it_converges_or_says_that_it_did_not(self, name: str, ridge: float):
        data, run = make_float64(1, n=48), RefitRun(CPU, 0, "toy", 1)
        loss = loss_for(name, data)
        method = DAP(data.meta, DAP.Config(ridge=(ridge,)), seeded(0))
        method.fit(data, slot_for(method, data, loss), run)
        (row,) = run.history
        assert row.keys() == {"candidate", "ridge", "reweightings", "reweighting_residual"}
        own = loss.weights(method.semantics(data.features), data.targets, data.labels)
        assert own is not None
        left = gradient(data, method, ridge, own.double())
        assert row["reweighting_residual"] == pytest.approx(left, rel=1e-5, abs=1e-12)
        if left > _least_squares.REWEIGHTING_TOLERANCE:
            assert name == "mae"  # the weights of small absolute errors are large and change fast
            assert row["reweightings"] == _least_squares.REWEIGHTINGS

    def test_remse_is_another_solution_than_mse(self):
        data = make_float64(1, n=48)
        losses = (build(name, n_classes=6, n_attributes=4) for name in ("mse", "remse"))
        plain, rebalanced = (fit(data, loss, 1.0).regressors.weight for loss in losses)
        assert (plain - rebalanced).norm() > 1e-3 * plain.norm()

    def test_a_loss_without_weights_is_refused(self):
        with pytest.raises(Incompatible, match="no least-squares form"):
            fit(make_float64(), build("balanced-mse", n_classes=6, n_attributes=4), 1.0)


@pytest.mark.parametrize("name", [None, "mse", "toy"])
def test_the_order_of_images_and_semantics_does_not_matter(name: str | None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_least_squares, "SOLVER_TOLERANCE", 1e-12)
    data = make_float64()
    images, semantics = (torch.randperm(n, generator=seeded(0, "order")) for n in (40, 4))
    mixed = TrainData(data.features[images], data.labels[images], data.attributes[:, semantics], data.n_seen)
    losses = {None: None, "mse": mse(), "toy": ToyLoss(6, 4, ToyLoss.Config())}
    one, other = (fit(d, losses[name], 0.3) for d in (data, mixed))
    assert torch.allclose(one.regressors.weight[:, semantics], other.regressors.weight, rtol=1e-8, atol=1e-10)
    x, classes = new_images(), torch.arange(8)
    assert torch.allclose(one.scores(x, classes), other.scores(x, classes), atol=1e-6)
    assert torch.allclose(one.semantics(x)[:, semantics], other.semantics(x), atol=1e-7)


def test_every_ridge_is_tried_and_the_best_is_kept():
    data, held = make_train()
    candidates = (1.0, 100.0, 1e5)
    method, run = DAP(data.meta, DAP.Config(ridge=candidates), seeded(0)), SelectionRun(CPU, 0, "toy", held)
    method.fit(data, slot_for(method, data, None), run)
    assert [row["ridge"] for row in run.history] == list(candidates)
    best = max(range(3), key=lambda i: run.history[i]["held-out AUSUC"])  # the first of equals
    assert run.choice == best + 1
    expected = fit(data, None, candidates[best])
    classes = torch.arange(len(data.attributes))
    assert torch.equal(method.scores(data.features, classes), expected.scores(data.features, classes))


@pytest.mark.parametrize("ridge", [(0.0,), (-1.0,), ()])
def test_a_ridge_that_is_not_above_zero_is_refused(ridge: tuple[float, ...]):
    with pytest.raises(ValueError, match="ridge"):
        DAP.Config(ridge=ridge)
