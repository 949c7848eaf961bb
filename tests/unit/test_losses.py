"""Every regression loss against plain loops, on degenerate batches, in low precision, and through ``build``."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import huber_loss

from benchmark.api import LossConfig, RegressionLoss
from benchmark.config import load_file, parse_spec, resolve
from benchmark.errors import InputError
from benchmark.registries import LOSSES
from losses import build
from losses._common import unit_rows
from losses.balanced_mse import BalancedMSE

B, C, A = 9, 6, 5

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    **{entry.name: (entry.name, {}) for entry in LOSSES if not entry.absent},
    "rmse element": ("rmse", {"reduction": "element"}),
    "focal gamma 0": ("focal", {"gamma": 0}),
    "focal gamma 0.5": ("focal", {"gamma": 0.5}),
    "focal gamma 3": ("focal", {"gamma": 3}),
    "remse running": ("remse", {"window": "running"}),
    "remse ema": ("remse", {"window": "ema", "alpha": 1.5}),
    "remse mean_one": ("remse", {"scale": "mean_one"}),
    "remse floor": ("remse", {"floor": 0.3}),
    "remse ema floor": ("remse", {"window": "ema", "floor": 0.3}),
    "remse absolute": ("remse", {"error": "absolute", "window": "ema"}),
    "lds one bin": ("lds", {"bins": 1, "kernel_size": 1}),
    "lds inverse": ("lds", {"kind": "inverse"}),
    "lds dense": ("lds", {"kind": "dense"}),
    "balanced-mse training": ("balanced-mse", {"prior": "training"}),
    "balanced-mse semantics": ("balanced-mse", {"prior": "training", "per": "semantic"}),
    "self-weighted mean_one": ("self-weighted", {"scale": "mean_one"}),
    "self-weighted detached": ("self-weighted", {"detach": True}),
    "group-dro semantics": ("group-dro", {"groups": "semantics"}),
    "group-dro exponentiated": ("group-dro", {"update": "exponentiated"}),
    "uncertainty raw": ("uncertainty", {"scale": "raw"}),
    "standardised raw": ("standardised", {"scale": "raw"}),
}
#: The value of a perfect prediction where it is not 0: of the smooth absolute error, and of the least variance.
AT_NO_ERROR = {"remse absolute": 1e-5, "uncertainty raw": math.log(1e-10) / 2}
every_variant = pytest.mark.parametrize("variant", VARIANTS)
normalized_or_not = pytest.mark.parametrize("normalize", [True, False])


def make(variant: str, attributes: Tensor, **more: Any) -> RegressionLoss:
    name, parameters = VARIANTS[variant]
    loss = build(name, n_classes=len(attributes), n_attributes=attributes.shape[1], **parameters, **more)
    loss.to(attributes.device).prepare(attributes, torch.arange(1, len(attributes) + 1, device=attributes.device))
    return loss


def data(dtype: torch.dtype = torch.float64, seed: int = 0) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(B, A) predictions and targets, (B,) labels and the (C, A) attributes; classes 4 and 5 are absent."""
    rng = torch.Generator().manual_seed(seed)
    attributes = torch.rand(C, A, generator=rng, dtype=dtype)
    labels = torch.tensor([0, 1, 1, 2, 2, 2, 3, 0, 1])
    predicted = torch.rand(B, A, generator=rng, dtype=dtype).requires_grad_()
    return predicted, attributes[labels], labels, attributes


def rows(x: Tensor, normalize: bool) -> list[list[float]]:
    if not normalize:
        return [[float(v) for v in row] for row in x.tolist()]
    norms = [math.sqrt(sum(v * v for v in row)) for row in x.tolist()]
    return [[v / (norm + 1e-10) for v in row] for row, norm in zip(x.tolist(), norms, strict=True)]


