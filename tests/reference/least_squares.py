"""What the tests of the closed forms share: losses whose weights change with the errors, and how close is close."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
from torch import Tensor

from benchmark.api import RegressionLoss, TrainData
from losses import build
from methods import _least_squares
from tests.reference.toy import ToyLoss

Floats = npt.NDArray[np.float64]

#: The losses that closed forms solve by re-weighting, by the names that ``loss_for`` knows.
REWEIGHTED = ["remse", "mse-matched", "mae", "rmse", "focal", "lds", "group-dro", "uncertainty", "standardised", "toy"]


def loss_for(name: str, data: TrainData) -> RegressionLoss:
    """The loss ``name``, or ``ToyLoss`` for ``toy``, ready for the seen classes of ``data``."""
    n, a = data.n_seen, data.meta.n_attributes
    loss = ToyLoss(n, a, ToyLoss.Config()) if name == "toy" else build(name, n_classes=n, n_attributes=a)
    loss.prepare(data.attributes[: data.n_seen], data.class_counts)
    return loss


def close(found: Tensor, expected: Floats, tolerance: float) -> bool:
    """Whether the distance of the two is at most the share ``tolerance`` of the norm of what is expected."""
    return bool(np.linalg.norm(found.numpy() - expected) <= tolerance * np.linalg.norm(expected))


def iterate_to_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing stop early, so that what differs from a dense solution is rounding."""
    monkeypatch.setattr(_least_squares, "SOLVER_TOLERANCE", 1e-13)
    monkeypatch.setattr(_least_squares, "REWEIGHTING_TOLERANCE", 1e-10)
    monkeypatch.setattr(_least_squares, "REWEIGHTINGS", 400)
