"""ReMSE against a version written from its formulas, in plain loops over classes, images and semantics."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor

from losses import build
from losses.remse import ReMSE
from tests.reference.remse import Rows, SlowReMSE

TOLERANCE = 1e-12

PARAMETERS = st.fixed_dictionaries(
    {
        "alpha": st.sampled_from([0.0, 0.1, 0.75, 1.0, 2.5]),
        "beta": st.sampled_from([0.0, 0.1, 0.75, 1.0, 2.5]),
        "normalize": st.booleans(),
        "window": st.sampled_from(["batch", "running", "ema"]),
        "momentum": st.sampled_from([0.0, 0.5, 0.9]),
        "scale": st.sampled_from(["raw", "mean_one"]),
        "floor": st.sampled_from([0.0, 0.05, 0.3, 0.9]),
        "error": st.sampled_from(["squared", "absolute"]),
    }
)


@dataclass
class Batch:
    predicted: npt.NDArray[np.float64]
    target: npt.NDArray[np.float64]
    labels: list[int]


@st.composite
def histories(draw: st.DrawFn) -> tuple[int, list[Batch]]:
    """Successive batches with absent classes, classes of one image, and errors that are exactly 0."""
    n_classes, n_attributes = draw(st.integers(1, 6)), draw(st.integers(1, 5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    attributes = rng.normal(size=(n_classes, n_attributes))
    attributes[rng.random(attributes.shape) < 0.2] = 0
    attributes[rng.random(n_classes) < 0.1] = 0
    batches = []
    for _ in range(draw(st.integers(1, 4))):
        labels = draw(st.lists(st.integers(0, n_classes - 1), min_size=1, max_size=8))
        target = attributes[labels]
        predicted = rng.normal(size=target.shape)
        predicted[(target == 0) & (rng.random(target.shape) < 0.5)] = 0  # no error, also where rows are normalised
        perfect = rng.random(len(labels)) < 0.2
        predicted[perfect] = target[perfect]
        batches.append(Batch(predicted, target, labels))
    return n_classes, batches


def well_conditioned(squared: Rows) -> bool:
    """Whether rounding p and t leaves 1e-12 of their differences and thus of the weights."""
    return all(s == 0 or s > 1e-6 for row in squared for s in row)


@settings(max_examples=300, deadline=None)
@given(parameters=PARAMETERS, history=histories())
def test_agrees_with_the_slow_version(parameters: dict[str, Any], history: tuple[int, list[Batch]]) -> None:
    n_classes, batches = history
    slow = SlowReMSE(**parameters)
    sizes = {"n_classes": n_classes, "n_attributes": batches[0].target.shape[1]}
    by_forward, by_weights = build("remse", **sizes, **parameters), build("remse", **sizes, **parameters)
    matched = build("mse-matched", **sizes, **parameters)
    for batch in batches:
        squared = slow.squared(batch.predicted.tolist(), batch.target.tolist())
        assume(well_conditioned(squared))
        weighed = slow.weighed(squared)
        expected_weights, expected = slow.step(weighed, batch.labels)
        predicted = torch.from_numpy(batch.predicted).requires_grad_()
        inputs = (predicted, torch.from_numpy(batch.target), torch.tensor(batch.labels))
        got = by_forward(*inputs)
        weights = by_weights.weights(*inputs)
        assert isinstance(weights, Tensor)
        assert not weights.requires_grad
        assert got.item() == pytest.approx(expected, rel=TOLERANCE)
        plain = np.mean(weighed)
        assert matched(*inputs).item() == pytest.approx(plain * np.mean(expected_weights), rel=TOLERANCE)
        of_squares = np.array(expected_weights)
        if slow.error == "absolute":
            of_squares /= 2 * np.array(weighed)
        np.testing.assert_allclose(weights, of_squares, rtol=TOLERANCE)
        weights = torch.tensor(expected_weights, dtype=torch.float64)
        if parameters["scale"] == "mean_one":
            assert weights.mean().item() == pytest.approx(1, rel=TOLERANCE)
        else:
            assert (weights >= 1).all()
        got.backward()
        check_gradient(predicted, inputs[1], torch.from_numpy(of_squares), slow.normalize)


def check_gradient(predicted: Tensor, target: Tensor, weights: Tensor, normalize: bool) -> None:
    """The gradient is that of the squared error with the slow version's weights held constant, derived by hand."""
    grad = predicted.grad
    assert grad is not None
    p, t = predicted.detach(), target
    if not normalize:
        torch.testing.assert_close(grad, 2 * weights * (p - t) / p.numel(), rtol=1e-11, atol=1e-14)
        return
    for i in range(len(p)):
        n = p[i].norm()
        u, v = p[i] / (n + 1e-10), t[i] / (t[i].norm() + 1e-10)
        g = 2 * weights[i] * (u - v) / p.numel()
        expected = g / (n + 1e-10) - p[i] * (g @ p[i]) / (n * (n + 1e-10) ** 2) if n > 0 else torch.zeros_like(g)
        torch.testing.assert_close(grad[i], expected, rtol=1e-10, atol=1e-12)


