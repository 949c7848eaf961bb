"""Cells of a toy method and a toy loss, for tests of settings, of plans and of what a run makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.api import Facts
from benchmark.engine.plan import Cell
from benchmark.engine.settings import make_spec
from benchmark.registries import LOSSES, METHODS
from benchmark.results.record import Spec
from tests.reference.toy import ToyDataset, ToyLoss, ToyMethod, register

TOY = ToyDataset("toy", ToyDataset.Config(), None)
#: Of any data, where settings do not depend on them.
FACTS = Facts(n_images=100, n_features=8, n_attributes=4, n_seen=5, n_unseen=2)


def register_toys(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Registers ``toy-method`` and ``toy-loss``, whose YAML files lie in ``folder``."""
    register(monkeypatch, METHODS, "toy-method", ToyMethod, folder / "toy-method.py")
    register(monkeypatch, LOSSES, "toy-loss", ToyLoss, folder / "toy-loss.py")
    return folder


def spec_of(overrides: Any = None, loss: Any = None, protocol: Any = "strict", partition: str = "proposed") -> Spec:
    return make_spec("toy-method", overrides or {}, ("toy-loss", loss or {}), TOY, {}, partition, protocol)


def cell_of(spec: Spec, seeds: tuple[int, ...] = (0, 1, 2)) -> Cell:
    return Cell(spec, seeds, None, "cpu")
