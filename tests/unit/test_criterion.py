"""The scoring criterion by name: AUSUC unless a method says H, and where a reader sees it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from benchmark import search as command
from benchmark.api import Criterion, Run, Slot, TrainData
from benchmark.boards.export import as_latex
from benchmark.boards.markup import method as markdown_name
from benchmark.boards.rows import boards
from benchmark.boards.view import title_of
from benchmark.engine import tuned
from benchmark.engine.experiment import run_cell, validate_cell
from benchmark.engine.plan import Cell
from benchmark.engine.runs import SelectionRun
from benchmark.engine.search import SearchJob
from benchmark.errors import InputError
from benchmark.registries import DATASETS, METHODS
from benchmark.results.audit import audit
from benchmark.results.record import Result
from benchmark.results.store import Stored
from tests.reference.cells import cell_of, register_toys, spec_of
from tests.reference.toy import CPU, ToyDataset, ToyMethod, make_train, register

SHIFTS = (0.0, 0.5, 1.0, 2.0, 4.0)


class Shifted(ToyMethod):
    """Its candidates move along the seen-unseen curve: a shift is added to the distance of seen classes."""

    shift: Tensor

    def fit(self, data: TrainData, slot: Slot, run: Run) -> None:
        self.register_buffer("shift", torch.zeros(()))
        for shift in run.candidates(self, SHIFTS):
            for c in range(data.n_seen):
                self.means[c] = data.features[data.labels == c].mean(0)
            self.means[data.n_seen :] = data.features.mean(0)
            self.shift = torch.tensor(shift)

    def scores(self, x: Tensor, classes: Tensor) -> Tensor:
        return super().scores(x, classes) - self.shift * (classes < self.meta.n_seen)


class ByH(Shifted):
    criterion: ClassVar[Criterion] = "H"


def select(kind: type[Shifted]) -> tuple[Shifted, SelectionRun]:
    data, held = make_train()
    method = kind(data.meta, kind.Config(), torch.Generator())
    run = SelectionRun(CPU, 0, "toy", held)
    method.fit(data, Slot(data.attributes), run)
    return method, run


def test_h_tells_apart_what_lies_on_one_curve() -> None:
    """By AUSUC all shifts are equal, so that the first is kept; H without calibration prefers another."""
    method, run = select(Shifted)
    assert run.criterion == "AUSUC"
    areas = [row["held-out AUSUC"] for row in run.history]
    assert max(areas) - min(areas) < 1e-9
    assert (run.choice, float(method.shift)) == (1, 0.0)

    method, run = select(ByH)
    assert run.criterion == "H"
    values = [row["held-out H"] for row in run.history]
    assert all("held-out AUSUC" not in row for row in run.history)
    assert run.value == max(values) > values[0]
    assert run.choice == values.index(run.value) + 1
    assert float(method.shift) == SHIFTS[run.choice - 1]
    assert run.curve is not None
    assert run.curve.at(0.0).harmonic == run.value


@pytest.fixture
def toys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    register_toys(monkeypatch, tmp_path)
    register(monkeypatch, DATASETS, "toy", ToyDataset)
    register(monkeypatch, METHODS, "toy-method", ByH, tmp_path / "toy-method.py")
    return monkeypatch


def run_toy(cell: Cell) -> list[Result]:
    results = list(run_cell(cell))
    assert [result.error for result in results] == [None] * len(results)
    return results


@pytest.mark.parametrize("protocol", ["strict", "literature"])
def test_a_result_says_what_selected_it_and_is_sound(toys: pytest.MonkeyPatch, protocol: Any) -> None:
    (result,) = run_toy(cell_of(spec_of(protocol=protocol), (0,)))
    assert result.selection is not None
    assert result.evaluation is not None
    assert result.selection.criterion == "H"
    said = audit([Stored(Path("x.json"), result)])
    assert not [line for line in said if "selected value" in line or "best of its history" in line]
    if protocol == "literature":
        assert result.selection.value == result.evaluation.metrics.H
        other = result.selection.model_copy(update={"value": 1.0})
        said = audit([Stored(Path("x.json"), result.model_copy(update={"selection": other}))])
        assert any("H must be the selected value in the literature protocol" in line for line in said)


def test_the_row_says_so_where_it_is_not_ausuc(toys: pytest.MonkeyPatch, tmp_path: Path) -> None:
    results = run_toy(cell_of(spec_of({"lr": 0.2}), (0,)))
    ((row,),) = boards(results).values()
    assert title_of(row) == "toy-method (selected by H)"
    assert markdown_name(row) == "toy-method (selected by H) `lr=0.2`, small"
    assert "toy-method (selected by H), lr=0.2, small &" in as_latex(results)

    register(toys, METHODS, "toy-method", Shifted, tmp_path / "toy-method.py")
    ((row,),) = boards(run_toy(cell_of(spec_of(), (0,)))).values()
    assert title_of(row) == "toy-method"


def test_a_search_maximises_the_same(toys: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cell = cell_of(spec_of(), (0,))
    (result,) = run_toy(cell)
    assert result.selection is not None
    assert validate_cell(cell) == result.selection.value
    *_, last = SearchJob(cell, tmp_path / "tuned", 1).run()
    found = last.found
    assert found is not None
    assert found.criterion == "H on validation"
    assert found.value == result.selection.value
    file = tuned.path(tmp_path / "tuned", "toy", "toy-method", cell.spec.loss_label)
    tuned.save(file, found.model_copy(update={"criterion": "AUSUC on validation"}))
    with pytest.raises(InputError, match="holds a search for AUSUC on validation instead of H on validation"):
        list(SearchJob(cell, tmp_path / "tuned", 2).run())


def test_the_table_of_a_search_says_whose_figures_are_what(toys: pytest.MonkeyPatch, tmp_path: Path) -> None:
    register(toys, METHODS, "other", Shifted, tmp_path / "toy-method.py")
    mine = cell_of(spec_of())
    other = cell_of(mine.spec.model_copy(update={"method": "other"}))
    assert command._criteria([mine, mine]) == "H"
    assert command._criteria([other]) == "AUSUC"
    assert command._criteria([mine, other, mine]) == "AUSUC (H of toy-method)"


def test_every_method_of_the_suite_has_one_that_is_known() -> None:
    assert {entry.obj.criterion for entry in METHODS} <= {"AUSUC", "H"}
