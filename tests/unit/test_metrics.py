"""Accuracies against scikit-learn, and the exact seen-unseen curve against an argmax at every gamma that matters."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import auc, balanced_accuracy_score, recall_score
from torch import Tensor

from benchmark.measures.metrics import (
    Curve,
    harmonic_mean,
    mean_per_class,
    per_class_accuracy,
    predict,
    seen_unseen_curve,
)

untimed = settings(deadline=None)  # a loaded machine fails no test
percents = st.just(0.0) | st.floats(1e-9, 100)
DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
FLOATS = [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@dataclass(frozen=True)
class Case:
    """Scores and labels of a made-up generalised test."""

    seen_scores: Tensor
    seen_labels: Tensor
    unseen_scores: Tensor
    unseen_labels: Tensor
    n_seen: int

    @property
    def curve(self) -> Curve:
        return seen_unseen_curve(
            self.seen_scores, self.seen_labels, self.unseen_scores, self.unseen_labels, self.n_seen
        )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Small tests; scores are multiples of 1/8, so that ties abound and no subtraction rounds."""
    n_seen, n_unseen = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    levels = draw(st.sampled_from([2, 5, 1000]))

    def part(low: int, high: int) -> tuple[Tensor, Tensor]:
        n = int(rng.integers(1, 25))
        labels = rng.integers(low, high, n)
        scores = rng.integers(0, levels, (n, n_seen + n_unseen)) + (levels // 3) * np.eye(n_seen + n_unseen)[labels]
        return torch.from_numpy(scores / 8), torch.from_numpy(labels)

    return Case(*part(0, n_seen), *part(n_seen, n_seen + n_unseen), n_seen)


def slow_accuracy(scores: Tensor, labels: Tensor, n_seen: int, gamma: float) -> float:
    """Mean per-class accuracy of calibrated stacking at one gamma, as it is defined."""
    right: dict[int, list[bool]] = {}
    for row, label in zip(scores.tolist(), labels.tolist(), strict=True):
        calibrated = [s - gamma if c < n_seen else s for c, s in enumerate(row)]
        right.setdefault(label, []).append(calibrated.index(max(calibrated)) == label)
    return 100 * sum(sum(r) / len(r) for r in right.values()) / len(right)


def slow_point(case: Case, gamma: float) -> tuple[float, float]:
    """(U, S) at one gamma."""
    return (
        slow_accuracy(case.unseen_scores, case.unseen_labels, case.n_seen, gamma),
        slow_accuracy(case.seen_scores, case.seen_labels, case.n_seen, gamma),
    )


def all_gammas(case: Case) -> list[float]:
    """All breakpoints, a gamma between each two, and one beyond either end; ascending."""
    scores = torch.cat([case.seen_scores, case.unseen_scores])
    margins = sorted({max(row[: case.n_seen]) - max(row[case.n_seen :]) for row in scores.tolist()})
    between = [(a + b) / 2 for a, b in itertools.pairwise(margins)]
    return sorted([margins[0] - 1, *margins, *between, margins[-1] + 1])


def random_case(seed: int = 0, n_classes: int = 12, n_seen: int = 8, dtype: torch.dtype = torch.float64) -> Case:
    rng = torch.Generator().manual_seed(seed)

    def part(low: int, high: int) -> tuple[Tensor, Tensor]:
        labels = torch.randint(low, high, (60,), generator=rng)
        scores = torch.randn(60, n_classes, generator=rng, dtype=torch.float64)
        return (scores + 1.5 * torch.eye(n_classes)[labels]).to(dtype), labels

    return Case(*part(0, n_seen), *part(n_seen, n_classes), n_seen)


def assert_equal(a: Curve, b: Curve) -> None:
    for name in ("breakpoints", "seen", "unseen"):
        assert torch.equal(getattr(a, name), getattr(b, name)), name


# --- accuracies of plain predictions


@untimed
@given(st.integers(1, 6), st.integers(1, 40), st.integers(0, 2**32))
def test_per_class_accuracy_agrees_with_scikit_learn(n_classes: int, n: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    predicted, labels = rng.integers(0, n_classes, (2, n))
    ours = per_class_accuracy(torch.from_numpy(predicted), torch.from_numpy(labels), n_classes)
    present = np.unique(labels)
    recall = recall_score(labels, predicted, labels=present, average=None, zero_division=0)
    assert ours.dtype == torch.float64
    np.testing.assert_allclose(ours[present], 100 * recall, rtol=1e-14)
    assert ours.isnan().sum() == n_classes - len(present)
    if len(present) > 1 and np.isin(predicted, present).all():  # else scikit-learn warns
        assert mean_per_class(ours) == pytest.approx(100 * balanced_accuracy_score(labels, predicted), rel=1e-13)
    macro = recall_score(labels, predicted, labels=present, average="macro", zero_division=0)
    assert mean_per_class(ours) == pytest.approx(100 * macro, rel=1e-13)


def test_classes_count_alike_whatever_their_size() -> None:
    labels = torch.tensor([0] * 99 + [2])
    accuracy = per_class_accuracy(torch.zeros(100, dtype=torch.int64), labels, 4)
    assert accuracy.nan_to_num(-1).tolist() == [100.0, -1.0, 0.0, -1.0]
    assert mean_per_class(accuracy) == 50.0


def t1(scores: Tensor, labels: Tensor) -> float:
    """Accuracy where the unseen classes compete alone."""
    return mean_per_class(per_class_accuracy(predict(scores), labels, scores.shape[1]))


def test_t1_is_that_of_the_argmax() -> None:
    rng = torch.Generator().manual_seed(0)
    scores, labels = torch.randn(200, 7, generator=rng), torch.randint(0, 7, (200,), generator=rng)
    assert t1(scores, labels) == pytest.approx(slow_accuracy(scores, labels, 0, 0.0), rel=1e-13)
    assert t1(torch.eye(7)[labels], labels) == 100.0


def test_the_first_of_equal_scores_is_predicted() -> None:
    assert predict(torch.tensor([[1.0, 1.0], [0.0, 0.0], [0.0, 2.0]])).tolist() == [0, 0, 1]


@untimed
@given(percents, percents)
def test_harmonic_mean_lies_between(u: float, s: float) -> None:
    h = harmonic_mean(u, s)
    assert min(u, s) * (1 - 1e-12) <= h <= max(u, s) * (1 + 1e-12)
    assert harmonic_mean(*torch.tensor([[u], [s]], dtype=torch.float64)).item() == h


def test_harmonic_mean_of_nothing_is_zero() -> None:
    assert harmonic_mean(0.0, 0.0) == 0.0
    assert harmonic_mean(30.0, 60.0) == 40.0


# --- the curve


@untimed
@given(cases())
def test_curve_agrees_with_an_argmax_at_every_gamma(case: Case) -> None:
    for gamma in all_gammas(case):
        u, s = slow_point(case, gamma)
        at = case.curve.at(gamma)
        assert (at.unseen, at.seen) == pytest.approx((u, s), abs=1e-10)
        assert at.harmonic == pytest.approx(2 * u * s / (u + s) if u + s else 0, abs=1e-10)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("device", DEVICES)
def test_curve_takes_any_float_and_device(dtype: torch.dtype, device: str) -> None:
    case = random_case(dtype=dtype)
    curve = seen_unseen_curve(
        case.seen_scores.to(device),
        case.seen_labels.to(device),
        case.unseen_scores.to(device),
        case.unseen_labels.to(device),
        case.n_seen,
    )
    exact = Case(case.seen_scores.double(), case.seen_labels, case.unseen_scores.double(), case.unseen_labels, 8)
    assert_equal(curve, exact.curve)
    assert curve.at(0)[:2] == pytest.approx(slow_point(case, 0), abs=1e-10)


@untimed
@given(cases())
def test_zero_gamma_is_plain_gzsl_and_seen_classes_win_ties(case: Case) -> None:
    scores, labels = (
        torch.cat([case.seen_scores, case.unseen_scores]),
        torch.cat([case.seen_labels, case.unseen_labels]),
    )
    accuracy = per_class_accuracy(predict(scores), labels, scores.shape[1])
    plain = mean_per_class(accuracy[case.n_seen :]), mean_per_class(accuracy[: case.n_seen])
    assert case.curve.at(0.0)[:2] == pytest.approx(plain, abs=1e-10)


def test_seen_classes_win_exactly_at_a_breakpoint() -> None:
    scores = torch.tensor([[0.75, 0.25]])
    curve = seen_unseen_curve(scores, torch.tensor([0]), scores, torch.tensor([1]), 1)
    assert curve.breakpoints.tolist() == [0.5]
    assert curve.at(0.5) == (0.0, 100.0, 0.0)
    assert curve.at(0.5 + 1e-15) == (100.0, 0.0, 0.0)
    assert curve.ausuc == 50.0  # both flip at once, so that the curve is the diagonal


@untimed
@given(cases())
def test_ausuc_is_the_trapezoid_of_the_swept_curve(case: Case) -> None:
    # Gammas at a breakpoint fall on the plateau before it, so that they repeat a point and add no area.
    swept = np.array([slow_point(case, gamma) for gamma in all_gammas(case)])
    assert case.curve.ausuc == pytest.approx(auc(swept[:, 0], swept[:, 1]) / 100, abs=1e-10)
    assert 0 <= case.curve.ausuc <= 100 + 1e-9


@untimed
@given(cases(), st.floats(0.02, 20))
def test_a_thinned_curve_keeps_its_ends_its_plateaus_and_its_area(case: Case, tolerance: float) -> None:
    curve = case.curve
    unseen, seen = curve.thinned(tolerance=tolerance)
    plateaus = list(zip(curve.unseen.tolist(), curve.seen.tolist(), strict=True))
    kept = list(zip(unseen, seen, strict=True))
    rounded = [(round(u, 2), round(s, 2)) for u, s in plateaus]
    assert set(kept) <= set(rounded)
    assert (kept[0], kept[-1]) == (rounded[0], rounded[-1])
    assert len(kept) <= len(plateaus)
    assert unseen == sorted(unseen)
    assert seen == sorted(seen, reverse=True)
    area = auc(unseen, seen) / 100 if len(kept) > 1 else 0.0
    assert area == pytest.approx(curve.ausuc, abs=tolerance + 0.02)  # 0.02: two decimals


@pytest.mark.parametrize("seed", range(3))
def test_64_points_stand_for_a_long_curve(seed: int) -> None:
    rng = np.random.default_rng(seed)
    labels = torch.from_numpy(rng.integers(0, 60, 4000))
    scores = torch.from_numpy(rng.standard_normal((4000, 60))) + 2 * torch.eye(60, dtype=torch.float64)[labels]
    known = labels < 40
    curve = seen_unseen_curve(scores[known], labels[known], scores[~known], labels[~known], 40)
    unseen, seen = curve.thinned()
    assert len(curve.seen) > 1000
    assert len(unseen) == len(seen) <= 64
    assert auc(unseen, seen) / 100 == pytest.approx(curve.ausuc, abs=0.1)


@untimed
@given(cases())
def test_curve_is_monotone_and_every_breakpoint_matters(case: Case) -> None:
    curve = case.curve
    assert (curve.breakpoints.diff() > 0).all()
    falls, rises = -curve.seen.diff(), curve.unseen.diff()
    assert (falls >= 0).all()
    assert (rises >= 0).all()
    assert (falls + rises > 0).all()
    assert curve.unseen[0] == 0
    assert curve.seen[-1] == 0
    assert 0 <= curve.unseen.min() <= curve.unseen.max() <= 100
    assert 0 <= curve.seen.min() <= curve.seen.max() <= 100


@untimed
@given(cases(), st.integers(0, 2**32))
def test_order_of_samples_changes_no_bit(case: Case, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    i = torch.randperm(len(case.seen_labels), generator=rng)
    j = torch.randperm(len(case.unseen_labels), generator=rng)
    shuffled = Case(case.seen_scores[i], case.seen_labels[i], case.unseen_scores[j], case.unseen_labels[j], case.n_seen)
    assert_equal(shuffled.curve, case.curve)


@untimed
@given(cases(), st.integers(-64, 64))
def test_a_constant_added_to_all_scores_changes_nothing(case: Case, eighths: int) -> None:
    c = eighths / 8
    moved = Case(case.seen_scores + c, case.seen_labels, case.unseen_scores + c, case.unseen_labels, case.n_seen)
    assert_equal(moved.curve, case.curve)


@untimed
@given(cases(), st.integers(-64, 64))
def test_a_constant_added_to_seen_columns_shifts_gamma(case: Case, eighths: int) -> None:
    c = eighths / 8
    lift = c * (torch.arange(case.seen_scores.shape[1]) < case.n_seen)
    moved = Case(case.seen_scores + lift, case.seen_labels, case.unseen_scores + lift, case.unseen_labels, case.n_seen)
    assert torch.equal(moved.curve.breakpoints, case.curve.breakpoints + c)
    assert moved.curve.ausuc == case.curve.ausuc
    if case.curve.at(case.curve.best_gamma()).harmonic:
        assert moved.curve.best_gamma() == case.curve.best_gamma() + c


@untimed
@given(cases())
def test_best_gamma_is_the_best_and_the_middle_of_its_plateau(case: Case) -> None:
    curve = case.curve
    points = {gamma: slow_point(case, gamma) for gamma in all_gammas(case)}
    h = {gamma: 2 * u * s / (u + s) if u + s else 0.0 for gamma, (u, s) in points.items()}
    best = curve.best_gamma()
    assert curve.at(best).harmonic == pytest.approx(max(h.values()), abs=1e-9)
    if max(h.values()) == 0:
        assert best == 0.0
        return
    same = [g for g in points if points[g] == pytest.approx(curve.at(best)[:2], abs=1e-9)]
    below = max(g for g in points if g < min(same) and g in curve.breakpoints.tolist())
    assert best == pytest.approx((below + max(same)) / 2)


def test_equal_plateaus_yield_the_widest() -> None:
    # H is the same for (U, S) = (50, 100) on (0, 1] and (100, 50) on (1, 4].
    curve = Curve(
        torch.tensor([0.0, 1.0, 4.0]).double(),
        seen=torch.tensor([100.0, 100.0, 50.0, 0.0]).double(),
        unseen=torch.tensor([0.0, 50.0, 100.0, 100.0]).double(),
    )
    assert curve.best_gamma() == 2.5


def test_best_gamma_between_neighbouring_floats_stays_on_its_plateau() -> None:
    for low in (1.0, float(np.nextafter(1.0, 2.0))):  # one of the two has its middle rounded down
        high = float(np.nextafter(low, 2.0))
        seen, unseen = torch.tensor([[[high, 0.0]], [[low, 0.0]]], dtype=torch.float64)
        curve = seen_unseen_curve(seen, torch.tensor([0]), unseen, torch.tensor([1]), 1)
        assert curve.at(curve.best_gamma()) == (100.0, 100.0, 100.0)


@pytest.mark.parametrize("n_unseen", [1, 4])
def test_perfect_scores_give_exactly_100(n_unseen: int) -> None:
    labels = torch.arange(7 + n_unseen).repeat_interleave(torch.arange(3, 10 + n_unseen))
    scores, of_seen = torch.eye(7 + n_unseen)[labels], labels < 7
    curve = seen_unseen_curve(scores[of_seen], labels[of_seen], scores[~of_seen], labels[~of_seen], 7)
    assert curve.at(0) == (100.0, 100.0, 100.0)
    assert curve.ausuc == 100.0
    assert curve.best_gamma() == 0.0


def test_nothing_right_gives_one_plateau_of_zero() -> None:
    scores = torch.tensor([[0.0, 1.0, 0.0, 1.0]])
    curve = seen_unseen_curve(scores, torch.tensor([0]), scores, torch.tensor([2]), 2)
    assert len(curve.breakpoints) == 0
    assert curve.at(3.0) == (0.0, 0.0, 0.0)
    assert (curve.ausuc, curve.best_gamma()) == (0.0, 0.0)


def test_curve_survives_masked_classes_and_scores_with_a_gradient() -> None:
    case = random_case()
    masked = case.seen_scores.clone()
    masked[:, 0] = -torch.inf
    curve = seen_unseen_curve(
        masked.requires_grad_(), case.seen_labels, case.unseen_scores, case.unseen_labels, case.n_seen
    )
    assert not curve.breakpoints.requires_grad
    assert curve.at(0).seen == pytest.approx(slow_accuracy(masked, case.seen_labels, case.n_seen, 0), abs=1e-10)


# --- bad input


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_scores_that_are_not_finite_are_refused(bad: float) -> None:
    case = random_case()
    case.unseen_scores[3, 5] = bad
    with pytest.raises(ValueError, match=r"scores must be (numbers|finite), got (NaN in 1 of 60 rows|infinity)"):
        _ = case.curve


def test_nan_is_refused_in_plain_predictions() -> None:
    with pytest.raises(ValueError, match="got NaN in 1 of 2 rows"):
        predict(torch.tensor([[0.0, torch.nan], [1.0, 0.0]]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_nan_is_found_in_every_float_type(dtype: torch.dtype) -> None:
    scores = torch.zeros(40, 33, dtype=dtype)
    scores[7, 31] = torch.nan
    with pytest.raises(ValueError, match="got NaN in 1 of 40 rows"):
        predict(scores)


def test_labels_and_shapes_are_checked() -> None:
    scores, seen, unseen = torch.zeros(2, 3), torch.tensor([0, 1]), torch.tensor([2, 2])
    with pytest.raises(ValueError, match=r"unseen_labels must be in 2\.\.2, got 0\.\.1 instead"):
        seen_unseen_curve(scores, seen, scores, seen, 2)
    with pytest.raises(ValueError, match=r"seen_labels must be in 0\.\.1, got 2\.\.2 instead"):
        seen_unseen_curve(scores, unseen, scores, unseen, 2)
    with pytest.raises(ValueError, match=r"seen_labels must be one for each of the 2 samples, got shape \(1,\)"):
        seen_unseen_curve(scores, seen[:1], scores, unseen, 2)
    with pytest.raises(ValueError, match="scores must have the same columns, of which 3 are seen"):
        seen_unseen_curve(scores, seen, scores, unseen, 3)
    with pytest.raises(ValueError, match="got 3 and 4 columns instead"):
        seen_unseen_curve(scores, seen, torch.zeros(2, 4), unseen, 2)
    with pytest.raises(ValueError, match="both parts must hold samples, got 0 and 2 instead"):
        seen_unseen_curve(scores[:0], seen[:0], scores, unseen, 2)
    with pytest.raises(ValueError, match=r"labels must be in 0\.\.1, got 2\.\.2 instead"):
        per_class_accuracy(seen, unseen, 2)
    with pytest.raises(ValueError, match="labels must hold at least one sample"):
        mean_per_class(per_class_accuracy(seen[:0], seen[:0], 2))
    with pytest.raises(ValueError, match="scores must be one row a sample"):
        predict(torch.zeros(3))
