"""Every method that is trained by epochs goes on where it was killed, and comes to what it would have, to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmark.engine.experiment import run_cell
from benchmark.engine.plan import Cell
from benchmark.engine.runs import RefitRun, SelectionRun
from benchmark.engine.settings import make_spec
from benchmark.registries import DATASETS, METHODS
from benchmark.results import checkpoints
from benchmark.results.checkpoints import Training
from benchmark.results.record import Result
from benchmark.results.store import Store
from tests.contract.test_contract import VARIANTS, quick_settings, small_stand_in
from tests.reference.faults import Killed

N_EPOCHS = 2
BY_EPOCHS = [each for each in VARIANTS if "epochs" in METHODS[str(each.values[0])].obj.Config.model_fields]


def cell_of(method: str, **further: Any) -> Cell:
    """A cell whose loss remembers, beside all that a method does."""
    wanted = {"epochs": N_EPOCHS, "evaluate_every": 1}
    settings = {name: value for name, value in wanted.items() if name in METHODS[method].obj.Config.model_fields}
    settings |= further
    source = DATASETS.resolve(small_stand_in(method), {}, None)
    loss = ("remse", {"window": "ema"})
    return Cell(
        make_spec(method, quick_settings(method) | settings, loss, source, {}, "proposed", "strict"), (0,), None, "cpu"
    )


def run_with_kills(
    monkeypatch: pytest.MonkeyPatch, cell: Cell, store: Store, kills: dict[type[object], int]
) -> tuple[Result, int]:
    """What it comes to when its process dies once at the end of an epoch of each fit, before its checkpoint is written.

    Returns:
        The result, and how often a fit went on.
    """
    note, restore, gone_on = SelectionRun._note, Training.restore, []

    def note_or_die(run: SelectionRun | RefitRun, kind: str, number: int) -> dict[str, float]:
        if kills.get(type(run)) == number:
            del kills[type(run)]
            raise Killed
        return note(run, kind, number)

    def count(training: Training, state: checkpoints.State) -> None:
        gone_on.append(training)
        restore(training, state)

    for kind in (SelectionRun, RefitRun):
        monkeypatch.setattr(kind, "_note", note_or_die)
    monkeypatch.setattr(Training, "restore", count)
    while kills:
        with pytest.raises(Killed):
            list(run_cell(cell, store))
    (result,) = run_cell(cell, store)
    return result, len(gone_on)


@pytest.mark.parametrize(("method", "settings"), BY_EPOCHS)
def test_a_fit_goes_on_where_it_was_killed(
    method: str, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    check_killed(cell_of(method, **settings), monkeypatch, tmp_path)


def test_so_does_one_that_chose_among_ways_to_get_ready(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    result = check_killed(cell_of("clswgan", classifier="zla", ratio=[1e-9, 1.0]), monkeypatch, tmp_path)
    assert result.selection is not None
    best = result.selection.history[result.selection.choice - 1]
    assert best["held-out H, ratio 1e-09"] < best["held-out H, ratio 1"], "else it could not but choose the first"


def check_killed(cell: Cell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Result:
    """The result of ``cell``, once killed in each fit, which has to be that of an unbroken run."""
    monkeypatch.setattr(checkpoints, "EVERY", 0.0)
    monkeypatch.setattr(checkpoints, "SHARE", float("inf"))
    (unbroken,) = run_cell(cell)
    assert unbroken.selection is not None, unbroken.error
    chosen = unbroken.selection.choice
    result, gone_on = run_with_kills(monkeypatch, cell, Store(tmp_path), {SelectionRun: N_EPOCHS, RefitRun: chosen})
    # The selection went on after its death and after that of the refit, which went on if an epoch was done.
    assert gone_on == 2 + (chosen > 1)
    assert result.selection == unbroken.selection
    assert result.refit_history == unbroken.refit_history
    assert result.evaluation == unbroken.evaluation
    return result