def slow_errors(predicted: Tensor, target: Tensor, normalize: bool) -> list[float]:
    p, t = rows(predicted, normalize), rows(target, normalize)
    return [p[i][k] - t[i][k] for i in range(len(p)) for k in range(len(p[0]))]


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


# Each loss against its formula, element by element.


def slow_focal(e: list[float], beta: float, gamma: float) -> float:
    factors = [(2 / (1 + math.exp(-beta * abs(x))) - 1) ** gamma for x in e]
    return mean([f * x * x for f, x in zip(factors, e, strict=True)]) / mean(factors)


ELEMENTWISE: dict[str, tuple[str, dict[str, Any], Callable[[list[float]], float]]] = {
    "mse": ("mse", {}, lambda e: mean([x * x for x in e])),
    "mae": ("mae", {}, lambda e: mean([abs(x) for x in e])),
    "rmse": ("rmse", {}, lambda e: math.sqrt(mean([x * x for x in e]))),
    "rmse element": ("rmse", {"reduction": "element"}, lambda e: mean([math.sqrt(x * x + 1e-10) for x in e])),
    "focal": ("focal", {}, lambda e: slow_focal(e, 20, 1)),
    "focal, other": ("focal", {"beta": 3, "gamma": 0.5}, lambda e: slow_focal(e, 3, 0.5)),
    "focal without focus": ("focal", {"gamma": 0}, lambda e: mean([x * x for x in e])),
}


@normalized_or_not
@pytest.mark.parametrize("case", ELEMENTWISE)
def test_elementwise_losses_agree_with_their_formulas(case: str, normalize: bool) -> None:
    name, parameters, formula = ELEMENTWISE[case]
    predicted, target, labels, _ = data()
    loss = build(name, n_classes=C, n_attributes=A, normalize=normalize, **parameters)
    expected = formula(slow_errors(predicted.detach(), target, normalize))
    assert loss(predicted, target, labels).item() == pytest.approx(expected, rel=1e-12)


@normalized_or_not
@pytest.mark.parametrize("noise", [0.1, 1.0])
def test_balanced_mse_agrees_with_its_formula(noise: float, normalize: bool) -> None:
    predicted, target, labels, attributes = data()
    loss = build("balanced-mse", n_classes=C, n_attributes=A, normalize=normalize, noise=noise).double()
    variance = noise**2
    p, classes = rows(predicted.detach(), normalize), rows(attributes, normalize)
    losses = []
    for i, label in enumerate(labels.tolist()):
        logits = {
            c: -sum((p[i][k] - classes[c][k]) ** 2 for k in range(A)) / (2 * variance) for c in set(labels.tolist())
        }
        losses.append(math.log(sum(math.exp(x) for x in logits.values())) - logits[label])
    # The noise starts as a float32 parameter.
    assert loss(predicted, target, labels).item() == pytest.approx(2 * variance / A * mean(losses), rel=1e-6)


def test_balanced_mse_learns_its_noise_with_the_published_gradient() -> None:
    """The gradient for log s is that of 2 s^2 (held constant) times the cross entropy, not divided by A."""
    predicted, target, labels, _ = data()
    loss = build("balanced-mse", n_classes=C, n_attributes=A, noise=0.3).double()
    assert isinstance(loss, BalancedMSE)
    loss(predicted, target, labels).backward()
    assert loss.log_noise.grad is not None

    def cross_entropy(log_noise: float) -> float:
        other = build("balanced-mse", n_classes=C, n_attributes=A, noise=math.exp(log_noise)).double()
        return other(predicted, target, labels).item() * A / (2 * math.exp(2 * log_noise))

    at, step = math.log(0.3), 1e-2
    slope = (cross_entropy(at + step) - cross_entropy(at - step)) / (2 * step)
    assert loss.log_noise.grad.item() == pytest.approx(2 * 0.3**2 * slope, rel=1e-3)

    (group,) = loss.parameter_groups()
    assert group["params"] == [loss.log_noise]
    assert group["lr"] == 0.01
    optimizer = torch.optim.SGD([{"params": [predicted]}, group], lr=0.1)
    optimizer.step()
    assert loss.log_noise.item() == pytest.approx(math.log(0.3) - 0.01 * loss.log_noise.grad.item(), rel=1e-5)


