"""One cell from start to end: what its seeds share and what they do not."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from benchmark.api import FeatureKind, RegressionLoss, Run, Slot, Split, TrainData
from benchmark.engine.evaluate import evaluate
from benchmark.engine.experiment import fit_cell, run_cell, validate_cell
from benchmark.engine.plan import Cell
from benchmark.engine.protocol import held_out
from benchmark.engine.settings import make_spec
from benchmark.registries import DATASETS, LOSSES, METHODS
from benchmark.results.record import Result
from benchmark.toolkit.stages import evaluation_stage
from tests.reference.toy import ToyDataset, ToyLoss, ToyMethod, register


class GlobalDraws(ToyMethod):
    """Draws from torch's global random state alone, as a layer of torch's own does."""

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        super().fit(data, slot, run)
        self.drawn = nn.Dropout()(torch.ones(3))


class Builds(ToyMethod):
    """Draws when it is built."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        torch.rand(1, generator=arguments[2])


def run(monkeypatch: pytest.MonkeyPatch, method: type[ToyMethod], loss: type[RegressionLoss] = ToyLoss) -> list[Result]:
    register(monkeypatch, DATASETS, "toy", ToyDataset)
    register(monkeypatch, METHODS, "toy", method)
    register(monkeypatch, LOSSES, "toy", loss)
    source = DATASETS.resolve("toy", {}, None)
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


def test_cells_that_train_on_the_same_data_prepare_it_once(monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []

    class Counts(ToyDataset):
        def read(self) -> Split:
            reads.append(self.config)
            return super().read()

    register(monkeypatch, DATASETS, "toy", Counts)
    register(monkeypatch, METHODS, "toy", ToyMethod)
    source = DATASETS.resolve("toy", {}, None)
    for loss, partition, n_reads in (("mse", "proposed", 4), ("remse", "proposed", 1), ("mse", "random-0", 4)):
        reads.clear()
        spec = make_spec("toy", {}, (loss, {}), source, {}, partition, "strict")
        assert [result.status for result in run_cell(Cell(spec, (0,), None, "cpu"))] == ["ok"]
        assert len(reads) == n_reads, "test images alone are loaded anew"


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


class Keeps(ToyMethod):
    """Keeps what it was given."""

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        super().fit(data, slot, run)
        self.slot = slot
        self.deterministic = torch.are_deterministic_algorithms_enabled()

    def semantics(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return x[:, :1].expand(-1, self.meta.n_attributes)


def toy_cell(method: str, loss: tuple[str, dict[str, Any]], overrides: dict[str, Any] | None = None) -> Cell:
    source = DATASETS.resolve("toy", {}, None)
    return Cell(make_spec(method, overrides or {}, loss, source, {}, "proposed", "strict"), (3,), None, "cpu")


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    register(monkeypatch, DATASETS, "toy", ToyDataset)
    register(monkeypatch, METHODS, "toy", Keeps)
    register(monkeypatch, LOSSES, "toy", ToyLoss)
    return monkeypatch


@pytest.mark.usefixtures("toys")
def test_the_slot_holds_the_loss_and_the_weight_that_the_settings_say() -> None:
    method, _ = fit_cell(toy_cell("toy", ("toy", {"beta": 2}), {"regression_weight": 2.5}), 3)
    slot = method.slot
    assert isinstance(slot, Slot)
    assert isinstance(slot.loss, ToyLoss)
    assert isinstance(slot.loss.config, ToyLoss.Config)
    assert slot.weight == 2.5
    assert (slot.loss.n_classes, slot.loss.n_attributes, slot.loss.config.beta) == (*slot.attributes.shape, 2)


@pytest.mark.usefixtures("toys")
def test_the_slot_of_the_absent_loss_is_absent() -> None:
    method, _ = fit_cell(toy_cell("toy", (LOSSES.absent, {})), 3)
    assert isinstance(method.slot, Slot)
    assert method.slot.absent


@pytest.mark.parametrize("before", [False, True])
@pytest.mark.usefixtures("toys")
def test_every_fit_is_deterministic_and_leaves_the_process_as_it_was(before: bool) -> None:
    """The fit of attention maps too: it promises to be the run's own."""
    cell = toy_cell("toy", ("toy", {}))
    torch.use_deterministic_algorithms(before)
    try:
        method, _ = fit_cell(cell, 3)
        assert method.deterministic is True
        assert torch.are_deterministic_algorithms_enabled() is before
        assert [result.status for result in run_cell(cell)] == ["ok"]
        validate_cell(cell)
        assert torch.are_deterministic_algorithms_enabled() is before
        assert not torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("method", ["clswgan", "ale"])
def test_a_fitted_cell_is_the_method_of_its_run(method: str) -> None:
    source = DATASETS.resolve("awa2-sim", {}, None)
    settings = {"epochs": 2, "n_generated": 5, "classifier_epochs": 1, "regressor_epochs": 1, "hidden": 8}
    known = {key: n for key, n in settings.items() if key in METHODS[method].obj.Config.model_fields}
    cell = Cell(make_spec(method, known, ("remse", {}), source, {}, "proposed", "strict"), (0,), None, "cpu")
    (result,) = run_cell(cell)
    fitted, transform = fit_cell(cell, 0)
    split = source.load()
    test = held_out(split, evaluation_stage(split), transform, torch.device("cpu"))
    assert result.evaluation is not None
    again = evaluate(fitted, test, result.evaluation.metrics.gamma, keep_errors=False)
    assert again == result.evaluation


def test_a_method_that_regresses_and_does_nothing_else_is_skipped_without_a_loss(toys: pytest.MonkeyPatch) -> None:
    toys.setattr(Keeps, "needs_loss", True)
    (skipped,) = run_cell(toy_cell("toy", (LOSSES.absent, {})))
    assert (skipped.status, skipped.error) == (
        "skipped",
        "it regresses attributes and does nothing else, so it needs a loss",
    )
    (done,) = run_cell(toy_cell("toy", ("toy", {})))
    assert done.status == "ok"


@pytest.mark.parametrize(
    ("needed", "loss", "measured"), [(True, "none", False), (True, "toy", True), (False, "none", True)]
)
def test_semantics_that_need_a_loss_are_measured_only_where_there_is_one(
    toys: pytest.MonkeyPatch, needed: bool, loss: str, measured: bool
) -> None:
    toys.setattr(Keeps, "semantics_need_loss", needed)
    (result,) = run_cell(toy_cell("toy", (loss, {})))
    assert result.evaluation is not None, result.error
    assert (result.evaluation.imbalance is not None) == measured
