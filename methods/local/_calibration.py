"""Self-calibration (DAZLE, MSDN): unseen classes compete in training, and their scores are raised against seen ones."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F


def calibrated(scores: Tensor, classes: Tensor, n_seen: int) -> Tensor:
    """(B, C) scores of ``classes`` (C,), plus 1 for unseen ones and minus 1 for seen ones."""
    return torch.where(classes < n_seen, scores - 1, scores + 1)


def self_calibrated_cross_entropy(scores: Tensor, y: Tensor, n_seen: int, weight: float) -> Tensor:
    """Cross-entropy over all classes, and ``weight`` times the self-calibration of (B, C) scores, seen classes first.

    The self-calibration is -ln of the mean over images of the probability of unseen classes, whose scores are raised as
    in ``calibrated``.
    """
    raised = calibrated(scores, torch.arange(scores.shape[1], device=y.device), n_seen)
    unseen = raised.log_softmax(1)[:, n_seen:].logsumexp(1)
    return F.cross_entropy(scores, y) - weight * (unseen.logsumexp(0) - math.log(len(y)))