@normalized_or_not
@pytest.mark.parametrize(("bins", "kernel_size", "sigma"), [(50, 5, 2.0), (7, 9, 1.0), (1, 1, 1.0)])
def test_lds_agrees_with_its_formula(bins: int, kernel_size: int, sigma: float, normalize: bool) -> None:
    predicted, target, labels, attributes = data()
    attributes[:, 2] = 0  # a semantic that no class differs in
    target = attributes[labels]
    counts = [3, 1, 4, 1, 5, 9]
    loss = build(
        "lds", n_classes=C, n_attributes=A, normalize=normalize, bins=bins, kernel_size=kernel_size, sigma=sigma
    )
    loss.prepare(attributes, torch.tensor(counts))
    values, expected = rows(attributes, normalize), [[0.0] * A for _ in range(C)]
    for k in range(A):
        column = [values[c][k] for c in range(C)]
        low, high = min(column), max(column)
        bin_of = [min(int((v - low) / ((high - low) / bins)), bins - 1) if high > low else 0 for v in column]
        histogram = [0] * bins
        for c in range(C):
            histogram[bin_of[c]] += counts[c]
        for c in range(C):
            density = 0.0
            for offset in range(-(kernel_size // 2), kernel_size // 2 + 1):
                if 0 <= bin_of[c] + offset < bins:
                    density += math.exp(-(offset**2) / (2 * sigma**2)) * math.sqrt(histogram[bin_of[c] + offset])
            expected[c][k] = 1 / density
        scale = sum(counts) / sum(n * expected[c][k] for c, n in enumerate(counts))
        for c in range(C):
            expected[c][k] *= scale
    weights = torch.tensor(expected, dtype=torch.float64)[labels]
    torch.testing.assert_close(loss.weights(predicted, target, labels), weights, rtol=1e-12, atol=0)
    squared = torch.tensor(slow_errors(predicted.detach(), target, normalize), dtype=torch.float64).square()
    assert loss(predicted, target, labels).item() == pytest.approx(mean((weights.flatten() * squared).tolist()))


def test_lds_gives_classes_without_images_a_finite_weight() -> None:
    _, _, labels, attributes = data()
    loss = build("lds", n_classes=C, n_attributes=A)
    loss.prepare(attributes, torch.tensor([5, 0, 3, 0, 0, 1]))
    weights = loss.weights(attributes[labels], attributes[labels], labels)
    assert weights is not None
    assert torch.isfinite(weights).all()
    assert (weights > 0).all()


@pytest.mark.parametrize("name", ["lds", "standardised", "balanced-mse"])
def test_what_the_training_set_tells_must_be_prepared(name: str) -> None:
    predicted, target, labels, _ = data()
    loss = build(name, n_classes=C, n_attributes=A, **({"prior": "training"} if name == "balanced-mse" else {}))
    with pytest.raises(RuntimeError, match=r"^prepare\(attributes, counts\) must be called"):
        loss(predicted, target, labels)


def test_no_loss_has_the_settings_of_a_loss_and_is_not_built() -> None:
    assert [entry.name for entry in LOSSES if entry.absent] == ["none"]
    assert LOSSES["none"].obj.Config is LossConfig
    with pytest.raises(InputError, match=r"^loss none: it stands for no loss, so there is none to build$"):
        build("none", n_classes=C, n_attributes=A)


def test_one_loss_is_the_reference_and_the_contrasts_are_of_losses_that_there_are() -> None:
    assert [entry.name for entry in LOSSES if entry.reference] == ["mse"]
    assert LOSSES.studied.name == "remse"
    for text in (text for pair in LOSSES.studied.contrasts for text in pair):
        name, parameters = parse_spec(text, "contrasts")
        build(name, n_classes=C, n_attributes=A, **parameters)


# The weights that closed-form methods use.


@normalized_or_not
@every_variant
def test_weighted_squares_have_the_gradient_of_the_loss(variant: str, normalize: bool) -> None:
    predicted, target, labels, attributes = data()
    loss = make(variant, attributes, normalize=normalize).eval()  # eval: a memory stays as it is between the two
    weights = loss.weights(predicted, target, labels)
    if VARIANTS[variant][0] == "balanced-mse" or variant in ("self-weighted", "self-weighted mean_one"):
        assert weights is None
        return
    assert weights is not None
    assert weights.shape == (B, A)
    assert not weights.requires_grad
    p, t = (unit_rows(predicted), unit_rows(target)) if normalize else (predicted, target)
    # Those of absolute errors are Huber's: quadratic below 5e-3, the same gradient above.
    value = huber_loss(p, t, delta=5e-3) / 5e-3 if variant == "mae" else loss(predicted, target, labels)
    (expected,) = torch.autograd.grad(value, predicted, retain_graph=True)
    (surrogate,) = torch.autograd.grad((weights * (p - t).square()).mean(), predicted)
    torch.testing.assert_close(surrogate, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "expected"), [("mae", 100), ("rmse", 5e4), ("focal", 1.5), ("mse", 1), ("remse", 1)])
def test_weights_of_a_perfect_prediction_are_finite(name: str, expected: float) -> None:
    _, target, labels, _ = data()
    weights = build(name, n_classes=C, n_attributes=A).weights(target, target, labels)
    assert weights is not None
    torch.testing.assert_close(weights, torch.full((B, A), expected, dtype=torch.float64))


def test_absolute_errors_have_weights_that_stop_growing() -> None:
    threshold = 5e-3
    error = torch.tensor([[-3.0, 0.5, -1.01 * threshold, threshold, -0.99 * threshold, 1e-9, 0.0]])
    weights = build("mae", n_classes=C, n_attributes=7, normalize=False).weights(
        error, torch.zeros_like(error), torch.zeros(1, dtype=torch.long)
    )
    expected = [1 / (2 * max(abs(e), threshold)) for e in error[0].tolist()]
    torch.testing.assert_close(weights, torch.tensor([expected]))


# Gradients.


@normalized_or_not
@pytest.mark.parametrize("variant", ["mse", "mae", "rmse", "rmse element", "balanced-mse", "lds", "focal gamma 0"])
def test_gradients_are_right(variant: str, normalize: bool) -> None:
    predicted, target, labels, attributes = data()
    loss = make(variant, attributes, normalize=normalize).double()
    assert torch.autograd.gradcheck(lambda p: loss(p, target, labels), predicted)


@pytest.mark.parametrize("gamma", [0.5, 1.0, 3.0])
def test_focal_gradient_flows_through_its_factor_and_not_through_the_mean(gamma: float) -> None:
    predicted, target, labels, _ = data()
    build("focal", n_classes=C, n_attributes=A, normalize=False, gamma=gamma)(predicted, target, labels).backward()
    e = slow_errors(predicted.detach(), target, normalize=False)
    factors = [math.tanh(10 * abs(x)) for x in e]
    slopes = [10 * (1 - f * f) * math.copysign(1, x) for f, x in zip(factors, e, strict=True)]
    scale = 1 / (len(e) * mean([f**gamma for f in factors]))
    expected = [
        scale * (gamma * f ** (gamma - 1) * slope * x * x + f**gamma * 2 * x)
        for f, slope, x in zip(factors, slopes, e, strict=True)
    ]
    assert predicted.grad is not None
    assert predicted.grad.flatten().tolist() == pytest.approx(expected, rel=1e-9)


# Degenerate batches and low precision.


def perfect(p: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return t.clone(), t, y


def zero_prediction_rows(p: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return p.index_fill(0, torch.tensor([0, 3]), 0), t, y


def zero_target_rows(p: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return p, t * (y != 1)[:, None], y


def all_zero(p: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.zeros_like(p), torch.zeros_like(t), y


def single_class(p: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return p[3:6], t[3:6], y[3:6]


def single_image(p: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return p[:1], t[:1], y[:1]


def some_perfect(p: Tensor, t: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return torch.where(torch.arange(len(p))[:, None] < 4, t, p), t, y


DEGENERATE = [perfect, zero_prediction_rows, zero_target_rows, all_zero, single_class, single_image, some_perfect]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@normalized_or_not
@every_variant
def test_degenerate_batches_have_a_finite_loss_and_gradient(variant: str, normalize: bool, dtype: torch.dtype) -> None:
    p, t, y, attributes = data(torch.float32)
    for degenerate in DEGENERATE:
        loss = make(variant, attributes, normalize=normalize)
        predicted, target, labels = degenerate(p.detach(), t, y)
        predicted = predicted.to(dtype).requires_grad_()
        for _ in range(2):  # twice for a memory
            value = loss(predicted, target.to(dtype), labels)
        value.backward()
        assert value.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert value.shape == ()
        assert torch.isfinite(value), degenerate.__name__
        assert predicted.grad is not None
        assert torch.isfinite(predicted.grad).all(), degenerate.__name__
        if degenerate is perfect and VARIANTS[variant][0] not in ("balanced-mse", "rmse"):
            assert value.item() == pytest.approx(AT_NO_ERROR.get(variant, 0))


@every_variant
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_low_precision_is_computed_in_float32(variant: str, dtype: torch.dtype) -> None:
    predicted, target, labels, attributes = data(torch.float32)
    low, low_target = predicted.detach().to(dtype), target.to(dtype)
    assert torch.equal(
        make(variant, attributes)(low, low_target, labels),
        make(variant, attributes)(low.float(), low_target.float(), labels),
    )


@every_variant
def test_autocast_changes_nothing(variant: str) -> None:
    rng = torch.Generator().manual_seed(0)
    attributes = torch.rand(40, A, generator=rng)
    predicted, labels = torch.rand(64, A, generator=rng), torch.randint(40, (64,), generator=rng)
    outside = make(variant, attributes)(predicted, attributes[labels], labels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = make(variant, attributes)(predicted, attributes[labels], labels)
    assert torch.equal(inside, outside)


# Side effects, devices and state.


@every_variant
def test_no_host_synchronisation(variant: str) -> None:
    """On the meta device a tensor has no values: reading one, or a shape that depends on some, fails."""
    predicted, target, labels, attributes = (x.to("meta") for x in data(torch.float32))
    loss = make(variant, attributes)
    predicted = predicted.detach().requires_grad_()
    value = loss(predicted, target, labels)
    value.backward()
    assert value.device.type == "meta"
    assert predicted.grad is not None
    assert all(buffer.device.type == "meta" for buffer in loss.buffers())
    weights = loss.weights(predicted, target, labels)
    assert weights is None or weights.shape == (B, A)


@every_variant
def test_global_random_state_and_inputs_are_left_alone(variant: str) -> None:
    predicted, target, labels, attributes = data()
    copies = [x.detach().clone() for x in (predicted, target, labels, attributes)]
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()  # type: ignore[index]  # noqa: NPY002
    loss = make(variant, attributes)
    loss(predicted, target, labels).backward()
    loss.weights(predicted, target, labels)
    assert torch.equal(before[0], torch.get_rng_state())
    assert before[1] == random.getstate()
    assert np.array_equal(before[2], np.random.get_state()[1])  # type: ignore[index]  # noqa: NPY002
    for original, copy in zip((predicted, target, labels, attributes), copies, strict=True):
        assert torch.equal(original.detach(), copy)


@every_variant
def test_state_dict_round_trip(variant: str) -> None:
    predicted, target, labels, attributes = data(torch.float32)
    trained, fresh = make(variant, attributes), make(variant, attributes)
    for value in trained.parameters():
        value.data += 0.5
    trained(predicted, target, labels)
    fresh.load_state_dict(trained.state_dict())
    other = data(torch.float32, seed=1)[0]
    assert torch.equal(fresh(other, target, labels + 2), trained(other, target, labels + 2))


def test_a_memory_is_state_and_takes_the_precision_of_the_errors() -> None:
    predicted, target, labels, _ = data()
    loss = build("remse", n_classes=C, n_attributes=A, window="ema")
    assert set(loss.state_dict()) == {"log_errors", "seen"}
    loss(predicted, target, labels)
    assert loss.state_dict()["log_errors"].dtype == torch.float64
    assert loss.state_dict()["seen"].flatten().tolist() == [True] * 4 + [False] * 2


# Settings.


@pytest.mark.parametrize(
    ("name", "parameters", "message"),
    [
        ("remsee", {}, "unknown loss 'remsee'; did you mean 'remse'?"),
        ("remse", {"alpha": -1}, "loss remse: alpha must be greater than or equal to 0, got -1 instead"),
        ("remse", {"alpha": math.nan}, "loss remse: alpha must be a finite number, got nan instead"),
        ("remse", {"beta": "much"}, "loss remse: beta must be a valid number"),
        ("remse", {"alfa": 1}, "loss remse: unknown key 'alfa'; did you mean 'alpha'?"),
        ("remse", {"window": "epoch"}, "loss remse: window must be 'batch', 'running' or 'ema', got 'epoch' instead"),
        ("remse", {"floor": 1}, "loss remse: floor must be less than 1, got 1 instead"),
        ("remse", {"momentum": 1}, "loss remse: momentum must be less than 1"),
        ("mse-matched", {"alpha": -1}, "loss mse-matched: alpha must be greater than or equal to 0"),
        ("mse", {"alpha": 1}, "loss mse: unknown key 'alpha'"),
        ("rmse", {"reduction": "sum"}, "loss rmse: reduction must be 'batch' or 'element', got 'sum' instead"),
        ("lds", {"kernel_size": 4}, "loss lds: kernel_size must be odd, got 4 instead"),
        ("balanced-mse", {"noise": 0}, "loss balanced-mse: noise must be greater than 0, got 0 instead"),
        ("balanced-mse", {"per": "semantic"}, "loss balanced-mse: per must be 'image' unless prior=training"),
        ("self-weighted", {"scale": "one"}, "loss self-weighted: scale must be 'raw' or 'mean_one', got 'one' instead"),
        ("group-dro", {"groups": "images"}, "loss group-dro: groups must be 'classes' or 'semantics'"),
        ("standardised", {"eps": 0}, "loss standardised: eps must be greater than 0, got 0 instead"),
    ],
)
def test_bad_settings_are_one_clear_line(name: str, parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        build(name, n_classes=C, n_attributes=A, **parameters)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["remse", "mse-matched"])
def test_published_settings(name: str) -> None:
    entry = LOSSES[name]
    file = load_file(entry.config_file)
    published = {"cub": (0.1, 0.75), "sun": (0.1, 0.0), "awa2": (1.0, 0.1)}
    assert set(file.profiles["published"].datasets) == set(published)
    for dataset, expected in published.items():
        layers = file.profile_layers("published", dataset, "res101")
        config = resolve(entry.obj.Config, {"hparams": file.hparams, **layers})
        assert tuple(config.model_dump()[key] for key in ("alpha", "beta")) == expected


@pytest.mark.parametrize("name", ["remse", "mse-matched"])
def test_small_has_one_choice_for_all_data_sets(name: str) -> None:
    small = load_file(LOSSES[name].config_file).profiles["small"]
    assert set(small.hparams) == {"alpha", "beta"}
    assert not small.datasets
