"""The losses that rival explanations of ReMSE make, against loops written from their formulas, in float64."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from benchmark.api import RegressionLoss
from losses import build
from losses.balanced_mse import BalancedMSE
from losses.group_dro import GroupDRO
from losses.uncertainty import LARGEST_WEIGHT, Uncertainty
from tests.reference.generative import normal, slopes
from tests.reference.toy import seeded

B, C, A = 7, 5, 4
LABELS = torch.tensor([0, 1, 1, 2, 2, 2, 0])
COUNTS = torch.tensor([3, 1, 4, 0, 2])  # class 3 is unseen
Rows = list[list[float]]

normalized_or_not = pytest.mark.parametrize("normalize", [True, False])


def attributes() -> Tensor:
    return torch.rand(C, A, generator=seeded(0, "attributes"), dtype=torch.float64)


def batch(seed: int = 0, labels: Tensor = LABELS) -> tuple[Tensor, Tensor, Tensor]:
    """(B, A) predictions and targets, and their labels; classes 3 and 4 are absent unless ``labels`` say otherwise."""
    target = attributes()[labels]
    return (target + 0.3 * normal(seed, *target.shape)).requires_grad_(), target, labels


def ready(name: str, **settings: Any) -> RegressionLoss:
    loss = build(name, n_classes=C, n_attributes=A, **settings).double()
    loss.prepare(attributes(), COUNTS)
    return loss


def rows(x: Tensor, normalize: bool) -> Rows:
    found = x.detach().tolist()
    return [[v / (math.hypot(*row) + 1e-10) for v in row] for row in found] if normalize else found


def slow_errors(predicted: Tensor, target: Tensor, normalize: bool) -> Rows:
    pairs = zip(rows(predicted, normalize), rows(target, normalize), strict=True)
    return [[p - t for p, t in zip(*pair, strict=True)] for pair in pairs]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


def weighted(weights: Rows, errors: Rows) -> float:
    return mean([w * e * e for pair in zip(weights, errors, strict=True) for w, e in zip(*pair, strict=True)])


def mean_one(weights: Rows) -> Rows:
    of_all = mean([w for row in weights for w in row])
    return [[w / of_all for w in row] for row in weights]


def check(loss: RegressionLoss, weights: Rows, seed: int = 0, labels: Tensor = LABELS) -> None:
    """Value, weights and gradient of a loss in which the ``weights`` of squared errors are constants."""
    predicted, target, labels = batch(seed, labels)
    found = loss.weights(predicted, target, labels)
    assert found is not None
    assert not found.requires_grad
    expected = torch.tensor(weights, dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    value = loss(predicted, target, labels)
    value.backward()
    values, normalize = predicted.detach().clone(), loss.config.normalize

    def slow() -> float:
        return weighted(weights, slow_errors(values, target, normalize))

    assert value.item() == pytest.approx(slow(), rel=1e-12)
    torch.testing.assert_close(predicted.grad, slopes(values, slow), rtol=0, atol=1e-8)


# Self-weighted.


def own_weights(errors: Rows) -> Rows:
    return [[len(row) * abs(e) / math.hypot(*row) for e in row] for row in errors]


@normalized_or_not
@pytest.mark.parametrize("scale", ["raw", "mean_one"])
class TestSelfWeighted:
    def test_the_gradient_flows_through_its_weights_and_not_through_their_mean(self, scale: str, normalize: bool):
        loss = ready("self-weighted", scale=scale, normalize=normalize)
        predicted, target, labels = batch()
        value = loss(predicted, target, labels)
        value.backward()
        values = predicted.detach().clone()
        of_all = [w for row in own_weights(slow_errors(values, target, normalize)) for w in row]
        divisor = mean(of_all) if scale == "mean_one" else 1.0

        def slow() -> float:
            errors = slow_errors(values, target, normalize)
            return mean([sum(abs(e) ** 3 for e in row) / math.hypot(*row) for row in errors]) / divisor

        assert value.item() == pytest.approx(slow(), rel=1e-12)
        torch.testing.assert_close(predicted.grad, slopes(values, slow), rtol=0, atol=1e-8)
        assert loss.weights(predicted, target, labels) is None

    def test_detached_its_weights_are_constants(self, scale: str, normalize: bool):
        weights = own_weights(slow_errors(*batch()[:2], normalize))
        expected = mean_one(weights) if scale == "mean_one" else weights
        check(ready("self-weighted", detach=True, scale=scale, normalize=normalize), expected)


def test_self_weighted_pushes_small_errors_away_from_zero_unless_detached():
    error = torch.tensor([[0.1, 1.0, -1.0, 1.0]], dtype=torch.float64)
    for detach, sign in ((False, -1), (True, 1)):
        predicted = error.clone().requires_grad_()
        loss = ready("self-weighted", detach=detach, normalize=False)
        loss(predicted, torch.zeros_like(error), LABELS[:1]).backward()
        assert predicted.grad is not None
        assert (predicted.grad * error).sign().tolist() == [[sign, 1, 1, 1]]


def test_of_normal_errors_it_is_so_many_times_mse():
    error = normal(0, 400, 312)
    loss = build("self-weighted", n_classes=1, n_attributes=312, normalize=False)
    value = loss(error, torch.zeros_like(error), torch.zeros(400).long()) / error.square().mean()
    assert value.item() == pytest.approx(math.sqrt(8 / math.pi * 312), rel=0.02)


# Group DRO.


class SlowGroupDRO:
    """The weights of successive batches; ``average`` and ``logs`` map each group seen so far to M_g and log q_g."""

    def __init__(self, groups: str, update: str, eta: float, momentum: float) -> None:
        self.groups, self.update, self.eta, self.momentum = groups, update, eta, momentum
        self.average: dict[int, float] = {}
        self.logs: dict[int, float] = {}

    def step(self, errors: Rows, labels: list[int]) -> Rows:
        losses: dict[int, float] = {}
        for g in set(labels) if self.groups == "classes" else range(A):
            mine = [
                e * e
                for row, label in zip(errors, labels, strict=True)
                for k, e in enumerate(row)
                if g == (label if self.groups == "classes" else k)
            ]
            losses[g] = mean(mine)
            old = self.average.get(g, losses[g])
            self.average[g] = self.momentum * old + (1 - self.momentum) * losses[g]
        of_all = mean(list(self.average.values()))
        for g, loss in losses.items():
            self.logs[g] = self.logs.get(g, 0.0) + self.eta * loss / of_all
        tilt = self.update == "tilt"
        raw = {g: math.exp(self.eta * self.average[g] / of_all if tilt else self.logs[g]) for g in losses}
        shares = {g: q / sum(raw.values()) for g, q in raw.items()}
        if self.groups == "semantics":
            return [[A * shares[k] for k in range(A)] for _ in labels]
        return [[shares[y] * len(labels) / labels.count(y)] * A for y in labels]


@normalized_or_not
@pytest.mark.parametrize("groups", ["classes", "semantics"])
@pytest.mark.parametrize(("update", "eta"), [("tilt", 1.0), ("tilt", 0.0), ("exponentiated", 0.3)])
def test_group_dro(groups: str, update: str, eta: float, normalize: bool):
    settings: dict[str, Any] = {"groups": groups, "update": update, "eta": eta, "momentum": 0.7}
    loss, slow = ready("group-dro", normalize=normalize, **settings), SlowGroupDRO(**settings)
    for seed, labels in enumerate([LABELS, LABELS[:4], torch.tensor([4, 4, 0, 2]), torch.tensor([3]), LABELS]):
        weights = slow.step(slow_errors(*batch(seed, labels)[:2], normalize), labels.tolist())
        assert mean([w for row in weights for w in row]) == pytest.approx(1)
        check(loss, weights, seed, labels)


def test_group_dro_of_one_gives_all_classes_the_same_with_eta_0():
    """Whatever their number of images: the loss is the mean over classes of their mean errors."""
    predicted, target, labels = batch()
    squared = (predicted - target).square().mean(1)
    expected = torch.stack([squared[labels == c].mean() for c in range(3)]).mean()
    found = ready("group-dro", eta=0.0, normalize=False)(predicted, target, labels)
    assert found.item() == pytest.approx(expected.item())


def test_group_dro_keeps_nothing_in_eval_mode_nor_for_weights():
    loss = ready("group-dro", update="exponentiated")
    assert isinstance(loss, GroupDRO)
    loss(*batch(0))
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    loss.weights(*batch(1))
    loss.eval()(*batch(2))
    assert all(torch.equal(before[name], value) for name, value in loss.state_dict().items())
    loss.train()(*batch(3))
    assert not torch.equal(before["average"], loss.average)


# Uncertainty.


def semantic_losses(errors: Rows) -> list[float]:
    return [mean([row[k] ** 2 for row in errors]) for k in range(A)]


def slow_uncertainty(log_variance: list[float]) -> Rows:
    """Weights of ``mean_one``."""
    middle = mean(log_variance)
    relative = [min(max(math.exp(middle - s), 1 / LARGEST_WEIGHT), LARGEST_WEIGHT) for s in log_variance]
    return mean_one([relative])


@normalized_or_not
class TestUncertainty:
    def test_before_training_a_semantic_counts_by_its_own_error(self, normalize: bool):
        logs = [math.log(loss) for loss in semantic_losses(slow_errors(*batch()[:2], normalize))]
        check(ready("uncertainty", normalize=normalize), slow_uncertainty(logs) * B)
        expected = torch.tensor([[math.exp(-s) / 2 for s in logs]] * B, dtype=torch.float64)
        found = ready("uncertainty", normalize=normalize, scale="raw").weights(*batch())
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)

    def test_what_it_has_learnt_counts_later(self, normalize: bool):
        loss = self.trained(normalize)
        assert isinstance(loss, Uncertainty)
        check(loss, slow_uncertainty(loss.log_variance.tolist()) * B, seed=1)

    def test_variances_have_the_published_gradient(self, normalize: bool):
        loss = self.trained(normalize)
        assert isinstance(loss, Uncertainty)
        losses = semantic_losses(slow_errors(*batch(1)[:2], normalize))
        loss(*batch(1)).backward()
        expected = [(1 - error * math.exp(-s)) / 2 for error, s in zip(losses, loss.log_variance.tolist(), strict=True)]
        assert loss.log_variance.grad is not None
        assert loss.log_variance.grad.tolist() == pytest.approx(expected, abs=1e-12)

    def test_raw_is_the_published_formula(self, normalize: bool):
        loss = self.trained(normalize, scale="raw")
        assert isinstance(loss, Uncertainty)
        predicted, target, labels = batch(1)
        value = loss(predicted, target, labels)
        value.backward()
        values, logs = predicted.detach().clone(), loss.log_variance.detach().clone()

        def slow() -> float:
            losses = semantic_losses(slow_errors(values, target, normalize))
            return mean([e / (2 * math.exp(s)) + s / 2 for e, s in zip(losses, logs.tolist(), strict=True)])

        assert value.item() == pytest.approx(slow(), rel=1e-12)
        torch.testing.assert_close(predicted.grad, slopes(values, slow), rtol=0, atol=1e-7)
        torch.testing.assert_close(loss.log_variance.grad, slopes(logs, slow), rtol=0, atol=1e-8)

    def trained(self, normalize: bool, **settings: Any) -> RegressionLoss:
        """A loss whose variances have left their start."""
        loss = ready("uncertainty", normalize=normalize, **settings)
        loss(*batch())
        for parameter in loss.parameters():
            parameter.data += torch.tensor([0.3, -0.2, 0.5, 0.0])
        return loss


def test_a_semantic_without_error_does_not_take_all_the_weight():
    predicted, target, labels = batch()
    predicted = torch.cat([target[:, :1], predicted[:, 1:]], dim=1)
    weights = ready("uncertainty", normalize=False).weights(predicted, target, labels)
    assert weights is not None
    assert weights[0, 0] <= A
    assert weights[0, 1:].min() >= 1 / LARGEST_WEIGHT**2


def test_uncertainty_has_a_learning_rate_of_its_own():
    loss = ready("uncertainty", variance_lr=0.2)
    assert isinstance(loss, Uncertainty)
    (group,) = loss.parameter_groups()
    assert group == {"params": [loss.log_variance], "lr": 0.2, "weight_decay": 0.0}


# Standardised.


@normalized_or_not
@pytest.mark.parametrize("scale", ["raw", "mean_one"])
@pytest.mark.parametrize("eps", [0.1, 1e-3])
def test_standardised(eps: float, scale: str, normalize: bool):
    values, counts = rows(attributes(), normalize), COUNTS.tolist()
    images = [row for row, n in zip(values, counts, strict=True) for _ in range(n)]
    centre = [mean([row[k] for row in images]) for k in range(A)]
    variances = [mean([(row[k] - centre[k]) ** 2 for row in images]) for k in range(A)]
    weights = [[1 / (v + eps * mean(variances)) for v in variances]]
    loss = ready("standardised", eps=eps, scale=scale, normalize=normalize)
    check(loss, (mean_one(weights) if scale == "mean_one" else weights) * B)


@pytest.mark.parametrize("scale", ["raw", "mean_one"])
def test_standardised_bounds_the_weight_of_constant_semantics(scale: str):
    constant = attributes().index_fill_(1, torch.tensor([1]), 0.5)
    loss = build("standardised", n_classes=C, n_attributes=A, normalize=False, scale=scale)
    loss.prepare(constant, COUNTS)
    weights = loss.weights(constant, constant, torch.arange(C))
    assert weights is not None
    assert weights.argmax(1).tolist() == [1] * C
    assert (weights[0, 1] / weights[0].min()).item() < 60
    loss.prepare(torch.ones(C, A, dtype=torch.float64), COUNTS)
    weights = loss.weights(constant, constant, torch.arange(C))
    torch.testing.assert_close(weights, torch.ones(C, A, dtype=torch.float64))


# Balanced MSE with the prior of the training set.


def slow_balanced(predicted: Rows, classes: Rows, labels: list[int], noise: float, per: str) -> float:
    """The bracket of the formula, without 2 s^2 / A."""
    counts = COUNTS.tolist()
    semantics = [range(A)] if per == "image" else [range(k, k + 1) for k in range(A)]
    total = 0.0
    for row, y in zip(predicted, labels, strict=True):
        for part in semantics:
            distances = [sum((row[k] - c[k]) ** 2 for k in part) / (2 * noise**2) for c in classes]
            among = [n / sum(counts) * math.exp(-d) for n, d in zip(counts, distances, strict=True)]
            total += distances[y] + math.log(sum(among))
    return total / len(labels)


@normalized_or_not
@pytest.mark.parametrize("per", ["image", "semantic"])
@pytest.mark.parametrize("noise", [0.1, 1.0])
@pytest.mark.parametrize("labels", [LABELS, torch.tensor([3, 1]), torch.tensor([2])], ids=["seen", "unseen", "one"])
def test_balanced_mse_with_the_training_prior(labels: Tensor, noise: float, per: str, normalize: bool):
    loss = ready("balanced-mse", prior="training", per=per, noise=noise, normalize=normalize)
    assert isinstance(loss, BalancedMSE)
    loss.log_noise.data = torch.tensor(math.log(noise), dtype=torch.float64)
    predicted, target, labels = batch(0, labels)
    value = loss(predicted, target, labels)
    value.backward()
    values, classes = predicted.detach().clone(), rows(attributes(), normalize)
    log_noise = torch.tensor([math.log(noise)], dtype=torch.float64)

    def bracket() -> float:
        return slow_balanced(rows(values, normalize), classes, labels.tolist(), math.exp(log_noise.item()), per)

    assert value.item() == pytest.approx(2 * noise**2 / A * bracket(), rel=1e-9, abs=1e-12)
    expected = 2 * noise**2 / A * slopes(values, bracket)
    torch.testing.assert_close(predicted.grad, expected, rtol=1e-5, atol=1e-8)
    assert loss.log_noise.grad is not None
    learnt = 2 * noise**2 * slopes(log_noise, bracket).item()  # not divided by A, as in the batch's form
    assert loss.log_noise.grad.item() == pytest.approx(learnt, rel=1e-5, abs=1e-8)
    assert loss.weights(predicted, target, labels) is None


# LDS: what is new beside the published square roots.


@normalized_or_not
@pytest.mark.parametrize("images", [1, 40, 2000])
def test_lds_of_clipped_counts(images: int, normalize: bool):
    counts, bins = [images * n for n in COUNTS.tolist()], 6
    loss = build("lds", n_classes=C, n_attributes=A, kind="inverse", bins=bins, sigma=1.0, normalize=normalize)
    loss.prepare(attributes(), torch.tensor(counts))
    values, expected = rows(attributes(), normalize), [[0.0] * A for _ in range(C)]
    for k in range(A):
        column = [row[k] for row in values]
        low, high = min(column), max(column)
        places = [min(int((v - low) / ((high - low) / bins)), bins - 1) for v in column]
        histogram = [
            min(max(sum(n for n, b in zip(counts, places, strict=True) if b == at), 5), 1000) for at in range(bins)
        ]
        for c, place in enumerate(places):
            near = {place + move: math.exp(-(move**2) / 2) for move in range(-2, 3)}
            expected[c][k] = 1 / sum(w * histogram[at] for at, w in near.items() if 0 <= at < bins)
        of_all = sum(n * expected[c][k] for c, n in enumerate(counts)) / sum(counts)
        for c in range(C):
            expected[c][k] /= of_all
    check(loss, [expected[y] for y in LABELS.tolist()])


@normalized_or_not
@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0, 1.5])
def test_lds_of_a_kernel_density(alpha: float, normalize: bool):
    bins = 20
    loss = ready("lds", kind="dense", alpha=alpha, bins=bins, normalize=normalize)
    values, expected = rows(attributes(), normalize), [[0.0] * A for _ in range(C)]
    n_seen = sum(n > 0 for n in COUNTS.tolist())
    for k in range(A):
        column = [row[k] for row in values]
        images = [v for v, n in zip(column, COUNTS.tolist(), strict=True) for _ in range(n)]
        deviation = math.sqrt(mean([(v - mean(images)) ** 2 for v in images]))
        bandwidth = 1.06 * deviation * n_seen**-0.2

        def density(at: float, images: list[float] = images, bandwidth: float = bandwidth) -> float:
            return mean([math.exp(-(((at - v) / bandwidth) ** 2) / 2) for v in images])

        low, high = min(column), max(column)
        largest = max(density(low + i * (high - low) / bins) for i in range(bins + 1))
        for c, value in enumerate(column):
            expected[c][k] = max(1 - alpha * min(density(value) / largest, 1), 1e-6)
        of_all = sum(n * expected[c][k] for c, n in enumerate(COUNTS.tolist())) / sum(COUNTS.tolist())
        for c in range(C):
            expected[c][k] /= of_all
    check(loss, [expected[y] for y in LABELS.tolist()])


@pytest.mark.parametrize("kind", ["sqrt_inv", "inverse", "dense"])
def test_lds_leaves_a_semantic_alone_that_seen_classes_do_not_differ_in(kind: str):
    constant = attributes()
    constant[:, 1] = 0.5
    constant[:, 2] = torch.tensor([0.5, 0.5, 0.5, 0.9, 0.5])  # class 3 is unseen
    loss = build("lds", n_classes=C, n_attributes=A, kind=kind, normalize=False)
    loss.prepare(constant, COUNTS)
    weights = loss.weights(constant, constant, torch.arange(C))
    assert weights is not None
    assert weights.isfinite().all()
    torch.testing.assert_close(weights[COUNTS > 0][:, 1:3], torch.ones(4, 2, dtype=torch.float64))