def test_worked_example() -> None:
    """Two classes, two semantics, one image each; E = [[1, e], [e^2, e^3]] by hand."""
    e = math.e
    predicted = torch.tensor([[1, e**0.5], [e, e**1.5]], dtype=torch.float64)
    loss = build("remse", n_classes=3, n_attributes=2, alpha=1.0, beta=2.0, normalize=False)
    weights = loss.weights(predicted, torch.zeros_like(predicted), torch.tensor([2, 0]))
    expected = torch.tensor([[1 * 1, 1 * 2**2], [3 * 1, 3 * 2**2]], dtype=torch.float64)
    torch.testing.assert_close(weights, expected, rtol=1e-14, atol=0)


@pytest.mark.parametrize("window", ["batch", "running", "ema"])
@pytest.mark.parametrize("scale", ["raw", "mean_one"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_without_exponents_it_is_mse_to_the_bit(window: str, scale: str, dtype: torch.dtype) -> None:
    rng = torch.Generator().manual_seed(0)
    target, labels = torch.rand(5, 7, generator=rng), torch.tensor([0, 3, 3, 1, 3, 0, 4])
    sizes = {"n_classes": 5, "n_attributes": 7}
    remse = build("remse", **sizes, alpha=0, beta=0, window=window, scale=scale)
    values, gradients = [], []
    for loss in (remse, build("mse", **sizes)):
        predicted = torch.randn(7, 7, generator=torch.Generator().manual_seed(1)).to(dtype).requires_grad_()
        value = loss(predicted, target[labels].to(dtype), labels)
        value.backward()
        values.append(value)
        gradients.append(predicted.grad)
    assert torch.equal(*values)
    assert gradients[0] is not None
    assert gradients[1] is not None
    assert torch.equal(gradients[0], gradients[1])


@given(st.floats(1e-3, 1e3), st.sampled_from(["batch", "running", "ema"]), st.sampled_from([0.0, 0.2]))
@settings(max_examples=50, deadline=None)
def test_weights_do_not_depend_on_the_scale_of_the_error(factor: float, window: str, floor: float) -> None:
    """The ratios of E do not; for a memory, as long as all that is in it is scaled alike."""
    rng = torch.Generator().manual_seed(0)
    losses = [
        build("remse", n_classes=6, n_attributes=4, alpha=0.7, beta=1.3, normalize=False, window=window, floor=floor)
        for _ in range(2)
    ]
    for _ in range(3):
        error = torch.randn(9, 4, generator=rng, dtype=torch.float64)
        labels = torch.randint(6, (9,), generator=rng)
        once, scaled = (
            loss.weights(error * by, torch.zeros_like(error), labels)
            for loss, by in zip(losses, (1.0, factor), strict=True)
        )
        torch.testing.assert_close(once, scaled, rtol=1e-10, atol=0)


def test_weights_over_classes_alone_do_not_depend_on_the_scale_of_a_semantic() -> None:
    rng = torch.Generator().manual_seed(0)
    error = torch.randn(9, 4, generator=rng, dtype=torch.float64)
    labels = torch.randint(6, (9,), generator=rng)
    by = torch.tensor([0.01, 1, 5, 300], dtype=torch.float64)

    def weights(error: Tensor, beta: float) -> Tensor:
        loss = build("remse", n_classes=6, n_attributes=4, alpha=0.7, beta=beta, normalize=False)
        result = loss.weights(error, torch.zeros_like(error), labels)
        assert result is not None
        return result

    torch.testing.assert_close(weights(error, 0), weights(error * by, 0), rtol=1e-10, atol=0)
    assert not torch.allclose(weights(error, 0.5), weights(error * by, 0.5))


def test_eval_mode_reads_the_memory_and_leaves_it() -> None:
    rng = torch.Generator().manual_seed(0)
    predicted, target = torch.rand(2, 6, 3, generator=rng)
    first, second = torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([3, 3, 3, 2, 2, 2])
    loss = build("remse", n_classes=5, n_attributes=3, window="running")
    assert isinstance(loss, ReMSE)
    loss(predicted, target, first)
    before = loss.log_errors.clone()
    in_eval = loss.eval()(predicted.flip(0), target, second)
    assert torch.equal(loss.log_errors, before)
    assert torch.equal(loss.train()(predicted.flip(0), target, second), in_eval)
    assert not torch.equal(loss.log_errors, before)
