"""How unevenly a method errs over semantics: the error matrix, and measures that sum it up.

Source: Ye et al., Rebalanced Zero-Shot Learning, TIP 2023, arXiv 2210.07031. Tensors may lie on any device; what is
returned lies on the CPU in float64.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Imbalance:
    """Measures of an error matrix. The error of a semantic is the mean of its column, so that all classes count alike.

    Attributes:
        mean: the mean error over semantics.
        std: the population standard deviation of the error over semantics.
        spread: std / mean, which a loss that merely scales all errors leaves alone; None where there is no error.
        r: Pearson's correlation over classes of label value and error, averaged over the semantics where it is defined:
            where neither is constant. None where there is no such semantic.
        worst_decile: the mean error of the worst tenth of semantics, their number rounded up.
    """

    mean: float
    std: float
    spread: float | None
    r: float | None
    worst_decile: float


def error_matrix(predicted: Tensor, labels: Tensor, attributes: Tensor) -> Tensor:
    """(C, A) mean over each class's images of (n(p) - n(a))^2, n(v) = v / (|v| + 1e-10).

    It is NaN for absent classes, and for semantics in which all classes agree: there is nothing to predict in them.
    (Sentence vectors have some that are 0 for every class.)

    Args:
        predicted: (N, A) the predicted semantics p of each image.
        labels: (N,) int64 its class, in 0..C-1.
        attributes: (C, A) the semantics a of each class.

    Raises:
        ValueError: shapes disagree, a label is out of range, or a prediction is not finite.
    """
    n_classes, n_attributes = attributes.shape
    if predicted.shape != (len(labels), n_attributes):
        expected, got = (len(labels), n_attributes), tuple(predicted.shape)
        raise ValueError(f"predicted must have shape {expected}, a row a label, got {got} instead")
    labels = labels.cpu()
    if len(labels) and not (labels.min() >= 0 and labels.max() < n_classes):
        raise ValueError(f"labels must be in 0..{n_classes - 1}, got {labels.min()}..{labels.max()} instead")
    predicted = _unit_rows(predicted)
    if not predicted.isfinite().all():
        raise ValueError("predicted must be finite, got NaN or infinity instead")
    errors = (predicted - _unit_rows(attributes)[labels]).square()
    sums = torch.zeros(n_classes, n_attributes, dtype=torch.float64).index_add_(0, labels, errors)
    means = sums / torch.bincount(labels, minlength=n_classes)[:, None]
    constant = (attributes == attributes[0]).all(dim=0).cpu()
    return means.masked_fill(constant, torch.nan)


def summarise(errors: Tensor, values: Tensor) -> Imbalance:
    """The measures of an error matrix; absent classes (rows of NaN) and constant semantics (columns) are left out.

    Args:
        errors: (K, A) the error of each class and semantic.
        values: (K, A) its label value, on any scale, for ``r``.

    Raises:
        ValueError: shapes disagree, nothing is left, or an error is not finite.
    """
    errors, values = errors.cpu().double(), values.detach().cpu().double()
    if errors.shape != values.shape:
        raise ValueError(f"errors and values must agree in shape, got {tuple(errors.shape)} and {tuple(values.shape)}")
    present, varies = ~errors.isnan().all(dim=1), ~errors.isnan().all(dim=0)
    errors, values = errors[present][:, varies], values[present][:, varies]
    if not errors.numel():
        raise ValueError("errors must hold a class with images and a semantic that varies, got none instead")
    if not (errors.isfinite().all() and values.isfinite().all()):
        raise ValueError("errors and values must be finite in classes with images, got NaN or infinity instead")
    per_semantic = errors.mean(dim=0)
    mean, std = float(per_semantic.mean()), float(per_semantic.std(correction=0))
    r = _correlation(values, errors)
    worst = per_semantic.topk(math.ceil(len(per_semantic) / 10)).values
    return Imbalance(
        mean=mean,
        std=std,
        spread=std / mean if mean else None,
        r=float(r.mean()) if len(r) else None,
        worst_decile=float(worst.mean()),
    )


def _unit_rows(rows: Tensor) -> Tensor:
    rows = rows.detach().cpu().double()
    norms: Tensor = rows.norm(dim=1, keepdim=True)
    return rows / (norms + 1e-10)


def _correlation(x: Tensor, y: Tensor) -> Tensor:
    """Pearson's r of each pair of columns of two (K, A) matrices, but for pairs where a column is constant."""
    # Constancy is read off the range, which is exact; a variance of equal numbers can come out above 0.
    spans = [m.amax(dim=0) - m.amin(dim=0) for m in (x, y)]
    varies = (spans[0] > 0) & (spans[1] > 0)
    # Dividing by the range keeps the squares of tiny errors from underflowing.
    x, y = ((m - m.mean(dim=0))[:, varies] / span[varies] for m, span in zip((x, y), spans, strict=True))
    norms: Tensor = x.norm(dim=0) * y.norm(dim=0)
    return ((x * y).sum(dim=0) / norms).clamp(-1, 1)
