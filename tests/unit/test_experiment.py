"""One cell from start to end: what its seeds share and what they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import datasets
from benchmark.api import FeatureKind, RegressionLoss, Run, TrainData
from benchmark.experiment import run_cell
from benchmark.jobs import Cell, make_spec
from benchmark.results import Result
from losses import LOSSES
from methods import METHODS
from tests.unit.toy import ToyDataset, ToyLoss, ToyMethod, register


class GlobalDraws(ToyMethod):
    """Draws from torch's global random state alone, as a layer of torch's own does."""

    def fit(self, data: TrainData, loss: RegressionLoss | None, run: Run) -> None:
        super().fit(data, loss, run)
        self.drawn = nn.Dropout()(torch.ones(3))


class Builds(ToyMethod):
    """Draws when it is built."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        torch.rand(1, generator=arguments[2])


def run(monkeypatch: pytest.MonkeyPatch, method: type[ToyMethod], loss: type[RegressionLoss] = ToyLoss) -> list[Result]:
    register(monkeypatch, datasets.DATASETS, "toy", ToyDataset)
    register(monkeypatch, METHODS, "toy", method)
    register(monkeypatch, LOSSES, "toy", loss)
    source = datasets.resolve("toy", {}, None)
    spec = make_spec("toy", {}, ("toy", {}), source, {}, "proposed", "strict")
    return list(run_cell(Cell(spec, (3, 4, 5), None, "cpu")))


def test_a_method_that_draws_nothing_is_fitted_once_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    first, *others = run(monkeypatch, ToyMethod)
    assert "repeats_seed" not in first.provenance
    for other in others:
        assert other.provenance["repeats_seed"] == 3
        assert other.evaluation == first.evaluation
    assert [result.seed for result in (first, *others)] == [3, 4, 5]


@pytest.mark.parametrize("method", [GlobalDraws, Builds])
def test_a_method_that_draws_anywhere_is_fitted_for_every_seed(
    monkeypatch: pytest.MonkeyPatch, method: type[ToyMethod]
) -> None:
    before = torch.get_rng_state()
    assert all("repeats_seed" not in result.provenance for result in run(monkeypatch, method))
    assert torch.equal(before, torch.get_rng_state())


def test_a_loss_knows_all_classes_and_that_unseen_ones_have_no_image(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a method may regress what it generated for unseen classes."""
    prepared = []

    class Notes(ToyLoss):
        def prepare(self, attributes: Tensor, counts: Tensor) -> None:
            prepared.append((self.n_classes, attributes, counts))

    split = ToyDataset("toy", ToyDataset.Config(), None).load()
    run(monkeypatch, ToyMethod, Notes)
    n_classes, attributes, counts = prepared[-1]  # of the refit, on all of trainval
    seen, unseen = split.seen, split.unseen
    assert n_classes == len(seen) + len(unseen)
    assert np.array_equal(attributes.numpy(), split.attributes[[*seen, *unseen]])
    images = [int((split.labels[split.trainval] == c).sum()) for c in seen]
    assert counts.tolist() == images + [0] * len(unseen)


@pytest.mark.parametrize("accepts", [("global",), ("local", "images")])
def test_data_of_a_kind_that_the_method_does_not_take_is_skipped(
    monkeypatch: pytest.MonkeyPatch, accepts: tuple[FeatureKind, ...]
) -> None:
    class Picky(ToyMethod):
        pass

    Picky.accepts = accepts
    results = run(monkeypatch, Picky)
    if "global" in accepts:
        assert [result.status for result in results] == ["ok"] * 3
    else:
        assert [(result.status, result.error) for result in results] == [
            ("skipped", "it takes local or images features, and toy are global")
        ] * 3
