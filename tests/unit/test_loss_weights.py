"""The picture of the losses' weights in ``docs``."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmark.config import parse_spec
from benchmark.registries import LOSSES
from docs import loss_weights
from docs.loss_weights import Errors, weights


def errors() -> Errors:
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(5, (6400,), generator=rng)
    return Errors(0.15 * torch.rand(5, 6, generator=rng), labels, 0.05 * torch.randn(6400, 6, generator=rng))


def test_every_loss_has_a_panel():
    shown = {parse_spec(text, "docs")[0] for text in loss_weights.LOSSES}
    assert shown == {entry.name for entry in LOSSES if not entry.absent}


def test_weights_of_mse_are_one_and_those_of_the_absolute_error_fall_with_it():
    ones, mean = weights("mse", errors())
    assert mean == pytest.approx(1)
    assert ones[np.isfinite(ones)] == pytest.approx(1)
    absolute, _ = weights("mae", errors())
    by_error = np.nanmean(absolute[:9], axis=1)
    assert (np.diff(by_error) < 0).all()


def test_a_push_away_from_the_target_is_a_negative_weight():
    found, _ = weights("self-weighted", errors())
    assert np.nanmin(found[0]) < 0
    assert np.nanmean(found[8]) > 1
