"""Launchers: what they start processes by, and what a problem or a death in one cell costs the others."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator

import pytest

from benchmark.engine import launch
from benchmark.engine.plan import Cell
from benchmark.errors import InputError
from benchmark.results.record import Result
from tests.reference.toy import make_result, make_spec

CELLS = [Cell(make_spec(method=name), (0,), None, "cpu") for name in ("good", "broken", "broken too", "better")]


def run(cell: Cell) -> Iterator[Result]:
    if cell.spec.method.startswith("broken"):
        raise InputError(f"{cell.spec.method}.mat: cannot be read")
    yield make_result(cell.spec)


def test_bad_input_of_some_cells_is_raised_once_the_others_are_done(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(launch, "run_cell", run)
    found: list[Result] = []
    with pytest.raises(InputError) as error:
        found.extend(launch.inline([*CELLS, CELLS[1]]))
    assert [result.spec.method for result in found] == ["good", "better"]
    assert str(error.value) == "broken.mat: cannot be read\nbroken too.mat: cannot be read"


def test_where_the_system_cannot_fork_processes_are_spawned(monkeypatch: pytest.MonkeyPatch):
    """As on Windows."""
    assert launch._context().get_start_method() == "forkserver"
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])
    assert launch._context().get_start_method() == "spawn"
