"""Accuracies of zero-shot learning: T1, U, S, H, calibrated stacking and the exact area under the seen-unseen curve.

Accuracies are mean per-class top-1 accuracies in percent. Columns of scores are classes with the seen ones first:
0..n_seen-1 are seen, the rest unseen. Tensors may lie on any device and have any float type; what is returned lies on
the CPU in float64, because only (N,) vectors are left by then and not every accelerator knows float64.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

Real = TypeVar("Real", float, Tensor)


def predict(scores: Tensor) -> Tensor:
    """(N,) int64 the class of the highest of (N, C) scores, the first one among equals.

    Raises:
        ValueError: scores are not a matrix, have no column, or hold NaN.
    """
    return _best(scores)[1]


def per_class_accuracy(predicted: Tensor, labels: Tensor, n_classes: int) -> Tensor:
    """(n_classes,) float64 percent of each class's samples that are predicted right; NaN for classes without samples.

    Args:
        predicted: (N,) the predicted class of each sample.
        labels: (N,) its true class, in 0..n_classes-1.
        n_classes: the number of classes.

    Raises:
        ValueError: lengths disagree or a label is out of range.
    """
    predicted, labels = predicted.cpu(), _checked(labels, "labels", len(predicted), 0, n_classes)
    right = torch.bincount(labels[predicted == labels], minlength=n_classes).double()
    return 100 * right / torch.bincount(labels, minlength=n_classes)


def mean_per_class(per_class: Tensor) -> float:
    """The mean of per-class accuracies over the classes that have samples.

    Raises:
        ValueError: no class has samples.
    """
    if per_class.isnan().all():
        raise ValueError("labels must hold at least one sample, got none instead")
    return float(per_class.nanmean())


def harmonic_mean(unseen: Real, seen: Real) -> Real:
    """H = 2 U S / (U + S), elementwise; 0 where both are 0."""
    total = unseen + seen
    return 2 * unseen * seen / (total + (total == 0))


class GZSL(NamedTuple):
    """Accuracies of generalised zero-shot learning, in percent: U, S and their harmonic mean H."""

    unseen: float
    seen: float
    harmonic: float


@dataclass(frozen=True, eq=False)
class Curve:
    """Accuracies of calibrated stacking, argmax over c of s_c - gamma * 1(c is seen), for every real gamma.

    They are constant on K+1 plateaus: plateau k holds for breakpoints[k-1] < gamma <= breakpoints[k], the first and
    the last being unbounded. At a breakpoint the seen class still wins the tie, as in an argmax whose first columns are
    the seen classes. Each breakpoint changes an accuracy. U is 0 on the first plateau, S is 0 on the last.

    Source: Chao et al., An Empirical Study and Analysis of Generalized Zero-Shot Learning, ECCV 2016, arXiv 1605.04253.

    Attributes:
        breakpoints: (K,) float64, strictly ascending.
        seen: (K+1,) float64, S of each plateau, never rising.
        unseen: (K+1,) float64, U of each plateau, never falling.
    """

    breakpoints: Tensor
    seen: Tensor
    unseen: Tensor

    @property
    def ausuc(self) -> float:
        """The area under S over U by the trapezoid rule, in percent of the unit square."""
        return float(torch.trapezoid(self.seen, self.unseen)) / 100

    def at(self, gamma: float) -> GZSL:
        """The accuracies at ``gamma``; 0 is plain GZSL."""
        plateau = torch.searchsorted(self.breakpoints, float(gamma))
        unseen, seen = float(self.unseen[plateau]), float(self.seen[plateau])
        return GZSL(unseen, seen, harmonic_mean(unseen, seen))

    def best_gamma(self) -> float:
        """The middle of the plateau of highest H: of all its values the one that is safest to carry to other data.

        Of plateaus with equal H the widest is taken, then the lowest. Where H is 0 throughout it is 0.0: no calibration
        helps. An unbounded plateau is never the best one, for its H is 0.
        """
        harmonic = harmonic_mean(self.unseen, self.seen)[1:-1]
        if not harmonic.any():
            return 0.0
        lower, upper = self.breakpoints[:-1], self.breakpoints[1:]
        best = (upper - lower).where(harmonic == harmonic.max(), -1.0).argmax()
        low, high = float(lower[best]), float(upper[best])
        middle = low / 2 + high / 2
        # Between neighbouring floats the middle rounds to an end, and the lower end is not on the plateau.
        return middle if middle > low else high

    def thinned(self, most: int = 64, tolerance: float = 0.1) -> tuple[list[float], list[float]]:
        """U and S, rounded to 0.01, of at most ``most`` plateaus whose polygon stands for the whole curve.

        Along the curve U - S rises strictly, so that the curve is a function U + S of U - S. The plateau that is
        farthest from the polygon in U + S is added until all are within ``tolerance``, or there are ``most``. Within
        ``tolerance`` the areas differ by at most as much, in percent of the unit square: area is half of the integral
        of U + S over U - S, which spans 200.
        """
        along, across = (self.unseen - self.seen).numpy(), (self.unseen + self.seen).numpy()
        kept = [0, len(along) - 1] if len(along) > 1 else [0]
        while len(kept) < min(most, len(along)):
            gaps = np.abs(across - np.interp(along, along[kept], across[kept]))
            if gaps.max() <= tolerance:
                break
            kept = sorted([*kept, int(gaps.argmax())])
        unseen, seen = (values[kept].round(decimals=2).tolist() for values in (self.unseen, self.seen))
        return unseen, seen


def seen_unseen_curve(
    seen_scores: Tensor, seen_labels: Tensor, unseen_scores: Tensor, unseen_labels: Tensor, n_seen: int
) -> Curve:
    """The exact seen-unseen curve, from one sort instead of a sweep over gamma.

    A sample whose best seen class leads its best unseen class by b goes over from the former to the latter where gamma
    passes b. That matters only if the class it leaves (for a seen sample) or reaches (for an unseen one) is its own.

    Args:
        seen_scores: (Ns, C) scores of the test samples of seen classes.
        seen_labels: (Ns,) their classes, in 0..n_seen-1.
        unseen_scores: (Nu, C) scores of the test samples of unseen classes.
        unseen_labels: (Nu,) their classes, in n_seen..C-1.
        n_seen: the number of seen classes.

    Raises:
        ValueError: shapes disagree, a label is out of range, a part is empty, or scores hold NaN or infinity (a class
            may score minus infinity as long as a seen and an unseen one do not).
    """
    n_classes = seen_scores.shape[-1]
    if not (len(seen_scores) and len(unseen_scores)):
        raise ValueError(f"both parts must hold samples, got {len(seen_scores)} and {len(unseen_scores)} instead")
    if unseen_scores.shape[-1] != n_classes or not 0 < n_seen < n_classes:
        raise ValueError(
            f"scores must have the same columns, of which {n_seen} are seen and at least one unseen, "
            f"got {n_classes} and {unseen_scores.shape[-1]} columns instead"
        )
    seen_labels = _checked(seen_labels, "seen_labels", len(seen_scores), 0, n_seen)
    unseen_labels = _checked(unseen_labels, "unseen_labels", len(unseen_scores), n_seen, n_classes)
    leave, lost, all_seen = _flips(seen_scores, seen_labels, n_seen)
    join, won, all_unseen = _flips(unseen_scores, unseen_labels, n_seen)
    breakpoints, group = torch.unique(torch.cat([leave, join]), return_inverse=True)
    falls, rises = torch.zeros(2, len(breakpoints) + 1, dtype=torch.int64)
    falls.index_add_(0, group[: len(leave)] + 1, lost)
    rises.index_add_(0, group[len(leave) :] + 1, won)
    seen, unseen = lost.sum() - falls.cumsum(0), rises.cumsum(0)
    return Curve(breakpoints, seen=100 * (seen.double() / all_seen), unseen=100 * (unseen.double() / all_unseen))


def _flips(scores: Tensor, labels: Tensor, n_seen: int) -> tuple[Tensor, Tensor, float]:
    """Where samples leave or reach their own class as gamma rises, how much each weighs, and the weight of all.

    A sample weighs 1 / (samples of its class), as a fixed-point number of up to 62 bits: such sums are exact, so they
    depend on no order, end at exactly 0 and 100 %, and never go the wrong way.
    """
    best_seen, as_seen = _best(scores[:, :n_seen])
    best_unseen, as_unseen = _best(scores[:, n_seen:])
    margins = best_seen - best_unseen
    if not margins.isfinite().all():
        raise ValueError("scores must be finite, got infinity instead")
    counts = torch.bincount(labels)
    weights = (2**62 // len(counts) // counts.clamp(min=1))[labels]
    own = (as_seen == labels) | (as_unseen + n_seen == labels)
    return margins[own], weights[own], float(weights.sum())


def _best(scores: Tensor) -> tuple[Tensor, Tensor]:
    """(N,) the highest of (N, C) scores and its column, the first one among equals."""
    if scores.ndim != 2 or not scores.shape[1]:
        raise ValueError(
            f"scores must be one row a sample and one column a class, got shape {tuple(scores.shape)} instead"
        )
    values, columns = scores.detach().max(dim=1)
    values = values.cpu().double()
    if values.isnan().any():  # a maximum propagates NaN
        raise ValueError(
            f"scores must be numbers, got NaN in {int(values.isnan().sum())} of {len(values)} rows instead"
        )
    return values, columns.cpu()


def _checked(labels: Tensor, name: str, n: int, low: int, high: int) -> Tensor:
    """The labels on the CPU, if there are n of them, all in low..high-1."""
    if labels.shape != (n,):
        raise ValueError(f"{name} must be one for each of the {n} samples, got shape {tuple(labels.shape)} instead")
    labels = labels.cpu()
    if n and not (low <= labels.min() and labels.max() < high):
        raise ValueError(f"{name} must be in {low}..{high - 1}, got {labels.min()}..{labels.max()} instead")
    return labels
