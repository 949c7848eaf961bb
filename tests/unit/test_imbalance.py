"""The error matrix and its figures against slow loops and SciPy."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import pearsonr
from torch import Tensor

from benchmark.measures.imbalance import (
    Imbalance,
    error_matrix,
    summarise,
)

untimed = settings(deadline=None)  # a loaded machine fails no test
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
seeds = st.integers(0, 2**32)


def draw(seed: int, n: int, n_classes: int, n_attributes: int) -> tuple[Tensor, Tensor, Tensor]:
    """Predictions, labels (which leave classes out now and then) and attributes."""
    rng = np.random.default_rng(seed)
    attributes = rng.random((n_classes, n_attributes)) * (rng.random((n_classes, n_attributes)) < 0.7)
    labels = rng.integers(0, n_classes, n)
    predicted = attributes[labels] + 0.3 * rng.standard_normal((n, n_attributes))
    return torch.from_numpy(predicted), torch.from_numpy(labels), torch.from_numpy(attributes)


def slow_error_matrix(predicted: list[list[float]], labels: list[int], attributes: list[list[float]]) -> np.ndarray:
    def unit(row: list[float]) -> list[float]:
        norm = math.sqrt(sum(v * v for v in row)) + 1e-10
        return [v / norm for v in row]

    errors = np.full((len(attributes), len(attributes[0])), np.nan)
    for c, a in enumerate(attributes):
        images = [unit(p) for p, label in zip(predicted, labels, strict=True) if label == c]
        for k in range(len(a)):
            if images and len({row[k] for row in attributes}) > 1:
                errors[c, k] = sum((p[k] - unit(a)[k]) ** 2 for p in images) / len(images)
    return errors


def slow_summary(errors: np.ndarray, values: np.ndarray) -> Imbalance:
    present = [c for c in range(len(errors)) if any(not math.isnan(error) for error in errors[c])]
    told = [k for k in range(errors.shape[1]) if any(not math.isnan(row[k]) for row in errors)]
    columns = [[float(errors[c, k]) for c in present] for k in told]
    labels = [[float(values[c, k]) for c in present] for k in told]
    per_semantic = [statistics.fmean(column) for column in columns]
    r = [pearsonr(x, y).statistic for x, y in zip(labels, columns, strict=True) if len(set(x)) > 1 and len(set(y)) > 1]
    mean, std = statistics.fmean(per_semantic), statistics.pstdev(per_semantic)
    worst = sorted(per_semantic, reverse=True)[: (len(per_semantic) + 9) // 10]
    return Imbalance(
        mean=mean,
        std=std,
        spread=std / mean if mean else None,
        r=statistics.fmean(r) if r else None,
        worst_decile=statistics.fmean(worst),
    )


# --- the error matrix


@untimed
@given(seeds, st.integers(0, 30), st.integers(1, 6), st.integers(1, 7))
def test_error_matrix_agrees_with_loops(seed: int, n: int, n_classes: int, n_attributes: int) -> None:
    predicted, labels, attributes = draw(seed, n, n_classes, n_attributes)
    expected = slow_error_matrix(predicted.tolist(), labels.tolist(), attributes.tolist())
    np.testing.assert_allclose(error_matrix(predicted, labels, attributes), expected, rtol=1e-12, atol=1e-15)


@untimed
@given(seeds)
def test_positive_scale_of_a_prediction_does_not_matter(seed: int) -> None:
    predicted, labels, attributes = draw(seed, 20, 4, 6)
    scale = torch.from_numpy(np.random.default_rng(seed).uniform(0.1, 10, (20, 1)))
    torch.testing.assert_close(
        error_matrix(predicted * scale, labels, attributes),
        error_matrix(predicted, labels, attributes),
        rtol=1e-6,
        atol=1e-8,
        equal_nan=True,
    )


@untimed
@given(seeds)
def test_order_of_images_and_names_of_classes_do_not_matter(seed: int) -> None:
    predicted, labels, attributes = draw(seed, 20, 5, 6)
    rng = np.random.default_rng(seed)
    images, classes = torch.from_numpy(rng.permutation(20)), torch.from_numpy(rng.permutation(5))
    moved = error_matrix(predicted[images], classes.argsort()[labels[images]], attributes[classes])
    errors = error_matrix(predicted, labels, attributes)
    torch.testing.assert_close(moved, errors[classes], rtol=1e-12, atol=1e-15, equal_nan=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_error_matrix_takes_any_float_and_device(dtype: torch.dtype, device: str) -> None:
    predicted, labels, attributes = draw(0, 20, 4, 6)
    rounded = predicted.to(dtype)
    errors = error_matrix(rounded.to(device).requires_grad_(), labels.to(device), attributes.float().to(device))
    assert errors.dtype == torch.float64
    assert not errors.requires_grad
    assert torch.equal(errors, error_matrix(rounded.double(), labels, attributes.float().double()))


def test_rows_of_zeros_are_no_division_by_zero() -> None:
    errors = error_matrix(torch.zeros(2, 2), torch.tensor([0, 1]), torch.tensor([[0.0, 3.0], [0.0, 0.0]]))
    assert errors[:, 1].tolist() == [pytest.approx(1.0), 0.0]


def test_semantics_in_which_all_classes_agree_have_no_error() -> None:
    predicted, labels, attributes = draw(0, 20, 4, 6)
    attributes[:, [1, 4]] = torch.tensor([0.0, 0.1], dtype=torch.float64)
    errors = error_matrix(predicted, labels, attributes)
    varies = [0, 2, 3, 5]
    assert errors.isnan().all(dim=0).tolist() == [False, True, False, False, True, False]
    assert errors[:, varies].isfinite().all()
    assert summarise(errors, attributes) == summarise(errors[:, varies], attributes[:, varies])


def test_perfect_predictions_have_no_error() -> None:
    _, labels, attributes = draw(0, 20, 4, 6)
    assert error_matrix(attributes[labels], labels, attributes).nan_to_num().max() == 0


def test_error_matrix_refuses_bad_input() -> None:
    predicted, labels, attributes = draw(0, 20, 4, 6)
    with pytest.raises(ValueError, match=r"predicted must have shape \(20, 6\), a row a label, got \(20, 5\) instead"):
        error_matrix(predicted[:, :5], labels, attributes)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.2, got 0\.\.3 instead"):
        error_matrix(predicted, labels, attributes[:3])
    for bad in (torch.nan, torch.inf):
        predicted[2, 1] = bad
        with pytest.raises(ValueError, match="predicted must be finite"):
            error_matrix(predicted, labels, attributes)


# --- its figures


@untimed
@given(seeds, st.integers(1, 12), st.integers(2, 6), st.integers(1, 25))
def test_summary_agrees_with_loops(seed: int, n: int, n_classes: int, n_attributes: int) -> None:
    predicted, labels, attributes = draw(seed, n, n_classes, n_attributes)
    attributes[:, 0] = torch.arange(n_classes)
    errors = error_matrix(predicted, labels, attributes)
    attributes[:, 0] = 0.1  # a constant label column, whose mean does not come out as 0.1 in floating point
    ours, slow = summarise(errors, attributes), slow_summary(errors.numpy(), attributes.numpy())
    assert ours.mean == pytest.approx(slow.mean, rel=1e-12)
    assert ours.std == pytest.approx(slow.std, rel=1e-10, abs=1e-15)
    assert ours.spread == pytest.approx(slow.spread, rel=1e-10, abs=1e-14)
    assert ours.r == (None if slow.r is None else pytest.approx(slow.r, abs=1e-9))
    assert ours.worst_decile == pytest.approx(slow.worst_decile, rel=1e-12)


@untimed
@given(seeds)
def test_names_of_classes_do_not_matter_to_the_summary(seed: int) -> None:
    rng = np.random.default_rng(seed)
    errors, values = torch.from_numpy(rng.random((7, 5))), torch.from_numpy(rng.random((7, 5)))
    errors[2] = torch.nan
    order = torch.from_numpy(rng.permutation(7))
    moved, ours = summarise(errors[order], values[order]), summarise(errors, values)
    for name in ("mean", "std", "spread", "r", "worst_decile"):
        assert getattr(moved, name) == pytest.approx(getattr(ours, name), rel=1e-9, abs=1e-12)


@untimed
@given(seeds, st.floats(1e-200, 1e3))
def test_scale_of_errors_moves_only_what_has_their_unit(seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    errors, values = torch.from_numpy(rng.random((6, 12))), torch.from_numpy(rng.random((6, 12)))
    ours, scaled = summarise(errors, values), summarise(errors * scale, values)
    assert scaled.mean == pytest.approx(ours.mean * scale, rel=1e-9)
    assert scaled.worst_decile == pytest.approx(ours.worst_decile * scale, rel=1e-9)
    if scale > 1e-100:  # below, the squares inside a standard deviation underflow
        assert scaled.spread == pytest.approx(ours.spread, rel=1e-9)
    assert scaled.r == pytest.approx(ours.r, abs=1e-9)


def test_constant_error_has_no_spread_and_no_correlation() -> None:
    figures = summarise(torch.full((5, 20), 0.25), torch.rand(5, 20, generator=torch.Generator().manual_seed(0)))
    assert figures == Imbalance(mean=0.25, std=0.0, spread=0.0, r=None, worst_decile=0.25)


def test_no_error_has_no_relative_spread() -> None:
    assert summarise(torch.zeros(3, 4), torch.eye(3, 4)) == Imbalance(0.0, 0.0, None, None, 0.0)


@pytest.mark.parametrize("sign", [1, -1])
def test_errors_linear_in_the_label_value_correlate_fully(sign: int) -> None:
    values = torch.tensor([[0.0, 5.0], [1.0, 5.0], [3.0, 5.0]])  # the second semantic tells no class from another
    assert summarise(1 + sign * 0.1 * values, values).r == pytest.approx(sign)


@untimed
@given(seeds, st.integers(2, 4))
def test_correlation_never_leaves_its_range(seed: int, n: int) -> None:
    values = torch.from_numpy(np.random.default_rng(seed).random((n, 1)))
    r = summarise(0.1 + 0.3 * values, values).r
    assert r is not None
    assert r == pytest.approx(1)
    assert r <= 1  # which rounding alone would pass


def test_worst_decile_rounds_up() -> None:
    errors = torch.arange(11.0)[None]
    assert summarise(errors, errors).worst_decile == 9.5
    assert summarise(errors[:, :10], errors[:, :10]).worst_decile == 9.0


def test_std_is_over_semantics_and_of_the_population() -> None:
    errors = torch.tensor([[0.0, 2.0], [2.0, 4.0], [torch.nan, torch.nan]])
    figures = summarise(errors, torch.zeros(3, 2))
    assert (figures.mean, figures.std, figures.spread) == (2.0, 1.0, 0.5)


def test_summary_refuses_bad_input() -> None:
    errors = torch.ones(3, 4)
    with pytest.raises(ValueError, match="must agree in shape"):
        summarise(errors, errors[:2])
    with pytest.raises(ValueError, match="a class with images and a semantic that varies"):
        summarise(torch.full((3, 4), torch.nan), errors)
    errors[1, 2] = torch.nan
    with pytest.raises(ValueError, match="must be finite in classes with images"):
        summarise(errors, torch.ones(3, 4))
    with pytest.raises(ValueError, match="must be finite in classes with images"):
        summarise(torch.ones(3, 4), torch.full((3, 4), torch.inf))
